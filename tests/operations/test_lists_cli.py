"""Lists as other programs leave them, on the command line: what is said of them before anything is sent."""

from __future__ import annotations

from tests.support.command import Desk

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
    lay(desk, EXCEL + f"{A};bad-name;ap-tokyo;\r\n{B}\u00a0;nb;ap-seoul;\r\n")
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
