"""`-o FILE`: what a command prints, in a file of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Desk


def test_what_is_printed_stands_in_the_file_and_nowhere_else(desk: Desk) -> None:
    """Whole, for its owner alone; talk stays on stderr, and the exit code is the command's."""
    path = desk.work / "result.json"
    done = desk.run("run", desk.job(), "--simulate", "--yes", "--json", "-o", path)
    assert done.code == 0 and done.out == "" and "SIMULATED" in done.err
    assert path.stat().st_mode & 0o777 == 0o600
    listed = desk.run("status", "--output", path)
    assert (listed.code, listed.out) == (0, "")
    assert path.read_text() == desk.run("status", "-o", "-").out == desk.run("status").out
    late = desk.run("overdue", "job.yaml", "--every", "1d", "-o", path)
    assert late.code == 1 and "OVERDUE" in path.read_text()


def test_a_table_for_excel_is_the_same_in_a_file(desk: Desk) -> None:
    """With its mark, its semicolons and its line ends."""
    path = desk.work / "outcomes.csv"
    run = desk.run("run", desk.job(), "--simulate", "--yes", "--json").json["run"]
    assert desk.run("report", run, "--excel", "-o", path).out == ""
    written = path.read_bytes().decode("utf-8")
    assert written == desk.run("report", run, "--excel").out and written.startswith("\ufeffrun;") and "\r\n" in written


@pytest.mark.parametrize("kind", ["a directory", "a link", "nowhere"])
def test_a_place_for_no_file_is_refused_before_anything_is_sent(desk: Desk, kind: str, tmp_path: Path) -> None:
    """A lockdown is not begun for a report that cannot be kept."""
    path = desk.work / "place"
    if kind == "a directory":
        path.mkdir()
    elif kind == "a link":
        path.symlink_to(desk.write("other", "theirs"))
    else:
        path = path / "deeper"
    done = desk.run("run", desk.job(), "--simulate", "--yes", "-o", path)
    assert done.code == 2 and f"-o {path}: cannot be written" in done.err
    assert desk.journals(simulated=True) == []
    assert kind != "a link" or (desk.work / "other").read_text() == "theirs"


def test_a_result_that_cannot_be_written_is_printed(desk: Desk) -> None:
    """What was done is known all the same, and a run keeps its exit code."""

    def spoiled() -> str:
        (desk.work / "place").mkdir()
        return "y\n"

    done = desk.run("run", desk.job(), "--simulate", "-o", "place", typed=spoiled)
    assert done.code == 0 and "3 of 3 verified locked" in done.out and "is a directory" in done.err


def test_a_refusal_leaves_an_older_file_alone(desk: Desk) -> None:
    """Nothing was found out, so nothing is written."""
    path = desk.write("old.json", "{}")
    done = desk.run("status", "20200101T000000Z-aaaa", "--json", "-o", path)
    assert done.code == 2 and done.json["exit"] == 2 and path.read_text() == "{}"


def test_a_report_takes_the_flag_as_all_commands_do(desk: Desk) -> None:
    """`-` is stdout, for a page too; the name of a format is a slip, and makes no file."""
    run = desk.run("run", desk.job(), "--simulate", "--yes", "--json").json["run"]
    assert desk.run("report", run, "--format", "csv", "-o", "-").out.startswith("run,job,")
    assert desk.run("report", run, "--format", "html", "-o", "-").out.startswith("<!doctype html>")
    slip = desk.run("report", run, "-o", "json")
    assert slip.code == 2 and "type --json" in slip.err
    assert {path.name for path in desk.work.iterdir()} == {"job.yaml"}
