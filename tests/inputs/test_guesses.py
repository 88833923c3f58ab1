"""Lists as other programs leave them: what is read by guess, that each guess is said, and what stays a bad row."""

from __future__ import annotations

import msgspec
import pytest

from engine.inputs.jobfile.lists import read_csv, read_jsonl
from engine.inputs.jobfile.parse import parse_job
from engine.inputs.jobfile.problems import Problems
from engine.inputs.jobfile.targets import Defaults, Targets

A, B = "postgres-4sfuv15b", "postgres-r95q23pn"
LINK = "https://console.tencentcloud.com/postgres/detail?rid=9&id={}&tab=accounts"


class Read:
    """A list that was read: targets, problems, bad rows, warnings, guesses."""

    def __init__(self, reader, data, *, region="", skip=False, said=None, of=None, written="dir/l9.csv"):
        self.collected = Problems()
        targets = Targets(self.collected, region, skip_bad_rows=skip)
        data = data.encode() if isinstance(data, str) else data
        self.warnings = reader(data, "l9.csv", of or Defaults(), targets, self.collected, said or {}, written)
        targets.settle_regions()
        self.targets = [(each.instance, each.user, each.region) for each in targets.found]
        self.lines = [each.line for each in targets.found]
        self.problems = self.collected.lines()
        self.bad = [(omit.where, omit.rule) for omit in targets.bad_rows]
        self.labels = [omit.target.label for omit in targets.bad_rows]
        self.guesses = [str(guess) for guess in targets.guesses.found()]
        self.found = targets.guesses.found()
        self.trimmed = targets.guesses.trimmed()


def csv(data, **how):
    """A CSV list, read."""
    return Read(read_csv, data, **how)


def jsonl(*rows, **how):
    """A JSON Lines list, read."""
    return Read(read_jsonl, b"\n".join(msgspec.json.encode(row) for row in rows), **how)


# ---- encodings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp1250", "gbk"])
def test_a_list_as_excel_saves_it_in_europe_is_read(encoding):
    """Semicolons, CRLF, and a note in the PC's own encoding: the whole list was refused for a comment's umlaut."""
    note = "锁定" if encoding == "gbk" else "Müller"
    text = f"instance;user;region;note\r\n{A};app_user;ap-tokyo;{note}\r\n{B};etl;ap-seoul;plain\r\n"
    read = csv(text.encode(encoding))
    assert read.targets == [(A, "app_user", "ap-tokyo"), (B, "etl", "ap-seoul")]
    assert read.problems == [] and len(read.guesses) == 1
    assert read.guesses[0].startswith("l9.csv:2:")
    assert "is not UTF-8, and 1 line has letters beyond ASCII: read as Windows-1252 with semicolons" in read.guesses[0]


def test_a_name_that_is_not_ascii_is_a_bad_row_in_a_foreign_encoding():
    """The encoding is a guess, so the account would be one, too: somebody else could be locked."""
    text = f"instance,user,region,note\n{A},m\u00fcller,ap-tokyo,x\n{A},ok,ap-tokyo,\u00e9\n{A},ok2,Z\u00fcrich,x\n"
    read = csv(text.encode("cp1252"), skip=True)
    assert read.targets == [(A, "ok", "ap-tokyo")]
    assert [where for where, _ in read.bad] == ["l9.csv:2", "l9.csv:4"]
    assert "user: 'müller' is not ASCII, and the list is not UTF-8, so its letters would be a guess" in read.bad[0][1]
    assert len(csv(text.encode("cp1252")).problems) == 2


@pytest.mark.parametrize("row", [b"admin\xa0", b"\xadapp_user"])
def test_a_byte_that_shows_as_invisible_in_a_guessed_encoding_is_kept(row):
    """In another encoding it is a letter: without it the name would be another account's."""
    read = csv(f"instance,user\n{A},".encode() + row + b"\n", region="ap-tokyo", skip=True)
    assert read.targets == [] and len(read.bad) == 1


def test_a_separator_that_may_be_half_a_letter_is_refused():
    """In Japanese and Chinese encodings the second byte of a letter may be a bar: a note's end would be the user."""
    text = f"instance|note|user|\n{A}|\u30ddx|bob|\n"
    assert "\u30dd".encode("shift-jis") == b"\x83|"
    read = csv(text.encode("shift-jis"), region="ap-tokyo")
    assert read.targets == [] and "in some encodings a letter holds a |; save the list as UTF-8" in read.problems[0]
    assert csv(text, region="ap-tokyo").targets == [(A, "bob", "ap-tokyo")]


def test_a_letter_across_two_pieces_of_a_large_list_is_whole():
    """A megabyte is checked at a time; a letter on the edge must not make it another encoding."""
    head = "instance,user,region,note\n"
    text = head + f"{A},app_user,ap-tokyo,{'x' * 99_000}\n" * 12 + f"{A},etl,ap-tokyo,"
    data = (text[: (1 << 20) - 1] + "ü" + text[(1 << 20) :] + "\n").encode()
    assert data[(1 << 20) - 1 : (1 << 20) + 1] == "ü".encode()
    assert csv(data).guesses == [] and len(csv(data).targets) == 13


def test_the_login_of_a_link_is_kept_nowhere():
    """A bad row stands in the journal and in every report."""
    read = csv(f"instance,user,region\nhttps://ann:S3cret@host/x,u,ap-tokyo\n{A},ok,ap-tokyo\n", skip=True)
    assert "S3cret" not in str(read.bad) and "S3cret" not in str(read.labels)


def test_bytes_of_no_encoding_at_all_are_read_where_they_are_ignored():
    """0x81 is no letter in Windows-1252; a list with it in a note was refused as a whole."""
    read = csv(b"instance,user,region,note\n" + A.encode() + b",app_user,ap-tokyo,\x81\x8d\n")
    assert read.targets == [(A, "app_user", "ap-tokyo")] and len(read.guesses) == 1


def test_a_mark_of_utf8_before_a_list_in_another_encoding_is_no_part_of_its_header():
    """Two exports that were put into one file: the header was not found."""
    read = csv(b"\xef\xbb\xbfinstance,user,region,x\n" + A.encode() + b",app_user,ap-tokyo,M\xfcller\n")
    assert read.targets == [(A, "app_user", "ap-tokyo")]


def test_utf8_and_utf16_are_no_guess():
    """A warning for each good list would teach people to overlook warnings."""
    text = f"instance,user,region,note\n{A},app_user,ap-tokyo,Müller\n"
    for data in (text.encode(), text.encode("utf-8-sig"), text.encode("utf-16")):
        assert csv(data).guesses == []


# ---- separators, titles, headers -------------------------------------------------------------------------------------


def test_another_separator_than_a_comma_is_a_remark():
    """It is said, as nothing is guessed silently; a quiet night of a good list sends no mail for it."""
    read = csv(f"instance;user;region\n{A};app_user;ap-tokyo\n")
    assert read.guesses == ["l9.csv:1: separated by semicolons"]
    assert read.found[0].is_sure
    assert csv(f"sep=;\ninstance;user;region\n{A};app_user;ap-tokyo\n").guesses == []


@pytest.mark.parametrize(
    ("above", "first"),
    [
        ("Leaked accounts\n", "'Leaked accounts'"),
        ("Leaked accounts;;;\r\n", "'Leaked accounts'"),
        ('"Export of 2026-11-28, INC-4711";;\n\n', "'Export of 2026-11-28, INC-4711'"),
        ("Cluster login list\n", "'Cluster login list'"),
        ("Report\nby;Ann\n;;\n", "'Report'"),
    ],
)
def test_a_title_above_the_header_is_skipped(above, first):
    """Reports begin with a title: it was taken for the header, and the whole list refused."""
    read = csv(f"{above}instance;user;region\n{A};app_user;ap-tokyo\n")
    assert (read.targets, read.problems) == ([(A, "app_user", "ap-tokyo")], [])
    assert f"above the header skipped, the first {first}" in read.guesses[0]
    assert read.lines == [above.count("\n") + 2]


@pytest.mark.parametrize("above", [f"{A},app_user\n", '{"a":1}\n', f"{LINK.format(A)},x,y,z,a\n"])
def test_what_may_be_a_target_is_no_title(above):
    """A row above the header that would be skipped silently is an account that stays open."""
    read = csv(f"{above}instance,user,region\n{B},etl,ap-seoul\n")
    assert read.problems and not any("skipped" in guess for guess in read.guesses)


def test_an_unknown_header_above_rows_is_no_title():
    """Or its rows would be read as instance and user by their place, which nobody said."""
    read = csv(f"server,person\n{A},app_user\n", region="ap-tokyo")
    assert read.targets == [] and "no column instance and no column user" in read.problems[0]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Cluster,Login", "columns taken: 'Cluster' for the instance, 'Login' for the user; to make that certain"),
        ("Cluster ID,DB-Benutzer", 'columns: {instance: "Cluster ID", user: "DB-Benutzer"}'),
        ("Cluster\u00a0ID,login_name", "columns taken: 'Cluster\\xa0ID' for the instance, 'login_name' for the user"),
        ("DB instance,Login", "column taken: 'Login' for the user"),
        ("instance,Datenbank-Benutzer", "column taken: 'Datenbank-Benutzer' for the user"),
    ],
)
def test_words_that_people_use_for_columns_are_taken_and_said(header, words):
    """A list from a colleague's tool was refused for calling the user a login."""
    read = csv(f"{header},Region\n{A},app_user,ap-tokyo\n")
    assert (read.targets, read.problems) == ([(A, "app_user", "ap-tokyo")], [])
    assert len(read.guesses) == 1 and words in read.guesses[0]
    pair = dict(zip(header.split(","), (A, "app_user"), strict=True))
    assert jsonl({**pair, "region": "ap-tokyo"}).targets == read.targets


@pytest.mark.parametrize("header", ["instance,user,DB User,region", "DBInstanceId,UserName,db_user,region"])
def test_a_column_of_another_spelling_beside_ours_is_asked_about(header):
    """`User` may be the person, and `DB User` the account: to take the better name would lock the person's namesake."""
    read = csv(f"{header}\n{A},alice,app_user,ap-tokyo\n")
    assert read.targets == [] and "may both be the user; say which: columns: {user: …}" in read.problems[0]


def test_a_column_that_is_taken_by_a_word_of_people_stands_in_the_question():
    """Which column is the user decides who is locked, more than any other guess."""
    read = csv(f"Cluster,Login,Rolname\n{A},app_user,x\n", region="ap-tokyo")
    choices = [guess.choice for guess in read.found if guess.choice]
    assert choices == ["'Cluster' taken for the instance, 'Login' taken for the user"]


def test_between_blanks_a_missing_cell_makes_a_bad_row():
    """The next cell would be taken for it: a note for an account."""
    text = f"instance owner user note\n{A} alice app_user x\n{B} app_user bob\n"
    read = csv(text, region="ap-tokyo", skip=True)
    assert read.targets == [(A, "app_user", "ap-tokyo")] and len(read.bad) == 1
    assert "has 3 of 4 columns, and blanks do not tell which is missing" in read.bad[0][1]
    assert len(csv(f"instance user region\n{A} app_user\n", region="ap-tokyo").targets) == 1


def test_rows_inside_of_stray_quotes_are_not_lost():
    """Two quotes in a comment make one cell of all between them; what is named there is not dropped in silence."""
    text = f'instance,user,comment\n{A},app_a,"urgent\n{B},app_b,disk 5"\n{A},app_c,\n,,see {B}\n'
    read = csv(text, region="ap-tokyo", skip=True)
    assert read.targets == [(A, "app_c", "ap-tokyo")]
    assert len(read.bad) == 1 and "goes over lines 2 to 3 and names an instance there" in read.bad[0][1]
    assert "l9.csv:5: 1 row names no instance and no user, and count for nothing" in read.guesses
    fine = csv(f'instance,user,comment\n{A},app_a,"two\nlines"\n', region="ap-tokyo")
    assert len(fine.targets) == 1 and not fine.bad


@pytest.mark.parametrize(
    "line",
    [
        f'{{"DBInstanceId":"{A}","UserName":"a","UserName":"b"}}',
        f'{{"instance":"{A}","login":"a","login":"b"}}',
        f'{{"instance":"{A}","user":"a","\\u0075ser":"b"}}',
    ],
)
def test_a_field_that_stands_twice_is_a_bad_row_whatever_it_is_called(line):
    """Decoders take the last one without a word."""
    read = Read(read_jsonl, line, region="ap-tokyo")
    assert read.targets == [] and "stands twice; keep one" in read.problems[0]


@pytest.mark.parametrize(
    "cell",
    [
        f"{A}/app_x",
        f"https://c.example/pg/{A}-old?from={B}",
        f"https://c.example/{A.upper()}?ref={B}",
        f"https://c.example/{A}?region=ap-seoul",
    ],
)
def test_a_link_that_may_mean_another_instance_is_a_bad_row(cell):
    """Another account beside it, another id, a referrer, another region: nothing is taken."""
    text = f"instance,user,region\n{cell},app_user,ap-tokyo\n"
    assert len(csv(text).problems) == 1
    read = csv(text, skip=True)
    assert read.targets == [] and len(read.bad) == 1


def test_a_header_that_begins_with_a_sign_of_remarks_is_said():
    """`#instance,owner` would be skipped, and the owner taken for the account."""
    read = csv(f"#instance,owner\n{A},alice\n", region="ap-tokyo")
    assert read.targets == [] and "l9.csv:1: begins with #, so it is skipped" in read.problems[0]
    assert len(csv(f"# leaked on Friday\n{A},app_user\n", region="ap-tokyo").targets) == 1


def test_two_columns_that_may_both_be_the_instance_are_asked_about():
    """`Cluster` may be its name and `Cluster ID` its id: which one is not for acctops to say."""
    read = csv(f"Cluster,Cluster ID,user,region\nx,{A},app_user,ap-tokyo\n")
    assert "columns 'Cluster' and 'Cluster ID' may both be the instance; say which" in read.problems[0]
    ours = csv(f"Cluster,instance,user,region\nx,{A},app_user,ap-tokyo\n")
    assert ours.targets == [(A, "app_user", "ap-tokyo")] and ours.guesses == []


def test_an_account_called_login_is_still_a_name():
    """A list without a header must not turn into one with an unknown header."""
    assert csv(f"{A},login\n", region="ap-tokyo").targets == [(A, "login", "ap-tokyo")]


@pytest.mark.parametrize(
    ("text", "how", "line"),
    [
        (
            f"Server;Konto;Ort\n{A};app_user;x\n",
            {"written": "l9.csv"},
            '- {csv: l9.csv, columns: {instance: "Server", user: "Konto"}}',
        ),
        (
            f"Ort,Konto,Server\nTokyo-1,app_user,{A}\n",
            {"written": "my list.csv", "of": Defaults("ap-tokyo")},
            '- {csv: "my list.csv", region: ap-tokyo, columns: {instance: "Server", user: "Konto"}}',
        ),
        (f'user,"a ""b"""\napp_user,{A}\n', {}, '- {csv: dir/l9.csv, columns: {instance: "a \\"b\\""}}'),
        ("a,b\n", {"written": "-"}, '- {csv: "-", columns: {instance: "…", user: "…"}}'),
    ],
)
def test_the_hint_for_a_missing_column_is_the_whole_line_to_write(text, how, line):
    """`columns: {instance: …}` alone was written at the top level of jobs, where it means nothing."""
    problems = csv(text, **how).problems
    assert len(problems) == 1 and problems[0].endswith(f"or say in the job what they are called: {line}")


def test_the_hint_for_a_missing_field_is_the_whole_line_to_write():
    """JSON from another tool calls things otherwise, too."""
    problems = jsonl({"srv": A, "who": "app_user", "n": 1}, written="l.jsonl").problems
    assert problems[0].endswith('called: - {jsonl: l.jsonl, columns: {instance: "srv", user: "who"}}')


def test_a_list_without_a_header_is_said_to_have_none():
    """Which column is which was taken from one line: a remark, as the line can hardly mean anything else."""
    read = csv(f"{A},app_user,ap-tokyo\n")
    assert read.guesses == ["l9.csv:1: no header: columns are taken as instance, user and region, as in this line"]
    assert csv(f"{A}/app_user\n", region="ap-tokyo").guesses == ["l9.csv:1: separated by a slash"]


# ---- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", [LINK.format(A), f"console.tencentcloud.com/postgres/{A}", LINK.format("x") + f"%26i%3D{A}"]
)
def test_the_one_instance_in_a_link_is_taken_and_said_before_a_run(cell):
    """People paste the console's link. What it means decides who is locked, so the question must name it."""
    read = csv(f"instance,user,region\n{cell},app_user,ap-tokyo\n{cell},etl,ap-tokyo\n")
    assert (read.targets, read.problems) == ([(A, "app_user", "ap-tokyo"), (A, "etl", "ap-tokyo")], [])
    assert read.guesses == [f"l9.csv:2: instance ids of 2 rows taken out of a URL, the first {A}"]
    assert read.found[0].choice == f"2 instance ids taken out of URLs ({A})"
    assert jsonl({"instance": cell, "user": "app_user", "region": "ap-tokyo"}).targets == read.targets[:1]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (LINK.format(A) + f"&other={B}", f"names 2 instances ({A}, {B}); write the one that is meant"),
        ("https://console.tencentcloud.com/postgres/ap-tokyo", "is not an instance id"),
        (f"https://x/?my-{A}", "is not an instance id"),
    ],
)
def test_a_link_with_several_instances_or_none_is_a_bad_row(cell, words):
    """Which of two is meant nobody can know."""
    read = csv(f"instance,user,region\n{cell},app_user,ap-tokyo\n{B},etl,ap-seoul\n", skip=True)
    assert read.targets == [(B, "etl", "ap-seoul")] and words in read.bad[0][1] and read.guesses == []


@pytest.mark.parametrize("end", ["\u200b", "\u00a0", "\ufeff", "\u200c\u200d", " \u200b \u2060 ", "\u3000", "\u202c"])
def test_invisible_characters_around_names_go_in_csv_and_json_alike(end):
    """Copied from a web page, a name had a zero-width space at its end: one format took it, the other did not."""
    row = {"instance": f"{end}{A}{end}", "user": f"{end}app_user{end}", "region": f"ap-tokyo{end}"}
    text = "instance,user,region\n" + ",".join(row.values()) + "\n"
    for read in (csv(text), jsonl(row)):
        assert (read.targets, read.problems, read.guesses) == ([(A, "app_user", "ap-tokyo")], [], [])
        assert [change.new for change in read.trimmed[0].changes] == [A, "app_user", "ap-tokyo"]


def test_null_in_json_is_an_empty_cell():
    """`"region": null`, as every exporter writes a field that is empty, was a bad row."""
    rows = [{"instance": A, "user": "app_user", "region": None}, {"instance": B, "user": "etl", "region": ""}]
    assert jsonl(*rows, region="ap-tokyo").targets == [(A, "app_user", "ap-tokyo"), (B, "etl", "ap-tokyo")]
    assert jsonl(rows[0], of=Defaults("ap-seoul")).targets == [(A, "app_user", "ap-seoul")]
    assert "Expected `str`, got `null`" in jsonl({"instance": None, "user": "u"}).problems[0]


# ---- regions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
def test_a_row_without_region_takes_that_of_its_instance(skip):
    """The first row of each instance had the region, as in a merged cell; the others were refused."""
    text = f"instance,user,region\n{A},before,\n{A},app_user,ap-tokyo\n{A},etl,\n{B},x,ap-seoul\n"
    read = csv(text, skip=skip)
    assert read.targets == [
        (A, "before", "ap-tokyo"),
        (A, "app_user", "ap-tokyo"),
        (A, "etl", "ap-tokyo"),
        (B, "x", "ap-seoul"),
    ]
    assert read.guesses == [
        "l9.csv:2: 2 rows without a region take that of another row of the instance, the first ap-tokyo (l9.csv:3)"
    ]
    assert read.found[0].choice == "2 regions taken from other rows (ap-tokyo)"


def test_a_region_that_rows_disagree_on_is_not_taken():
    """One of the two is wrong, and nobody can know which."""
    text = f"instance,user,region\n{A},a,ap-tokyo\n{A},b,ap-seoul\n{A},c,\n{B},d,\n{B},e,ap-seoul\n"
    read = csv(text, skip=True)
    assert read.bad == [("l9.csv:4", "region: is missing (other rows of the instance say ap-tokyo and ap-seoul)")]
    assert [target[1] for target in read.targets] == ["a", "b", "d", "e"]
    assert "1 target without a region, the first here (other rows of the instance say" in csv(text).problems[0]


def test_a_region_that_is_said_for_all_is_no_guess():
    """The job's and the entry's region hold for rows that name none, as the page says."""
    text = f"instance,user,region\n{A},a,ap-seoul\n{A},b,\n{B},c,\n"
    for read in (csv(text, region="ap-seoul"), csv(text, of=Defaults("ap-seoul"))):
        assert [target[2] for target in read.targets] == ["ap-seoul"] * 3 and read.guesses == []


@pytest.mark.parametrize("of", [{"region": "ap-seoul"}, {"of": Defaults("ap-seoul")}])
def test_a_row_goes_where_other_rows_of_its_instance_say_and_not_where_all_others_go(of):
    """An instance is in one region: with the job's its rows without one went astray, and nobody was told."""
    read = csv(f"instance,user,region\n{A},a,\n{A},b,ap-tokyo\n{B},c,\n", **of)
    assert read.targets == [(A, "a", "ap-tokyo"), (A, "b", "ap-tokyo"), (B, "c", "ap-seoul")]
    assert read.guesses == [
        "l9.csv:2: 1 row without a region takes that of another row of the instance and not the one that is set, the "
        "first ap-tokyo (l9.csv:3)"
    ]
    assert read.found[0].choice == "1 region taken from other rows and not the one that is set (ap-tokyo)"
    assert read.found[0].changes[0].old == "no region, else ap-seoul"


def test_where_other_rows_disagree_the_region_that_is_set_holds_and_all_lines_are_named():
    """One of three is right, and nobody can know which: what the operator set is not taken away for a guess."""
    text = f"action: LockAccount\nregion: ap-seoul\ntargets:\n  - csv: l.csv\n  - {A}/own\n"
    rows = f"instance,user,region\n{A},a,ap-tokyo\n{A},b,ap-jakarta\n{A},c,\n"
    job = parse_job(text.encode(), file="j", read=lambda _: rows.encode())
    assert [target.region for target in job.targets] == ["ap-tokyo", "ap-jakarta", "ap-seoul", "ap-seoul"]
    (said,) = job.warnings
    assert said == (
        f"l.csv:4: names no region and is taken in ap-seoul, and other rows of {A} say ap-tokyo (l.csv:2) and "
        "ap-jakarta (l.csv:3); an instance is in one"
    )


def test_a_match_keeps_its_place_though_a_row_above_it_is_taken_out():
    """What a match finds is put where it stands: with one row less above it, that is one earlier."""
    text = "action: LockAccount\ntargets:\n  - csv: l.csv\n  - match: {regions: [ap-tokyo], users: {glob: a}}\n"
    text += f"  - {{instance: {B}, user: z, region: ap-seoul}}\n"
    rows = f"instance,user,region\n{A},a,\n{B},b,\n{B},c,ap-seoul\n".encode()
    job = parse_job(text.encode(), file="j", read=lambda _: rows, skip_bad_rows=True)
    assert [target.label for target in job.targets] == [f"{B}/b", f"{B}/c", f"{B}/z"]
    assert [match.at for match in job.matches] == [2]
    assert [omit.where for omit in job.omits] == ["l.csv:2"]
    assert [guess.place.line for guess in job.guesses] == [3]


def test_a_region_may_stand_in_another_list_of_the_job():
    """One file says where instances are, the other who is meant."""
    lists = {"a.csv": f"instance,user\n{A},a\n", "b.csv": f"instance,user,region\n{A},b,ap-tokyo\n"}
    text = "action: LockAccount\ntargets:\n  - csv: a.csv\n  - csv: b.csv\n"
    job = parse_job(text.encode(), file="j", read=lambda path: lists[path].encode())
    assert [(target.user, target.region) for target in job.targets] == [("a", "ap-tokyo"), ("b", "ap-tokyo")]
    assert len(job.warnings) == 1 and "(b.csv:2)" in job.warnings[0]


# ---- rows that cannot be read ----------------------------------------------------------------------------------------

HEAD = f"instance,user,region,note\n{A},first,ap-tokyo,x\n"
REST = f"{B},last,ap-seoul,y\n"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (f'"{A}" ,"app_user",ap-tokyo,x\n', "',' expected after '\"'"),
        (f"{A},app_user,ap-tokyo,{'x' * 140_000}\n", "field larger than field limit (131072)"),
        (f'{A},app_user,ap-tokyo,"a"b\n', "',' expected after '\"'"),
    ],
)
def test_one_row_that_cannot_be_read_does_not_stop_the_list(row, words):
    """One odd row of a thousand, and `--skip-bad-rows` sent nothing."""
    read = csv(HEAD + row + REST, skip=True)
    assert [target[1] for target in read.targets] == ["first", "last"] and read.lines == [2, 4]
    assert len(read.bad) == 1 and read.bad[0][0] == "l9.csv:3" and words in read.bad[0][1]
    said = csv(HEAD + row * 3 + REST).problems
    assert [line.split(": ")[0] for line in said] == ["l9.csv:3", "l9.csv:4", "l9.csv:5"]


def test_lines_of_a_broken_cell_are_not_taken_for_rows():
    """A note of several lines names accounts that nobody meant to lock."""
    note = f'"{A}" ,"app_user",ap-tokyo,"see\n{B},innocent,ap-seoul,z\nend"\n'
    read = csv(HEAD + note + REST, skip=True)
    assert [target[1] for target in read.targets] == ["first", "last"]
    assert read.bad[0][0] == "l9.csv:3" and "so lines 3 to 5 are not read" in read.bad[0][1]
    giant = f'{A},app_user,ap-tokyo,"' + f"{B},innocent,ap-seoul,z\n" * 6000 + '"\n'
    read = csv(HEAD + giant + REST, skip=True)
    assert [target[1] for target in read.targets] == ["first", "last"] and len(read.bad) == 1


def test_quotes_that_never_close_stop_the_list_where_they_open():
    """The rest may be one cell, or thousands of rows: to send half of it would look like all."""
    read = csv(HEAD + f'{A},"app_user,ap-tokyo,x\n' + REST * 3, skip=True)
    assert len(read.problems) == 1 and read.problems[0].startswith("l9.csv:3: ") and read.bad == []


def test_a_header_that_cannot_be_read_stops_the_list():
    """Without it no row means anything; the next row must not be taken in its place."""
    read = csv(f'"instance" ,"user"\n{A},app_user\n', skip=True, region="ap-tokyo")
    assert read.targets == [] and read.problems[0].startswith("l9.csv:1: ")


def test_many_broken_rows_take_no_long_time():
    """Each is read once more, not the whole list for each."""
    read = csv(HEAD + f'"{A}" ,"app_user",ap-tokyo,x\n{A},ok,ap-tokyo,x\n' * 20_000, skip=True)
    assert (len(read.targets), len(read.bad)) == (20_001, 20_000)
