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
    assert "; GUESSED: 1 instance id taken out of URLs, 1 region taken from other rows." in done.err
    assert "Windows-1252" not in done.err.split("About to")[1]


def test_with_yes_the_guesses_that_choose_are_said_even_quietly(desk: Desk) -> None:
    """Nobody is asked at night, and a good night is silent: but for this."""
    lay(desk)
    done = desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet")
    assert done.code == 0, done.err
    assert "taken out of a URL" in done.err and "takes that of another row" in done.err
    assert "Windows-1252" not in done.err
