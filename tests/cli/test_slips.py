"""What is typed wrong is answered with what to type, and never with the opposite."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api.names import nearest
from tests.support.command import Desk

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
