"""Which files may be believed: what somebody else could have written decides nothing."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.outside.trust import Trust, create_new, open_regular, read_regular, replace_whole, ways_to, write_whole

STRANGER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config in a directory of its own, both the operator's."""
    place = tmp_path / "place"
    place.mkdir(0o755)
    file = place / "config.yaml"
    file.write_text("protect: none\n")
    file.chmod(0o644)
    return file


def test_a_file_of_ones_own_is_believed(config: Path) -> None:
    """The plain case asks for nothing."""
    assert Trust().why_not(config) is None
    with os.fdopen(open_regular(config)) as file:
        assert Trust().why_not_open(file.fileno(), config) is None


def test_what_everybody_can_write_is_not(config: Path) -> None:
    """A mode that lets strangers write the file, or replace it, is named with the place."""
    config.chmod(0o646)
    assert Trust().why_not(config) == f"everybody can write {config}"
    config.chmod(0o644)
    config.parent.chmod(0o777)
    assert Trust().why_not(config) == f"everybody can replace what lies in {config.parent}"
    config.parent.chmod(0o1777)
    assert Trust().why_not(config) is None, "a sticky directory is fine for a file of one's own"


@needs_root
def test_what_a_stranger_owns_is_not(config: Path) -> None:
    """Neither his file, nor a file in his directory; both are, once he is trusted."""
    os.chown(config, STRANGER, -1)
    assert Trust().why_not(config) == f"{config} belongs to user {STRANGER}"
    assert Trust(uids=frozenset({STRANGER})).why_not(config) is None
    os.chown(config, 0, -1)
    os.chown(config.parent, STRANGER, -1)
    assert "can replace what lies in it" in (Trust().why_not(config) or "")
    assert Trust(uids=frozenset({STRANGER})).why_not(config) is None


@needs_root
def test_a_group_may_write_only_where_it_is_trusted(config: Path) -> None:
    """A shared group counts as its members."""
    os.chown(config, -1, STRANGER)
    config.chmod(0o664)
    assert Trust().why_not(config) == f"the group {STRANGER} can write {config}"
    assert Trust(gids=frozenset({STRANGER})).why_not(config) is None


@needs_root
def test_a_group_of_ones_own_is_nobody_else(config: Path) -> None:
    """Many systems give each user one of his name; in a pod it has but his number, and may write the volume."""
    os.chown(config, STRANGER, STRANGER)
    config.chmod(0o664)
    assert Trust(uids=frozenset({STRANGER})).why_not(config) is None
    os.chown(config, STRANGER, STRANGER + 1)
    assert "the group" in (Trust(uids=frozenset({STRANGER})).why_not(config) or "")


@needs_root
def test_a_link_of_a_stranger_and_what_it_leads_to_are_looked_at(config: Path, tmp_path: Path) -> None:
    """Neither end of a link can be somebody else's."""
    link = tmp_path / "link.yaml"
    link.symlink_to(config)
    assert Trust().why_not(link) is None
    config.parent.chmod(0o777)
    assert Trust().why_not(link) == f"everybody can replace what lies in {config.parent}"
    config.parent.chmod(0o755)
    os.lchown(link, STRANGER, -1)
    assert Trust().why_not(link) == f"{link} is a link of user {STRANGER}"


@needs_root
def test_every_link_of_a_chain_is_looked_at(config: Path, tmp_path: Path) -> None:
    """Who can put another link in the middle decides where it leads."""
    between = tmp_path / "between"
    between.mkdir()
    (between / "middle").symlink_to(config)
    link = tmp_path / "link.yaml"
    link.symlink_to("between/middle")
    assert ways_to(link) == (link, between / "middle", config)
    assert Trust().why_not(link) is None
    between.chmod(0o777)
    assert Trust().why_not(link) == f"everybody can replace what lies in {between}"


def test_ways_end_in_the_real_place(tmp_path: Path) -> None:
    """As the system itself finds it: `..` is the parent of where a link leads; a loop is an error."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "l").symlink_to("a/b")
    odd = tmp_path / "l/../file"
    (tmp_path / "a/file").write_text("x")
    assert ways_to(odd)[-1] == Path(os.path.realpath(odd)) == tmp_path / "a/file"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError):
        ways_to(tmp_path / "loop")


@needs_root
def test_members_of_a_trusted_group_are_trusted(config: Path) -> None:
    """Their files are believed as what they may write is."""
    daemon = pwd.getpwnam("daemon")
    os.chown(config, daemon.pw_uid, -1)
    assert Trust().why_not(config) == f"{config} belongs to daemon"
    assert Trust(gids=frozenset({daemon.pw_gid})).why_not(config) is None
    doubt = Trust(own="/own.yaml").doubt(config)
    trusting = "or trust its owner: `trust_owners: [daemon]` in /own.yaml"
    assert doubt is not None and doubt.way_on == f"or run this as daemon, {trusting}"


_CONFIG_MAP = """
mount -t tmpfs none "$1" && mkdir "$1/..1" && echo x > "$1/..1/config.yaml" && ln -s ..1 "$1/..data"
ln -s ..data/config.yaml "$1/config.yaml"; chmod 755 "$1/..1"; chmod 777 "$1"
[ "$4" ] && chown "$4" "$1"; "$2" -c "$3" "$1/config.yaml"; mount -o remount,ro "$1"; "$2" -c "$3" "$1/config.yaml"
"""
_WHY_NOT = "import sys, pathlib, engine.outside.trust as t; print(t.Trust().why_not(pathlib.Path(sys.argv[1])))"


@needs_root
@pytest.mark.parametrize("owner", ["", str(STRANGER)])
def test_a_config_map_is_believed(tmp_path: Path, owner: str) -> None:
    """Kubernetes mounts one read-only, its directory root's and open to all by its mode: there is nothing to mend.

    Who owns such a directory may have it elsewhere, where it can be written.
    """
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("root without the right to mount")
    argv = ["unshare", "-m", "sh", "-c", _CONFIG_MAP, "sh", str(tmp_path), sys.executable, _WHY_NOT, owner]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    if owner:
        assert [f"belongs to user {STRANGER}" in line for line in said] == [True, True]
    else:
        assert said == [f"everybody can replace what lies in {tmp_path}", "None"]


def test_a_pipe_is_no_file_and_holds_nobody_up(tmp_path: Path) -> None:
    """A pipe nobody writes to must not hang a command."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a named pipe, no file"):
        read_regular(tmp_path / "pipe", 10)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 10)


def test_nothing_is_written_through_a_planted_link(config: Path, tmp_path: Path) -> None:
    """A link planted where we write leaves alone what it leads to."""
    link = tmp_path / "unit"
    link.symlink_to(config)
    with pytest.raises(FileExistsError):
        create_new(link, 0o600)
    replace_whole(link, b"ours", 0o640)
    assert (link.read_bytes(), link.is_symlink(), link.stat().st_mode & 0o777) == (b"ours", False, 0o640)
    assert config.read_text() == "protect: none\n"
    assert sorted(tmp_path.iterdir()) == sorted([link, config.parent])


def test_a_report_is_written_whole_for_its_owner_alone(tmp_path: Path) -> None:
    """What is attached to a ticket names accounts: nobody else may read it, and no half of it is ever there."""
    path = tmp_path / "run.html"
    write_whole(path, "first")
    path.chmod(0o644)
    write_whole(path, iter(["sec", "ond \udcff"]))
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("second ?", 0o600)

    def breaks() -> Iterator[str]:
        yield "third"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(path, breaks())
    assert (path.read_text(), list(tmp_path.iterdir())) == ("second ?", [path])


@pytest.mark.parametrize("kind", ["directory", "link", "dangling", "pipe", "socket", "no directory", "full"])
def test_a_report_goes_into_a_file_and_nothing_else(tmp_path: Path, kind: str) -> None:
    """Whatever else stands at its place stays as it is, and the words say what it is."""
    path, other = tmp_path / "run.html", tmp_path / "other"
    match kind:
        case "directory":
            path.mkdir()
        case "link":
            other.write_text("theirs")
            path.symlink_to(other)
        case "dangling":
            path.symlink_to(other)
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(path))
        case "no directory":
            path = tmp_path / "nowhere" / "run.html"
        case "full":
            path = Path("/dev/full")
    before = sorted(tmp_path.iterdir())
    words = {"directory": "is a directory", "pipe": "a named pipe", "socket": "a socket", "full": "a device"}
    with pytest.raises(OSError, match=words.get(kind, "No such" if kind == "no directory" else "is a link")):
        write_whole(path, "ours")
    assert sorted(tmp_path.iterdir()) == before
    assert not other.exists() or other.read_text() == "theirs"
