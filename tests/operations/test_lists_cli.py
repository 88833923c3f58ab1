"""Lists as other programs leave them, on the command line: what is said of them before anything is sent."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk

A, B = "postgres-4sfuv15b", "postgres-r95q23pn"
LINK = f"https://console.tencentcloud.com/postgres/detail?id={A}&tab=accounts"
JOB = "action: LockAccount\ntargets:\n  - csv: l.csv\n"
EXCEL = (
    "Leaked accounts;;;\r\n"
    "Cluster ID;DB-Benutzer;Region;Notiz\r\n"
    f"{LINK};app_user;ap-tokyo;Müller\r\n"
    f"{A};etl;;\r\n"
    f"{B};ro;ap-seoul;\r\n"
)


def lay(desk: Desk, text: str = EXCEL, encoding: str = "cp1252") -> None:
    """The job and its list, as Excel saves it in Europe."""
    desk.write("job.yaml", JOB)
    desk.write("l.csv", text.encode(encoding))


def test_a_plan_says_every_guess_once_with_its_line(desk: Desk) -> None:
    """No guess is silent: what was read otherwise than written stands above the plan, each once."""
    lay(desk)
    done = desk.run("plan", "job.yaml", "--offline")
    assert done.code == 0, done.err
    at = len(f"{LINK};app_user;ap-tokyo;M") + 1
    for words in (
        "l.csv:1: 1 line above the header skipped, the first 'Leaked accounts'",
        "l.csv:2: columns taken: 'Cluster ID' for the instance, 'DB-Benutzer' for the user",
        "l.csv:3: instance id of 1 row taken out of a URL, the first postgres-4sfuv15b",
        f"l.csv:3:{at}: is not UTF-8, and 1 line has letters beyond ASCII: read as Windows-1252 with semicolons",
        "l.csv:4: 1 row without a region takes that of another row of the instance, the first ap-tokyo (l.csv:3)",
    ):
        assert done.err.count(words) == 1, (words, done.err)
    assert "3 accounts on 2 instances" in done.out


def test_the_question_names_the_guesses_that_choose_who_is_meant(desk: Desk) -> None:
    """An id out of a link and a region of another row decide which account is locked: who says yes must know."""
    lay(desk)
    done = desk.run("run", "job.yaml", "--simulate", typed="n\n")
    assert done.code == 3, done.err
    question = " ".join(done.err.split("About to")[1].split())
    for words in (
        "; GUESSED: 'Cluster ID' taken for the instance, 'DB-Benutzer' taken for the user",
        "1 instance id taken out of URLs (postgres-4sfuv15b)",
        "1 region taken from other rows (ap-tokyo)",
    ):
        assert words in question
    assert "Windows-1252" not in done.err.split("About to")[1]


def test_with_yes_the_guesses_that_choose_are_said_even_quietly(desk: Desk) -> None:
    """Nobody is asked at night, and a good night is silent: but for this."""
    lay(desk)
    done = desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet")
    assert done.code == 0, done.err
    assert "taken out of a URL" in done.err and "takes that of another row" in done.err
    assert "Windows-1252" not in done.err


# ---- the corrected list ----------------------------------------------------------------------------------------------


def test_the_corrected_list_says_what_was_read_and_names_each_change(desk: Desk) -> None:
    """What was guessed once is written out, to be checked and kept; nobody corrects 300 rows by hand."""
    lay(desk, EXCEL + f"{A};bad!name;ap-tokyo;\r\n{B}\u00a0;nb;ap-seoul;\r\n")
    done = desk.run("plan", "job.yaml", "--offline", "--fix", "fixed.csv")
    assert done.code == 0, done.err
    fixed = desk.work / "fixed.csv"
    assert fixed.read_text() == (f"instance,user,region\n{A},app_user,ap-tokyo\n{A},etl,ap-tokyo\n{B},ro,ap-seoul\n")
    assert fixed.stat().st_mode & 0o777 == 0o600
    for words in (
        "l.csv:1: Leaked accounts → (left out)",
        "l.csv:2: Cluster ID, DB-Benutzer → instance, user",
        f"l.csv:3: {LINK} → {A}",
        "Windows-1252, semicolons → UTF-8, commas",
        "l.csv:4: no region → ap-tokyo",
        "fixed.csv: 3 rows written; 2 bad rows are not in it. To use it, put under targets: in the job,",
        '- csv: "fixed.csv"',
    ):
        assert done.err.count(words) == 1, (words, done.err)
    desk.write("job.yaml", JOB.replace("l.csv", "fixed.csv"))
    again = desk.run("plan", "job.yaml", "--offline")
    assert (again.code, again.err) == (0, "") and "3 accounts on 2 instances" in again.out


def test_the_corrected_list_overwrites_nothing(desk: Desk) -> None:
    """A name typed twice must not cost the list it was made from; nor is a link followed."""
    lay(desk)
    for name in ("l.csv", "link.csv"):
        (desk.work / "link.csv").unlink(missing_ok=True)
        (desk.work / "link.csv").symlink_to(desk.work / "elsewhere.csv")
        before = (desk.work / "l.csv").read_bytes()
        done = desk.run("plan", "job.yaml", "--offline", "--fix", name)
        assert done.code == 2 and f"--fix {name}: is there already, and is not overwritten" in done.err
        assert (desk.work / "l.csv").read_bytes() == before and not (desk.work / "elsewhere.csv").exists()
    done = desk.run("plan", "job.yaml", "--offline", "--fix", "no/such/folder.csv")
    assert done.code == 2 and "cannot be written: No such file or directory" in done.err


def test_at_most_twenty_changes_are_named_and_all_are_counted(desk: Desk) -> None:
    """A thousand lines of changes hide the one that matters."""
    rows = "".join(f"{LINK},user_{number},ap-tokyo\n" for number in range(50)) + f"{A},last,\n"
    lay(desk, "instance,user,region\n" + rows, "utf-8")
    done = desk.run("plan", "job.yaml", "--offline", "--fix", "fixed.csv")
    assert done.err.count(" → ") == 20 and "… and 31 more changes" in done.err
    assert len((desk.work / "fixed.csv").read_text().splitlines()) == 52


def test_a_list_of_which_no_row_is_good_is_not_written(desk: Desk) -> None:
    """An empty list in place of the old one would look like a job that is done."""
    lay(desk, "instance,user,region\nx,y-,z\n", "utf-8")
    done = desk.run("plan", "job.yaml", "--offline", "--fix", "fixed.csv")
    assert done.code == 2 and not (desk.work / "fixed.csv").exists()


# ---- an instance that is in another region ---------------------------------------------------------------------------


@pytest.fixture
def backend() -> Iterator[Backend]:
    fleet = [
        {"id": A, "region": "ap-tokyo", "accounts": ["app_user", "etl"]},
        {"id": B, "region": "ap-seoul", "accounts": ["ro"]},
    ]
    with Backend(World(fleet=fleet_from({"instances": fleet}), latency=0)) as running:
        yield running


def misplaced(desk: Desk) -> None:
    """A list whose first instance is not where it says."""
    desk.write("job.yaml", "action: LockAccount\nregion: ap-singapore\ntargets:\n  - csv: l.csv\n")
    desk.write("l.csv", f"instance,user,region\n{A},app_user,\n{B},ro,ap-seoul\n{A},etl,\n")


def test_an_instance_found_elsewhere_is_offered_with_the_command_and_not_taken(desk: Desk, backend: Backend) -> None:
    """The region decides who is locked: the plan says where the instance is, and how to take that; it takes nothing."""
    misplaced(desk)
    api = ("--endpoint", backend.endpoint)
    done = desk.run("plan", "job.yaml", *api)
    assert f"no such instance  2  {A}/app_user (found in ap-tokyo), {A}/etl (found in ap-tokyo)" in done.out
    (line,) = (line for line in done.out.splitlines() if "found elsewhere" in line)
    assert line.startswith(
        "  found elsewhere  1 instance, and not taken there: acctops plan job.yaml --endpoint http://"
    )
    assert line.endswith(" --fix fixed.csv writes the list with the regions found")
    plan = desk.run("plan", "job.yaml", *api, "--json").json
    assert plan["elsewhere"] == [{"account": "", "region": "ap-singapore", "instance": A, "found_in": "ap-tokyo"}]
    ran = desk.run("run", "job.yaml", *api, "--yes")
    assert ran.code == 1 and [arrival.instance for arrival in backend.writes()] == [B]
    assert "found elsewhere  1 instance" in ran.text and "--fix fixed.csv" in ran.text


def test_the_corrected_list_has_the_region_where_the_instance_was_found(desk: Desk, backend: Backend) -> None:
    """The printed command, followed to its end, leaves no account open."""
    misplaced(desk)
    plan = desk.run("plan", "job.yaml", "--endpoint", backend.endpoint).out
    (line,) = (line for line in plan.splitlines() if "found elsewhere" in line)
    command = line.partition("acctops ")[2].partition(" writes")[0]
    done = desk.run(*shlex.split(command))
    assert done.code == 0, done.err
    said = f"l.csv:2: {A} in ap-singapore → found in ap-tokyo, and taken there (2 rows)"
    assert done.err.count(said) == 1, done.err
    fixed = (desk.work / "fixed.csv").read_text()
    assert fixed == f"instance,user,region\n{A},app_user,ap-tokyo\n{B},ro,ap-seoul\n{A},etl,ap-tokyo\n"
    assert (desk.work / "l.csv").read_text().startswith(f"instance,user,region\n{A},app_user,\n")
    desk.write("job.yaml", "action: LockAccount\ntargets:\n  - csv: fixed.csv\n")
    ran = desk.run("run", "job.yaml", "--endpoint", backend.endpoint, "--yes", "--json")
    assert ran.code == 0 and ran.json["counts"]["changed"] == 3


def test_the_corrected_list_is_written_where_nothing_can_be_read(desk: Desk) -> None:
    """Without keys there is no region to find, and the rest of the corrections is worth having."""
    lay(desk)
    done = desk.run("plan", "job.yaml", "--fix", "fixed.csv")  # nobody listens there
    assert (desk.work / "fixed.csv").read_text().startswith("instance,user,region\n"), done.text


# ---- the passwords beside a list ------------------------------------------------------------------------------------


def test_passwords_saved_by_the_same_excel_are_taken_and_the_guess_is_told(desk: Desk) -> None:
    """The list was read and the passwords beside it were not: an hour in an incident. Even a quiet run says what was
    guessed, as it decides which password an account gets."""
    desk.write(
        "job.yaml", f"action: CloseAccountCAM\nregion: ap-tokyo\ntargets: [{A}/etl]\npasswords: {{file: p.csv}}\n"
    )
    text = f"Neu;;;\r\nCluster;Login;Kennwort;Wer\r\n{A};etl;Secret-1;M\u00fcller\r\n"
    desk.write("p.csv", text.encode("cp1252")).chmod(0o600)
    done = desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet")
    assert done.code == 0, done.err
    assert "'Login' taken for the user, 'Kennwort' taken for the password" in done.err
    assert "read as Windows-1252 with semicolons" in done.err
    assert "Secret-1" not in "".join(desk.said) and b"Secret-1" not in desk.journal(simulated=True).read_bytes()
