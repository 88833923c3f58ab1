"""`passwords`: asked once per call, checked, and in no text whatever goes wrong."""

from __future__ import annotations

import html
import os
import sys
import time
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CredentialsError
from engine.inputs import passwords
from engine.inputs.job import PasswordSpec, password_spec
from engine.inputs.passwords import CommandPasswords, open_passwords, password_problem
from engine.model import Call, CallId, Place
from engine.outside import programs

GOOD = "Corr3ct-Horse"
PLACE = Place("j.yaml", 1, 1)


def call(user="app", region="ap-tokyo"):
    return Call(CallId("0" * 16), "CloseAccountCAM", "", region, "postgres-a1", user)


def command(*argv):
    return CommandPasswords(argv, f"command {argv[0]}")


def python(code, *args):
    return command(sys.executable, "-c", code, *args)


async def refused(source, asked=None):
    """What asking says when it fails: nothing of the password, not even in a chained exception."""
    with pytest.raises(CredentialsError) as caught:
        await source.ask(asked or call())
    said = "".join(traceback.format_exception(caught.value))
    assert GOOD not in said
    return str(caught.value)


@pytest.mark.parametrize("password", [GOOD, "aA1~" * 2, "aA1?" * 8, "/aA1aaaa"[1:] + "/", "(){}[]aA1", "aA1`_|:<>"])
def test_passwords_the_documented_rule_allows(password):
    """8–32 characters of four classes."""
    assert password_problem(password) is None


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("aA1~aA1", "has 7 characters; 8–32 are allowed"),
        ("aA1~" * 8 + "a", "has 33 characters"),
        ("/aA1aaaa", "begins with /"),
        ("aA1~ aaaa", "holds 1 character outside"),
        ("aA1~ééaaa", "holds 2 characters outside"),
        ('aA1~"aaaa', "holds 1 character outside"),
        ("AAAA111~", "lacks a lower-case letter"),
        ("aaaa111~", "lacks an upper-case letter"),
        ("aaaAAA~~", "lacks a digit"),
        ("aaaaAAAA1", "lacks one of ("),
        ("aaaaaaaaa", "lacks an upper-case letter and a digit and one of"),
    ],
)
def test_passwords_the_documented_rule_refuses(password, said):
    """In words that do not hold it."""
    problem = password_problem(password)
    assert problem is not None
    assert said in problem
    assert password not in problem


@given(st.text(max_size=40))
def test_the_words_never_hold_the_password(password):
    """Unless it is a piece of the words themselves."""
    problem = password_problem(password) or ""
    assert len(password) < 8 or password not in problem


async def test_a_command_gets_the_account_and_prints_one_line():
    """Placeholders in every argument, no shell, one trailing newline taken off."""
    source = python("import sys; print(sys.argv[1])", "{user}-{instance}:{region}-{user};$HOME")
    with pytest.raises(CredentialsError, match="has 34 characters"):
        await source.ask(call())
    source = python("import sys; print('Aa1~' + sys.argv[1])", "{user}{region}")
    assert await source.ask(call()) == "Aa1~appap-tokyo"
    assert await python("print('Aa1~aaaa', end='\\r\\n')").ask(call()) == "Aa1~aaaa"
    assert await python("print('Aa1~aaaa', end='')").ask(call()) == "Aa1~aaaa"


async def test_a_command_has_nothing_on_standard_input():
    """A program that asks there gets the end, not the operator's terminal."""
    assert await python("import sys; print('Aa1~' + 'xxxx' + sys.stdin.read())").ask(call()) == "Aa1~xxxx"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("pass", "printed nothing"),
        ("print()", "printed nothing"),
        (f"print('{GOOD}\\nx')", "printed more than one line"),
        (f"print('{GOOD}\\n')", "printed more than one line"),
        (f"print('{GOOD}' * 10_000_00)", "printed more than one line"),
        (f"print(' {GOOD}')", "holds 1 character outside"),
        ("import sys; sys.stdout.buffer.write(b'aA1~\\xff\\xfeaaaa')", "holds 2 characters outside"),
        (f"import sys; print('{GOOD}'); sys.exit(3)", "exit status 3"),
        (
            f"import sys; print('{GOOD}'); print('no {GOOD} here\\nsecond', file=sys.stderr); sys.exit(1)",
            "exit status 1: no [redacted] here",
        ),
        ("import sys; print('a\\x1b[31m' + 'b ' * 500, file=sys.stderr); sys.exit(1)", "exit status 1: a[31mb b b"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ],
)
async def test_what_a_command_may_do_wrong(code, said):
    """Named with program and account; standard output is never shown."""
    found = await refused(python(code))
    assert said in found
    assert found.startswith(f"command {sys.executable}")
    assert "postgres-a1/app" in found
    assert "second" not in found
    assert "\x1b" not in found
    assert len(found) < 400


async def test_a_command_that_cannot_be_started(tmp_path):
    """Missing, not a program, impossible arguments."""
    plain = tmp_path / "notes"
    plain.touch(0o600)
    assert "cannot be started: No such file" in await refused(command("/nonexistent/pass"))
    assert "cannot be started: Permission denied" in await refused(command(str(plain)))
    assert "arguments cannot be passed" in await refused(command("true", "a\0b"))


async def test_a_command_that_hangs_is_ended_with_its_children(monkeypatch, tmp_path):
    """After 30 s; a shorter time here."""
    monkeypatch.setattr(passwords, "COMMAND_TIMEOUT_S", 0.3)
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(0.8); open({str(mark)!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    start = time.monotonic()
    assert "no answer within 0.3 s" in await refused(python(code))
    assert time.monotonic() - start < 5
    time.sleep(0.7)
    assert not mark.exists()


async def test_a_command_that_leaves_a_child_behind_has_answered():
    """An agent it started keeps its output open for hours: its answer counts once it has ended itself."""
    child = "import time; time.sleep(20)"
    code = f"import subprocess, sys; print('Aa1~aaaa', flush=True); subprocess.Popen([sys.executable, '-c', {child!r}])"
    start = time.monotonic()
    assert await python(code).ask(call()) == "Aa1~aaaa"
    assert time.monotonic() - start < 15
    failing = code + "; print('no luck', file=sys.stderr, flush=True); sys.exit(3)"
    assert "exit status 3: no luck" in await refused(python(failing))


async def test_a_complaint_spells_no_secret():
    """However a program's own library quotes what it got."""
    secret = "Aa1~/q&b?cdef"
    told = f"url {quote(secret, safe='')}, html {html.escape(secret)}, http://op:hunter2@vault/"
    found = await refused(python(f"import sys; print({secret!r}); print({told!r}, file=sys.stderr); sys.exit(1)"))
    assert "url [redacted], html [redacted], http://[redacted]@vault/" in found


def test_an_end_that_comes_by_itself_is_no_error():
    """The program may be gone before it is ended."""

    class Gone:
        pid = 2**22 + 1  # beyond the largest process id
        returncode = None

        def poll(self):
            return None

        def wait(self):
            return 0

    programs._end(Gone())


# A file


def file_source(tmp_path, text, mode=0o600):
    path = tmp_path / "p.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return open_passwords(PasswordSpec(place=PLACE, file=str(path)), {})


async def test_a_file_has_a_row_for_each_account(tmp_path):
    """By instance and user, the row with the region first; BOM, CRLF, blank lines, quotes."""
    text = (
        "\ufeffUser,instance,region,PASSWORD\r\napp,postgres-a1,,Aa1~aaaa\r\n,,,\r\n\r\n"
        'app,postgres-a1,ap-seoul,"Aa1~,bbbb"\r\nroot,postgres-a1,,short\r\n'
    )
    source = file_source(tmp_path, text)
    assert source.label == f"file {tmp_path}/p.csv"
    assert await source.ask(call()) == "Aa1~aaaa"
    assert await source.ask(call(region="ap-seoul")) == "Aa1~,bbbb"
    assert "no row for postgres-a1/etl" in await refused(source, call("etl"))
    found = await refused(source, call("root"))
    assert "the password for postgres-a1/root has 5 characters" in found


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\ninstance;user;password;region\r\npostgres-a1;app;Aa1~,bbb;\r\n",
        "DBInstanceId\tUser Name\tPassword\npostgres-a1\tapp\tAa1~,bbb\n",
        "\n\ninstance|user|password\n\u200bpostgres-a1\u00a0|app\u200b|Aa1~,bbb\n",
        "instance;user;password\npostgres-a1;app;Aa1~,bbb\n".encode("utf-16"),
        "New passwords;;;\r\n\r\nCluster ID;Login;Kennwort;;\r\npostgres-a1;app;Aa1~,bbb;;\r\n".encode("utf-8-sig"),
        "instance;user;password;owner\r\npostgres-a1;app;Aa1~,bbb;M\u00fcller\r\n".encode("cp1252"),
        "# until Friday\ninstance user password\npostgres-a1 app Aa1~,bbb\n",
    ],
)
async def test_a_password_file_is_read_as_a_list_is(tmp_path, text):
    """The list with semicolons is read, and the passwords beside it, saved by the same Excel, were refused."""
    assert await file_source(tmp_path, text).ask(call()) == "Aa1~,bbb"


def test_what_was_guessed_of_a_password_file_is_told_without_a_cell_of_it(tmp_path):
    """A column taken by a synonym decides which password an account gets; a title may be anything, even a secret."""
    text = f"{GOOD}\nCluster;Login;Kennwort;Chef\npostgres-a1;app;{GOOD};M\u00fcller\n"
    source = file_source(tmp_path, text.encode("cp1252"))
    label = f"file {tmp_path}/p.csv"
    assert source.warnings == [
        f"{label}: line 2: columns taken: 'Cluster' taken for the instance, 'Login' taken for the user, 'Kennwort' "
        "taken for the password",
        f"{label}: line 1: 1 line above the header skipped",
        f"{label}: line 3: is not UTF-8, and 1 line has letters beyond ASCII: read as Windows-1252 with semicolons, as "
        "Excel saves lists in Europe; names and passwords are taken where they are ASCII",
    ]
    plain = file_source(tmp_path, f"instance,user,password\npostgres-a1,app,{GOOD}\n")
    assert plain.warnings == []


@pytest.mark.parametrize(
    ("row", "what"),
    [("postgres-a1;app;Aa1~\u00e4\u00f6\u00fc\u00df", "password"), (f"postgres-a1;m\u00fcller;{GOOD}", "user")],
)
def test_a_password_in_a_guessed_encoding_is_refused_by_line_and_never_shown(tmp_path, row, what):
    """Read as other letters, it would lock the owner out of the account, and nobody would know the password."""
    text = f"instance;user;password\npostgres-a1;ok;{GOOD}\n{row}\n".encode("cp1252")
    with pytest.raises(CredentialsError, match=f"line 3: the {what} has letters beyond ASCII") as caught:
        file_source(tmp_path, text)
    shown = "".join(traceback.format_exception(caught.value))
    assert "would be a guess; save it as UTF-8" in shown
    assert not any(secret in shown for secret in (GOOD, "\u00e4", "m\u00fc", "Aa1~"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"instance,user,password\na-1,u,{GOOD}\n".encode("utf-32"), "is UTF-32 text; save it as UTF-8"),
        (f"postgres-a1,app,{GOOD}\n", "no column instance, user, password"),
        (f"Cluster,Instanz,user,password\na-1,b-1,u,{GOOD}\n", "line 1: column instance stands twice"),
        (f"\ninstance;user;password\npostgres-a1;app;{GOOD};x\n", "line 3 has 4 of 3 columns; quote a .* semicolon"),
        (f"instance,user,username,password\na-1,u,v,{GOOD}\n", "column user stands twice"),
        ("", "no column instance, user, password"),
        (f"instance,user\npostgres-a1,{GOOD}\n", "no column password"),
        (f"instance,user,password\npostgres-a1,app,{GOOD},x\n", "line 2 has 4 of 3 columns; quote"),
        (f"instance,user,password\na-1,u,{GOOD}\na-1,u,{GOOD}\n", "line 3 names a-1/u a second time"),
        (f'instance,user,password\na-1,u,"{GOOD}\n', "not valid CSV"),
        (b"instance,user,password\na-1,u,\xff\n", "is not UTF-8"),
    ],
)
def test_broken_password_files(tmp_path, text, said):
    """Named by line when opened, before anything is sent."""
    with pytest.raises(CredentialsError, match=said) as caught:
        file_source(tmp_path, text)
    assert GOOD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_password_file_others_can_reach_is_refused(tmp_path, mode):
    """With the command that helps. A group of one's own is nobody else: so a Secret is mounted for a pod's fsGroup."""
    if not mode & 0o007:
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        assert file_source(tmp_path, "instance,user,password\n", mode)
        os.chown(next(tmp_path.iterdir()), -1, 54321)
    with pytest.raises(CredentialsError, match="others can read these passwords; chmod 600"):
        file_source(tmp_path, "instance,user,password\n", mode)


def test_a_password_file_that_cannot_be_read(tmp_path, monkeypatch):
    """Missing or too large."""
    with pytest.raises(CredentialsError, match="cannot be read: No such file"):
        open_passwords(PasswordSpec(place=PLACE, file=str(tmp_path / "x")), {})
    monkeypatch.setattr(passwords, "MOST_FILE", 10)
    with pytest.raises(CredentialsError, match="larger than"):
        file_source(tmp_path, "instance,user,password\n")


def test_a_password_file_that_is_a_pipe_is_refused(tmp_path):
    """Nobody may ever write to it, and the command would wait for them."""
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    with pytest.raises(CredentialsError, match="cannot be read: is a named pipe, no file"):
        open_passwords(PasswordSpec(place=PLACE, file=str(path)), {})


# A variable, and the way from a job


async def test_an_environment_variable():
    """For a job with one target."""
    spec = PasswordSpec(place=PLACE, env="NEW_PW")
    source = open_passwords(spec, {"NEW_PW": GOOD})
    assert (source.label, await source.ask(call())) == ("environment NEW_PW", GOOD)
    assert GOOD not in repr(source)
    with pytest.raises(CredentialsError, match="environment NEW_PW: the variable is not set or empty"):
        open_passwords(spec, {"NEW_PW": ""})
    assert "lacks" in await refused(open_passwords(spec, {"NEW_PW": "aaaaaaaa"}))


async def test_a_command_from_a_job():
    """The label names the program, not its arguments."""
    spec = PasswordSpec(place=PLACE, command=("echo", "Aa1~{user}", "--token=x")[:2])
    source = open_passwords(spec, {})
    assert source.label == "command echo"
    assert await source.ask(call("user")) == "Aa1~user"
    assert Path(sys.executable).exists()


COUNTING = "import sys; f = open(sys.argv[1], 'a+'); f.write('x'); f.flush(); print(f'Corr3ct-Hor{f.tell()}')"


async def test_a_store_gives_the_same_password_twice(tmp_path):
    """It is asked twice; one that makes a new password each time is refused, and neither is in any words."""
    count = tmp_path / "count"
    source = CommandPasswords((sys.executable, "-c", COUNTING, str(count)), "command make", stored=True)
    with pytest.raises(CredentialsError) as caught:
        await source.ask(call())
    said = "".join(traceback.format_exception(caught.value))
    assert "asked twice, it gave two passwords" in said and "Corr3ct" not in said
    assert count.read_text() == "xx"
    assert "Corr3ct-Hor1" not in repr(vars(source))


async def test_only_a_store_is_asked_twice(tmp_path):
    """A program that makes a password would make two, and the second would be the one that it keeps."""
    count = tmp_path / "count"
    source = CommandPasswords((sys.executable, "-c", COUNTING, str(count)), "command make")
    assert await source.ask(call()) == "Corr3ct-Hor1"
    assert count.read_text() == "x"


async def test_a_store_that_breaks_the_rule_or_fails_the_second_time_gives_nothing(tmp_path):
    """Each of the two answers is checked as any."""
    count = tmp_path / "count"
    code = COUNTING + "; sys.exit(f.tell() > 1)"
    source = CommandPasswords((sys.executable, "-c", code, str(count)), "command make", stored=True)
    assert "exit status 1" in await refused(source)


def test_a_source_is_the_same_from_its_journal():
    """Also whether it is a store: a resume must not take a plain one for a store."""
    for stored in (True, False):
        spec = PasswordSpec(place=PLACE, command=("give", "{user}"), stored=stored)
        assert password_spec(spec.as_record(), PLACE) == spec
    assert not password_spec({"command": ["give"], "stored": "yes"}, PLACE).stored
