"""`lists`: CSV and JSON Lines to targets; every bad row named by its line."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.inputs.jobfile.lists import read_csv, read_jsonl
from engine.inputs.jobfile.problems import MOST, Problems
from engine.inputs.jobfile.targets import Defaults, Targets


def run(reader, data, region="", job_region="ap-tokyo", said=None):
    """(instance, user, region, line) of each target, problems, warnings."""
    problems = Problems()
    targets = Targets(problems, job_region)
    data = data.encode() if isinstance(data, str) else data
    warnings = reader(data, "l", Defaults(region), targets, problems, said or {})
    targets.settle_regions()
    rows = [(t.instance, t.user, t.region, t.line) for t in targets.found]
    return rows, problems.lines(), warnings + targets.warnings() + targets.remarks()


def test_csv_in_any_order_and_case_with_all_that_spreadsheets_add():
    """BOM, CRLF, blank lines, spaces, empty trailing cells, quotes."""
    data = b'\xef\xbb\xbf\r\n User ,INSTANCE,Region\r\nroot,postgres-a1,\r\n,,\r\n\r\n"etl",postgres-a2 ,ap-seoul,,\r\n'
    rows, problems, warnings = run(read_csv, data)
    assert rows == [("postgres-a1", "root", "ap-tokyo", 3), ("postgres-a2", "etl", "ap-seoul", 6)]
    assert problems == []
    assert warnings == []


def test_csv_region_order():
    """The row's region, else the entry's, else the job's; a short row is fine when only the region is missing."""
    rows, problems, _ = run(read_csv, "instance,user,region\npostgres-a1,u1\npostgres-a2,u2,ap-seoul\n", "eu-frankfurt")
    assert problems == []
    assert [row[2] for row in rows] == ["eu-frankfurt", "ap-seoul"]


def test_csv_extra_columns_are_named():
    """Ignored, but not in silence."""
    rows, problems, warnings = run(read_csv, "owner,instance,user,x\nann,postgres-a1,root,\n")
    assert (len(rows), problems) == (1, [])
    assert warnings == ["l:1: columns 'owner', 'x' ignored"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("instance,name", "l:1: no column user, only 'instance', 'name'; the first line must name"),
        ("a,b", "l:1: no column instance and no column user, only 'a', 'b'"),
        ("a,b", 'or say in the job what they are called: - {csv: l, columns: {instance: "a", user: "b"}}'),
        ("server,person", "l:1: no column instance and no column user, only 'server', 'person'"),
        ('{"instance":"postgres-a1","user":"u"}', "l:1: is JSON, not CSV; one object a line is read by `jsonl:`"),
        ("instance;name;region", "no column user, only 'instance', 'name', 'region'"),
        ("postgres-4sfuv15b,app_user,Ann,x", "begins with a target (postgres-4sfuv15b) instead of a header"),
        ("some-thing,app_user", "begins with a target (some-thing) instead of a header"),
        ("DBInstanceId,InstanceId,user", "columns 'DBInstanceId' and 'InstanceId' may both be the instance; say which"),
        ("instance", "no column user, only 'instance'"),
        ("instance,user,user", "column user stands twice"),
        ("instance,user,regoin", "column 'regoin'; did you mean region?"),
        ("instance,usr", "column 'usr'; did you mean user?"),
        ("instance,user,password", "a target list holds no secrets; use `passwords: {file: …}`"),
        ("instance,user,account", "column account, but the job names no cloud accounts"),
        ("", "is empty; the first line must name"),
        (" , ", "is empty; the first line must name"),
    ],
)
def test_csv_header_mistakes(header, said):
    """Each says what was found and what to do; no row is read by guess."""
    rows, problems, _ = run(read_csv, header + "\npostgres-a1,u1,u2\n" if header.strip(" ,") else header)
    assert rows == []
    assert len(problems) == 1
    assert said in problems[0]


def test_csv_bad_rows_are_all_named():
    """Good rows are still read, so that one go shows all."""
    data = "instance,user\npostgres-a1,u!1\nx,u2\npostgres-a1\npostgres-a1,u3,u4\npostgres-a1,u5\n,u6\n"
    rows, problems, _ = run(read_csv, data)
    assert [row[1] for row in rows] == ["u5"]
    assert [problem.split(": ")[0] for problem in problems] == ["l:2", "l:3", "l:4", "l:5", "l:7"]
    assert "has 1 of 2 columns" in problems[2]
    assert "has 3 columns where the header has 2" in problems[3]


def test_csv_at_most_fifty_rows_are_shown():
    """A wrong column is one mistake, a million times."""
    _, problems, _ = run(read_csv, "instance,user\n" + "bad,row\n" * 1000)
    assert len(problems) == MOST + 1
    assert "950 more" in problems[-1]


def test_csv_without_rows_is_an_error():
    """An empty export must not look like success."""
    _, problems, _ = run(read_csv, "instance,user\n\n")
    assert problems == ["l:1: has a header and no rows; add targets below it"]


@pytest.mark.parametrize(
    "text", ['instance,user\n"postgres-a1,u1\npostgres-a1,u2\n', 'instance,user\n"a"b,u\n', '"instance']
)
def test_csv_open_quotes_are_an_error(text):
    """A lenient reader would swallow the rest of the list as one field."""
    _, problems, _ = run(read_csv, text)
    assert len(problems) == 1
    assert "check the quotes" in problems[0]


@pytest.mark.parametrize("reader", [read_csv, read_jsonl])
def test_what_is_no_text(reader):
    """UTF-16, UTF-32 and binary are named as such."""
    assert "is UTF-32 text; save it as UTF-8" in run(reader, "instance,user".encode("utf-32"))[1][0]
    assert "UTF-8" in run(reader, b"\xff\xfei")[1][0]
    assert "NUL" in run(reader, b"instance,user\0")[1][0]


def test_csv_bytes_that_are_not_utf8_have_a_place():
    """A name in another encoding might be anybody's: the row is bad, and says what the name reads as."""
    assert run(read_csv, b"instance,user\npostgres-a1,\xff\n")[1][0].startswith("l:2: user: 'ÿ' is not ASCII")


def test_jsonl():
    """BOM, CRLF, blank lines; the row's region, else the entry's, else the job's."""
    data = (
        b'\xef\xbb\xbf{"instance":"postgres-a1","user":"u1"}\r\n\n'
        b'{"user":"u2","instance":"postgres-a2","region":"ap-seoul"}'
    )
    rows, problems, warnings = run(read_jsonl, data)
    assert rows == [("postgres-a1", "u1", "ap-tokyo", 1), ("postgres-a2", "u2", "ap-seoul", 3)]
    assert (problems, warnings) == ([], [])
    assert run(read_jsonl, data, "na-ashburn")[0][0][2] == "na-ashburn"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"instance":"postgres-a1"}', "missing required field `user`"),
        ("[1]", "Expected `object`"),
        ("{", "truncated"),
        ('{"instance":"postgres-a1","user":1}', "Expected `str`"),
        ('{"instance":"postgres-a1","user":"u","regoin":"x"}', "field 'regoin'; did you mean region?"),
        ('{"instance":"postgres-a1","user":"u","user":"dbadmin"}', "field user stands twice; keep one"),
        ('{"user":"u","instance":"postgres-a1","x":{"user":1,"user":2},"user":"v"}', "field user stands twice"),
        ('{"instance":"postgres-a1","user":"u","password":"x"}', "holds no secrets"),
        ('{"instance":"postgres-a1","user":"u","account":"1"}', "but the job names none"),
        ('{"instance":"postgres-a1","user":"u!1"}', "user: 'u!1' is not an account name"),
        ('{"instance":"postgres-a1","user":"u","x":' + "[" * 5000, "nested too deeply"),
        (b'{"instance":"postgres-a1","user":"\xff"}', "UTF-8"),
    ],
)
def test_jsonl_bad_lines_are_named(line, said):
    """By line, with the decoder's words."""
    line = line if isinstance(line, bytes) else line.encode()
    rows, problems, _ = run(read_jsonl, b'{"instance":"postgres-a1","user":"ok"}\n' + line)
    assert len(rows) == 1
    assert len(problems) == 1
    assert problems[0].startswith("l:2: ")
    assert said.lower() in problems[0].lower()


def test_jsonl_further_fields_are_named_once():
    """An export may hold more than we need."""
    line = '{"instance":"postgres-a1","user":"u","score":1,"seen":[1]}\n'
    rows, problems, warnings = run(read_jsonl, line * 3)
    assert (len(rows), problems) == (3, [])
    assert warnings == ["l:1: fields 'score', 'seen' ignored"]


def test_jsonl_empty_is_an_error():
    """As with CSV."""
    assert "is empty" in run(read_jsonl, "\n\n")[1][0]


def test_missing_regions_long_names_and_unlisted_regions_are_said_once():
    """One line each, with the first place, whatever their number."""
    long = "a" * 17
    rows = [f"postgres-a1,{long},ap-moon", f"postgres-a2,{long}b,ap-moon", "postgres-a3,u,", "postgres-a4,u,"]
    data = "\n".join(["instance,user,region", *rows])
    _, problems, warnings = run(read_csv, data, job_region="")
    assert problems == [
        "l:4: region: 2 targets without a region, the first here; set `region:` for all, or on the target "
        "(--region on the command line)"
    ]
    assert len(warnings) == 2
    assert warnings[0].startswith(f"l:2: 2 account names longer than 16 characters, the first '{long}'")
    assert warnings[1].startswith("l:2: region ap-moon is not among the documented ones")


def test_a_bad_region_is_named_with_its_row():
    """And does not count as missing."""
    _, problems, _ = run(read_csv, "instance,user,region\npostgres-a1,u,Singapore\n", job_region="")
    assert problems == ["l:2: region: 'Singapore' is not a region; did you mean ap-singapore?"]


def test_user_names_beyond_the_remembered_ones(monkeypatch):
    """Sharing equal names is bounded; beyond it they are still checked."""
    monkeypatch.setattr("engine.inputs.jobfile.targets._MOST_REMEMBERED", 1)
    rows, problems, _ = run(
        read_csv, "instance,user\npostgres-a1,u1\npostgres-a1,u2\npostgres-a1,u2\npostgres-a1,u!3\n"
    )
    assert len(rows) == 3
    assert len(problems) == 1


@given(st.binary(max_size=200))
@settings(deadline=None)
@pytest.mark.parametrize("reader", [read_csv, read_jsonl])
def test_random_bytes_never_raise(reader, data):
    """Targets or problems, nothing else."""
    rows, problems, _ = run(reader, b"instance,user\n" + data)
    assert rows or problems


def test_a_million_rows_are_quick_and_lean():
    """100,000 here, well inside a tenth of the 5 s allowed for a million; equal ids are one object."""
    data = b"instance,user\n" + b"".join(b"postgres-%08x,app_user_%d\n" % (i // 10, i % 10) for i in range(100_000))
    problems = Problems()
    targets = Targets(problems, "ap-tokyo")
    start = time.perf_counter()
    read_csv(data, "l", Defaults(), targets, problems)
    assert time.perf_counter() - start < 2
    assert targets.found[0].instance is targets.found[9].instance
    assert targets.found[0].user is targets.found[10].user
    assert targets.found[0].region is targets.found[-1].region
    assert msgspec.structs.astuple(targets.found[-1])[:2] == ("postgres-0000270f", "app_user_9")


def test_csv_a_column_like_one_that_is_there_is_only_ignored():
    """`instances` beside `instance` is no slip."""
    rows, problems, warnings = run(read_csv, "instance,user,instances\npostgres-a1,u1,3\n")
    assert (len(rows), problems) == (1, [])
    assert warnings == ["l:1: column 'instances' ignored"]


# ---- lists as people have them ---------------------------------------------------------------------------------------

TWO = [("postgres-4sfuv15b", "app_user", "ap-tokyo"), ("postgres-r95q23pn", "etl", "ap-seoul")]


@pytest.mark.parametrize(
    "text",
    [
        "instance;user;region\npostgres-4sfuv15b;app_user;\npostgres-r95q23pn;etl;ap-seoul\n",
        "Instance\tUser\tRegion\r\npostgres-4sfuv15b\tapp_user\t\r\npostgres-r95q23pn\tetl\tap-seoul\r\n",
        "instance|user|region\npostgres-4sfuv15b|app_user|\npostgres-r95q23pn|etl|ap-seoul\n",
        'sep=;\n"instance";"user";"region"\n"postgres-4sfuv15b";"app_user";""\n"postgres-r95q23pn";"etl";"ap-seoul"\n',
        'instance, user, region\npostgres-4sfuv15b, app_user,\npostgres-r95q23pn, "etl", ap-seoul\n',
        "instance user region\npostgres-4sfuv15b  app_user\npostgres-r95q23pn\t etl   ap-seoul \n",
        "postgres-4sfuv15b app_user\npostgres-r95q23pn etl ap-seoul\n",
        "\n# from the ticket\n  postgres-4sfuv15b\tapp_user\n\n# more\npostgres-r95q23pn etl ap-seoul",
        "postgres-4sfuv15b,app_user\npostgres-r95q23pn,etl,ap-seoul\n",
        "postgres-4sfuv15b;app_user;\r\npostgres-r95q23pn;etl;ap-seoul\r\n;;\r\n",
        "DBInstanceId,UserName,Region\npostgres-4sfuv15b,app_user,\npostgres-r95q23pn,etl,ap-seoul\n",
        "Instance ID;User Name;Region\npostgres-4sfuv15b;app_user;\npostgres-r95q23pn;etl;ap-seoul\n",
        "instance,user,region\rpostgres-4sfuv15b,app_user,\rpostgres-r95q23pn,etl,ap-seoul\r",
        "instance,user,region\npostgres-4sfuv15b\u00a0,\u200bapp_user,\npostgres-r95q23pn,etl ,ap-seoul\ufeff\n",
    ],
)
def test_lists_as_people_have_them(text):
    """Semicolons, tabs, bars, blanks, `sep=`, quotes, no header, the API's own names, what a web page leaves behind."""
    rows, problems, warnings = run(read_csv, text)
    assert ([row[:3] for row in rows], problems, warnings) == (TWO, [], [])
    for encoding in ("utf-8-sig", "utf-16"):
        assert [row[:3] for row in run(read_csv, text.encode(encoding))[0]] == TWO


def test_lines_keep_their_numbers():
    """Whatever stands before them: a bad row is found again in the file as it is."""
    text = "sep=;\r\n\r\ninstance;user\r\npostgres-a1;ok\r\n\r\npostgres-a1;u!1\r\n"
    rows, problems, _ = run(read_csv, text)
    assert [row[3] for row in rows] == [4] and problems[0].startswith("l:6: user: 'u!1'")
    rows, problems, _ = run(read_csv, "# list\n\npostgres-a1 ok\npostgres-a1 u!1\n")
    assert [row[3] for row in rows] == [3] and problems[0].startswith("l:4: user: 'u!1'")


def test_one_instance_slash_user_a_line():
    """As the command line takes them, and as chat messages have them."""
    rows, problems, _ = run(read_csv, "postgres-4sfuv15b/app_user\n# and\npostgres-r95q23pn/etl\n")
    assert ([row[:2] for row in rows], problems) == ([row[:2] for row in TWO], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgres-a1 u1\npostgres-a1\n", "l:2: has 1 of 3 columns; a row needs instance and user"),
        ("postgres-a1 u1\npostgres-a1 u2 ap-tokyo x\n", "l:2: has 4 columns where a list without a header has 3"),
        ("postgres-a1,u1\npostgres-a1,u2,Ann\n", "l:2: region: 'Ann' is not a region"),
        ("postgres-a1 user\n", "l:1: "),
        ("app_user postgres-a1\n", "l:1: no column instance and no column user"),
    ],
)
def test_without_a_header_nothing_is_guessed(text, said):
    """Rows that do not fit are named; a first line that might be a header, or the other way round, is no target."""
    _, problems, _ = run(read_csv, text)
    assert problems and said in problems[0]


@pytest.mark.parametrize("reader", [read_csv, read_jsonl])
@pytest.mark.parametrize(
    ("header", "said"),
    [
        (("Cluster", "Account", "Zone"), {"instance": "Cluster", "user": "Account", "region": "Zone"}),
        (("cluster", "account", "Region"), {"instance": "Cluster", "user": "ACCOUNT"}),
        (("instance", "login", "region"), {"user": "login"}),
    ],
)
def test_columns_are_what_the_job_says_they_are(reader, header, said):
    """`columns:` names them, exactly or but for case; what it does not name is found as ever."""
    table = [("postgres-4sfuv15b", "app_user", ""), ("postgres-r95q23pn", "etl", "ap-seoul")]
    if reader is read_csv:
        text = "\n".join(";".join(row) for row in (header, *table))
    else:
        text = "\n".join(msgspec.json.encode(dict(zip(header, row, strict=True))).decode() for row in table)
    rows, problems, warnings = run(reader, text, said=said)
    assert ([row[:3] for row in rows], problems, warnings) == (TWO, [], [])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"instance": "DBInstance"}, "l:1: no column 'DBInstance', which `columns:` says is the instance"),
        ({"user": "Usr"}, "no column 'Usr', which `columns:` says is the user; did you mean user?"),
        ({"user": "note"}, "column note stands twice; keep one"),
    ],
)
def test_a_column_the_job_names_must_be_there(said, words):
    """Or another one would be taken in its place."""
    rows, problems, _ = run(
        read_csv, "instance,user,note,Note\npostgres-a1,u1,x,y\n".replace("Note", "note"), said=said
    )
    assert rows == [] and words in problems[0]


def test_the_api_s_own_rows_are_read():
    """DescribeAccounts' answer, one account a line: its other fields are named once."""
    line = '{"DBInstanceId":"postgres-a1","UserName":"u1","Status":2,"OpenCam":false}\n'
    rows, problems, warnings = run(read_jsonl, line * 2)
    assert (len(rows), problems) == (2, [])
    assert warnings == ["l:1: field 'OpenCam' ignored"]


ids = st.from_regex(r"postgres-[a-z0-9]{8}", fullmatch=True)
people = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True).filter(lambda name: "user" not in name)


@given(st.lists(st.tuples(ids, people), min_size=1), st.data())
def test_any_layout_says_the_same(targets, data):
    """The same accounts, however they are separated, with or without a header, quoted or not."""
    separator = data.draw(st.sampled_from([",", ";", "\t", "|", " "]))
    quote = data.draw(st.sampled_from(["", '"'])) if separator != " " else ""
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    header = data.draw(st.sampled_from([[], [("instance", "user")], [("DBInstanceId", "UserName")]]))
    text = "".join(separator.join(f"{quote}{cell}{quote}" for cell in row) + end for row in [*header, *targets])
    rows, problems, _ = run(read_csv, text)
    assert (problems, [row[:2] for row in rows]) == ([], targets)


# ---- bad rows that are skipped ---------------------------------------------------------------------------------------


def test_bad_rows_are_set_aside_when_asked():
    """Each once, with all that is wrong with it, and what it says as far as a name can be long."""
    problems = Problems()
    targets = Targets(problems, "", skip_bad_rows=True)
    text = "instance,user,region\npostgres-a1,ok,ap-tokyo\nx,u!1,Tokyo\npostgres-a1\npostgres-a2,u2,\n,,ap-tokyo\n"
    read_csv(text.encode(), "l", Defaults(), targets, problems)
    targets.settle_regions()
    assert problems.count == 0
    assert [target.label for target in targets.found] == ["postgres-a1/ok"]
    said = [(omit.target.label, omit.where, omit.rule) for omit in targets.bad_rows]
    assert [row[:2] for row in said] == [
        ("x/u!1", "l:3"),
        ("postgres-a1/?", "l:4"),
        ("postgres-a2/u2", "l:5"),
        ("?/?", "l:6"),
    ]
    assert said[0][2].startswith("instance: 'x' is not an instance id") and "; user: 'u!1'" in said[0][2]
    assert "; region: 'Tokyo' is not a region" in said[0][2]
    assert "has 1 of 3 columns" in said[1][2] and said[2][2] == "region: is missing"
