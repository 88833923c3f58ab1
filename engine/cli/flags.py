"""The flags that several commands have, and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from engine.inputs.settingtable import WITH_FLAG

_F = TypeVar("_F", bound=Callable[..., Any])


class Idle(NamedTuple):
    """When a flag of some commands would do nothing, or undo another: then it is refused, and never dropped."""

    commands: str
    """By their names, `all` of them."""
    flag: str
    """`--flag`, `--flag=VALUE`, or the name of an argument."""
    needs: str = ""
    """It does something only beside one of these."""
    never: str = ""
    """It does not go with any of these."""
    words: str = ""
    """What to say; else the flags themselves are named."""


_BEGINS = "run lock unlock cam-on"
_SAVES = "plan lock unlock cam-on rerun undo"
IDLE = (
    Idle(_BEGINS, "--faults", needs="--simulate",
         words="--faults goes with --simulate; a server takes it as `acctops simulate --faults FILE`"),
    Idle("run", "--fleet", needs="--simulate",
         words="--fleet goes with --simulate; a server takes it as `acctops simulate --fleet FILE`"),
    Idle("run", "--real-gate", needs="--simulate",
         words="--real-gate goes with --simulate; any other run asks the gate of its job"),
    Idle("run", "--once", never="--now"),
    Idle("plan", "--save", never="--offline --fix --all"),
    Idle("lock unlock cam-on", "--save", never="--yes --simulate --unapproved"),
    Idle("rerun undo", "--save", never="--yes --unapproved"),
    Idle(_SAVES, "--key", needs="--save", words="--key signs the plan that --save writes; name that file, too"),
    Idle(_SAVES, "--save", needs="--key",
         words="a saved plan is signed by who asks for it; name your SSH key: --key FILE"),
    Idle("plan", "--reason", needs="--save"),
    Idle("plan", "--ticket", needs="--save"),
    Idle("plan", "--no-verify", needs="--save"),
    Idle("lock unlock cam-on", "--for", never="--until"),
    Idle("lock unlock cam-on", "--then", needs="--for --until"),
    Idle("report", "--since", never="--attempts --pace --stuck --family",
         words="--attempts, --pace, --stuck and --family go with one run, not with --since"),
    Idle("report", "--format=html", never="--attempts --pace --stuck --excel",
         words="--attempts, --pace, --stuck and --excel do not go with --format html, which has all of it"),
    Idle("report", "--attempts", needs="--json --format=json --format=csv --excel",
         words="--attempts needs --json, --format json or csv"),
    Idle("report", "--attempts", never="--pace --stuck --family"),
    Idle("report", "--pace", never="--stuck --family --format=csv --excel"),
    Idle("report", "--stuck", never="--json --format=json"),
    Idle("report pending", "--excel", never="--json --format=json --format=text"),
    Idle("discover", "--excel", never="--format=table --format=yaml --format=jsonl"),
    Idle("report", "--json", never="--format=csv --format=text --format=html"),
    Idle("report", "--ticket", needs="--format=html", words="--ticket goes with --format html"),
    Idle("schedule", "--image", needs="--format=k8s --format=compose"),
    Idle("schedule", "--database", never="--format=compose",
         words="--format compose brings a database of its own; leave --database away"),
    Idle("schedule", "--format=compose", needs="--worker",
         words="--format compose is for --worker: it starts nothing at set times"),
    Idle("schedule", "--lanes", needs="--worker"),
    Idle("schedule", "--program", needs="--worker"),
    *(
        Idle("schedule", flag, never="--worker", words=f"{flag} is for the runs of a job, and --worker has none")
        for flag in (each.flag for each in WITH_FLAG.values())
    ),
    *(Idle("schedule", flag, never="--worker") for flag in ("--tend", "--no-tend", "--every", "JOB")),
    *(
        Idle("schedule", flag, never="--tend", words=f"{flag} is for the runs of a job, and --tend has none")
        for flag in ("--endpoint", *(each.flag for each in WITH_FLAG.values()))
    ),
    Idle("schedule", "--no-tend", never="--tend"),
    Idle("schedule", "JOB", never="--tend", words="give a job, whose units have those of --tend with them, or --tend"),
    Idle("holds", "--due", never="--owed", words="give --due or --owed, not both: nobody holds what is owed"),
    Idle("overdue", "JOB", never="--tend", words="give a job or --tend, not both"),
    Idle("doctor", "--policy", needs="JOB", words="--policy says what a job needs: name the job"),
    Idle("undo", "--password-command", never="--password-file",
         words="give --password-command or --password-file, not both"),
)  # fmt: skip
"""The one table of flags that say nothing, or not the same thing, together. What a command never uses it does not
take."""


class Command(click.Command):
    """A command that refuses what would be dropped (see `IDLE`), and says what to type instead of a flag it lacks."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with our words for a flag that does not exist.

        A flag whose value may be left out takes the word behind it only if that begins with a digit: click would take
        any, and an account that stands there would be missing.
        """
        bare = {
            name: f"{name}={each.flag_value}"
            for each in self.params
            if isinstance(each, click.Option) and not each.is_flag and isinstance(each.flag_value, str)
            for name in each.opts
        }
        following = [*args, ""][1:]
        args = [
            bare[word] if word in bare and not after[:1].isdigit() else word
            for word, after in zip(args, following, strict=True)
        ]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from engine.cli.slips import instead_of_flag  # here: only a slip pays for the import

            known = [name for parameter in self.get_params(ctx) for name in parameter.opts if name.startswith("-")]
            hint = instead_of_flag(ctx.info_name or "", error.option_name, known)
            raise click.UsageError(f"No such option '{error.option_name}'{hint}", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, once no flag is idle."""
        said = _said(ctx)
        for row in IDLE:
            if ctx.info_name not in row.commands.split() or row.flag not in said:
                continue
            if row.needs and not said & set(row.needs.split()):
                raise click.UsageError(row.words or f"{row.flag} goes with {' or '.join(row.needs.split())}", ctx)
            if clash := sorted(said & set(row.never.split())):
                words = row.words or f"{row.flag} and {clash[0]} do not go together; leave one of them away"
                raise click.UsageError(words.replace("=", " "), ctx)
        path = ctx.params.pop("output_file", None)
        return into(path, partial(super().invoke, ctx), is_sending="yes" in ctx.params)


def into(path: str | None, work: Callable[[], Any], *, is_sending: bool = False) -> Any:
    """Do the work of a command, and put its result into the file of `-o`; None or `-`: print it.

    Any: as click has it.
    """
    if path in ("json", "yaml"):  # as kubectl has it
        raise click.UsageError(
            f"-o {path} would name a file; for JSON type --json", click.get_current_context(silent=True)
        )
    if path in (None, "-"):
        return work()
    from engine.cli.talk import written_to  # here: most results go to stdout

    return written_to(path, work, is_sending=is_sending)


def command(name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """`click.command` of such a command. Any: click's own settings."""
    return click.command(name, cls=Command, **settings)


def _said(ctx: click.Context) -> set[str]:
    """What was typed: flags, flags with their values, and arguments."""
    said = set()
    for parameter in ctx.command.params:
        if ctx.get_parameter_source(parameter.name) is not ParameterSource.COMMANDLINE:
            continue
        name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
        said |= {name, f"{name}={ctx.params.get(parameter.name)}"}
    return said


def _shown_text(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from engine.api.names import text_problem  # here: few commands are given a reason

    if value is not None and (problem := text_problem(value)) is not None:
        raise click.BadParameter(problem)
    return value


_SHARED: dict[str, Callable[[_F], _F]] = {
    "config": click.option(
        "--config", metavar="FILE", help="Read this config file too. Its guards add to those of the files found."
    ),
    "endpoint": click.option(
        "--endpoint",
        "endpoints",
        metavar="WHERE",
        multiple=True,
        help="Send there: a URL, nearest, regional, or an access region. Repeat it to use several, each with a quota.",
    ),
    "state_dir": click.option(
        "--state-dir", metavar="DIR", help="Keep journals in this directory. Default: ~/.local/state/acctops."
    ),
    "database": click.option(
        "--database",
        metavar="URL",
        help="Keep journals in this PostgreSQL database, such as postgresql://db/acctops?sslmode=verify-full.",
    ),
    "profile": click.option(
        "--profile",
        "profiles",
        metavar="NAME",
        multiple=True,
        help="Sign with this profile of the vendor's CLI. Repeat it to use several, each with a quota.",
    ),
    **{key: click.option(each.flag, metavar=each.metavar, help=each.help) for key, each in WITH_FLAG.items()},
    "page": click.option(
        "--page", metavar="FILE", help="Write a page for browsers to this file, every 2 s while the run goes."
    ),
    "page_names": click.option(
        "--page-names", is_flag=True, help="Name the accounts in that page. Default: only counts and codes."
    ),
    "detach": click.option(
        "--detach", is_flag=True, help="Leave the run to the workers of the database, and return at once."
    ),
    "yes": click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
    "json": click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
    "output": click.option(
        "-o",
        "--output",
        "output_file",
        metavar="FILE",
        help="Write the result to this file, which only you can read, and not to stdout.",
    ),
    "quiet": click.option("--quiet", is_flag=True, help="Print nothing on success, and the full report otherwise."),
    "unapproved": click.option(
        "--unapproved",
        metavar="REASON",
        callback=_shown_text,
        help="Go on without the signatures that the config asks for, if it lets you. Everybody is told.",
    ),
    "no_verify": click.option(
        "--no-verify", is_flag=True, help="Do not read the accounts back. What the API said is then the only proof."
    ),
}
READING = ("config", "state_dir", "database", "json", "output", "quiet")
PLANNING = ("config", "endpoint", "state_dir", "database", "profile", *WITH_FLAG, "json", "output", "quiet")
SENDING = (*PLANNING, "yes", "detach", "no_verify", "unapproved", "page", "page_names")


def clock() -> Callable[[], float]:
    """What the command tells the time by (`cli.main`)."""
    return click.get_current_context().obj or time.time


def flags(*names: str) -> Callable[[_F], _F]:
    """Common flags, in this order in the help."""

    def add(command: _F) -> _F:
        for name in reversed(names):
            command = _SHARED[name](command)
        return command

    return add


def saves(command: _F) -> _F:
    """The flags of a command that can save its plan, to be approved."""
    save = click.option("--save", metavar="PLAN", help="Write the signed plan to this file, and send nothing.")
    key = click.option(
        "--key",
        metavar="KEY",
        help="With --save: sign with this SSH key: a private one's file, or a public one's if an agent has the other.",
    )
    return save(key(command))


SIMULATE = click.option("--simulate", is_flag=True, help="Run against the built-in simulator. Needs no account.")
FAULTS = click.option("--faults", metavar="FILE", help="With --simulate: let the faults in this script happen.")
FLEET = click.option(
    "--fleet",
    metavar="FILE",
    help="With --simulate: let these instances and accounts exist: a file, or random:400x8 (instances x accounts).",
)
REAL_GATE = click.option(
    "--real-gate", is_flag=True, help="With --simulate: ask the gate of the job. Default: the simulator says green."
)
EXCLUDE = click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Leave out these accounts, written instance/user, such as '*/etl_*'. Repeat it for more.",
)
EXPECT = click.option(
    "--expect", metavar="N", type=click.IntRange(min=0), help="Refuse the plan unless it has exactly N calls."
)
SKIP_BAD_ROWS = click.option(
    "--skip-bad-rows", is_flag=True, help="Go on without the rows of lists that name no target. They count as failed."
)
SINCE = click.option(
    "--since", metavar="7d", help="Show all runs begun since then: 24h, 7d, 1w, or a date (UTC) such as 2026-11-23."
)
FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
    help="Print it so.",
)
EXCEL = click.option(
    "--excel", is_flag=True, help="Print CSV as Excel opens it by a double click: semicolons, and a mark for UTF-8."
)
OUTPUT = click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write the result to this file, which only you can read, and not to stdout.",
)
"""For a command that may write a second file beside it; the others have the shared flag."""
FAMILY = click.option(
    "--family", is_flag=True, help="Take this run and its reruns together: the latest outcome of each account."
)
NOW = click.option(
    "--now", is_flag=True, help="Send outside of the job's window too. Only a person at a terminal can say this."
)


ONCE = click.option(
    "--once",
    is_flag=True,
    help="Do nothing if a run has already answered this opening of the job's window. For schedules.",
)
REASON = click.option("--reason", metavar="TEXT", callback=_shown_text, help="Say why. The journal keeps it.")
TICKET = click.option(
    "--ticket", metavar="ID", callback=_shown_text, help="Name the change or incident. The journal keeps it."
)
