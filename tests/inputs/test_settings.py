"""`settings` and `config`: who said what wins, and guards that add up from everywhere."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.api.actions import ACTIONS
from engine.api.endpoints import NEAREST
from engine.errors import ConfigError, UsageError
from engine.inputs.config import Credentials, base_directory, user_config
from engine.inputs.job import StopAfter
from engine.inputs.jobfile.adhoc import ad_hoc_job
from engine.inputs.jobfile.fields import kinds
from engine.inputs.jobfile.filemodel import JOB_ONLY, ConfigFile
from engine.inputs.jobfile.parse import parse_job
from engine.inputs.settings import (
    Configs,
    Flags,
    Settings,
    check_rate,
    check_readings,
    effective,
    find_configs,
    parse_config,
)

ROOT = Path(__file__).parents[2]
HOME = {"HOME": "/home/op"}


def job(extra="", action="LockAccount"):
    text = f"action: {action}\nregion: ap-tokyo\ntargets: [a-1/u]\n{extra}"
    return parse_job(text.encode(), file="jobs/x.yaml", read=lambda path: b"")


def configs(*texts):
    return Configs(
        files=tuple(parse_config(text.encode(), f"/etc/{n}/config.yaml") for n, text in enumerate(texts)),
        looked_in=("/here/config.yaml and upward", "/etc/acctops/config.yaml"),
    )


NONE = Configs()


def test_defaults():
    """As documented, each with `default` as its origin."""
    settings = effective(Flags(), HOME, None, NONE)
    assert settings == Settings(state_dir=Path("/home/op/.local/state/acctops"), origin=settings.origin)
    assert (settings.workers, settings.per_instance, settings.timeout_s) == (100, 4, 10)
    assert (settings.keep_admins, settings.max_targets, settings.max_share, settings.verify) == (0, None, None, True)
    assert (settings.retry_transient_s, settings.retry_busy_s, settings.deadline_s) == (120, 600, None)
    assert set(settings.origin.values()) == {"default"}
    assert settings.quota("LockAccount") == 20


def test_flags_then_environment_then_job_then_nearest_config_then_default():
    """One layer after the other is taken away."""
    flags, environ = Flags(rate="1", workers=5), {**HOME, "ACCTOPS_RATE": "2", "ACCTOPS_WORKERS": ""}
    written, files = job("rate: 3\n"), configs("workers: 9\n", "rate: 5\nworkers: 8\n")
    got = [
        effective(flags, environ, written, files),
        effective(Flags(), environ, written, files),
        effective(Flags(), HOME, written, files),
        effective(Flags(), HOME, job(), files),
        effective(Flags(), HOME, None, NONE),
    ]
    assert [settings.rate for settings in got] == [1, 2, 3, 5, None]
    assert [settings.origin["rate"] for settings in got] == [
        "--rate", "ACCTOPS_RATE", "jobs/x.yaml:4:7", "/etc/1/config.yaml:1:7", "default",
    ]  # fmt: skip
    assert [settings.workers for settings in got] == [5, 9, 9, 9, 100]


def test_every_setting_can_be_said_in_a_config():
    """And arrives, in seconds where it is a time."""
    text = (
        "site: mainland\nendpoint: https://x.example/\nprofile: prod\nstate_dir: ~/st\nstate_group: dba\n"
        "state: postgresql://db/acctops\n"
        'protect: ["*/root"]\nquotas: {LockAccount: 40}\nrate: 30\nworkers: 3\nper_instance: 2\ntimeout: 5s\n'
        "deadline: 1h\nretry: {transient: 1m, busy: 2m}\nstop_after: 3\nkeep_admins: 2\n"
        "credentials: {command: [k, -x], role_arn: 'qcs::cam::uin/1:roleName/r', duration: 30m, metadata: false,\n"
        "  sts: 'http://127.0.0.1:9/'}\n"
        "limits: {max_targets: 500, max_share: 7%}\nnotify: {command: [page]}\nmetrics_file: acctops.prom\n"
        "page_file: page.html\n"
        "network: {proxy: 'http://proxy:3128/', no_proxy: [10.1.2.3/8, .lan], ca_bundle: ca.pem, language: zh-CN}\n"
    )
    settings = effective(Flags(), HOME, job(), configs(text))
    assert settings.site == "mainland"
    assert settings.database == "postgresql://db/acctops"
    assert settings.endpoints == ("https://x.example",)
    assert (settings.profiles, settings.state_dir, settings.state_group) == (("prod",), Path("/home/op/st"), "dba")
    assert [rule.pattern for rule in settings.protect] == ["*/root"]
    assert (settings.quotas, settings.quota("LockAccount"), settings.rate) == ({"LockAccount": 40}, 40, 30)
    assert (settings.workers, settings.per_instance, settings.timeout_s, settings.deadline_s) == (3, 2, 5, 3600)
    assert (settings.retry_transient_s, settings.retry_busy_s, settings.stop_after) == (60, 120, StopAfter(count=3))
    assert (settings.keep_admins, settings.max_targets, settings.max_share) == (2, 500, 0.07)
    assert settings.credentials == Credentials(
        command=("k", "-x"),
        role_arn="qcs::cam::uin/1:roleName/r",
        duration_s=1800,
        metadata=False,
        sts="http://127.0.0.1:9",
    )
    assert settings.notify is not None and settings.notify.command == ("page",)
    assert settings.metrics_file == Path("/etc/0/acctops.prom")
    assert (settings.way_out.proxy, settings.way_out.no_proxy) == ("http://proxy:3128", ("10.0.0.0/8", ".lan"))
    assert (settings.way_out.ca_bundle, settings.language) == ("/etc/0/ca.pem", "zh-CN")
    assert {name for name, origin in settings.origin.items() if origin == "default"} == {
        "verify",
        "quota_share",
        "local_share",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("credentials: x", "credentials: expected a mapping of command, role_arn, duration, metadata, sts"),
        ("credentials: {secret_key: hunter2}", "credentials.secret_key: secrets never stand in this file"),
        ("credentials: {roel_arn: x}", "credentials.roel_arn: unknown key; did you mean role_arn?"),
        ("credentials: {role_arn: admin}", "credentials.role_arn: expected the ARN of a role, qcs::cam::uin/UIN"),
        ("credentials: {duration: 13h}", "credentials.duration: expected a duration from 1s to 12h"),
        ("credentials: {command: keys}", "credentials.command: expected a list: program and arguments"),
        (
            "credentials: {command: []}",
            "expected a list: program and arguments, got an empty list",
        ),
        ("credentials: {metadata: maybe}", "credentials.metadata: expected true or false"),
        ("credentials: {sts: 'http://sts.example'}", "credentials.sts: an endpoint is https://host"),
    ],
)
def test_what_is_wrong_about_credentials_is_said(text, said):
    """With its place, and never a value that may be a key."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode(), "c.yaml")
    assert str(caught.value).startswith("c.yaml:1:")
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_environment_variables():
    """All that are documented."""
    environ = {
        "ACCTOPS_STATE_DIR": "/st", "ACCTOPS_ENDPOINT": "http://127.0.0.1:1, http://127.0.0.1:2,",
        "ACCTOPS_PROFILE": "p",
        "ACCTOPS_RATE": "7", "ACCTOPS_WORKERS": "6", "ACCTOPS_TIMEOUT": "3s", "ACCTOPS_DEADLINE": "2m",
    }  # fmt: skip
    settings = effective(Flags(), environ, job(), NONE)
    assert settings.endpoints == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert (settings.state_dir, settings.profiles, settings.rate, settings.workers) == (Path("/st"), ("p",), 7, 6)
    assert (settings.timeout_s, settings.deadline_s) == (3, 120)
    named = {name for name in settings.origin.values() if name.startswith("ACCTOPS_")}
    assert named == set(environ)


@pytest.mark.parametrize(
    ("flags", "environ", "error", "said"),
    [
        (
            Flags(rate="fast"),
            {},
            UsageError,
            "--rate: expected a number of calls a second above 0, at most 10000, got 'fast'",
        ),
        (Flags(workers=0), {}, UsageError, "--workers: expected a whole number from 1 to 10000, got '0'"),
        (Flags(timeout="10"), {}, UsageError, "--timeout: expected a duration with its unit"),
        (Flags(deadline="0s"), {}, UsageError, "--deadline: expected a duration longer than 0s"),
        (Flags(endpoints=["http://x"]), {}, UsageError, "--endpoint: an endpoint is https"),
        (Flags(profiles=["a/b"]), {}, UsageError, "--profile: expected the name of a tccli profile"),
        (Flags(), {"ACCTOPS_TIMEOUT": "x"}, ConfigError, "ACCTOPS_TIMEOUT: expected a duration"),
        (Flags(), {"ACCTOPS_ENDPOINT": "https://me:hunter2@x"}, ConfigError, "ACCTOPS_ENDPOINT: an endpoint is https"),
    ],
)
def test_wrong_flags_and_variables_are_named(flags, environ, error, said):
    """By the name the operator used, never repeating what may be a secret."""
    with pytest.raises(error, match="^" + re.escape(said)) as caught:
        effective(flags, HOME | environ, None, NONE)
    assert "hunter2" not in str(caught.value)


def test_endpoints():
    """Flags may name several, each once; the job's wins over the config's; without any the site decides."""
    several = Flags(endpoints=["http://127.0.0.1:1", "http://127.0.0.1:1/", "http://127.0.0.1:2"])
    assert effective(several, HOME, None, NONE).endpoints == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    file = configs("endpoint: https://config.example\nsite: mainland\n")
    settings = effective(Flags(), HOME, job("endpoint: https://job.example\n"), file)
    assert settings.endpoints == ("https://job.example",)
    assert settings.origin["endpoints"] == "jobs/x.yaml:4:11"
    assert settings.access(["ap-tokyo"]).to("ap-tokyo") == ("https://job.example",)
    assert effective(Flags(), HOME, job(), NONE).access([]).shared == (NEAREST["international"],)


def test_several_endpoints_and_profiles():
    """A list, a repeated flag or a variable with commas: each is a lane of its own."""
    listed = job("endpoint: [nearest, ap-guangzhou, http://localhost:80, nearest]\nprofile: [a, b]\n")
    settings = effective(Flags(), HOME, listed, NONE)
    assert (settings.endpoints, settings.profiles) == (("nearest", "ap-guangzhou", "http://localhost"), ("a", "b"))
    said = HOME | {"ACCTOPS_ENDPOINT": "ap-tokyo, nearest", "ACCTOPS_PROFILE": "c,d"}
    settings = effective(Flags(), said, listed, NONE)
    assert (settings.endpoints, settings.profiles) == (("ap-tokyo", "nearest"), ("c", "d"))
    settings = effective(Flags(endpoints=["regional"], profiles=["e"]), said, listed, NONE)
    assert (settings.endpoints, settings.profiles) == (("regional",), ("e",))
    with pytest.raises(UsageError, match="--endpoint: regional stands alone"):
        effective(Flags(endpoints=["regional", "nearest"]), HOME, None, NONE)
    with pytest.raises(UsageError, match="did you mean ap-guangzhou"):
        effective(Flags(endpoints=["ap-guangzou"]), HOME, None, NONE)


def test_a_share_of_the_quota_leaves_room_for_others():
    """Of the raised quota, too; a rate that is asked for wins, is told of, and may not be above the quota."""
    (warning,) = effective(Flags(rate=39), HOME, job(), configs("quotas: {LockAccount: 40, share: 90%}\n")).warnings
    assert warning.startswith("--rate: rate 39 is more than the 36 calls a second that quotas.share (")
    assert not effective(Flags(rate=36), HOME, job(), configs("quotas: {LockAccount: 40, share: 90%}\n")).warnings
    shared = configs("quotas: {LockAccount: 40, share: 90%}\n")
    assert effective(Flags(), HOME, job(), shared).rate_for("LockAccount") == 36
    assert effective(Flags(), HOME, job(), shared).rate_for("UnlockAccount") == 18
    assert effective(Flags(rate=39), HOME, job(), shared).rate_for("LockAccount") == 39
    assert effective(Flags(rate=39), HOME, job(), shared).quota_for("LockAccount") == 39
    assert effective(Flags(rate=4), HOME, job(), shared).quota_for("LockAccount") == 36  # what it leaves is for others
    assert effective(Flags(), HOME, job(), shared).quota_for("UnlockAccount") == 18
    with pytest.raises(UsageError, match="above the quota"):
        effective(Flags(rate=41), HOME, job(), shared)
    assert effective(Flags(), HOME, job(), NONE).rate_for("LockAccount") == 20


def test_the_database():
    """Flag, variable, config, in that order; a directory that a flag names has its own runs, whatever others say."""
    file = configs("state: postgresql://of-config/a\n")
    every = {**HOME, "ACCTOPS_DATABASE": "postgresql://of-env/a"}
    assert effective(Flags(database="postgresql://of-flag/a"), every, None, file).database == "postgresql://of-flag/a"
    assert effective(Flags(), every, None, file).database == "postgresql://of-env/a"
    assert effective(Flags(), HOME, None, file).database == "postgresql://of-config/a"
    assert effective(Flags(state_dir="/x"), every, None, file).database is None
    assert effective(Flags(), HOME, None, NONE).database is None
    with pytest.raises(UsageError, match="--database and --state-dir: the runs are in one of the two"):
        effective(Flags(state_dir="/x", database="postgresql://of-flag/a"), HOME, None, NONE)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://ann:hunter2@db/acctops", "has a password in it"),
        ("postgresql://ann@db/acctops?password=hunter2", "has a password in it"),
        ("postgresql://db/acctops?sslpassword=hunter2", "has a password in it"),
        ("postgresql://db/acctops?PASSWORD=hunter2", "has a password in it"),
        ("mysql://hunter2/acctops", "is no URL such as postgresql://host/database"),
        ("hunter2", "is no URL such as postgresql://host/database"),
        ("postgresql:/hunter2", "is no URL such as postgresql://host/database"),
        ("postgresql://db/acctops?options=-csynchronous_commit=off", "sets options, which acctops sets itself"),
        ("postgresql://db/acct ops", "has a character that nobody sees, or a space"),
        ("postgresql://[hunter2/x", "is no URL such as"),
    ],
)
def test_a_url_of_a_database_that_cannot_be_is_refused(url, why):
    """By where it was said; and what may be a password is not repeated."""
    for flags, environ, file, origin, kind in (
        (Flags(database=url), HOME, NONE, "--database", UsageError),
        (Flags(), {**HOME, "ACCTOPS_DATABASE": url}, NONE, "ACCTOPS_DATABASE", ConfigError),
        (Flags(), HOME, configs(f"state: '{url}'\n"), "config.yaml:1", ConfigError),
    ):
        with pytest.raises(kind) as error:
            effective(flags, environ, None, file)
        assert origin in str(error.value) and why in str(error.value)
        assert "hunter2" not in str(error.value)


def test_the_state_directory(tmp_path, monkeypatch):
    """Flag, variable, config (relative to that file), XDG, home; none is an error that says what to do."""
    monkeypatch.chdir(tmp_path)
    file = configs("state_dir: st\n")
    every = {"ACCTOPS_STATE_DIR": "~/env", "XDG_STATE_HOME": "/xdg", **HOME}
    assert effective(Flags(state_dir="flag"), every, None, file).state_dir == tmp_path / "flag"
    assert effective(Flags(), every, None, file).state_dir == Path("/home/op/env")
    assert effective(Flags(), HOME, None, file).state_dir == Path("/etc/0/st")
    assert effective(Flags(), {"XDG_STATE_HOME": "/xdg"}, None, configs("rate: 1\n")).state_dir == Path("/xdg/acctops")
    assert effective(Flags(), {**HOME, "XDG_STATE_HOME": "rel"}, None, NONE).state_dir == Path(
        "/home/op/.local/state/acctops"
    )
    with pytest.raises(ConfigError, match=r"neither HOME nor XDG_STATE_HOME is set.*ACCTOPS_STATE_DIR=.*--state-dir"):
        effective(Flags(), {}, None, NONE)


def test_a_rate_above_the_quota_is_refused():
    """It only breaks the quota; a simulator on this machine has none, and the vendor may have raised it."""
    loopback = Flags(rate="100", endpoints=["http://127.0.0.1:1"])
    assert effective(loopback, HOME, job(), NONE).rate == 100
    assert effective(Flags(rate="100", simulate=True), HOME, job(), NONE).rate == 100
    assert effective(Flags(rate="100"), HOME, None, NONE).rate == 100
    assert effective(Flags(rate="40"), HOME, job(), configs("quotas: {LockAccount: 40}\n")).rate == 40
    with pytest.raises(
        UsageError,
        match=r"--rate: rate 21 is above the quota of LockAccount, 20 calls a second; .*quotas: {LockAccount: 21}",
    ):
        effective(Flags(rate="21"), HOME, job(), NONE)
    with pytest.raises(ConfigError, match=r"jobs/x.yaml:4:7: rate 21 is above"):
        effective(Flags(), HOME, job("rate: 21\n"), NONE)
    mixed = Flags(rate="100", endpoints=["http://127.0.0.1:1", "https://x.example"])
    with pytest.raises(UsageError, match="above the quota"):
        effective(mixed, HOME, job(), NONE)
    with pytest.raises(ConfigError, match="above the quota"):
        check_rate(Settings(state_dir=Path("/s"), rate=21), "UnlockAccount")


def test_guards_add_up_with_their_places():
    """Of every config and the job; a waiver takes none away, it only spares the reminder."""
    files = configs('protect: ["*/a"]\n', 'protect: ["*/b", "*/a"]\n')
    settings = effective(Flags(), HOME, job('protect: ["*/c"]\n'), files)
    assert settings.guards == (
        "protect */a (/etc/0/config.yaml:1:11)",
        "protect */b (/etc/1/config.yaml:1:11)",
        "protect */a (/etc/1/config.yaml:1:18)",
        "protect */c (jobs/x.yaml:4:11)",
    )
    assert len(effective(Flags(), HOME, job("protect: none\n"), files).protect) == 3
    assert effective(Flags(), HOME, job("protect: none\n"), configs()).guards == ()
    assert effective(Flags(), HOME, job(), configs()).guards == (
        "no protect rules; looked in /here/config.yaml and upward, /etc/acctops/config.yaml, jobs/x.yaml",
    )
    by_hand = effective(Flags(), HOME, ad_hoc_job("LockAccount", ["a-1/u"], "ap-tokyo"), files)
    assert len(by_hand.protect) == 3


def test_the_strictest_of_all_guards_holds_with_its_place():
    """Most admins kept, fewest targets, smallest share; of equals the config's word is named."""
    files = configs("keep_admins: 1\nlimits: {max_targets: 2000}\n", "keep_admins: 3\nlimits: {max_share: 7%}\n")
    loose = job("keep_admins: 0\nlimits: {max_targets: 9000, max_share: 7%}\nstop_after: 5%\nprotect: none\n")
    settings = effective(Flags(), HOME, loose, files)
    assert (settings.keep_admins, settings.max_targets, settings.max_share) == (3, 2000, 0.07)
    assert settings.guards == (
        "keep_admins 3 (/etc/1/config.yaml:1:14)",
        "limits.max_targets 2,000 (/etc/0/config.yaml:2:23)",
        "limits.max_share 7% (/etc/1/config.yaml:2:21)",
        "stop_after 5% (jobs/x.yaml:6:13)",
    )
    strict = effective(Flags(), HOME, job("keep_admins: 5\nlimits: {max_targets: 1, max_share: 0.5%}\n"), files)
    assert strict.guards[1:] == (
        "keep_admins 5 (jobs/x.yaml:4:14)",
        "limits.max_targets 1 (jobs/x.yaml:5:23)",
        "limits.max_share 0.5% (jobs/x.yaml:5:37)",
    )
    assert effective(Flags(), HOME, None, files).keep_admins == 3
    assert effective(Flags(), HOME, ad_hoc_job("LockAccount", ["a-1/u"], "ap-tokyo"), files).max_targets == 2000


_words = st.fixed_dictionaries({}, optional={
    "keep_admins": st.integers(0, 9), "max_targets": st.integers(1, 9), "max_share": st.integers(1, 100),
})  # fmt: skip


@given(st.lists(_words, max_size=3), _words)
@hypothesis_settings(deadline=None)
def test_no_job_loosens_a_guard(said, by_job):
    """Whoever says what: nothing that was asked for is undercut, and nothing is made up."""

    def text(words):
        limits = {"max_targets": words.get("max_targets"), "max_share": words.get("max_share")}
        lines = [
            f"  {key}: {value}{'%' * (key == 'max_share')}\n" for key, value in limits.items() if value is not None
        ]
        keep = f"keep_admins: {words['keep_admins']}\n" if "keep_admins" in words else ""
        return keep + ("limits:\n" + "".join(lines) if lines else "")

    settings = effective(Flags(), HOME, job(text(by_job)), configs(*map(text, said)))
    every = [*said, by_job]
    assert settings.keep_admins == max((words.get("keep_admins", 0) for words in every), default=0)
    assert settings.max_targets == min(
        (words["max_targets"] for words in every if "max_targets" in words), default=None
    )
    share = min((words["max_share"] for words in every if "max_share" in words), default=None)
    assert settings.max_share == (None if share is None else share / 100)


def test_when_a_run_stops_after_failures():
    """A lockdown goes on to the end; the CAM actions stop at 20, unless somebody says otherwise."""
    settings = effective(Flags(), HOME, job(), NONE)
    wanted = {name: None if name in ("LockAccount", "UnlockAccount") else StopAfter(count=20) for name in ACTIONS}
    assert {name: settings.stop_after_for(name) for name in ACTIONS} == wanted
    said = effective(Flags(), HOME, job("stop_after: 100%\n"), configs("stop_after: 3\n"))
    assert {said.stop_after_for(name) for name in ACTIONS} == {StopAfter(share=1)}
    assert effective(Flags(), HOME, job(), configs("stop_after: 3\n")).stop_after_for("LockAccount") == StopAfter(
        count=3
    )


def test_reading_is_not_skipped_where_a_guard_needs_it():
    """Both places are named; without such a guard the operator decides."""
    files = configs("keep_admins: 1\n", "limits: {max_share: 5%}\n")
    unread = job("verify: false\n")
    assert [effective(Flags(), HOME, it, NONE).verify for it in (job(), job("verify: true\n"), unread)] == [
        True, True, False,
    ]  # fmt: skip
    by_flag = effective(Flags(no_verify=True), HOME, job("verify: true\n"), NONE)
    assert (by_flag.verify, by_flag.origin["verify"]) == (False, "--no-verify")
    with pytest.raises(ConfigError) as in_job:
        effective(Flags(), HOME, unread, files)
    assert str(in_job.value) == (
        "jobs/x.yaml:4:9: verify: false: without readings keep_admins 1 (/etc/0/config.yaml:1:14) and "
        "limits.max_share 5% (/etc/1/config.yaml:1:21) cannot hold; remove one"
    )
    with pytest.raises(UsageError) as on_line:
        effective(Flags(no_verify=True), HOME, job("keep_admins: 1\n"), NONE)
    assert str(on_line.value) == (
        "--no-verify: without readings keep_admins 1 (jobs/x.yaml:4:14) cannot hold; remove one"
    )
    unlock = job("verify: false\n", action="UnlockAccount")
    assert not effective(Flags(), HOME, unlock, configs("keep_admins: 1\n")).verify
    later = effective(Flags(no_verify=True), HOME, None, files)
    with pytest.raises(UsageError, match=r"limits\.max_share 5%"):
        check_readings(later, "UnlockAccount")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep_admins: -1\n", "c.yaml:1:14: keep_admins: expected a whole number from 0 to 1000, got '-1'"),
        ("limits: {max_targets: 0}\n", "c.yaml:1:23: limits.max_targets: expected a whole number from 1"),
        (
            "limits: {max_share: 120%}\n",
            "limits.max_share: expected a percentage above 0% and at most 100%, got '120%'",
        ),
        ("limits: {take: 5}\n", "c.yaml:1:10: limits.take: unknown key; known are max_share, max_targets"),
        ("order: listed\n", "c.yaml:1:1: order: unknown key"),
        ("resend_already: true\n", "c.yaml:1:1: resend_already: unknown key"),
        ("sites: x\n", "c.yaml:1:1: sites: unknown key; did you mean site?"),
        ("site: moon\n", "c.yaml:1:7: site: expected international or mainland, got 'moon'"),
        ("- a\n", "c.yaml:1:1: expected keys such as site: and protect:, got a list"),
        ("a: [\n", "c.yaml:2:1: not valid YAML"),
        ("protect: none\n", "c.yaml:1:10: protect: expected a list of globs"),
        ("protect: [root]\n", "c.yaml:1:11: protect[0]: 'root' is not instance/user"),
        ("quotas: 40\n", "c.yaml:1:9: quotas: expected a mapping of actions"),
        ("quotas: {Lock: 40}\n", "c.yaml:1:10: quotas.Lock: unknown action; known are LockAccount"),
        ("quotas: {lockaccount: 40}\n", "did you mean LockAccount?"),
        ("quotas: {LockAccount: x}\n", "c.yaml:1:23: quotas.LockAccount: expected a number"),
        ("secret_key: x\n", "c.yaml:1:1: secret_key: secrets never stand in this file"),
        ("targets: [a-1/u]\n", "c.yaml:1:1: targets: unknown key"),
        ("\0", "c.yaml: is not text"),
        ("state_group: a b\n", "c.yaml:1:14: state_group: expected the name or the number of a group, got 'a b'"),
    ],
)
def test_config_mistakes(text, said):
    """Same reader, same words as the job file."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_config(text.encode(), "c.yaml")


@pytest.mark.parametrize("key", JOB_ONLY)
def test_keys_of_a_job_are_errors_in_a_config(key):
    """A limit that is not kept is worse than none."""
    with pytest.raises(ConfigError, match=f"`{key}` belongs to a job"):
        parse_config(f"{key}: x\n".encode(), "c.yaml")


@given(st.binary(max_size=100))
@hypothesis_settings(deadline=None)
def test_random_bytes_are_a_config_or_a_config_error(data):
    """Nothing else."""
    try:
        parse_config(data, "c.yaml")
    except ConfigError as error:
        assert "c.yaml" in str(error)


# Finding files


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def find(*starts, environ=None, explicit=None, system=Path("/nonexistent/config.yaml")):
    return find_configs(*starts, environ=environ or {}, explicit=explicit, system=system)


def test_configs_are_found_upward_then_the_users_then_the_systems(tmp_path):
    """Nearest first; an empty file is a config that says nothing."""
    for place in ("a/b/c", "a", "home/.config/acctops", "sys"):
        write(tmp_path / place / "config.yaml", f'protect: ["*/{Path(place).name}"]\n')
    write(tmp_path / "a/b/config.yaml", "# nothing\n")
    found = find(tmp_path / "a/b/c", environ={"HOME": str(tmp_path / "home")}, system=tmp_path / "sys/config.yaml")
    assert [rule.pattern for rule in found.protect] == ["*/c", "*/a", "*/acctops", "*/sys"]
    assert str(found.protect[0].place) == f"{tmp_path}/a/b/c/config.yaml:1:11"
    assert found.looked_in == (
        f"{tmp_path}/a/b/c/config.yaml and upward",
        f"{tmp_path}/home/.config/acctops/config.yaml",
        f"{tmp_path}/sys/config.yaml",
    )
    assert len(found.files) == 5


def test_a_config_that_protects_everything_is_a_warning(tmp_path):
    """An emergency brake, or a slip: either way the plan will be empty."""
    path = write(tmp_path / "config.yaml", 'protect: ["*/a", "*/*"]\n')
    assert find(tmp_path).warnings == (f"{path}:1:18: */* protects every account: nothing will be sent",)


def test_each_file_counts_once_and_links_hide_none(tmp_path):
    """A job reached by a link is guarded beside the link and beside the file."""
    write(tmp_path / "real/config.yaml", 'protect: ["*/real"]\n')
    write(tmp_path / "links/config.yaml", 'protect: ["*/link"]\n')
    (tmp_path / "links/jobs").symlink_to(tmp_path / "real", target_is_directory=True)
    found = find(tmp_path / "links/jobs", tmp_path / "real", tmp_path / "links")
    assert sorted(rule.pattern for rule in found.protect) == ["*/link", "*/real"]


def test_a_named_config_is_the_nearest_and_must_exist(tmp_path):
    """`--config` goes before ACCTOPS_CONFIG; the guards of the others hold all the same."""
    write(tmp_path / "j/config.yaml", 'rate: 1\nprotect: ["*/a"]\n')
    named = write(tmp_path / "named.yaml", 'rate: 2\nprotect: ["*/b"]\n')
    by_flag = find(tmp_path / "j", explicit=str(named), environ={"ACCTOPS_CONFIG": "/nowhere"})
    by_variable = find(tmp_path / "j", environ={"ACCTOPS_CONFIG": str(named)})
    assert by_flag == by_variable
    assert [config.values["rate"] for config in by_flag.files] == [2, 1]
    assert {rule.pattern for rule in by_flag.protect} == {"*/a", "*/b"}
    for missing in (tmp_path / "nope.yaml", tmp_path):
        with pytest.raises(ConfigError, match="no such config file; correct --config or ACCTOPS_CONFIG"):
            find(explicit=str(missing))


def test_a_foreign_config_upward_is_a_clear_error(tmp_path):
    """Not skipped: it could be ours with a slip, and its guards would be gone."""
    path = write(tmp_path / "config.yaml", "kind: Cluster\n")
    with pytest.raises(ConfigError, match=re.escape(f"{path}:1:1: kind: unknown key")) as caught:
        find(tmp_path)
    assert "keep jobs elsewhere" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        find(explicit=str(path))
    assert "keep jobs elsewhere" not in str(caught.value)


def test_what_cannot_be_read_stops(tmp_path):
    """Its guards cannot be known."""
    write(tmp_path / "a/config.yaml", "#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="this is no config of acctops"):
        find(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.yaml").symlink_to("config.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(.*\); its protect rules would not hold"):
        find(tmp_path / "b")
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        find(tmp_path)


def test_a_config_anybody_can_write_stops(tmp_path):
    """It could send the calls elsewhere."""
    path = write(tmp_path / "config.yaml", "site: international\n")
    path.chmod(0o666)
    with pytest.raises(ConfigError, match=re.escape(f"as everybody can write {path}")) as caught:
        find(tmp_path)
    assert f"chmod o-w {path}" in str(caught.value)
    path.chmod(0o644)
    assert find(tmp_path).warnings == ()


def test_without_home_the_users_config_is_found_where_the_system_has_it():
    """A bare timer or a system unit sets no HOME: the guards in the user's own config still hold."""
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    assert user_config({}) == home / ".config/acctops/config.yaml", "its guards hold under a bare timer, too"
    assert user_config({"HOME": "here"}) == user_config({})
    assert user_config({"HOME": "/h"}) == Path("/h/.config/acctops/config.yaml")
    assert base_directory({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "XDG_CONFIG_HOME", ".config") == Path("/x")
    assert len(find(Path("/"), environ={}).looked_in) == 3


# The example


def uncommented(text):
    """The example with every commented key switched on."""
    return re.sub(r"^# (?=[a-z_]+:( |$)|  [A-Za-z_]+: )", "", text, flags=re.MULTILINE)


def test_the_example_config_loads_as_it_is_and_with_every_key_on():
    """It documents every key there is."""
    text = (ROOT / "config.example.yaml").read_text()
    assert parse_config(text.encode(), "c.yaml").values == {"site": "international"}
    full = parse_config(uncommented(text).encode(), "c.yaml")
    inner = {"retry_transient_s", "retry_busy_s", "timeout_s", "deadline_s", "max_targets", "max_share"}
    inner |= {"endpoints", "profiles", "quota_share", "local_share", "proxy", "no_proxy", "ca_bundle", "language"}
    outer = {"protect", "retry", "timeout", "deadline", "limits", "endpoint", "profile", "network"}
    assert set(full.values) == (set(kinds(ConfigFile)) - outer) | inner
    assert full.values["endpoints"] == ("ap-singapore", "ap-tokyo", "ap-hongkong")
    assert (full.values["keep_admins"], full.values["max_targets"], full.values["max_share"]) == (1, 2000, 0.5)
    assert full.values["quotas"] == {"LockAccount": 40, "UnlockAccount": 40}
    assert len(full.protect) == 2
    settings = effective(Flags(), dict(os.environ) | HOME, None, Configs(files=(full,)))
    assert settings.state_dir == Path("/var/lib/acctops")
