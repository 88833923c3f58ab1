"""What holds: precedence as a property over all settings, and `acctops config show`, which says who said what."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.credentials.environment import environment_keys
from engine.inputs.config import find_configs, parse_config
from engine.inputs.guards import STRICTER
from engine.inputs.jobfile.fields import kinds
from engine.inputs.jobfile.filemodel import ConfigFile, JobFile
from engine.inputs.jobfile.parse import parse_job
from engine.inputs.jobfile.values import seconds
from engine.inputs.settings import Configs, Flags, Settings, effective
from engine.inputs.settingwords import lines_of, written_duration
from tests.shape.test_docs import page, rows, section
from tests.support.command import ROOT, Desk

HOME = {"HOME": "/home/op"}
LAYERS = ("flag", "variable", "job", "near", "far")
"""Who wins, the first first."""
NO_SETTING = {"version", "name", "reason", "ticket", "action", "region", "targets"}
"""Keys of a job that say what it is about, not how it is done."""


# ---- precedence ----------------------------------------------------------------------------------------------------


class Word(NamedTuple):
    """One setting, said."""

    written: Any
    """As it stands in a file. Any: JSON, which is YAML."""
    shown: dict[str, str]
    """Key of a line → its value."""


def word(key: str, n: int) -> Word:
    """A word of layer number `n` on a setting, unlike those of other layers where there are so many."""
    match key:
        case "credentials":
            role = f"qcs::cam::uin/{n}:roleName/r"
            said = {"command": [f"p{n}"], "role_arn": role, "duration": f"{n + 3}h", "metadata": "false"}
            shown = {"credentials.command": f"p{n}", "credentials.role_arn": role, "credentials.metadata": "False"}
            shown |= {"credentials.duration": f"{n + 3}h", "credentials.sts": f"https://s{n}.example"}
            return Word(said | {"sts": f"https://s{n}.example"}, shown)
        case "notify":
            said = {"command": [f"p{n}"], "webhook": {"url_env": f"HOOK{n}"}, "on": ["start"], "env": [f"E{n}"]}
            shown = {"notify.command": f"p{n}", "notify.webhook": f"url_env HOOK{n}", "notify.env": f"E{n}"}
            return Word(said, shown | {"notify.on": "start"})
        case "quotas":
            said = {"LockAccount": f"{n + 20}", "share": f"{n + 10}%", "local": f"{n + 5}%"}
            shown = {"quotas": f"LockAccount: {n + 20}", "quotas.share": f"{n + 10}%", "quotas.local": f"{n + 5}%"}
            return Word(said, shown)
        case "window":
            said = {"days": ["sat"], "from": f"0{n}:00", "until": "12:00", "timezone": "UTC"}
            return Word(said, {"window": f"sat 0{n}:00–12:00 UTC"})
        case "exclude":
            return Word([f"*/x{n}"], {"exclude": f"*/x{n}"})
    values = VALUES[key]
    return Word(values[n % len(values)], {key: values[n % len(values)]})


def _numbered(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.format(n + 3) for n in range(len(LAYERS)))


VALUES = {
    "site": ("mainland", "international"),
    "endpoint": _numbered("https://e{}.example"),
    "profile": _numbered("p{}"),
    "network.proxy": _numbered("http://proxy{}:3128"),
    "network.no_proxy": _numbered("h{}.example"),
    "network.ca_bundle": _numbered("/ca{}.pem"),
    "network.language": ("zh-CN", "en-US"),
    "state_dir": _numbered("/s{}"),
    "state_group": _numbered("g{}"),
    "metrics_file": _numbered("/m{}.prom"),
    "page_file": _numbered("/p{}.html"),
    "rate": _numbered("{}"),
    "workers": _numbered("{}"),
    "per_instance": _numbered("{}"),
    "timeout": _numbered("{}s"),
    "deadline": _numbered("{}h"),
    "retry.transient": _numbered("{}m"),
    "retry.busy": _numbered("{}m"),
    "stop_after": _numbered("{}%"),
    "verify": ("False",),
    "limits.take": _numbered("{}"),
    "order": ("listed",),
    "resend_already": ("True",),
    "on_unfinished": ("refuse",),
}
SETTINGS = (*VALUES, "credentials", "notify", "quotas", "window", "exclude")
GUARDS = ("protect", "keep_admins", "limits.max_targets", "limits.max_share")
"""They add up: a property of their own."""
FLAGS = {"endpoint": "endpoints", "profile": "profiles", "verify": "no_verify", "page_file": "page"}
"""Key → its name in Flags, where it has another there."""
VARIABLES = {
    "network.proxy": "HTTPS_PROXY",
    "network.no_proxy": "NO_PROXY",
    "network.ca_bundle": "ACCTOPS_CA_BUNDLE",
} | {
    key: f"ACCTOPS_{key.upper()}"
    for key in ("endpoint", "profile", "state_dir", "rate", "workers", "timeout", "deadline")
}


def flat(model: type[msgspec.Struct]) -> Iterator[str]:
    """The keys of a file, `retry.busy`; what is taken as a whole once."""
    for name, kind in kinds(model).items():
        if name in ("retry", "limits", "network"):
            yield from (f"{name}.{inner}" for inner in kinds(kind))
        else:
            yield name


TRUST = {"trust_owners"}
"""Counts in two files alone, which are looked for: tests/test_guard_homes.py."""
IN_JOB, IN_CONFIG = set(flat(JobFile)), set(flat(ConfigFile)) - {"state"}
BY_FLAG = {
    name for name in Flags.__struct_fields__ if name not in ("config", "simulate", "page_names", "database", "local")
}
"""`state` and `--database` exclude `--state-dir`: tests/inputs/test_settings.py."""


def layers_of(key: str) -> list[str]:
    """Where a setting may be said, by the tables of keys and flags."""
    may = {
        "flag": FLAGS.get(key, key) in BY_FLAG,
        "variable": key in VARIABLES,
        "job": key in IN_JOB,
        "near": key in IN_CONFIG,
        "far": key in IN_CONFIG,
    }
    return [layer for layer in LAYERS if may[layer]]


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    outer, _, inner = key.partition(".")
    if inner:
        tree.setdefault(outer, {})[inner] = value
    else:
        tree[outer] = value


def holding(said: dict[str, list[str]]) -> tuple[Settings, Any]:
    """The settings, and the job, where every setting is said in the layers named. Any: Job."""
    flags: dict[str, Any] = {}
    environ = dict(HOME)
    files: dict[str, dict[str, Any]] = {"job": {}, "near": {}, "far": {}}
    for key, layers in said.items():
        for layer in layers:
            value = word(key, LAYERS.index(layer)).written
            if layer == "flag":
                name = FLAGS.get(key, key)
                flags[name] = True if key == "verify" else [value] if name in ("endpoints", "profiles") else value
            elif layer == "variable":
                environ[VARIABLES[key]] = value
            else:
                put(files[layer], key, value)
    base = {"action": "LockAccount", "region": "ap-tokyo", "targets": ["a-1/u"]}
    job = parse_job(json.dumps(base | files["job"]).encode(), file="job.yaml", read=lambda _path: b"")
    configs = [parse_config(json.dumps(files[name]).encode(), f"/{name}/config.yaml") for name in ("near", "far")]
    return effective(Flags(**flags), environ, job, Configs(files=tuple(configs))), (job, environ)


def text_of(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_no_setting_is_forgotten_here() -> None:
    """Every key of config, job and command line is one of these, and every one of these is shown."""
    of_the_job = {"passwords", "accounts", "hold", "watch", "waves", "gate", "on_red"}
    assert set(SETTINGS) | set(GUARDS) | TRUST | {"approvals", "seal"} == (IN_CONFIG | IN_JOB) - NO_SETTING - of_the_job
    assert {FLAGS.get(key, key) for key in SETTINGS if "flag" in layers_of(key)} == BY_FLAG
    shown = {line.key for line in lines_of(*_none())}
    named = set().union(*(word(key, 0).shown for key in SETTINGS)) | set(GUARDS)
    assert named | TRUST | {"approvals", "seal", "credentials", "passwords", "state"} == shown
    fields = set(Settings.__struct_fields__) - {"protect", "protect_waived", "looked_in", "origin", "said", "warnings"}
    hidden = {"approvals", "seal", "way_out", "trust", "written_deadline_s", "page_names", "is_local"}
    assert fields - hidden - TRUST == set(_none()[0].origin) - {"proxy", "no_proxy", "ca_bundle"}


def _none() -> tuple[Settings, Any, dict[str, str]]:
    settings, (job, environ) = holding({})
    return settings, job, environ


_some = st.fixed_dictionaries({key: st.lists(st.sampled_from(layers_of(key)), unique=True) for key in SETTINGS})


@given(_some)
@hypothesis_settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_flags_then_variables_then_the_job_then_the_nearest_config(said: dict[str, list[str]]) -> None:
    """Whoever says what of which setting: the first of those holds, and is named; who says nothing gets the default."""
    settings, (job, environ) = holding(said)
    defaults = {line.key: line for line in lines_of(*_none())}
    lines = {line.key: line for line in lines_of(settings, job, environ)}
    for key, layers in said.items():
        first = min(layers, key=LAYERS.index, default=None)
        for shown, value in word(key, LAYERS.index(first) if first else 0).shown.items():
            line = lines[shown]
            if first is None:
                assert line.origin == "default"
                # A default depends on the action's quota, which may have been said.
                assert line.value == defaults[shown].value or shown == "rate"
                continue
            assert text_of(line.value) == value, shown
            said_by = {
                "flag": "--no-verify"
                if key == "verify"
                else f"--{FLAGS.get(key, key) if key == 'page_file' else key.replace('_', '-')}"
            }
            said_by |= {"variable": VARIABLES.get(key, ""), "job": "job.yaml:1:"}
            assert line.origin.startswith(said_by.get(first, f"/{first}/config.yaml:1:")), shown


_bounds = st.fixed_dictionaries({}, optional={
    "keep_admins": st.integers(0, 9), "limits.max_targets": st.integers(1, 9),
    "limits.max_share": st.integers(1, 100).map("{}%".format),
    "protect": st.lists(st.sampled_from(["*/a", "*/b", "*/c"]), min_size=1, unique=True),
})  # fmt: skip


@given(st.lists(_bounds, max_size=3), _bounds)
@hypothesis_settings(deadline=None, max_examples=60)
def test_guards_add_up_and_every_place_is_named(configs: list[dict[str, Any]], by_job: dict[str, Any]) -> None:
    """Of each guard every word is there with its file; the strictest is the one that holds; none is lost."""
    files = []
    for number, each in enumerate(configs):
        tree: dict[str, Any] = {}
        for key, value in each.items():
            put(tree, key, value)
        files.append(parse_config(json.dumps(tree).encode(), f"{number}.yaml"))
    tree = {"action": "UnlockAccount", "region": "ap-tokyo", "targets": ["a-1/u"]}
    for key, value in by_job.items():
        put(tree, key, value)
    job = parse_job(json.dumps(tree).encode(), file="job.yaml", read=lambda _path: b"")
    lines = {line.key: line for line in lines_of(effective(Flags(), HOME, job, Configs(files=tuple(files))), job, {})}
    spoken = [*((f"{number}.yaml", each) for number, each in enumerate(configs)), ("job.yaml", by_job)]
    for key in GUARDS:
        line = lines[key]
        expected = [(value, file) for file, each in spoken if key in each for value in [each[key]]]
        if key == "protect":
            expected = [(pattern, file) for patterns, file in expected for pattern in patterns]
            assert line.value == [pattern for pattern, _ in expected]
        assert [(value, where.partition(":")[0]) for value, where in line.places] == expected
        if key != "protect" and expected:
            number = {text_of(value): float(str(value).rstrip("%")) for value, _ in expected}
            strictest = STRICTER[key.removeprefix("limits.")].stricter(number.values())
            assert number[text_of(line.value)] == strictest
            assert (line.value, line.origin) in line.places


@given(st.integers(0, 366 * 86_400_000))
def test_a_duration_is_shown_as_it_may_be_written(milliseconds: int) -> None:
    """What is shown can be pasted into a job."""
    assert round(seconds(written_duration(milliseconds / 1000)) * 1000) == milliseconds


# ---- the command ---------------------------------------------------------------------------------------------------


def shown(desk: Desk, *argv: str | Path) -> dict[str, Any]:
    done = desk.run("config", "show", *argv, "--json")
    assert done.code == 0, done.text
    return {line["key"]: line for line in done.json["settings"]} | {"": done.json}


def test_every_layer_on_one_desk(desk: Desk) -> None:
    """Flag, variable, job, two configs and a default, each named as an operator finds it; no key, nobody asked."""
    for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "ACCTOPS_ENDPOINT"):
        del desk.env[name]
    job = desk.job(extra='retry: {busy: 7m}\nprotect: ["*/own"]\nkeep_admins: 1', name="jobs/job.yaml")
    near = desk.write("jobs/config.yaml", 'protect: ["*/near"]\nrate: 3\n')
    far = desk.write("config.yaml", 'protect: ["*/far"]\nkeep_admins: 2\nrate: 4\nmetrics_file: m.prom\n')
    desk.env["ACCTOPS_WORKERS"] = "9"
    lines = shown(desk, job, "--timeout", "3s")
    said = {key: (line["value"], line["origin"]) for key, line in lines.items() if key}
    assert said["timeout"] == ("3s", "--timeout")
    assert said["workers"] == (9, "ACCTOPS_WORKERS")
    assert said["retry.busy"] == ("7m", f"{job}:3:15")
    assert said["rate"] == (3, f"{near}:2:7")
    assert said["metrics_file"] == (f"{desk.work}/m.prom", f"{far}:4:15")
    assert said["retry.transient"] == ("2m", "default")
    assert said["keep_admins"] == (2, f"{far}:2:14")
    assert [place["value"] for place in lines["keep_admins"]["places"]] == [2, 1]
    assert [place["where"] for place in lines["protect"]["places"]] == [f"{near}:1:11", f"{far}:1:11", f"{job}:4:11"]
    assert lines[""]["files"] == [str(near), str(far)]
    assert lines[""]["job"]["name"] == "job"
    text = desk.run("config", "show", job, "--origin").out
    assert re.search(rf"^protect +\*/near +{near}:1:11\n +\*/far +{far}:1:11\n +\*/own +{job}:4:11$", text, re.M)
    assert re.search(rf"^keep_admins +2 +{far}:2:14\n +\(1 is asked for, too\) +{job}:5:14$", text, re.M)
    assert f"config files, nearest first: {near}, {far}" in text
    assert str(near) not in desk.run("config", "show", job).out


def test_without_a_job_what_only_a_job_has_is_left_out(desk: Desk) -> None:
    """The current directory decides which config is near, as for `acctops lock`."""
    desk.write("config.yaml", "site: mainland\n")
    lines = shown(desk)
    assert lines[""]["job"] is None
    assert lines["site"]["origin"] == f"{desk.work}/config.yaml:1:7"
    assert not {"exclude", "window", "passwords"} & set(lines)


@pytest.mark.parametrize(
    ("config", "variables", "source", "origin"),
    [
        (
            "",
            {"TENCENTCLOUD_SECRET_ID": "AKIDhunter2", "TENCENTCLOUD_SECRET_KEY": "hunter2"},
            "environment",
            "variable",
        ),
        ("", {"TENCENTCLOUD_SECRET_ID_FILE": "/hunter3"}, "environment files", "variable"),
        ("profile: prod", {"TENCENTCLOUD_SECRET_ID": "AKIDhunter2"}, "profile prod", "config"),
        ("credentials: {command: [vault, --token, hunter2]}", {}, "credential command vault", "config"),
        ("", {"TCCLI_PROFILE": "night"}, "tccli profile night, if it is there", "variable"),
        ("", {}, "whatever is found", "default"),
    ],
)
def test_of_keys_only_their_source_is_shown(
    desk: Desk, config: str, variables: dict[str, str], source: str, origin: str
) -> None:
    """Of whatever may hold a secret: keys, arguments of programs, a proxy's password."""
    for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"):
        del desk.env[name]
    notify = "notify: {command: [page, hunter2], webhook: {url_env: HOOK}}\n"
    desk.write("config.yaml", f"{notify}{config}\n")
    desk.env |= variables | {"HTTPS_PROXY": "http://op:hunter2@proxy:1", "HOOK": "https://hooks.example/hunter2"}
    lines = shown(desk)
    assert lines["credentials"]["value"].startswith(source)
    at = {"config": f"{desk.work}/config.yaml:2:", "variable": next(iter(variables), "?"), "default": "default"}
    assert lines["credentials"]["origin"].startswith(at[origin])
    assert lines["network.proxy"]["value"] == "http://proxy:1"
    assert lines["notify.command"]["value"] == "page …"
    desk.run("config", "show", "--origin")
    assert "hunter2" not in "".join(desk.said)


def test_a_role_of_the_environment_and_accounts_of_the_job(desk: Desk) -> None:
    """What decides who signs is shown as it decides."""
    desk.env |= {"TENCENTCLOUD_ROLE_ARN": "qcs::cam::uin/1:roleName/env", "TENCENTCLOUD_ROLE_SESSION_NAME": "ann"}
    desk.write("config.yaml", "credentials: {role_arn: 'qcs::cam::uin/1:roleName/conf'}\n")
    line = shown(desk)["credentials.role_arn"]
    assert (line["value"], line["origin"]) == ("qcs::cam::uin/1:roleName/env", "TENCENTCLOUD_ROLE_ARN")
    job = desk.job(extra="accounts: [prod, {name: shop, role_arn: 'qcs::cam::uin/2:roleName/r'}]", name="several.yaml")
    job.write_text(re.sub(r"- (\S+)/(\S+)", r"- {instance: \1, user: \2, account: prod}", job.read_text()))
    lines = shown(desk, job)
    assert lines["accounts"]["value"] == ["prod: prod", "shop: the keys found"]
    assert "profile" not in lines and lines["credentials"]["value"] == "as each account says"


@pytest.mark.parametrize(
    ("argv", "config", "variables", "words"),
    [
        ((), "protct: []", {}, r"config.yaml:1:1: protct: unknown key; did you mean protect\?"),
        ((), "secret_key: hunter2", {}, "secrets never stand in this file"),
        (("--config", "gone.yaml"), "", {}, "gone.yaml: no such config file"),
        (("--rate", "fast"), "", {}, "--rate: expected a number"),
        ((), "", {"ACCTOPS_TIMEOUT": "10"}, "ACCTOPS_TIMEOUT: expected a duration"),
        (("gone.yaml",), "", {}, "gone.yaml: no such file"),
        (("job.yaml", "--rate", "21"), "", {}, "rate 21 is above the quota"),
        (("job.yaml", "--no-verify"), "keep_admins: 1", {}, "without readings keep_admins 1"),
        (("--nonsense",), "", {}, "No such option"),
    ],
)
def test_what_is_wrong_is_refused_as_everywhere(
    desk: Desk, argv: tuple[str, ...], config: str, variables: dict[str, str], words: str
) -> None:
    """Exit 2, in the same words; with --json one document."""
    desk.job()
    desk.write("config.yaml", config)
    del desk.env["ACCTOPS_ENDPOINT"]
    desk.env |= variables
    done = desk.run("config", "show", *argv, "--json")
    assert done.code == 2
    assert re.search(words, done.err)
    assert set(done.json) == {"error", "exit"}
    assert "hunter2" not in done.text


def test_a_bundle_that_is_no_good_is_a_warning_and_all_is_shown(desk: Desk) -> None:
    """It is what one looks for here; whatever asks the API refuses it."""
    desk.write("config.yaml", "network: {ca_bundle: gone.pem}\n")
    done = desk.run("config", "show", "--json")
    assert done.code == 0
    assert any("gone.pem cannot be read" in words for words in done.json["warnings"])
    assert "gone.pem cannot be read" in done.err


# ---- the environment -----------------------------------------------------------------------------------------------


class Asked(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def read_variables() -> set[str]:
    """Names of all variables that are read: as the code has them, and as it composes them."""
    environ = Asked(HOME)
    effective(Flags(), environ, None, find_configs(Path("/"), environ=environ))
    environment_keys(environ)
    ours = re.compile("(?:ACCTOPS|TENCENTCLOUD|TCCLI|TKE|XDG)_[A-Z_]*[A-Z]|SUDO_USER|PATH")
    for path in (ROOT / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and ours.fullmatch(node.value):
                environ.names.add(node.value)
    return environ.names


def test_every_variable_that_is_read_stands_in_one_table() -> None:
    """No more and no less: README.md's; and a key that may be said in the environment says so there."""
    table = list(rows(section(page("README.md"), "## Environment")))
    described = [name for cells in table for name in re.findall("`([A-Za-z_]+)`", cells[0])]
    assert len(described) == len(set(described))
    assert set(described) == read_variables()
    valid = {"ACCTOPS_ENDPOINT": "nearest", "ACCTOPS_TIMEOUT": "1s", "ACCTOPS_DEADLINE": "1m"}
    valid["ACCTOPS_DATABASE"] = "postgresql://db/acctops"
    every = {name: valid.get(name, "1") for name in described if name.startswith("ACCTOPS_")}
    assert not effective(Flags(), HOME | every, None, Configs()).warnings, "none of them is called unknown"
    by_key = {key: cells[0] for cells in table for key in re.findall("`([a-z_.]+)`", cells[1])}
    for key, variable in VARIABLES.items():
        assert f"`{variable}`" in by_key[key], key


def test_a_slip_in_a_variable_of_ours_is_told(desk: Desk) -> None:
    """The command would act with other keys, or elsewhere, and say nothing."""
    desk.env["ACCTOPS_PROFLIE"] = "hunter2"
    done = desk.run("plan", desk.job(), "--offline")
    assert "warning: 'ACCTOPS_PROFLIE' in the environment means nothing; did you mean ACCTOPS_PROFILE?" in done.err
    assert "hunter2" not in done.text
