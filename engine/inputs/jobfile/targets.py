"""Checks and collects the targets of a job, wherever they are written. No I/O.

Made for a million targets: a name is checked once, and equal instance ids and regions are one object.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from engine.api import names
from engine.inputs.guesses import INSTEAD, REGION, URL, Guesses
from engine.model import Omit, OmitReason, Place, Target
from engine.outside.foreign import clean, without_userinfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.inputs.jobfile.problems import Problems

_MOST_REMEMBERED = 65_536
"""User names that are remembered and shared, at most: many repeat over instances (`app`, `etl`), or hardly any do."""


class Defaults(NamedTuple):
    """Region and account of a list's rows that name none; empty: the job's."""

    region: str = ""
    account: str = ""


class Targets:
    """A collector of targets; it notes what is wrong in `problems` and goes on collecting.

    With `skip_bad_rows`, a bad row of a list (column 0) goes to `bad_rows` instead, and is reported as failed.
    """

    def __init__(
        self,
        problems: Problems,
        region: str,
        accounts: Sequence[str] = (),
        *,
        skip_bad_rows: bool = False,
        has_job: bool = True,
    ) -> None:
        """Take `region`, of targets that name none; empty: each needs its own. `has_job`: they are not typed."""
        self.has_job = has_job
        self.found: list[Target] = []
        """Also those whose names are legal, and whose region is not: they have none."""
        self.bad_rows: list[Omit] = []
        self.row_problems = 0
        """Number of problems that are of rows of lists."""
        self._skip_bad_rows = skip_bad_rows
        self._problems = problems
        self._region = region
        self._accounts = {name: name for name in accounts}
        self._account = accounts[0] if len(accounts) == 1 else ""
        """Account of targets that name none; empty: each needs its own, if the job has accounts."""
        self._without_account = 0
        self._first_without_account: Place | None = None
        self._instances: dict[str, str] = {}
        self._users: dict[str, str] = {}
        self._regions: dict[str, str] = {region: region}
        self._regionless: list[int] = []
        """Indexes in `found` of targets that name no region where none is given for all."""
        self._defaulted = array("L")
        """Indexes in `found` of targets that name no region where one is given for all."""
        self._torn: list[str] = []
        """Of those, what is said of the first one whose instance other rows place in several regions."""
        self._unplaced: list[Place] = []
        """Places of targets that name no region either, and have another problem."""
        self.guesses = Guesses()
        self._unusual: set[str] = set()
        self._unusual_rows = 0
        self._first_unusual: Target | None = None
        self._long = 0
        self._first_long: Target | None = None
        self._unlisted: dict[str, Place] = {}

    def add(
        self,
        instance: str,
        user: str,
        region: str,
        file: str,
        line: int,
        column: int,
        path: str = "",
        region_path: str = "",
        account: str = "",
        default: str = "",
    ) -> None:
        """Add one target; `path` names it in messages, an empty account is the job's only one.

        An empty region is the `default` of its list, or else the job's.
        """
        is_named = bool(region)
        region = region or default
        known_instance = self._instances.get(instance)
        known_user = self._users.get(user)
        known_region = self._regions.get(region) if region else self._region
        is_taken = False
        if known_instance is None or known_user is None or not known_region:
            place = Place(file, line, column)
            known = self._checked((instance, user, region), place, path, region_path or _join(path, "region"))
            if known is None:
                return
            known_instance, known_user, known_region = known
            is_taken = known_instance != instance
        if account or self._accounts:
            known_account = self._known_account(account, (instance, user, region), Place(file, line, column), path)
            if known_account is None:
                return
            account = known_account
        target = Target(known_instance, known_user, known_region, account, file, line, column)
        if not is_named:
            (self._defaulted if known_region else self._regionless).append(len(self.found))
        if is_taken:
            self.guesses.row(URL, target.place, instance, known_instance)
        self.found.append(target)
        if self._unusual and known_user in self._unusual:
            self._unusual_rows += 1
            self._first_unusual = self._first_unusual or target
        elif len(known_user) > names.LONG_USER:
            self._long += 1
            self._first_long = self._first_long or target

    @property
    def region(self) -> str:
        """The region of targets that name none; empty if there is none for all."""
        return self._region

    @property
    def accounts(self) -> tuple[str, ...]:
        """The cloud accounts of the job."""
        return tuple(self._accounts)

    def _known_account(self, account: str, cells: tuple[str, str, str], place: Place, path: str) -> str | None:
        """Return the job's account of that name; None if there is none (noted, or counted if the name is empty)."""
        known = self._accounts.get(account) or (self._account if not account else "")
        if known:
            return known
        if account or (self._skip_bad_rows and not place.column):
            self.refuse(place, cells, [(_join(path, "account"), self.account_problem(account))])
            return None
        self._without_account += 1
        if self._first_without_account is None:
            self._first_without_account = place
        return None

    def account_problem(self, account: str) -> str:
        """Return why `account` is not one of the job's, in words."""
        if not self._accounts:
            how = "the job names none; list it under accounts:"
            how = how if self.has_job else "a command line names none; remove it, or write a job that names it"
            return f"account {names.shown(account)}, but {how}"
        if not account:
            return f"is missing; the job has {', '.join(self._accounts)}"
        hint = names.did_you_mean(account, self._accounts) or f"; there are {', '.join(self._accounts)}"
        return f"{names.shown(account)} is none of the job's accounts{hint}"

    def _checked(
        self, cells: tuple[str, str, str], place: Place, path: str, region_path: str
    ) -> tuple[str, str, str] | None:
        """Check names of which one was not seen before; return them, or None if they are no target (noted)."""
        instance, user, region = cells
        notes: list[tuple[str, str]] = []
        is_skipped = self._skip_bad_rows and not place.column
        known_instance = self._instances.get(instance) or self._new_instance(instance, path, notes, place)
        known_user = self._users.get(user) or self._new_user(user, path, notes)
        known_region = self._regions.get(region) if region else self._region
        if known_region is None:
            known_region = self._new_region(region, place, region_path, notes)
        if known_instance and known_instance != instance and known_region:
            linked = names.regions_in_url(instance)
            if linked and known_region not in linked:
                what = f"the link is of {' and '.join(linked)}, and the target is in {known_region}; correct one"
                notes.append((_join(path, "instance"), what))
        if notes:
            if not known_region and not region and not is_skipped:
                self._unplaced.append(place)
            self.refuse(place, cells, notes)
        if (is_skipped and notes) or not (known_instance and known_user):
            return None
        return known_instance, known_user, known_region or ""

    def refuse(self, place: Place, cells: tuple[str, str, str], notes: Sequence[tuple[str, str]]) -> None:
        """Note what is wrong with the target `cells` (instance, user, region); `notes` are pairs of path and words."""
        if not place.column and self._skip_bad_rows:
            instance, user, region = (_shown(cell) for cell in cells)
            why = "; ".join(f"{path}: {what}" if path else what for path, what in notes)
            target = Target(instance or "?", user or "?", region or self._region, "", place.file, place.line)
            self.bad_rows.append(Omit(target, OmitReason.BAD_ROW, why, str(place)))
            return
        self.row_problems += 0 if place.column else len(notes)
        for path, what in notes:
            self._problems.add(place, path, what)

    def _new_instance(self, instance: str, path: str, notes: list[tuple[str, str]], place: Place) -> str:
        if not place.column and "/" in instance and (taken := names.instance_in_url(instance)) is not None:
            return self._instances.setdefault(taken, taken)
        problem = names.instance_problem(instance)
        if problem is None:
            self._instances[instance] = instance
            return instance
        notes.append((_join(path, "instance"), problem))
        return ""

    def _new_user(self, user: str, path: str, notes: list[tuple[str, str]]) -> str:
        if names.is_unusual(user):
            problem = names.user_problem(user)
            if problem is not None:
                notes.append((_join(path, "user"), problem))
                return ""
            self._unusual.add(user)
        if len(self._users) < _MOST_REMEMBERED:
            self._users[user] = user
        return user

    def _new_region(self, region: str, place: Place, path: str, notes: list[tuple[str, str]]) -> str:
        problem = names.region_problem(region)
        if problem is None:
            self._regions[region] = region
            if region not in names.REGIONS:
                self._unlisted[region] = place
            return region
        notes.append((path, problem))
        return ""

    def note_region(self, region: str, place: Place) -> None:
        """Note a region of the right form that is not documented, for `remarks`."""
        self._unlisted.setdefault(region, place)

    def check_accounts(self) -> None:
        """Note once, not per target, that accounts are missing."""
        if self._first_without_account is not None:
            count = self._without_account
            what = f"{count:,} target{'s' * (count > 1)} without an account, the first here"
            hint = f"the job has several, so each target says which: account: {' or '.join(self._accounts)}"
            self._problems.add(self._first_without_account, "account", f"{what}; {hint}")

    def settle_regions(self) -> list[int]:
        """Give each target without a region that of another row of its instance, if there is but one; refuse the rest.

        A row of a list that is to be skipped is taken out: return the indexes in `found` that were. Otherwise it is
        noted once, not per target, that regions are missing.
        """
        self._settle_defaults()
        known = self._known_regions()
        out: list[int] = []
        without = [(place, "") for place in self._unplaced]
        for index in self._regionless:
            target = self.found[index]
            regions = known.get((target.account, target.instance), {})
            if len(regions) == 1:
                ((region, source),) = regions.items()
                self.found[index] = replace(target, region=region)
                self.guesses.row(REGION, target.place, "no region", region, str(source))
            elif self._skip_bad_rows and not target.column:
                out.append(index)
                cells = (target.instance, target.user, "")
                self.refuse(target.place, cells, [("region", f"is missing{_which(regions)}")])
            else:
                without.append((target.place, _which(regions)))
        if out:
            gone = set(out)
            self.found = [target for index, target in enumerate(self.found) if index not in gone]
            files = {omit.target.file: at for at, omit in reversed(list(enumerate(self.bad_rows)))}
            self.bad_rows.sort(key=lambda omit: (files[omit.target.file], omit.target.line))
        if without:
            first, which = min(without, key=lambda each: (each[0].file != without[0][0].file, each[0].line))
            count = len(without)
            what = f"{count:,} target{'s' * (count > 1)} without a region, the first here{which}"
            hint = "name it with --region for all, or in a column of the list"
            hint = "set `region:` for all, or on the target (--region on the command line)" if self.has_job else hint
            self._problems.add(first, "region", f"{what}; {hint}")
        return out

    def _settle_defaults(self) -> None:
        """Give each target that names no region that of other rows of its instance, where these name another.

        An instance is in one region, so the row that names one knows better than what is set for all.
        """
        if sum(map(bool, self._regions)) < 2 or not self._defaulted:
            return  # nearly always
        is_default = bytearray(len(self.found))
        for index in self._defaulted:
            is_default[index] = 1
        known: dict[tuple[str, str], dict[str, Place]] = {}
        for target, by_default in zip(self.found, is_default, strict=True):
            if not by_default and target.region:
                known.setdefault((target.account, target.instance), {}).setdefault(target.region, target.place)
        for index in self._defaulted:
            target = self.found[index]
            regions = known.get((target.account, target.instance), {})
            if not regions or target.region in regions:
                continue
            if len(regions) == 1:
                ((region, source),) = regions.items()
                self.found[index] = replace(target, region=region)
                self.guesses.row(INSTEAD, target.place, f"no region, else {target.region}", region, str(source))
            elif not self._torn:
                others = " and ".join(f"{region} ({place})" for region, place in list(regions.items())[:3])
                what = f"names no region and is taken in {target.region}, and other rows of {target.instance} say"
                self._torn.append(f"{target.place}: {what} {others}; an instance is in one")

    def _known_regions(self) -> dict[tuple[str, str], dict[str, Place]]:
        """Return the regions that rows name, each with its first place, of every instance that a row names without."""
        wanted = {(self.found[index].account, self.found[index].instance) for index in self._regionless}
        known: dict[tuple[str, str], dict[str, Place]] = {}
        for target in self.found if wanted else ():
            if target.region and (target.account, target.instance) in wanted:
                known.setdefault((target.account, target.instance), {}).setdefault(target.region, target.place)
        return known

    def warnings(self) -> list[str]:
        """Return lines about what is odd but allowed, each once."""
        found = [*self._torn]
        if self._first_unusual is not None:
            first, count = self._first_unusual, self._unusual_rows
            found.append(
                f"{first.place}: {count:,} unusual account name{'s' * (count > 1)}, the first "
                f"{names.shown(first.user)}: plain SQL alone makes such names, so each is sent only where a reading "
                "shows exactly this name"
            )
        if self._first_long is not None:
            first = self._first_long
            found.append(
                f"{first.place}: {self._long:,} account name{'s' * (self._long > 1)} longer than "
                f"{names.LONG_USER} characters, the first {names.shown(first.user)}: the API documents two rules "
                "that disagree about these and may refuse them"
            )
        return found

    def remarks(self) -> list[str]:
        """Return lines about what is probably right but should be checked, each once."""
        return [unlisted_region(region, place) for region, place in self._unlisted.items()]


def _which(regions: Mapping[str, Place]) -> str:
    """Return what other rows of the instance say, if they disagree."""
    return f" (other rows of the instance say {' and '.join(list(regions)[:3])})" if regions else ""


def unlisted_region(region: str, place: Place) -> str:
    """Return the remark about a region that has the right form and is not documented.

    Pages of LockAccount had a list of regions until spring 2026; newer pages have none. DescribeRegions lists them.
    """
    hint = names.did_you_mean(region, names.REGIONS)
    return f"{place}: region {region} is not among the documented ones{hint or ''}"


def _shown(cell: str) -> str:
    """Return a cell for the journal: on one line, no longer than an instance id can be."""
    return clean(without_userinfo(cell), names.MOST_INSTANCE)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
