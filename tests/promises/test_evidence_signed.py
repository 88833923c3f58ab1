"""What of an evidence bundle is signed is checked with Python alone, or said to be unchecked; never taken on trust."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from random import Random

import pytest

from engine.evidence import verify
from engine.journal.heads import Seal
from engine.journal.store import RunStore
from engine.simulator.world import World
from tests.support.command import Backend, Desk, records
from tests.support.signing import People, needs_ssh_keygen

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")


def opened(desk: Desk, *argv: str) -> tuple[Path, int, str]:
    """A bundle, unpacked, and what its own program says of it."""
    name = f"{len(list(desk.place.glob('out*')))}"
    done = desk.run("evidence", *argv, "--out", f"{name}.zip")
    folder = desk.place / f"out{name}"
    with zipfile.ZipFile(desk.work / f"{name}.zip") as file:
        file.extractall(folder)
    checked = subprocess.run(
        [sys.executable, "-I", "-S", str(folder / "verify.py")], env={"PATH": ""}, capture_output=True, text=True
    )
    assert not checked.stderr
    return folder, done.code, done.text + checked.stdout + f"exit {checked.returncode}"


def listed(desk: Desk, run: str, key: str | None = None) -> tuple[RunStore, Seal, bytes]:
    """A line of the list of ends about a run, what a seal of it must name, and its bytes."""
    store = RunStore(desk.state)
    lines = records(desk.state / "runs" / run / "journal.jsonl")
    line = store.list_end(run, head=lines[-1]["hash"], lines=len(lines), exit_code=0, seal=key, clock=lambda: 1.79e9)
    return store, Seal(seq=line.seq, run=run, hash=line.hash), line.raw


def a_run(desk: Desk) -> str:
    with Backend(World(latency=0, quotas={"*": None})) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        done = desk.run("run", desk.job(), "--yes", "--json")
    assert done.code == 0, done.text
    return str(done.json["run"])


def signed(message: bytes, key: Path, space: str = "acctops-seal@1") -> str:
    argv = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", space]
    return subprocess.run(argv, input=message, capture_output=True, check=True).stdout.decode()


def key_of(desk: Desk, kind: str) -> tuple[Path, str]:
    key = desk.work / f"key-{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)
    said = subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True)
    return key, said.stdout.split()[1]


def replaced(seal: Seal, **changes: str) -> Seal:
    return Seal(seq=seal.seq, run=seal.run, hash=seal.hash, **changes)  # type: ignore[arg-type]


@needs_ssh_keygen
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_keys_than_ed25519_are_said_to_be_unchecked(desk: Desk, kind: str) -> None:
    """Never good without a look; the command that looks is printed, and does."""
    run = a_run(desk)
    key, fingerprint = key_of(desk, kind)
    desk.write("signers", f"auditor {key.with_suffix('.pub').read_text()}").chmod(0o444)
    desk.write("config.yaml", "approvals: {signers: signers}\n")
    store, seal, raw = listed(desk, run, fingerprint)
    store.add_seal(replaced(seal, signature=signed(raw, key)))
    folder, code, text = opened(desk, run)
    assert code == 0 and "signature not checked" in text and "holds" not in text and "exit 0" in text, text
    by_hand = next(line for line in text.splitlines() if "; check it: " in line).partition("check it: ")[2]
    done = subprocess.run(by_hand, shell=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and 'Good "acctops-seal@1" signature for auditor' in done.stdout


@needs_ssh_keygen
def test_a_seal_of_another_key_line_or_purpose_is_wrong(desk: Desk) -> None:
    """The line names its key; the signature is of these bytes, and was made to seal."""
    run = a_run(desk)
    key, fingerprint = key_of(desk, "ed25519")
    other = desk.work / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    store, seal, raw = listed(desk, run, fingerprint)
    for signature, words in (
        (signed(raw, other), "the line names"),
        (signed(raw + b" ", key), "does not hold"),
        (signed(raw, key, "acctops-approve@1"), "is for something else"),
        ("-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n", "is none"),
        ("", "is none"),
    ):
        (desk.state / "seals.jsonl").unlink(missing_ok=True)
        store.add_seal(replaced(seal, signature=signature))
        text = opened(desk, run)[2]
        assert words in text and "exit 1" in text, text


@needs_ssh_keygen
def test_a_line_that_names_a_key_and_has_no_seal_is_missing(desk: Desk) -> None:
    """It was to be sealed: exit 1, and the check says so, too. Taken out of a bundle that had it, it is wrong."""
    run = a_run(desk)
    key, fingerprint = key_of(desk, "ed25519")
    store, seal, raw = listed(desk, run, fingerprint)
    _, code, text = opened(desk, run)
    assert code == 1 and f"missing: seal of line {seal.seq}" in text
    assert f"not in the bundle: seal of line {seal.seq}" in text
    store.add_seal(replaced(seal, signature=signed(raw, key)))
    folder, code, text = opened(desk, run)
    assert code == 0 and "the signature holds" in text and "which `signers` does not name" in text
    shutil.rmtree(folder / "seals")
    (folder / "seals.jsonl").unlink()
    found = verify.check(str(folder))
    assert any("has no seal of it" in problem for problem in found.problems)


@needs_openssl
def test_a_time_stamp_is_compared_with_its_line(desk: Desk) -> None:
    """With a real stamp: whether it is of this line is checked, whether it is good is left to openssl, by a command."""
    run = a_run(desk)
    store, seal, raw = listed(desk, run)
    stamp = stamped(desk, raw)
    store.add_seal(replaced(seal, stamp=base64.b64encode(stamp).decode(), tsa="https://tsa.example/\x1b[31m"))
    folder, code, text = opened(desk, run)
    assert code == 0 and "a time stamp of this line" in text and "exit 0" in text and "\x1b" not in text, text
    by_hand = (
        text.partition("its signature: ")[2]
        .partition(" (the certificate")[0]
        .replace("CA.pem", str(desk.work / "ca.pem"))
    )
    done = subprocess.run(by_hand, shell=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "Verification: OK" in done.stdout, done
    (desk.state / "seals.jsonl").unlink()
    for other, words in (
        (stamped(desk, raw + b" "), "is not of this line"),
        (stamp[:-900], "is none"),
        (b"", "is none"),
    ):
        (desk.state / "seals.jsonl").unlink(missing_ok=True)
        store.add_seal(replaced(seal, stamp=base64.b64encode(other).decode(), tsa="https://tsa.example"))
        text = opened(desk, run)[2]
        assert words in text and "exit 1" in text, text


def stamped(desk: Desk, message: bytes) -> bytes:
    """A stamp by an authority of the test's own."""
    work = desk.work
    desk.write("line", message)
    config = "[tsa]\nserial = serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\ndigests = sha256\n"
    desk.write("tsa.cnf", f"{config}ess_cert_id_alg = sha256\n[req]\ndistinguished_name = dn\n[dn]\n")
    desk.write("serial", "01\n")

    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=work, check=True, capture_output=True)

    if not (work / "ca.pem").exists():
        use = "extendedKeyUsage=critical,timeStamping"
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "tsa.key", "-out", "ca.pem", "-days", "9",
                "-subj", "/CN=tsa", "-config", "tsa.cnf", "-addext", use)  # fmt: skip
    openssl("ts", "-query", "-data", "line", "-sha256", "-cert", "-out", "query.tsq")
    openssl("ts", "-reply", "-config", "tsa.cnf", "-section", "tsa", "-queryfile", "query.tsq", "-signer", "ca.pem",
            "-inkey", "tsa.key", "-out", "reply.tsr")  # fmt: skip
    return (work / "reply.tsr").read_bytes()


@needs_ssh_keygen
def test_approvals_are_in_it_and_checked(desk: Desk) -> None:
    """Who signed the plan, over which bytes, with the keys that might; a statement that is another one is named."""
    people = People(desk)
    with Backend(World(latency=0, quotas={"*": None})) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        assert people.save(desk.job()).code == 0 and people.approve().code == 0 and people.apply().code == 0
    run = str(desk.records("run")[0]["run"])
    folder, code, text = opened(desk, run)
    assert code == 0 and text.count("the signature holds") == 2 and "exit 0" in text, text
    assert text.count(" in signers") == 2
    path = folder / "runs" / run / "approved-1.json"
    path.write_bytes(path.read_bytes().replace(b"LockAccount", b"OpenAccount"))
    assert any("approved-1.json: is not as the journal has it" in each for each in verify.check(str(folder)).problems)


def test_a_live_run_is_taken_as_it_is(desk: Desk) -> None:
    """Up to its last whole line; said on screen and in the bundle; the run goes on."""
    with Backend(World(quotas={"*": None})) as backend:
        job = desk.job(*(f"postgres-{number:08}/app" for number in range(40)))
        process = desk.popen("run", job, "--yes", "--rate", "20", "--endpoint", backend.endpoint)
        desk.wait_for("settled", 2)
        _, code, text = opened(desk, "latest")
        assert process.poll() is None
        assert code == 0 and "is live: it is taken up to its last whole line" in text and ": live: " in text, text
        process.terminate()
        desk.end(process)


def test_an_end_that_the_list_does_not_have_is_missing(desk: Desk) -> None:
    """As `journal verify --all` says it: the end may be forged. Until somebody lists it, the bundle is not whole."""
    a_run(desk)
    run = a_run(desk)
    heads = desk.state / "heads.jsonl"
    heads.write_bytes(b"".join(heads.read_bytes().splitlines(keepends=True)[:-1]))
    done = desk.run("evidence", run, "--out", "b.zip", "--json")
    assert done.code == 1, done.text
    assert [each["what"] for each in done.json["missing"]] == [f"end of run {run} in heads.jsonl"]
    assert desk.run("journal", "verify", "--all").code == 7
    assert desk.run("tend").code == 0
    assert desk.run("evidence", run, "--out", "c.zip").code == 0


def test_a_run_that_ends_while_it_is_copied_is_not_called_cut(desk: Desk) -> None:
    """Many bundles while runs end: each is good, whichever moment it met."""
    with Backend(World(quotas={"*": None})) as backend:
        job = desk.job(*(f"postgres-{number:08}/app" for number in range(20)))
        process = desk.popen("run", job, "--yes", "--rate", "20", "--endpoint", backend.endpoint, "--ticket", "INC-5")
        desk.wait_for("settled", 1)
        number = 0
        while process.poll() is None:
            number += 1
            done = desk.run("evidence", "--ticket", "INC-5", "--out", f"{number}.zip")
            assert done.code == 0, done.text
        assert desk.run("evidence", "--ticket", "INC-5", "--out", "last.zip").code == 0
        desk.end(process)


VECTORS = (  # RFC 8032, 7.1
    ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
     "55141438e7a100b"),
    ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb"
     "00d291612bb0c00"),
    ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc"
     "027beceea1ec40a"),
)  # fmt: skip


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_ed25519_is_that_of_the_rfc(key: str, message: str, signature: str) -> None:
    """Its vectors hold, and with any one bit changed none does; nor with S + q, which says the same."""
    whole = [bytes.fromhex(each) for each in (key, message, signature)]
    assert verify.ed25519_holds(*whole)
    rng = Random(8032)
    for _ in range(20):
        other = [bytearray(each) for each in whole]
        part = rng.choice([each for each in other if each])
        part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
        assert not verify.ed25519_holds(*map(bytes, other))
    s = int.from_bytes(whole[2][32:], "little") + verify.Q
    assert not verify.ed25519_holds(whole[0], whole[1], whole[2][:32] + s.to_bytes(32, "little"))
    assert not verify.ed25519_holds(whole[0], whole[1], whole[2][:40])
