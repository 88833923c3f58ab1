"""What is typed wrong is answered with what to type, and never with the opposite."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api.names import nearest
from tests.support.command import Desk, records

LIST = "instance,user,region\npostgres-aaaaaaaa,ann,ap-singapore\npostgres-bbbbbbbb,eve,ap-tokyo\n"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("cam-off", "cam-on"),
        ("camoff", "cam-on"),
        ("unlok", "lock"),
        ("UnLokAccount", "LockAccount"),
        ("include", "exclude"),
        ("inclde", "exclude"),
        ("--verify", "--no-verify"),
        ("min_targets", "max_targets"),
        ("finished", "unfinished"),
    ],
)
def test_a_name_is_never_answered_with_its_opposite(typed, known):
    """Who types `cam-off` and is told `cam-on` turns on what was to be turned off."""
    assert nearest(typed, [known]) is None


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("nlock", "unlock"),
        ("nknown", "unknown"),
        ("dadline", "deadline"),
        ("discovr", "discover"),
        ("notfy", "notify"),
        ("excldue", "exclude"),
        ("CloseAcountCAM", "CloseAccountCAM"),
        ("stpo", "stop"),
    ],
)
def test_a_mere_slip_is_still_answered(typed, known):
    """A word that begins with `un` or `de` has slips, too, and its nearest name is the one that was meant."""
    assert nearest(typed, ["lock", "OpenAccountCAM", "include", "start", known]) == known


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        ("cam-off postgres-aaaaaaaa/ann", "a job with `action: CloseAccountCAM`, as it sets a new password"),
        ("disable-cam", "action: CloseAccountCAM"),
        ("CloseAccountCAM", "action: CloseAccountCAM"),
        ("LockAccount", "type acctops lock"),
        ("job.yaml", "type acctops plan job.yaml to look, acctops run job.yaml to send"),
        ("list.csv", "acctops lock @list.csv --region R"),
        ("postgres-aaaaaaaa/ann", "type acctops lock postgres-aaaaaaaa/ann --region R"),
        ("latest", "type acctops status latest"),
        ("retry", "type acctops rerun"),
        ("unlok", "did you mean unlock?"),
        ("--yes run job.yaml", "flags come after it"),
        ("run --force job.yaml", "type --yes"),
        ("run -f job.yaml", "type --yes"),
        ("run --dry-run job.yaml", "`acctops plan JOB` shows"),
        ("lock --dry-run postgres-aaaaaaaa/ann", "without --yes it shows what it would do"),
        ("undo --dry-run latest", "without --yes it shows what it would do"),
        ("plan --simulate job.yaml", "plan never sends; type acctops run JOB --simulate"),
        ("plan --yes job.yaml", "plan sends nothing in any case"),
        ("undo --simulate latest", "stays simulated"),
        ("status -o json", "type --json"),
        ("run --sumulate job.yaml", "did you mean --simulate?"),
        ("run --for 4h job.yaml", "the job says it: hold: {for: 4h, then: tell}"),
        ("plan --watch job.yaml", "the job says it: watch: {after: [5m, 30m], every: 1d, for: 30d}"),
        ("lock --ttl 4h postgres-aaaaaaaa/ann", "type --for or --until"),
    ],
)
def test_words_of_other_tools_are_answered_with_ours(desk, words, instead):
    """In an incident a person types what other tools take, and spelling alone would name a flag that has nothing to do
    with it."""
    done = desk.run(*words.split())
    assert done.code == 2
    assert instead in done.err


def test_a_flag_without_a_near_name_gets_none(desk):
    """`--force` is no misspelt `--once`; `--include` is not answered with `--exclude`."""
    assert "did you mean" not in desk.run("lock", "postgres-aaaaaaaa/ann", "--include", "x").err.lower()
    assert "did you mean" not in desk.run("run", "job.yaml", "--verify").err.lower()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("nofile.yaml", None),
        ("empty.yaml", None),
        ("jobb.yaml", "job.yaml"),
        ("job.yml", "job.yaml"),
        ("job", "job.yaml"),
    ],
)
def test_a_missing_file_is_answered_with_a_near_one_only(desk, typed, meant):
    """All jobs end in `.yaml`: that two names do makes neither the other's misspelling, and the wrong job is run."""
    desk.job()
    desk.write("f.yaml", "x")
    desk.write("job.csv", LIST)
    done = desk.run("run", typed)
    assert done.code == 2
    assert f"{typed}: no such file" in done.err
    assert (f"did you mean {meant}?" in done.err) if meant else ("did you mean" not in done.err)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", LIST),
        ("list.txt", "postgres-aaaaaaaa/ann\npostgres-aaaaaaaa/bob\n"),
        (
            "list.jsonl",
            '{"instance":"postgres-aaaaaaaa","user":"ann"}\n{"instance":"postgres-aaaaaaaa","user":"bob"}\n',
        ),
    ],
)
def test_a_list_in_place_of_a_job_is_named_as_a_list(desk, name, text):
    """`run list.csv` is what comes to mind first; the keys of a job file say nothing to who has a list in hand."""
    desk.write(name, text)
    done = desk.run("run", name)
    assert done.code == 2
    kind = "jsonl" if name.endswith("jsonl") else "csv"
    assert f"targets: [{{{kind}: {name}}}]" in done.err
    assert f"acctops lock @{name} --region R" in done.err


def test_lock_takes_a_list_as_a_job_does(desk):
    """In an incident the accounts come as a file; the regions it names are taken, and no job has to be written."""
    desk.write("list.csv", "DBInstanceId;UserName;Region;Owner\npostgres-aaaaaaaa;ann;ap-singapore;x\n")
    desk.write("more.txt", "# from the pager\npostgres-bbbbbbbb/eve\n")
    desk.write("rows.jsonl", '{"instance":"postgres-cccccccc","user":"kim"}\n')
    lists = ("@list.csv", "@more.txt", "@rows.jsonl", "postgres-dddddddd/bob")
    done = desk.run("lock", *lists, "--region", "ap-tokyo", "--simulate", "--yes", "--json")
    assert done.code == 0, done.err
    calls = {
        (each["region"], each["instance"], each["user"])
        for path in desk.journals(simulated=True)
        for each in records(path, "call")
    }
    assert calls == {
        ("ap-singapore", "postgres-aaaaaaaa", "ann"),
        ("ap-tokyo", "postgres-dddddddd", "bob"),
        ("ap-tokyo", "postgres-bbbbbbbb", "eve"),
        ("ap-tokyo", "postgres-cccccccc", "kim"),
    }


@pytest.mark.parametrize("command", ["lock", "unlock", "cam-on"])
def test_a_list_on_the_command_line_is_checked_row_by_row(desk, command):
    """A bad row is named by its line, and left out only by the flag that a job's list has for it."""
    desk.write("list.csv", "instance,user\npostgres-aaaaaaaa,ann\npostgres-aaaaaaaa,b!b\n")
    words = (command, "@list.csv", "--region", "ap-tokyo", "--simulate", "--yes")
    refused = desk.run(*words)
    assert refused.code == 2
    assert "list.csv:3: user: 'b!b' is not an account name" in refused.err
    assert "--skip-bad-rows sends the good ones (1)" in refused.err
    skipped = desk.run(*words, "--skip-bad-rows")
    assert skipped.code == 1
    assert "Local.BadRow: list.csv:3" in skipped.text


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("@lst.csv", "command line:1: lst.csv: no such file; did you mean list.csv?"),
        ("@-", "command line:1: @-: name a file"),
        ("@", "name a file"),
        ("@bare.csv", "bare.csv:2: region: 1 target without a region"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(desk, argument, words):
    """A list that is not there, or without a region, sends nothing, and its place says what is missing."""
    desk.write("list.csv", LIST)
    desk.write("bare.csv", "instance,user\npostgres-aaaaaaaa,ann\n")
    done = desk.run("lock", argument, "--yes")
    assert done.code == 2
    assert words in done.err


def test_an_option_that_would_be_dropped_is_named(ran):
    """`--quiet`, `--stuck` and a second format either do what they say, or stop the command by their name."""
    run = ran.journal(simulated=True).parent.name
    for words in ("--format json --stuck", "--json --format csv", "--quiet"):
        done = ran.run("report", run, *words.split())
        assert done.code == 2
        assert words.split()[-1] in done.err
    assert "--quiet" in ran.run("status", "--quiet").err
    assert ran.run("plan", "drill.yaml", "--offline", "--quiet").text == ""


def test_skipping_bad_rows_says_what_it_will_do(desk):
    """Where every row is bad there are no good ones to send, and the flag must not be advised, nor obeyed."""
    desk.write("list.csv", "instance,user\npostgres-aaaaaaaa,a!n\npostgres-aaaaaaaa,b!b\n")
    words = ("lock", "@list.csv", "--region", "ap-tokyo", "--simulate", "--yes")
    without, skipped = desk.run(*words), desk.run(*words, "--skip-bad-rows")
    assert (without.code, skipped.code) == (2, 2)
    assert "skip-bad-rows" not in without.err
    assert "leaves nothing to send" in skipped.err


def test_the_number_of_good_rows_is_what_is_sent(desk):
    """A row that stands twice is sent once, and a good name in a bad region not at all: the number that is agreed to
    is that of the run."""
    rows = ("ann,ap-tokyo", "ann,ap-tokyo", "bob,ap-tokyo", "eve,ap-to$yo", "k!m,ap-tokyo")
    desk.write("list.csv", "instance,user,region\n" + "".join(f"postgres-aaaaaaaa,{row}\n" for row in rows))
    words = ("lock", "@list.csv", "--simulate", "--yes")
    assert "--skip-bad-rows sends the good ones (2)" in desk.run(*words).err
    assert desk.run(*words, "--skip-bad-rows", "--json").json["counts"]["changed"] == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            'columns: {instance: "Cluster ID", user: "DB-Benutzer"}',
            'write targets: [{csv: list.csv, columns: {instance: "Cluster ID", user: "DB-Benutzer"}}]',
        ),
        ("colums: {}", 'write targets: [{csv: list.csv, columns: {instance: "…", user: "…"}}]'),
        ("csv: list.csv", "write targets: [{csv: list.csv}]"),
        ("max_targets: 7", "write limits: {max_targets: …}"),
        ("users: {glob: x}", "write targets: [{match: {users: …}}]"),
        ("days: [sat]", "write window: {days: …}"),
        ("regoin: ap-tokyo", "did you mean region?"),
    ],
)
def test_a_key_that_stands_further_inside_is_answered_with_its_line(desk, line, words):
    """The hint for a list's columns names `columns:`; who writes it at the top is told the line, not `accounts`."""
    desk.write("list.csv", "Cluster ID,DB-Benutzer\npostgres-aaaaaaaa,ann\n")
    desk.write("job.yaml", f"action: LockAccount\nregion: ap-singapore\n{line}\ntargets: [{{csv: list.csv}}]\n")
    done = desk.run("plan", "job.yaml", "--offline")
    assert done.code == 2
    assert words in done.err


def test_the_line_that_is_named_for_columns_works(desk):
    """What is printed is pasted as it stands."""
    desk.write("list.csv", "Cluster ID,DB-Benutzer\npostgres-aaaaaaaa,ann\n")
    top = "action: LockAccount\nregion: ap-singapore\n"
    said = 'columns: {instance: "Cluster ID", user: "DB-Benutzer"}\ntargets: [{csv: list.csv}]\n'
    desk.write("job.yaml", top + said)
    refused = desk.run("plan", "job.yaml", "--offline").err
    (line,) = [line.partition("write ")[2] for line in refused.splitlines() if "columns: unknown key" in line]
    desk.write("job.yaml", top + line)
    assert desk.run("plan", "job.yaml", "--offline").code == 0


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("Server,Konto", "", "rename these, or write a job with this entry under its targets, and run it: - {csv: "),
        (
            "instance,Login,Benutzer",
            "",
            "columns 'Login' and 'Benutzer' may both be the user; call the one that is meant",
        ),
        (
            "instance,user,account",
            "",
            "a command line names no cloud accounts; remove it, or write a job that names them",
        ),
        ("instance,user,password", "", "a target list holds no secrets; remove it"),
        ("instance,user,region", "postgres-aaaaaaaa,ann,", "name it with --region for all, or in a column of the list"),
        (
            "{",
            '{"instance":"postgres-aaaaaaaa","user":"ann","account":"x"}',
            "a command line names none; remove it, or",
        ),
        ("[", "", "is JSON, not CSV; of JSON, a line is"),
    ],
)
def test_advice_about_a_list_on_the_command_line_can_be_followed_there(desk, header, row, said):
    """It named keys of a job, which a command line does not have: nobody could do what it said."""
    text = f"{row}\n" if header == "{" else f"{header}\n{row or 'postgres-aaaaaaaa,ann,x'}\n"
    desk.write("list.csv", text)
    region = () if header == "instance,user,region" else ("--region", "ap-tokyo")
    done = desk.run("lock", "@list.csv", *region, "--simulate", "--yes")
    assert done.code == 2 and said in done.err, done.err
    above = done.err.partition(" - {csv: ")[0]  # the entry of a job may have such keys
    assert not any(key in above for key in ("columns: {", "accounts:", "`region:`", "jsonl:", "passwords:")), above


def test_a_guess_of_a_list_on_the_command_line_says_how_to_make_it_certain_there(desk):
    """A header can be renamed; an entry of a job there is none."""
    desk.write("list.csv", "Cluster,Login\npostgres-aaaaaaaa,ann\n")
    done = desk.run("lock", "@list.csv", "--region", "ap-tokyo", "--simulate", "--yes")
    assert done.code == 0 and "to make that certain, call 'Cluster' instance, 'Login' user" in done.err
    assert "columns:" not in done.err


def test_the_entry_that_is_printed_for_a_list_on_the_command_line_works_in_a_job(desk):
    """What is printed is pasted as it stands, with the region that was typed."""
    desk.write("my list.csv", "Server,Konto\npostgres-aaaaaaaa,svc-app\n")
    refused = desk.run("lock", "@my list.csv", "--region", "ap-tokyo", "--simulate", "--yes").err
    (entry,) = (line.partition("and run it: ")[2] for line in refused.splitlines() if "and run it: " in line)
    desk.write("job.yaml", f"action: LockAccount\ntargets:\n  {entry}\n")
    plan = desk.run("plan", "job.yaml", "--offline", "--json").json
    assert [(call["instance"], call["user"], call["region"]) for call in plan["calls"]] == [
        ("postgres-aaaaaaaa", "svc-app", "ap-tokyo")
    ]


def test_a_key_of_the_job_in_a_target_is_answered_with_its_place(desk):
    """`exclude` for one list is written for the whole job; a list of the keys that may stand here does not say so."""
    desk.job("{instance: postgres-aaaaaaaa, user: ann, exclude: ['*/x']}")
    assert "write exclude: … at the top of the job" in desk.run("plan", "job.yaml", "--offline").err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (
            'reason: "it is',
            "job.yaml:3:9: not valid YAML (found unexpected end of stream); the quote that opens here is never closed",
        ),
        (
            "reason: 'it is",
            "job.yaml:3:9: not valid YAML (found unexpected end of stream); the quote that opens here is never closed",
        ),
        ('reason: "it is\nticket: "CHG-1"', "a quote that opens at 3:9 closes here"),
        ('exclude: ["*/x"\nreason: y', "the bracket that opens at 3:10 is not closed before this"),
    ],
)
def test_what_was_not_closed_is_named_where_it_opened(desk, text, place):
    """The end of a long file is no place to look for a quote that is missing on line 4."""
    targets = "\n".join(f"  - postgres-aaaaaaaa/u{number}" for number in range(30))
    desk.write("job.yaml", f"action: LockAccount\nregion: ap-singapore\n{text}\ntargets:\n{targets}\n")
    done = desk.run("plan", "job.yaml", "--offline")
    assert done.code == 2
    assert place in done.err


NOON = 1795953600.0
"""2026-11-29T12:00:00Z."""


@pytest.mark.parametrize(
    ("since", "begin"),
    [
        ("2026-11-23", "2026-11-23T00:00:00Z"),
        ("2026-11-23T03:00", "2026-11-23T03:00:00Z"),
        ("2026-11-23T03:00+08:00", "2026-11-22T19:00:00Z"),
        ("20261123T0300", "2026-11-23T03:00:00Z"),
        ("1w", "2026-11-22T12:00:00Z"),
        ("1w2d", "2026-11-20T12:00:00Z"),
    ],
)
def test_since_takes_dates_and_weeks(desk, since, begin):
    """A change record is asked for from a date on; nobody counts the hours back to it."""
    assert desk.run("status", "--since", since, "--json", at=NOON).json["since"] == begin
    assert desk.run("report", "--since", since, "--json", at=NOON).json["since"] == begin


@pytest.mark.parametrize(
    ("since", "words"),
    [
        ("2026-13-01", "or a date (UTC) such as 2026-11-23"),
        ("2027-01-01", "is still to come; it is 2026-11-29T12:00:00Z"),
        ("monday", "or a date such as 2026-11-23"),
    ],
)
def test_a_since_that_is_no_time_is_refused(desk, since, words):
    """A date to come would list no run, as if there were none."""
    done = desk.run("status", "--since", since, at=NOON)
    assert done.code == 2
    assert words in done.err


def test_overdue_takes_weeks(desk):
    """A job that runs once a week is late after a week."""
    assert desk.run("overdue", "job.yaml", "--every", "1w", "--json").json["every_s"] == 7 * 86400


@pytest.fixture
def ran(desk: Desk) -> Desk:
    """Somebody has run a job, simulated, and another one against an API that is not there."""
    desk.job(name="lockdown.yaml")
    desk.run("run", "lockdown.yaml", "--yes", "--no-verify", "--deadline", "1s")
    desk.job("postgres-cccccccc/kim", name="drill.yaml")
    desk.run("run", "drill.yaml", "--yes", "--simulate")
    return desk


def test_a_run_that_is_named_by_its_job_is_found_out(ran):
    """A person knows the job, not the id: the words to type are named for it, also where the name has a slip."""
    for typed in ("lockdown", "lockdown.yaml", "lockdwn", "latest:lockdwn"):
        done = ran.run("report", typed)
        assert done.code == 2
        assert "did you mean latest:lockdown?" in done.err
    assert ran.run("report", "latest:lockdown").code == 0
    simulated = ran.journal(simulated=True).parent.name
    assert f"did you mean {simulated}?" in ran.run("report", "drill").err


def test_an_id_that_is_off_by_one_letter_is_named(ran):
    """Three ids of the same day in a row do not show which of them differs by a letter."""
    run = ran.journal().parent.name
    other = "b" if run[-1] == "a" else "a"
    assert f"did you mean {run}?" in ran.run("report", run[:-1] + other).err
    assert "did you mean" not in ran.run("report", "2019").err


def test_overdue_of_what_never_ran_says_so(ran):
    """A misspelt file in a monitor must not read as a job that fails every night."""
    done = ran.run("overdue", "nofile.yaml", "--every", "8d")
    assert done.code == 1
    assert f"no run of nofile.yaml in {ran.state}/runs; jobs here: lockdown" in done.out
    assert "did you mean lockdown?" in ran.run("overdue", "lockdwn.yaml", "--every", "8d").out


MATCH = "  - match: {regions: [ap-tokyo], users: {glob: '*'}}\n"


def test_a_simulated_match_has_a_made_up_fleet(desk):
    """A first try of a job with a match needs no file of a fleet; that the accounts are made up is said."""
    top = "action: LockAccount\nregion: ap-singapore\nlimits: {max_targets: 1000}\ntargets:\n"
    desk.write("job.yaml", f"{top}{MATCH}  - postgres-aaaaaaaa/ann\n")
    done = desk.run("run", "job.yaml", "--simulate", "--yes")
    assert done.code == 0, done.err
    assert "a match is looked for in a made-up fleet, --fleet random:40x8@ap-tokyo; it is not yours" in done.err
    calls = records(desk.journal(simulated=True), "call")
    assert {each["region"] for each in calls} == {"ap-tokyo", "ap-singapore"}
    assert ("postgres-aaaaaaaa", "ann") in {(each["instance"], each["user"]) for each in calls}


@pytest.mark.parametrize("flag", ["--target", "--exclude"])
def test_a_flag_of_undo_without_a_value_is_named(ran, flag):
    """An empty variable in a script: the message names the flag that has it, and not the other."""
    done = ran.run("undo", ran.journal(simulated=True).parent.name, flag, "")
    assert done.code == 2
    assert f"{flag}: '' is not instance/user" in done.err


def test_a_dead_endpoint_is_named_once(desk):
    """A message with the same URL twice is read twice, to find what the difference is."""
    match = "limits: {max_targets: 9}\ntargets:\n  - match: {regions: [ap-tokyo], users: {glob: '*'}}\n"
    desk.write("match.yaml", f"action: LockAccount\n{match}")
    desk.job()
    for words in ("plan match.yaml", "run job.yaml --yes --no-verify --deadline 1s", "doctor job.yaml"):
        done = desk.run(*words.split(), "--endpoint", "http://127.0.0.1:1")
        about = [line for line in done.text.splitlines() if "[Local.Connect]" in line and "127.0.0.1:1" in line]
        assert about or "deadline" in done.text
        assert all(line.count("http://127.0.0.1:1") == 1 for line in about)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("list.csv", "a list is named with @: @list.csv"),
        ("./list.txt", "a list is named with @: @./list.txt"),
        ("job.yaml", "a job is carried out by acctops run job.yaml"),
        ("ann", "such as postgres-4sfuv15b/app_user"),
    ],
)
def test_a_file_in_place_of_an_account_is_answered_with_what_to_type(desk, argument, words):
    """The @ is forgotten first; that `./list` is no instance id does not help."""
    done = desk.run("lock", argument, "--region", "ap-tokyo", "--yes")
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1


def test_what_was_typed_in_two_words_or_with_a_flag_is_answered_with_the_right_one(desk: Desk) -> None:
    """An instance and a user beside each other, a job behind a flag, `latests`: the next command is in the answer."""
    two = desk.run("lock", "postgres-aaaaaaaa", "ann", "--region", "ap-singapore")
    assert "did you mean postgres-aaaaaaaa/ann?" in two.err and two.code == 2
    assert "named without a flag" in desk.run("doctor", "--job", "job.yaml").err
    assert "did you mean latest?" in desk.run("status", "latests").err
    assert "Choose from: cron, systemd, k8s" in desk.run("schedule", "job.yaml").err
    assert "resume" in desk.run("explain", "4").out
