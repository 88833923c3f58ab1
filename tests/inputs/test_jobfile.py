"""`jobfile`, `targetentries`, `fields`, `job`, `files`: a job file becomes a Job, or every problem in it is named."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api.actions import ACTIONS
from engine.errors import JobError, Reason
from engine.inputs import files
from engine.inputs.files import load_job
from engine.inputs.job import password_spec
from engine.inputs.jobfile.adhoc import ad_hoc_job
from engine.inputs.jobfile.parse import Glob, Job, PasswordSpec, StopAfter, parse_job
from engine.model import Place, Target

ROOT = Path(__file__).parents[2]
HEAD = "action: LockAccount\nregion: ap-singapore\n"
ONE = HEAD + "targets: [postgres-a1/u]\n"


def no_list(path):
    raise JobError([f"no such file {path}"])


def parse(text, lists=None, file="jobs/x.yaml"):
    data = text if isinstance(text, bytes) else text.encode()
    return parse_job(data, file=file, read=no_list if lists is None else lambda path: lists[path])


def problems(text, lists=None):
    with pytest.raises(JobError) as caught:
        parse(text, lists)
    return list(caught.value.problems)


def test_the_simple_case_of_the_design():
    """Three forms of a target, nothing else said: name from the file, each target with its place."""
    job = parse(
        "action: LockAccount\n"
        "region: ap-singapore\n"
        "targets:\n"
        "  - postgres-4sfuv15b/app_user\n"
        "  - postgres-4sfuv15b: [report_ro, etl]      # one instance, several users\n"
        "  - {instance: postgres-r95q23pn, user: root, region: ap-tokyo}\n"
    )
    assert job.targets == [
        Target("postgres-4sfuv15b", "app_user", "ap-singapore", "", "jobs/x.yaml", 4, 5),
        Target("postgres-4sfuv15b", "report_ro", "ap-singapore", "", "jobs/x.yaml", 5, 25),
        Target("postgres-4sfuv15b", "etl", "ap-singapore", "", "jobs/x.yaml", 5, 36),
        Target("postgres-r95q23pn", "root", "ap-tokyo", "", "jobs/x.yaml", 6, 41),
    ]
    assert (job.name, job.action, job.region, job.path) == ("x", "LockAccount", "ap-singapore", "jobs/x.yaml")
    unsaid = {"reason", "ticket", "profiles", "endpoints", "passwords", "notify", "protect", "keep_admins",
              "max_targets", "max_share", "window", "take", "hold", "watch", "waves"}  # fmt: skip
    assert job.settings == {}
    assert {name for name in Job.__struct_fields__ if getattr(job, name) is None} == unsaid
    assert job.exclude == job.warnings == job.sources == ()
    assert (job.protect_waived, job.listed_order, job.resend_already) == (False, False, False)


def test_every_key_becomes_its_value():
    """Times in seconds, globs with their places, and where each setting stands."""
    job = parse(
        "version: 1\nname: night\nreason: |\n  a\n  b\nticket: 4711\naction: CloseAccountCAM\nregion: ap-tokyo\n"
        "profile: prod\nendpoint: HTTP://localhost:80/\nrate: 0.5\nworkers: 7\nper_instance: 2\n"
        "retry: {transient: 0s, busy: 1h30m}\ndeadline: 45m\nstop_after: 5%\n"
        'exclude: ["*/a"]\nprotect: ["b-?/[cd]*"]\n'
        "passwords: {command: [pass, 'db/{user}@{instance}', '{region}', '{\"json\": 1}']}\n"
        "targets: [postgres-a1: u]\n".replace("HTTP", "http")
    )
    assert (job.name, job.reason, job.ticket, job.action) == ("night", "a\nb\n", "4711", "CloseAccountCAM")
    said = job.settings
    assert (job.profiles, job.endpoints, said["rate"], said["workers"], said["per_instance"]) == (
        ("prod",), ("http://localhost",), 0.5, 7, 2,
    )  # fmt: skip
    assert (said["retry_transient_s"], said["retry_busy_s"], said["deadline_s"]) == (0, 5400, 2700)
    assert said["stop_after"] == StopAfter(share=0.05)
    assert job.exclude == (Glob("*/a", Place("jobs/x.yaml", 17, 11)),)
    assert job.protect == (Glob("b-?/[cd]*", Place("jobs/x.yaml", 18, 11), fold=True),)
    assert job.passwords is not None
    assert job.passwords.command == ("pass", "db/{user}@{instance}", "{region}", '{"json": 1}')
    assert job.places["rate"] == Place("jobs/x.yaml", 11, 7)
    assert job.places["retry_busy_s"] == Place("jobs/x.yaml", 14, 30)


def test_guards_and_reading_become_their_values():
    """Counts as counts, a percentage as a share, and where each stands."""
    job = parse(
        ONE + "keep_admins: 2\nlimits:\n  max_targets: 2000\n  max_share: 12.5%\norder: listed\n"
        "resend_already: true\nverify: true\n"
    )
    assert (job.keep_admins, job.max_targets, job.max_share) == (2, 2000, 0.125)
    assert (job.listed_order, job.resend_already, job.settings["verify"]) == (True, True, True)
    assert job.places["keep_admins"] == Place("jobs/x.yaml", 4, 14)
    assert job.places["max_targets"] == Place("jobs/x.yaml", 6, 16)
    assert job.places["max_share"] == Place("jobs/x.yaml", 7, 14)
    usual = parse(ONE + "keep_admins: 0\norder: contain\nresend_already: false\nverify: false\n")
    assert (usual.keep_admins, usual.max_targets, usual.max_share) == (0, None, None)
    assert (usual.listed_order, usual.resend_already, usual.settings["verify"]) == (False, False, False)


def test_all_problems_in_one_go_in_the_order_of_the_file():
    """Unknown and duplicate keys, wrong values, bad names: one error, sorted by place."""
    found = problems(
        "action: LockAcount\nregio: x\naccounts: 1\ntargets:\n  - postgres-a1/app!user\n  - {instance: b-1, usr: u}\n"
        "rate: fast\nrate: 3\ndeadline: 90\n"
    )
    assert found == [
        "jobs/x.yaml:1:9: action: 'LockAcount' is not an action; did you mean LockAccount? there are "
        "LockAccount, UnlockAccount, OpenAccountCAM, CloseAccountCAM, RefreshAccountPassword, ResetAccountPassword",
        "jobs/x.yaml:2:1: regio: unknown key; did you mean region?",
        "jobs/x.yaml:3:11: accounts: expected a list of accounts such as {name: prod-a, profile: prod-a}, or "
        "{role_arn: qcs::cam::uin/UIN:roleName/NAME}, got a single value",
        "jobs/x.yaml:5:5: targets[0].user: 'app!user' is not an account name; it has 1–63 letters, digits and _, and "
        "no digit first (if SQL made it, also a digit first, and . $ + # - inside)",
        "jobs/x.yaml:5:5: region: 1 target without a region, the first here; set `region:` for all, or on the target "
        "(--region on the command line)",
        "jobs/x.yaml:6:5: targets[1]: user is missing; write {instance: …, user: …}",
        "jobs/x.yaml:6:21: targets[1].usr: unknown key; did you mean user?",
        "jobs/x.yaml:7:7: rate: expected a number of calls a second above 0, at most 10000, got 'fast'",
        "jobs/x.yaml:8:1: rate: is given twice, first at 7:1; keep one",
        "jobs/x.yaml:9:11: deadline: expected a duration with its unit: 500ms, 90s, 15m, 1h30m, 12h, 8d, 1w, got '90'",
    ]


@pytest.mark.parametrize("text", ["password: hunter2",
                                  "passwords: {password: hunter2}", "Secret_Key: hunter2",
                                  "passwords: hunter2",
                                  "passwords: [hunter2]", "targets: [{instance: a-1, user: u, password: hunter2}]",
                                  "passwords: {env: 'hunter2!'}", "endpoint: https://me:hunter2@x"])  # fmt: skip
def test_a_literal_password_is_refused_and_never_shown(text):
    """Job files live in version control, messages in CI logs."""
    found = problems(f"action: CloseAccountCAM\nregion: ap-tokyo\n{text}\n")
    assert any("password" in problem or "secret" in problem for problem in found)
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "jobs/x.yaml: is empty; a job needs action, region and targets"),
        ("# nothing\n", "jobs/x.yaml: is empty; a job needs action, region and targets"),
        ("- a", "jobs/x.yaml:1:1: expected keys such as action:, region: and targets:, got a list"),
        ("a", "jobs/x.yaml:1:1: expected keys such as action:, region: and targets:, got a single value"),
        ("[" * 200_000, "jobs/x.yaml:1:33: nested deeper than 32 levels; a job file needs four"),
        (b"\xff\xfea\0", "jobs/x.yaml: is UTF-16 text; save it as UTF-8"),
        ("region: ap-tokyo\ntargets: [a-1/u]\n", "jobs/x.yaml:1:1: action: is missing; it says what to do: one of"),
        ("action: LockAccount\nregion: ap-tokyo\n", "jobs/x.yaml:1:1: targets: is missing; it says which accounts"),
        ("action: LockAccount\ntargets: [a-1/u]\n", "jobs/x.yaml:2:11: region: 1 target without a region"),
        (HEAD + "targets: []\n", "jobs/x.yaml:3:10: targets: expected a list of targets (- instance/user, or"),
        (HEAD + "targets:\n", "jobs/x.yaml:3:9: targets: expected a list of targets"),
        (HEAD + "targets: {csv: x}\n", "got a mapping (key: value)"),
        (HEAD + "targets: [foo]\n", "jobs/x.yaml:3:11: targets[0]: 'foo' is not a target; write instance/user"),
        (HEAD + "targets: [a-1/u/v]\n", "'a-1/u/v' is not a target"),
        (HEAD + "targets:\n  -\n", "jobs/x.yaml:4:4: targets[0]: has no value; write"),
        (HEAD + "targets: [[a-1/u]]\n", "jobs/x.yaml:3:11: targets[0]: expected instance/user, or"),
        (HEAD + "targets: [{}]\n", "got nothing"),
        (HEAD + "targets: [foo/u]\n", "targets[0].instance: 'foo' is not an instance id"),
        (HEAD + "targets: [instnce: u]\n", "'instnce' is not an instance id; write it as the console shows it, such as "
                                         "postgres-4sfuv15b; did you mean instance?"),
        (HEAD + "targets: [a-1: []]\n", "targets[0].a-1: expected account names, got an empty list"),
        (HEAD + "targets: [a-1: [9!]]\n", "jobs/x.yaml:3:17: targets[0].a-1[0]: '9!' is not an account name"),
        (HEAD + "targets: [a-1: ]\n", "targets[0].a-1: has no value; expected an account name"),
        (HEAD + "targets: [a-1: {u: v}]\n", "targets[0].a-1: expected an account name, got a mapping"),
        (HEAD + "targets: [{instance: a, user: u}]\n", "targets[0].instance: 'a' is not an instance id"),
        (HEAD + "targets: [{instance: [a-1], user: u}]\n", "targets[0].instance: expected an instance id, got a list"),
        (HEAD + "targets: [{instance: a-1, user: [u, v w]}]\n", "targets[0].user[1]: 'v w' is not an account name"),
        (HEAD + "targets: [{user: u}]\n", "targets[0]: instance is missing"),
        (HEAD + "targets: [{instance: a-1, user: u, region: Tokyo}]\n",
         "jobs/x.yaml:3:44: targets[0].region: 'Tokyo' is not a region; did you mean ap-tokyo?"),
        (HEAD + "targets: [{csv: a, jsonl: b}]\n", "targets[0]: csv and jsonl together; make two entries"),
        (HEAD + "targets: [{csv: a, instance: a-1}]\n", "targets[0]: csv and instance together"),
        (HEAD + "targets: [{csv: [a]}]\n", "targets[0].csv: expected the path of a list"),
        (HEAD + "targets: [{csv: x.csv}]\n", "jobs/x.yaml:3:17: targets[0].csv: no such file x.csv"),
        (HEAD + "targets: [{csv: x.csv, region: X}]\n", "targets[0].region: 'X' is not a region"),
        ("action: LockAccount\nregion: Tokyo\ntargets: [a-1/u]\n", "jobs/x.yaml:2:9: region: 'Tokyo' is not a region"),
        (ONE + "version: 2\n", "version: expected 1, the only version, got '2'"),
        (ONE + "name:\n", "jobs/x.yaml:4:6: name: has no value; expected text of 1–100 characters on one line"),
        (ONE + "name: [x]\n", "name: expected text of 1–100 characters on one line, got a list"),
        (ONE + 'name: "a\\nb"\n', "name: expected text of 1–100 characters on one line, got 'a\\nb'"),
        (ONE + f"reason: {'x' * 1001}\n", "reason: expected text of 1–1,000 characters, got"),
        (ONE + "profile: ../x\n", "profile: expected the name of a tccli profile, not a path, got '../x'"),
        (ONE + "endpoint: http://example.com\n", "endpoint: an endpoint is https://host[:port] without path"),
        (ONE + "rate: 0\n", "rate: expected a number"),
        (ONE + "rate: nan\n", "rate: expected a number"),
        (ONE + "workers: 1.5\n", "workers: expected a whole number from 1 to 10000, got '1.5'"),
        (ONE + "per_instance: 0\n", "per_instance: expected a whole number from 1 to 1000, got '0'"),
        (ONE + "retry: 2m\n", "retry: expected a mapping of transient, busy, got a single value"),
        (ONE + "retry: {transient: 2}\n", "jobs/x.yaml:4:20: retry.transient: expected a duration"),
        (ONE + "retry: {busi: 2m}\n", "retry.busi: unknown key; did you mean busy?"),
        (ONE + "zzz: 1\n", "zzz: unknown key; known are accounts, action, deadline"),
        (ONE + "deadline: 0s\n", "deadline: expected a duration longer than 0s"),
        (ONE + "stop_after: none\n", "stop_after: expected a number of failed calls (20) or a share"),
        (ONE + "exclude: x/y\n", 'exclude: expected a list of globs such as "*/breakglass_*", got a single value'),
        (ONE + "exclude: []\n", "exclude: expected a list of globs such as"),
        (ONE + "exclude: [[x]]\n", "exclude[0]: expected a glob such as"),
        (ONE + "exclude: [root]\n", "exclude[0]: 'root' is not instance/user; for every instance write \"*/root\""),
        (ONE + "exclude: [postgres-4sfuv15b]\n", 'for every account of it write "postgres-4sfuv15b/*"'),
        (ONE + "exclude: ['*/a/b']\n", "exclude[0]: '*/a/b' is not instance/user; it has one slash"),
        (ONE + "exclude: [/]\n", 'for every instance write "*/user"'),
        (ONE + 'protect: [".*/root"]\n', "protect[0]: '.*/root' can never match: '.' occurs in no instance id"),
        (ONE + "protect: all\n", "protect: expected a list of globs"),
        (ONE + "protect: [none]\n", "protect[0]: `none` says there are no rules; write protect: none"),
        (ONE + 'protect: ["*/a", none]\n',
         "jobs/x.yaml:4:18: protect[1]: `none` says there are no rules, but there is one at 4:11; keep one"),
        (ONE + 'protect: none\nprotect: ["*/a"]\n', "jobs/x.yaml:5:1: protect: is given twice, first at 4:1; keep one"),
        (ONE + "keep_admins: -1\n", "jobs/x.yaml:4:14: keep_admins: expected a whole number from 0 to 1000, got '-1'"),
        (ONE + "keep_admins: all\n", "keep_admins: expected a whole number from 0 to 1000, got 'all'"),
        (ONE + "limits: 100\n", "limits: expected a mapping of max_targets, max_share, take, got a single value"),
        (ONE + "limits: {max_targets: 0}\n",
         "jobs/x.yaml:4:23: limits.max_targets: expected a whole number from 1 to 1000000000, got '0'"),
        (ONE + "limits: {max_targets: 5%}\n", "limits.max_targets: expected a whole number"),
        (ONE + "limits: {max_share: 20}\n", "limits.max_share: expected a percentage such as 5% or 0.5%, got '20'"),
        (ONE + "limits: {max_share: 0%}\n", "limits.max_share: expected a percentage above 0% and at most 100%"),
        (ONE + "limits: {max_share: 101%}\n",
         "jobs/x.yaml:4:21: limits.max_share: expected a percentage above 0% and at most 100%, got '101%'"),
        (ONE + "limits: {max_shar: 1%}\n", "limits.max_shar: unknown key; did you mean max_share?"),
        (ONE + "max_targets: 5\n", "max_targets: unknown key"),
        (ONE + "stop_after: 101%\n", "stop_after: expected a percentage above 0% and at most 100%, got '101%'"),
        (ONE + "order: random\n", "order: expected contain (superusers first) or listed (as the job lists them), got"),
        (ONE + "resend_already: yes\n", "jobs/x.yaml:4:17: resend_already: expected true or false, got 'yes'"),
        (ONE + "verify:\n", "verify: has no value; expected true or false"),
        (ONE + "verify: false\nkeep_admins: 1\n",
         "jobs/x.yaml:4:9: verify: false, but keep_admins 1 at 5:14 cannot hold unless accounts are read; keep one"),
        (ONE + "limits: {max_share: 5%}\nverify: false\n",
         "jobs/x.yaml:5:9: verify: false, but limits.max_share 5% at 4:21 cannot hold unless accounts are read"),
        ("action: RefreshAccountPassword\nregion: ap-tokyo\ntargets: [a-1/u]\nresend_already: true\n",
         "jobs/x.yaml:4:17: resend_already: RefreshAccountPassword must not be repeated on an account that has it"),
    ],
)  # fmt: skip
def test_mistakes_and_their_words(text, said):
    """Each says where, what, and what to do; no mistake is said twice."""
    found = problems(text)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize("take", ["0", "-1", "1.5", "some", "[]"])
def test_take_is_a_count_of_at_least_one(take):
    """`take: 0` would be a job that never does anything."""
    (found,) = problems(ONE + f"limits: {{take: {take}}}\n")
    assert found.startswith("jobs/x.yaml:4:16: limits.take: expected a whole number from 1 to 1000000000, got ")


def test_what_a_scheduled_job_says():
    """How much of it a run takes, and what becomes of a run that was cut off."""
    job = parse(ONE + "limits: {take: 100}\non_unfinished: refuse\n")
    assert (job.take, job.on_unfinished, job.places["take"]) == (100, "refuse", Place("jobs/x.yaml", 4, 16))
    assert parse(ONE).on_unfinished == "resume"
    (found,) = problems(ONE + "on_unfinished: again\n")
    assert found == "jobs/x.yaml:4:16: on_unfinished: expected resume, new or refuse, got 'again'"


def test_an_alias_is_one_problem():
    """What stood there is not missed a second time."""
    found = problems(
        HEAD + "targets: [*a, a-1: *b, {instance: *c, user: u}, {csv: *d}]\nretry: *e\nrate: *f\nexclude: *g\n"
    )
    assert len(found) == 7
    assert all("aliases" in problem for problem in found)


def test_lists_are_read_relative_and_counted_into_the_digest():
    """The reader gets the path as written, messages show it beside the job; rows keep their line."""
    text = HEAD + "targets:\n  - csv: in/a.csv\n  - {jsonl: b.jsonl, region: ap-tokyo}\n  - {csv: '-'}\n  - a-9/z\n"
    lists = {
        "in/a.csv": b"instance,user,x\na-1,u1,\n",
        "b.jsonl": b'{"instance":"a-2","user":"u2"}\n',
        "-": b"instance,user,region\na-3,u3,ap-seoul\n",
    }
    job = parse(text, lists)
    assert [(t.label, t.region, t.file, t.line) for t in job.targets] == [
        ("a-1/u1", "ap-singapore", "jobs/in/a.csv", 2),
        ("a-2/u2", "ap-tokyo", "jobs/b.jsonl", 1),
        ("a-3/u3", "ap-seoul", "standard input", 2),
        ("a-9/z", "ap-singapore", "jobs/x.yaml", 7),
    ]
    assert job.sources == ("jobs/in/a.csv", "jobs/b.jsonl", "standard input")
    assert job.digest == hashlib.sha256(text.encode() + b"".join(lists.values())).hexdigest()
    assert job.warnings == ("jobs/in/a.csv:1: column 'x' ignored",)


def test_standard_input_is_read_once():
    """The second time it would be empty."""
    found = problems(HEAD + "targets: [csv: '-', jsonl: '-']\n", {"-": b"instance,user\na-1,u\n"})
    assert found == ["jobs/x.yaml:3:28: targets[1].jsonl: standard input can be read only once; remove this entry"]


def test_problems_of_lists_come_after_those_of_the_job():
    """In the order in which the files are named."""
    found = problems(HEAD + "targets: [csv: a.csv]\nrate: x\n", {"a.csv": b"instance,user\nfoo,u\na-1,u-\n"})
    assert [problem.split(": ")[0] for problem in found] == ["jobs/x.yaml:4:7", "jobs/a.csv:2", "jobs/a.csv:3"] or [
        problem.split(": ")[0] for problem in found
    ] == ["jobs/a.csv:2", "jobs/a.csv:3", "jobs/x.yaml:4:7"]


def test_duplicates_and_reserved_names_are_kept():
    """The plan leaves them out, by name; here they are no error."""
    job = parse(HEAD + "targets: [a-1/u, a-1/u, a-1/postgres, a-1/PG_x, a-1: [tencentdb_y, no]]\n")
    assert [target.user for target in job.targets] == ["u", "u", "postgres", "PG_x", "tencentdb_y", "no"]


def test_protect_none_waives():
    """Explicitly; a job that says nothing has None."""
    job = parse(ONE + "protect: none\n")
    assert (job.protect, job.protect_waived) == ((), True)


def test_what_is_odd_but_allowed_is_a_warning():
    """Names the two rules disagree about; a region off the list is a remark, as newer pages of the vendor have none."""
    job = parse(f"action: LockAccount\nregion: ap-mumbai\ntargets: [a-1/{'u' * 17}]\n")
    assert job.remarks == ("jobs/x.yaml:2:9: region ap-mumbai is not among the documented ones",)
    assert job.warnings == (
        f"jobs/x.yaml:3:11: 1 account name longer than 16 characters, the first '{'u' * 17}': the API documents two "
        "rules that disagree about these and may refuse them",
    )


def test_guards_that_leave_nothing_or_mean_nothing_are_warnings():
    """A plan that turns out empty is explained before it is seen; no superuser is lost by unlocking."""
    unlock = ONE.replace("Lock", "Unlock")
    assert parse(ONE + 'protect: ["*/a", "**/?*"]\nexclude: ["*/*"]\n').warnings == (
        "jobs/x.yaml:4:18: **/?* protects every account: nothing will be sent",
        "jobs/x.yaml:5:11: */* excludes every account: nothing will be sent",
    )
    assert parse(unlock + "keep_admins: 1\nverify: false\n").warnings == (
        "jobs/x.yaml:4:14: keep_admins means nothing to UnlockAccount, which takes no admin away",
    )
    assert parse(unlock + "keep_admins: 0\nresend_already: true\n").warnings == ()


CAM = "action: CloseAccountCAM\nregion: ap-tokyo\ntargets: [a-1/u]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CAM, "jobs/x.yaml:1:1: passwords: is missing; CloseAccountCAM sets a new password"),
        (ONE + "passwords: {env: X}\n", "jobs/x.yaml:4:1: passwords: LockAccount takes no password; remove it"),
        (CAM + "passwords: {}\n", "got none of them"),
        (CAM + "passwords: {env: X, file: y}\n", "got file, env together"),
        (CAM + "passwords: {command: pass x}\n", "passwords.command: expected a list: [program, argument, …]"),
        (CAM + "passwords: {command: [pass, '{account}']}\n", "passwords.command[1]: {account} is not filled in"),
        (CAM + "passwords: {command: [pass, [x]]}\n", "passwords.command[1]: expected one argument, got a list"),
        (CAM + "passwords: {command: ['']}\n", "passwords.command[0]: expected the program to run"),
        (CAM + "passwords: {command: ['{user}']}\n", "passwords.command[0]: expected the program to run"),
        (CAM + "passwords: {file: x, stored: true}\n", "passwords.stored: is for a command; file is asked as it is"),
        (CAM + "passwords: {stored: true}\n", "got none of them"),
        (CAM + "passwords: {command: [x, '{user}'], stored: maybe}\n", "passwords.stored: expected true or false"),
        (CAM + "passwords: {file: }\n", "passwords.file: has no value"),
        (CAM + "passwords: {env: }\n", "passwords.env: has no value"),
        (CAM + "passwords: {env: 'A B'}\n", "passwords.env: expected the name of an environment variable"),
        (CAM.replace("a-1/u", "a-1/u, a-1/v") + "passwords: {env: X}\n", "one password for several accounts"),
    ],
)
def test_password_sources(text, said):
    """Exactly one, for the actions that need one."""
    found = problems(text)
    assert len(found) == 1
    assert said in found[0]


def test_password_sources_that_serve():
    """With a label for the journal that holds no argument, and a way there and back."""
    file = parse(CAM + "passwords: {file: s/p.csv}\n").passwords
    home = parse(CAM + "passwords: {file: ~/p.csv}\n").passwords
    env = parse(CAM.replace("a-1/u", "a-1/u, a-1/u") + "passwords: {env: NEW_PW}\n").passwords
    command = parse(CAM + "passwords: {command: [pass, '{user}', '']}\n").passwords
    assert file is not None and home is not None and env is not None and command is not None
    assert (file.file, home.file, env.env) == ("jobs/s/p.csv", "~/p.csv", "NEW_PW")
    assert [spec.label for spec in (file, env, command)] == ["file jobs/s/p.csv", "environment NEW_PW", "command pass"]
    for spec in (file, env, command):
        assert password_spec(msgspec.json.decode(msgspec.json.encode(spec.as_record())), spec.place) == spec


def test_a_command_that_gives_all_accounts_one_password_is_a_warning():
    """It may be meant; it seldom is."""
    many = CAM.replace("a-1/u", "a-1/u, a-1/v")
    assert parse(many + "passwords: {command: [pass, x]}\n").warnings == (
        "jobs/x.yaml:4:22: passwords.command does not use {user}: accounts may get the same password",
    )
    assert parse(many + "passwords: {command: [pass, '{user}']}\n").warnings == ()
    reset = many.replace("CloseAccountCAM", "ResetAccountPassword")
    assert "does not say stored: true" in parse(reset + "passwords: {command: [pass, '{user}']}\n").warnings[0]
    assert parse(reset + "passwords: {command: [pass, '{user}'], stored: true}\n").warnings == ()


@pytest.mark.parametrize(
    ("pattern", "instance", "user", "wanted"),
    [
        ("*/root", "postgres-a1", "root", True),
        ("*/root", "postgres-a1", "root2", False),
        ("*/root", "postgres-a1", "Root", False),
        ("postgres-a?/b[lr]*", "postgres-a1", "break", True),
        ("postgres-a?/b[!lr]*", "postgres-a1", "break", False),
        ("*/*", "postgres-a1", "x", True),
        ("postgres-a1/*", "postgres-a12", "x", False),
    ],
)
def test_globs(pattern, instance, user, wanted):
    """Each part by itself, whole, case counts; a guard's case does not."""
    assert Glob(pattern, Place("f")).matches(instance, user) is wanted
    assert Glob(pattern, Place("f"), fold=True).matches(instance.upper(), user.upper()) is (wanted or user == "Root")


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [("*/*", True), ("**/?*", True), ("*?/*", True), ("*/??*", False), ("*/?", False), ("postgres-*/*", False),
     ("*/a*", False), ("*/[a-z]*", False)],
)  # fmt: skip
def test_globs_that_match_everything(pattern, wanted):
    """Only those from which no name can escape."""
    assert Glob(pattern, Place("f")).matches_everything is wanted


@pytest.mark.parametrize("pattern", ["root", "a/b/c", "/b", "a/", ""])
def test_globs_have_two_parts(pattern):
    """Checked at construction too."""
    with pytest.raises(ValueError, match="instance/user"):
        Glob(pattern, Place("f"))


def test_ad_hoc_jobs_are_checked_the_same():
    """`acctops lock TARGET… --region R`; a target's line is its number."""
    job = ad_hoc_job("LockAccount", ["a-1/u", "a-2/pg_x"], "ap-tokyo", reason="r", ticket="t", exclude=["*/u"])
    assert [(str(t.place), t.label, t.region) for t in job.targets] == [
        ("command line:1", "a-1/u", "ap-tokyo"),
        ("command line:2", "a-2/pg_x", "ap-tokyo"),
    ]
    assert (job.path, job.name, job.reason, job.ticket) == ("command line", "LockAccount-by-hand", "r", "t")
    assert job.exclude[0].place == Place("--exclude")
    assert job.digest != ad_hoc_job("UnlockAccount", ["a-1/u", "a-2/pg_x"], "ap-tokyo").digest
    with pytest.raises(JobError) as caught:
        ad_hoc_job("Lock", ["a-1", "a-1/u-", "b/u"], None, exclude=["root"])
    assert len(caught.value.problems) == 6
    with pytest.raises(JobError, match="none given"):
        ad_hoc_job("LockAccount", [], "ap-tokyo")
    with pytest.raises(JobError, match=r"command line:1: --region: 'x' is not a region"):
        ad_hoc_job("LockAccount", ["a-1/u"], "x")


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_random_bytes_give_a_job_error(data):
    """And nothing else, whatever the bytes."""
    for head in (b"", ONE.encode(), HEAD.encode() + b"targets:\n  - "):
        try:
            parse(head + data)
        except JobError as error:
            assert error.reason == Reason.USAGE
            assert all(problem.startswith("jobs/x.yaml") for problem in error.problems)


_values = st.recursive(
    st.sampled_from(
        [
            "",
            "x",
            "1",
            "5%",
            "90s",
            "none",
            "true",
            "false",
            "listed",
            "*/*",
            "a-1/u",
            "*/u",
            "ap-tokyo",
            "LockAccount",
            "CloseAccountCAM",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "instance",
                    "user",
                    "region",
                    "csv",
                    "account",
                    "command",
                    "env",
                    "busy",
                    "a-1",
                    "?",
                    "max_targets",
                    "max_share",
                    "take",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
_keys = st.sampled_from(["version", "name", "action", "region", "targets", "exclude", "protect", "rate", "retry",
                         "deadline", "stop_after", "passwords", "endpoint", "window", "x", "keep_admins", "limits",
                         "order", "resend_already", "verify"])  # fmt: skip


@given(st.dictionaries(_keys, _values, max_size=8))
@settings(deadline=None, max_examples=300)
def test_random_trees_give_a_job_or_a_job_error(tree):
    """Any kind of value under any key."""
    try:
        job = parse(msgspec.json.encode(tree))
    except JobError as error:
        assert 0 < len(error.problems) <= 51
    else:
        assert job.targets


# Reading files


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_load_job_reads_lists_beside_the_file_from_any_directory(tmp_path, monkeypatch):
    """Paths are relative to the job file, not to where the operator stands."""
    write(tmp_path / "in/l.csv", "instance,user\na-1,u\n")
    path = write(tmp_path / "in/j.yaml", HEAD + "targets: [csv: l.csv]\n")
    monkeypatch.chdir("/")
    job = load_job(path)
    assert (job.targets[0].label, job.sources, job.name) == ("a-1/u", (str(tmp_path / "in/l.csv"),), "j")
    assert job.path == str(path)


def test_load_job_from_standard_input():
    """`-` as the job, or as a list, not both."""
    assert load_job("-", stdin=io.BytesIO(ONE.encode())).name == "standard input"
    with pytest.raises(JobError, match="standard input holds the job itself"):
        load_job("-", stdin=io.BytesIO(HEAD.encode() + b"targets: [csv: '-']"))


def test_a_list_from_standard_input(tmp_path):
    """`detector | acctops run job.yaml`."""
    path = write(tmp_path / "j.yaml", HEAD + "targets: [csv: '-']\n")
    assert load_job(path, stdin=io.BytesIO(b"instance,user\na-1,u\n")).targets[0].line == 2


class _Terminal(io.BytesIO):
    def isatty(self):
        return True


class _Broken(io.BytesIO):
    def read(self, size=-1):
        raise OSError(5, "Input/output error")


def test_a_terminal_or_closed_standard_input_is_said_so(tmp_path, monkeypatch):
    """Waiting for a list nobody pipes looks like hanging."""
    path = write(tmp_path / "j.yaml", HEAD + "targets: [csv: '-']\n")
    with pytest.raises(JobError, match="is a terminal; pipe"):
        load_job(path, stdin=_Terminal())
    with pytest.raises(JobError, match="cannot be read"):
        load_job(path, stdin=_Broken())
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(JobError, match="standard input is closed"):
        load_job(path)


def test_files_that_cannot_be_read_are_one_clear_error(tmp_path, monkeypatch):
    """Missing, a directory, empty, binary, too large, not readable, an impossible name."""
    write(tmp_path / "lockdown.yaml", "")
    for name, said in (
        ("lockdwn.yaml", "no such file; did you mean lockdown.yaml"),
        ("nowhere/x.yaml", "the directory .* cannot be read"),
        ("", "is a directory"),
        ("lockdown.yaml", "is empty"),
        ("x\0y", "cannot be read"),
    ):
        with pytest.raises(JobError, match=f"^{re.escape(str(tmp_path))}.*{said}") as caught:
            load_job(f"{tmp_path}/{name}")
        assert len(caught.value.problems) == 1
    monkeypatch.setattr(files, "MOST_JOB", 10)
    path = write(tmp_path / "big.yaml", ONE)
    with pytest.raises(JobError, match="is larger than 0 MiB"):
        load_job(path)


def test_a_file_without_permission_is_said_so(tmp_path, monkeypatch):
    """As root nothing is denied, so the refusal is played."""
    path = write(tmp_path / "j.yaml", ONE)

    def denied(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(JobError, match="permission denied"):
        load_job(path)


def test_lists_that_cannot_be_read_are_named_where_they_are_named(tmp_path):
    """With line and column of the job file; several at once."""
    path = write(tmp_path / "j.yaml", HEAD + "targets:\n  - csv: a.csv\n  - csv: .\n  - csv: ~nobody-here/x\n")
    with pytest.raises(JobError) as caught:
        load_job(path)
    found = caught.value.problems
    assert len(found) == 3
    assert found[0] == f"{path}:4:10: targets[0].csv: {tmp_path}/a.csv: no such file"
    assert "is a directory" in found[1]
    assert "~nobody-here" in found[2]


def test_the_password_file_is_named_whole(tmp_path, monkeypatch):
    """A resume may run in another directory."""
    write(tmp_path / "j.yaml", CAM + "passwords: {file: p.csv}\n")
    monkeypatch.chdir(tmp_path)
    job = load_job("j.yaml")
    assert job.passwords == PasswordSpec(place=Place("j.yaml", 4, 19), file=str(tmp_path / "p.csv"))
    env = write(tmp_path / "e.yaml", CAM + "passwords: {env: X}\n")
    assert load_job(env).passwords == PasswordSpec(place=Place(str(env), 4, 18), env="X")


# Shipped jobs, speed, start


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_jobs_load(path):
    """Without a warning, and with the schema named for editors in the first line."""
    job = load_job(path)
    assert job.warnings == ()
    assert job.action in ACTIONS
    assert job.protect is not None
    first = path.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../engine/job.schema.json"


def test_the_incident_unlock_undoes_the_lockdown():
    """The two shipped jobs belong together: what one locks the other unlocks, but for what it says."""
    locked, unlocked = (load_job(ROOT / f"jobs/incident-{name}.yaml") for name in ("lockdown", "unlock"))

    def meant(job):
        rules = [*job.exclude, *(job.protect or ())]
        return {t.label for t in job.targets if not any(rule.matches(t.instance, t.user) for rule in rules)}

    assert meant(unlocked) < meant(locked)
    assert {label.partition("/")[2] for label in meant(locked) - meant(unlocked)} == {"etl_ro"}


def test_shipped_jobs_show_the_guards():
    """The lockdown locks again what looks locked, and its commented guards are valid when switched on."""
    lockdown, cam = (load_job(ROOT / f"jobs/{name}.yaml") for name in ("incident-lockdown", "cam-enablement"))
    assert (lockdown.resend_already, lockdown.keep_admins) == (True, None)
    assert cam.max_targets is not None and cam.max_targets >= len(cam.targets)
    text = {name: (ROOT / f"jobs/{name}.yaml").read_text() for name in ("incident-lockdown", "cam-enablement")}
    assert parse(text["incident-lockdown"].replace("# keep_admins:", "keep_admins:")).keep_admins == 1
    assert parse(text["cam-enablement"].replace("# max_share:", "max_share:")).max_share == 0.4


def test_the_reference_names_every_key():
    """jobs/README.md has a row for each key, and says what is not built."""
    from engine.inputs.jobfile.fields import kinds
    from engine.inputs.jobfile.filemodel import (
        AccountEntry,
        HoldKeys,
        InstancesOf,
        JobFile,
        JobLimits,
        MatchEntry,
        Notify,
        Passwords,
        Retry,
        TargetEntry,
        UsersOf,
        WatchKeys,
        Webhook,
        WindowKeys,
    )

    text = (ROOT / "jobs/README.md").read_text()
    mappings = (Retry, Passwords, WindowKeys, HoldKeys, WatchKeys, Notify, Webhook)
    for model in (JobFile, AccountEntry, TargetEntry, JobLimits, *mappings):
        for key in kinds(model):
            assert f"`{key}`" in text or f"{key}: " in text, key
    for part, model in (("", MatchEntry), ("instances.", InstancesOf), ("users.", UsersOf)):
        for key in kinds(model):
            assert f"`{part}{key}" in text, key


def test_a_hundred_thousand_inline_targets_are_quick():
    """20,000 here; the budget is 3 s for 100,000."""
    text = HEAD + "targets:\n" + "".join(f"  - postgres-{n:08x}/app\n" for n in range(20_000))
    start = time.perf_counter()
    job = parse(text)
    assert time.perf_counter() - start < 1.5
    assert len(job.targets) == 20_000


def test_reading_a_job_starts_without_the_engine():
    """`plan --offline` must start fast: neither asyncio nor aiohttp nor rich."""
    code = (
        "import sys, engine.inputs.files, engine.inputs.settings, engine.credentials, engine.inputs.passwords\n"
        "import engine.inputs.jobfile.schema\n"
        "print([m for m in ('asyncio', 'aiohttp', 'rich', 'json', 'difflib', 'configparser') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


# ---- what the columns of a list are called ---------------------------------------------------------------------------


def test_columns_are_read_from_the_entry():
    """`columns:` goes with csv and jsonl, beside a region."""
    text = HEAD + "targets:\n  - {csv: a.csv, columns: {instance: Cluster, user: Account}, region: ap-tokyo}\n"
    found = parse_job(text.encode(), file="jobs/x.yaml", read=lambda _: b"Cluster;Account;Owner\na-1;u;Ann\n")
    assert [(each.label, each.region) for each in found.targets] == [("a-1/u", "ap-tokyo")]
    assert found.warnings == ("jobs/a.csv:1: column 'Owner' ignored",)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{csv: a.csv, columns: Cluster}", "targets[0].columns: expected a mapping such as {instance: DBInstanceId"),
        ("{csv: a.csv, columns: {instance: [x]}}", "targets[0].columns.instance: expected the name of a column"),
        ("{csv: a.csv, columns: {usr: x}}", "targets[0].columns.usr: unknown key; did you mean user?"),
        ("{csv: a.csv, columns: {user: x, instance: x}}", "says one column twice"),
        ("{instance: a-1, user: u, columns: {user: x}}", "columns goes with csv: or jsonl:"),
        ("{csv: a.csv, columns: {user: login}}", "jobs/a.csv:1: no column 'login', which `columns:` says is the user"),
    ],
)
def test_mistakes_in_columns(entry, said):
    """By their place in the job, or in the list where that is wrong; no list is read by guess."""
    with pytest.raises(JobError) as wrong:
        parse_job(
            (HEAD + f"targets: [{entry}]\n").encode(), file="jobs/x.yaml", read=lambda _: b"instance,user\na-1,u\n"
        )
    assert len(wrong.value.problems) == 1 and said in wrong.value.problems[0]


def test_bad_rows_of_a_list_become_omits_as_long_as_something_is_good():
    """A list of nothing but bad rows is a wrong list, whatever was asked; the job's own targets are never rows."""
    text = (HEAD + "targets: [csv: a.csv]\n").encode()
    good = parse_job(text, file="j", read=lambda _: b"instance,user\na-1,u\nx,u\n", skip_bad_rows=True)
    assert [(omit.target.label, omit.where) for omit in good.omits] == [("x/u", "a.csv:3")]
    with pytest.raises(JobError) as wrong:
        parse_job(text, file="j", read=lambda _: b"instance,user\nx,u\ny,u\n", skip_bad_rows=True)
    *problems, hint = wrong.value.problems
    assert [problem.split(": ")[0] for problem in problems] == ["a.csv:2", "a.csv:3"]
    assert "leaves nothing to send" in hint
    with pytest.raises(JobError, match="is not an account name"):
        parse_job((HEAD + "targets: [a-1/u-]\n").encode(), file="j", read=lambda _: b"", skip_bad_rows=True)
