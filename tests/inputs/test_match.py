"""`match`: a question instead of a list: read from YAML, put to rows and readings, answered with targets and words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import JobError
from engine.inputs.jobfile.parse import parse_job
from engine.inputs.match import (
    InstanceMatch,
    InstanceRow,
    Match,
    Pattern,
    Tag,
    UserMatch,
    answer,
    choose,
    instance_row,
    listing_filters,
    missing_ids,
    spliced,
    unlisted,
)
from engine.model import AccountState, Omit, OmitReason, Place, Reading, Target, Where

PLACE = Place("job.yaml", 4, 5)


def question(users=None, at=0, regions=("ap-tokyo",), **of) -> Match:
    return Match(place=PLACE, at=at, regions=regions, users=users or UserMatch(), instances=InstanceMatch(**of))


def row(instance="postgres-a1", **of) -> InstanceRow:
    return InstanceRow(**{"id": instance, "region": "ap-tokyo", "status": "running", "type": "primary", **of})


def account(user, status=2, cam=False, user_type="normal") -> AccountState:
    return AccountState(user=user, status=status, cam=cam, user_type=user_type)


def reading(*accounts, complete=True) -> Reading:
    return Reading(accounts={each.user: each for each in accounts}, complete=complete)


def job(text: str):
    """The one match of a job with this below `match:`."""
    body = "\n".join(f"      {line}" for line in text.splitlines())
    source = f"action: LockAccount\nregion: ap-tokyo\ntargets:\n  - match:\n{body}\n"
    return parse_job(source.encode(), file="job.yaml", read=lambda _: b"").matches[0]


# ---- read from a job -------------------------------------------------------------------------------------------------


def test_every_key_is_read():
    """The whole form, one value or several, tags in each of their spellings."""
    found = job(
        "regions: [ap-tokyo, ap-seoul]\n"
        "instances: {ids: postgres-a1, name: [prod-*, live], tag: {env: [prod, live], team: db},\n"
        "            status: [running, limited run], type: any, engine_version: [16, 9.5]}\n"
        'users: {glob: "app_*", type: normal, cam: off, locked: false, not: ["*_ro"]}\n'
        "allow_empty: true"
    )
    assert found == Match(
        place=Place("job.yaml", 5, 7),
        at=0,
        regions=("ap-tokyo", "ap-seoul"),
        instances=InstanceMatch(
            ids=("postgres-a1",),
            names=(Pattern("prod-*"), Pattern("live")),
            tags=(Tag("env", ("prod", "live")), Tag("team", ("db",))),
            statuses=("running", "limited run"),
            types=("any",),
            versions=("16", "9.5"),
        ),
        users=UserMatch(
            globs=(Pattern("app_*"),), types=("normal",), cam=False, locked=False, without=(Pattern("*_ro"),)
        ),
        allow_empty=True,
    )
    assert found.words() == (
        "regions ap-tokyo, ap-seoul; instances id postgres-a1, name prod-*, name live, tag env=prod|live, tag team=db, "
        "status running|limited run, type any, version 16|9.5; users app_*, type normal, cam off, not locked, not *_ro"
    )


def test_a_match_of_hundreds_of_ids_is_one_line():
    """Of a plan and a journal: five thousand characters of ids hide what else is asked."""
    ids = [f"postgres-a{number}" for number in range(250)]
    said = job(f"regions: ap-tokyo\ninstances: {{ids: [{', '.join(ids)}]}}\nusers: {{glob: x}}").words()
    assert said == f"regions ap-tokyo; instances id {'|'.join(ids[:5])}|… (250 ids), status running; users x"


@pytest.mark.parametrize(
    ("tag", "tags"),
    [
        ("env", (Tag("env"),)),
        ("env=prod", (Tag("env", ("prod",)),)),
        ("[env=a=b, team]", (Tag("env", ("a=b",)), Tag("team"))),
    ],
)
def test_tags_in_short(tag, tags):
    """A key, or key=value: as one writes it on a ticket."""
    assert job(f"instances: {{tag: {tag}}}\nusers: {{cam: on}}").instances.tags == tags


def test_regions_default_to_the_jobs_and_all_is_all():
    """Nothing is asked of regions nobody named."""
    assert job("users: {cam: on}").regions == ("ap-tokyo",)
    assert job("regions: all\nusers: {cam: on}").regions is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("regions: [ap-tokyo]", 'which accounts? Write users: {glob: "app_*"}'),
        ("users: {}", "asks for nothing"),
        ("users: {glob: []}", "got an empty list"),
        ("users: {glob: 'app *'}", "can never match: ' ' occurs in no account name"),
        ("users: {cam: maybe}", "expected on or off, got 'maybe'"),
        ("users: {locked: yes}", "expected true or false"),
        ("users: {type: super}", "'super' is no type; there are normal, tencentDBSuper"),
        ("users: {globb: a}", "unknown key; did you mean glob?"),
        ("users: {cam: on}\ninstances: {status: runing}", "'runing' is no status; did you mean running?"),
        ("users: {cam: on}\ninstances: {type: master}", "'master' is no type; there are primary, readonly"),
        ("users: {cam: on}\ninstances: {ids: [nonsense]}", "targets[0].match.instances.ids: 'nonsense' is not an inst"),
        ("users: {cam: on}\ninstances: {tag: =x}", "has no key"),
        ("users: {cam: on}\ninstances: {tag: {}}", "got nothing"),
        ("users: {cam: on}\ninstances: {engine_version: pg16}", "expected a major version such as 16"),
        ("users: {cam: on}\ninstances: {engine_version: 15.4}", "expected a major version such as 16"),
        ("users: {cam: on}\nregions: [all, ap-tokyo]", "all stands alone: regions: all"),
        ("users: {cam: on}\ninstances: postgres-a1", "expected a mapping of ids, name, tag"),
        ("users: {cam: on}\nregions: [apsingapore1]", "is not a region; did you mean ap-singapore?"),
        ("users: {cam: on}\nregions: []", "got an empty list"),
        ("users: {cam: on}\naccounts: [prod]", "but the job names none; list it under accounts:"),
        ("users: {cam: on}\nallow_empty: 1", "expected true or false"),
    ],
)
def test_mistakes_in_a_match(text, said):
    """Each by its place and path; no question is put that was not meant."""
    with pytest.raises(JobError) as wrong:
        job(text)
    assert len(wrong.value.problems) == 1, wrong.value.problems
    assert said in wrong.value.problems[0]
    assert wrong.value.problems[0].startswith("job.yaml:")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("match:", "expected a mapping"),
        ("{match: {users: {cam: on}}, csv: x.csv}", "match and csv together; make two entries of them"),
        ("{match: {users: {cam: on}}, region: ap-tokyo}", "match and region together; a match says regions: inside"),
        ("{match: {users: {cam: on}}, account: prod}", "match and account together; a match says accounts: inside"),
    ],
)
def test_mistakes_around_a_match(entry, said):
    """It is an entry of its own."""
    with pytest.raises(JobError, match=r"^job\.yaml:") as wrong:
        parse_job(
            f"action: LockAccount\nregion: ap-tokyo\ntargets:\n  - {entry}\n".encode(),
            file="job.yaml",
            read=lambda _: b"",
        )
    assert said in str(wrong.value)


def test_a_match_without_a_region_says_so_once():
    """Neither the job nor the match names one."""
    with pytest.raises(JobError) as wrong:
        parse_job(b"action: LockAccount\ntargets: [{match: {users: {cam: on}}}]", file="j", read=lambda _: b"")
    assert [problem.split(": ", 1)[1] for problem in wrong.value.problems] == [
        "targets[0].match.regions: which regions? Write regions: [ap-singapore], regions: all, or set the job's region:"
    ]


def test_an_unlisted_region_of_a_match_is_a_remark():
    """As of any target: the list may be older than the region."""
    text = b"action: LockAccount\ntargets: [{match: {regions: [ap-tokio], users: {cam: on}}}]"
    assert "did you mean ap-tokyo?" in parse_job(text, file="j", read=lambda _: b"").remarks[0]


# ---- what the server is asked ----------------------------------------------------------------------------------------


def test_the_server_narrows_what_it_can():
    """Ids in portions, a literal part of names, a tag's key; the rest is decided here."""
    of = InstanceMatch(ids=tuple(f"postgres-a{n}" for n in range(150)), names=(Pattern("prod-*-eu"), Pattern("*live?")))
    first, second = listing_filters(of)
    assert [len(each[0]["Values"]) for each in (first, second)] == [100, 50]
    assert first[1] == second[1] == {"Name": "db-instance-name", "Values": ["live", "prod-"]}
    assert listing_filters(InstanceMatch(tags=(Tag("env", ("prod",)), Tag("team")))) == [
        [{"Name": "db-tag-key", "Values": ["env"]}]
    ]
    assert listing_filters(InstanceMatch()) == [[]]
    assert listing_filters(InstanceMatch(names=(Pattern("prod"), Pattern("*")))) == [[]]


@given(st.text("ab*?[]-!", min_size=1, max_size=8), st.text("ab-!*", max_size=8))
def test_a_literal_is_in_every_name_that_matches(pattern, name):
    """Or the server would keep an instance back that is meant."""
    asked = Pattern(pattern)
    if asked.matches(name):
        assert asked.literal in name


# ---- instances -------------------------------------------------------------------------------------------------------


def test_a_row_is_read_as_documented():
    """What is missing or odd does not stop the listing."""
    data = {
        "DBInstanceId": "postgres-a1",
        "DBInstanceName": "prod",
        "DBInstanceStatus": "running",
        "DBInstanceType": "primary",
        "DBMajorVersion": "16",
        "TagList": [{"TagKey": "env", "TagValue": "prod"}, "junk", {}],
    }
    full = row(name="postgres-a1", version="16", tags=(("env", "prod"),))
    assert instance_row(data, "ap-tokyo") == InstanceRow(
        full.id, full.region, "prod", full.status, full.type, full.version, full.tags
    )
    assert instance_row({"DBInstanceId": "postgres-a1", "TagList": None}, "ap-tokyo") == InstanceRow(
        "postgres-a1", "ap-tokyo"
    )
    assert instance_row({"DBInstanceId": "postgres-a1", "TagList": 7}, "ap-tokyo") is not None
    assert instance_row({"DBInstanceId": 7}, "ap-tokyo") is None
    assert instance_row({"DBInstanceId": "a, b"}, "ap-tokyo") is None
    assert instance_row("junk", "ap-tokyo") is None


@pytest.mark.parametrize(
    ("of", "rows"),
    [
        ({"ids": ("postgres-a1",)}, "a1"),
        ({"names": (Pattern("prod-*"),)}, "a1 a2"),
        ({"tags": (Tag("env"),)}, "a1 a3"),
        ({"tags": (Tag("env", ("prod", "live")),)}, "a1"),
        ({"tags": (Tag("env"), Tag("team", ("db",)))}, "a3"),
        ({"versions": ("17",)}, "a2"),
        ({"names": (Pattern("prod-*"),), "versions": ("16",)}, "a1"),
        ({}, "a1 a2 a3"),
    ],
)
def test_which_instances_are_meant(of, rows):
    """All keys must agree; of a list, one value."""
    world = [
        row("postgres-a1", name="prod-1", version="16", tags=(("env", "prod"),)),
        row("postgres-a2", name="prod-2", version="17"),
        row("postgres-a3", name="Prod-3", version="16", tags=(("team", "db"), ("env", "test"))),
    ]
    chosen, skipped = choose(question(**of), world)
    assert [each.id for each in chosen] == [f"postgres-{each}" for each in rows.split()]
    assert skipped == []


def test_what_type_and_status_keep_out_is_named():
    """Replicas and what does not run are never dropped in silence, and never those that were not meant anyway."""
    world = [
        row("postgres-a1"),
        row("postgres-a2", type="readonly", status="restarting"),
        row("postgres-a3", type="guard"),
        row("postgres-a4", status="isolated"),
        row("postgres-a5", type="temp"),
        row("postgres-a6", status=""),
        row("other-a7", type="readonly"),
    ]
    chosen, skipped = choose(question(ids=tuple(f"postgres-a{n}" for n in range(1, 7))), world)
    assert [each.id for each in chosen] == ["postgres-a1", "postgres-a5"]
    assert [(omit.target.label, omit.reason, omit.rule) for omit in skipped] == [
        ("postgres-a2/*", OmitReason.SKIPPED, "type readonly"),
        ("postgres-a3/*", OmitReason.SKIPPED, "type guard"),
        ("postgres-a4/*", OmitReason.SKIPPED, "status isolated"),
        ("postgres-a6/*", OmitReason.SKIPPED, "status not shown"),
    ]
    assert {omit.where for omit in skipped} == {"match at job.yaml:4:5"}
    wide = question(types=("any",), statuses=("any",))
    assert choose(wide, world) == (world, [])
    narrow = question(types=("readonly",), statuses=("running", "restarting"))
    assert [each.id for each in choose(narrow, world)[0]] == ["postgres-a2", "other-a7"]


def test_ids_that_are_nowhere_are_unseen():
    """An instance that was named and is not there is a failure, not a smaller fleet."""
    omits = missing_ids(question(ids=("postgres-a1", "postgres-b2", "postgres-b2")), [row()], ["ap-tokyo"])
    assert [(omit.target.label, omit.target.region, omit.reason) for omit in omits] == [
        ("postgres-b2/*", "ap-tokyo", OmitReason.UNSEEN)
    ]
    assert omits[0].rule == "no instance postgres-b2 in ap-tokyo"
    many = missing_ids(question(ids=("postgres-b2",)), [], [f"r{n}" for n in range(5)])[0]
    assert (many.target.region, many.rule) == ("", "no instance postgres-b2 in 5 regions")


# ---- accounts --------------------------------------------------------------------------------------------------------

PEOPLE = (
    account("app_user"),
    account("app_ro", cam=True),
    account("app_old", status=5),
    account("etl", cam=None),
    account("dba", user_type="tencentDBSuper"),
    account("App_x", status=3),
)


@pytest.mark.parametrize(
    ("users", "found"),
    [
        ({"globs": (Pattern("*"),)}, "app_user app_ro app_old etl dba App_x"),
        ({"globs": (Pattern("app_*"), Pattern("et?"))}, "app_user app_ro app_old etl"),
        ({"globs": (Pattern("app_*"),), "without": (Pattern("*_ro"), Pattern("app_o*"))}, "app_user"),
        ({"types": ("tencentDBSuper",)}, "dba"),
        ({"locked": True}, "app_old"),
        ({"locked": False}, "app_user app_ro etl dba App_x"),
        ({"cam": True}, "app_ro"),
        ({"cam": False}, "app_user app_old dba App_x"),
        ({"cam": False, "locked": False, "globs": (Pattern("app_*"),)}, "app_user"),
    ],
)
def test_which_accounts_are_meant(users, found):
    """All keys must agree; case counts; an account whose CAM is not shown is neither on nor off."""
    (result,) = [
        answer(question(UserMatch(**users)), [row()], {Where("", "ap-tokyo", "postgres-a1"): reading(*PEOPLE)})
    ]
    assert [each.user for each in result.targets] == found.split()
    hidden = [omit for omit in result.omits if omit.target.user == "etl"]
    assert [(omit.reason, omit.rule) for omit in hidden] == (
        [(OmitReason.SKIPPED, "whether its CAM is on is not shown")] if "cam" in users and "globs" not in users else []
    )


def test_targets_know_the_match_that_found_them():
    """For duplicates and for the plan: where it was asked."""
    result = answer(
        question(), [row(account="100001")], {Where("100001", "ap-tokyo", "postgres-a1"): reading(account("ann"))}
    )
    assert result.targets == [Target("postgres-a1", "ann", "ap-tokyo", "100001", "job.yaml", 4, 5)]
    assert result.instances == 1


def test_what_could_not_be_read_is_unseen():
    """No reading, a refused one, and one that is not whole: accounts may be missing, so the match has not all."""
    rows = [row("postgres-a1"), row("postgres-a2"), row("postgres-a3")]
    readings = {
        Where("", "ap-tokyo", "postgres-a1"): Reading(accounts=None, code="FailedOperation.CamAuthFailed"),
        Where("", "ap-tokyo", "postgres-a2"): reading(account("ann"), complete=False),
    }
    earlier = unlisted(question(), "", "ap-seoul", "UnauthorizedOperation")
    result = answer(question(), rows, readings, [earlier])
    assert [each.label for each in result.targets] == ["postgres-a2/ann"]
    assert [(omit.target.region, omit.target.label, omit.reason, omit.rule) for omit in result.omits] == [
        ("ap-seoul", "*/*", OmitReason.UNSEEN, "instances of ap-seoul: UnauthorizedOperation"),
        (
            "ap-tokyo",
            "postgres-a1/*",
            OmitReason.UNSEEN,
            "its accounts could not be read: FailedOperation.CamAuthFailed",
        ),
        ("ap-tokyo", "postgres-a2/*", OmitReason.UNSEEN, "the list of its accounts is not whole (1 shown)"),
        ("ap-tokyo", "postgres-a3/*", OmitReason.UNSEEN, "its accounts were not read"),
    ]


def test_a_name_the_api_cannot_take_is_named() -> None:
    """It would tear a list apart, and no write could name it; it is not dropped either."""
    result = answer(question(), [row()], {row().where: reading(account("a, b"), account("ok"))})
    assert [each.user for each in result.targets] == ["ok"]
    (omit,) = result.omits
    assert omit.reason is OmitReason.UNSEEN and "'a, b' is not an account name" in omit.rule


def test_a_match_stands_where_it_was_written():
    """`order: listed` keeps the job's order over lists and matches alike."""
    listed = [Target("postgres-z1", user, "ap-tokyo") for user in ("a", "b", "c")]
    readings = {Where("", "ap-tokyo", "postgres-a1"): reading(account("x"))}
    answers = [answer(question(at=at), [row()], readings) for at in (1, 1, 3)]
    assert "".join(each.user for each in spliced(listed, answers)) == "axxbcx"
    assert spliced(listed, []) == listed


names = st.sampled_from(["app", "etl", "ro", "dba"])
states = st.builds(
    account,
    user=names,
    status=st.sampled_from([1, 2, 3, 5]),
    cam=st.sampled_from([True, False, None]),
    user_type=st.sampled_from(["normal", "tencentDBSuper"]),
)


@given(
    st.lists(states, max_size=4),
    st.lists(st.sampled_from([row("postgres-a1"), row("postgres-a2", type="guard"), row("postgres-a3", status="x")])),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, True, False]),
)
def test_nothing_that_is_meant_is_lost(people, rows, cam, locked):
    """Every account that fits is a target, or its instance or itself is named among what was left out."""
    rows = list({each.id: each for each in rows}.values())
    readings = {each.where: reading(*people) for each in rows}
    result = answer(question(UserMatch(cam=cam, locked=locked)), rows, readings)
    targets = {each.label for each in result.targets}
    named: set[str] = {omit.target.label for omit in result.omits if isinstance(omit, Omit)}
    for each in rows:
        for state in readings[each.where].accounts.values():
            fits = (cam is None or state.cam in (cam, None)) and (locked is None or (state.status == 5) is locked)
            label = f"{each.id}/{state.user}"
            assert (label in targets or label in named or f"{each.id}/*" in named) is fits or f"{each.id}/*" in named
            assert not (label in targets and (label in named or not fits))
