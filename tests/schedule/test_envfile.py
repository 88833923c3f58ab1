"""Files of NAME=value lines: read as they are meant, and compared with what those who start jobs make of them."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.schedule.envfile import MOST, EnvFile, Reader, parse_env

PLAIN = "TENCENTCLOUD_SECRET_ID"


def trouble(text: str | bytes) -> set[str]:
    """The readers who make something else of a file than is meant."""
    found = parse_env(text.encode() if isinstance(text, str) else text)
    return {reader.value for reader in Reader if found.trouble(reader)}


@pytest.mark.parametrize(
    ("text", "value", "others"),
    [
        ("X=v\n", "v", set()),
        ("  X=v  \n", "v", set()),
        ("# note\n\nX=v#1=\n", "v#1=", set()),
        ("export X=v\n", "v", {"systemd", "k8s"}),
        ('X="v w"\n', "v w", {"k8s"}),
        ("X='v'\n", "v", {"k8s"}),
        ("X=v # note\n", "v", {"systemd", "k8s"}),
        ("\ufeffX=v\n", "v", {"systemd", "cron"}),
        ("X = v\n", "v", {"cron", "k8s"}),
        ("X=v w\n", "v w", {"cron"}),
        ("X=a$b\n", "a$b", {"cron"}),
        ("X='a$b'\n", "a$b", {"k8s"}),
        ('X="a$b"\n', "a$b", {"cron", "k8s"}),
        ("X=a&b\n", "a&b", {"cron"}),
        ("X=a\\ b\n", "a b", {"k8s"}),
        ("X=v\r\n", "v", {"cron"}),
        ("X=u\nX=v\n", "v", {"k8s"}),
        ("Y\nX=v\n", "v", {"systemd", "cron", "k8s"}),
        ("X=v\nY='open\n", "v", {"systemd", "cron", "k8s"}),
    ],
)
def test_a_line_is_read_as_it_is_meant(text: str, value: str, others: set[str]) -> None:
    """A unit that starts without keys is found on the evening before, not at three in the morning."""
    assert parse_env(text.encode()).values["X"] == value
    assert trouble(text) == others


def test_trouble_names_the_line_the_reader_and_what_to_write() -> None:
    """The operator can go to the place and knows what is right there; no value is shown."""
    found = parse_env(b"# keys\nexport TENCENTCLOUD_SECRET_KEY=Gu5t-Aw4y-Sek73t\n")
    (words,) = found.trouble("systemd")
    assert words == (
        "line 2 (TENCENTCLOUD_SECRET_KEY): export before the name: systemd passes over the line; "
        "write NAME=value, without quotes, blanks or export"
    )
    assert "Gu5t" not in repr(found) + str(found.trouble("k8s"))


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"X=\xff\n", "line 1 is not UTF-8"), (b"X=\0", "NUL"), (b"X=" + b"v" * MOST, "larger than 64 KiB")],
)
def test_what_is_no_such_file_is_refused_in_words(data: bytes, words: str) -> None:
    """A wrong path is said, and nothing of what stands there is shown."""
    with pytest.raises(ValueError, match=words):
        parse_env(data)


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    """Whatever somebody wrote into the file, the command goes on."""
    try:
        found = parse_env(text.encode("utf-8", "surrogatepass"))
    except ValueError:
        return
    assert isinstance(found, EnvFile)
    for reader in Reader:
        assert all(line.isprintable() for line in found.trouble(reader))


VALUES = st.text(st.sampled_from("aZ09 '\"#$\\`&;=%~-_/+"), max_size=12)


@given(line=st.builds("{}X={}".format, st.sampled_from(["", "export "]), VALUES))
def test_a_shell_agrees_where_nothing_is_said(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    """What is not warned of for cron is what /bin/sh itself reads."""
    found = parse_env(line.encode() + b"\n")
    if found.trouble("cron"):
        return
    path = tmp_path_factory.getbasetemp() / "env"
    path.write_text(line + "\n")
    done = subprocess.run(
        ["/bin/sh", "-c", f'set -a && . "{path}" && set +a && printf "%s" "$X"'],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        timeout=30,
        check=True,
    )
    assert done.stdout == found.values["X"]
