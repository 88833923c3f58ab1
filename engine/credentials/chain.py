"""The sources of keys in their order, and the choice of one of them.

A profile asked for by name (of the vendor's CLI, else a section of the SDK's file) · the environment, or files it names
· the credential command · the CLI's default profile · the SDK's file, of the user, of the machine · the role of this
CVM instance · TKE's web identity. A role may be assumed on top of any of them. The first source that exists counts. If
it has no usable keys, that is an error: acctops never acts as somebody else instead.

acctops acts as the identity that the vendor's CLI would use (tccli 3.1.189, `parse_global_arg` of any service's
client). A profile of type cvm-role means the instance's role, whatever keys stand in it. Keys of the environment assume
the role that the default profile names. A role counts only with a session name beside it. A setting that names an
identity but is not followed is a warning.

Modules that ask the network or a program are imported late: a command in an incident starts sooner without them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from engine.api.names import did_you_mean, shown
from engine.credentials.environment import (
    NAMES,
    PROFILE,
    ROLE,
    SESSION,
    environment_keys,
    idle_variables,
    unknown_variables,
)
from engine.credentials.files import (
    CLI_NAMES,
    SECTION_NAMES,
    SYSTEM,
    cli_path,
    is_there,
    profile_keys,
    read_cli,
    read_private,
    read_section,
    read_sections,
    said,
)
from engine.credentials.source import DURATION_S, HOW, FetchedKeys, KeySource
from engine.errors import CredentialsError
from engine.outside.trust import home_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.credentials.files import Profile
    from engine.credentials.network import Network

_LOGIN = "`tccli auth login`, `tccli sso login`"
_NO_SESSION = "tccli assumes a role only if role-session-name stands beside it"
_MOST_LINKS = 5
"""Roles on top of each other, at most. More is a mistake, and each role is one question at every refresh."""


class KeySpec(Struct, frozen=True, kw_only=True):
    """Which keys are wanted. Empty: the first keys that the chain finds."""

    profile: str | None = None
    role_arn: str | None = None
    """Role to assume with these keys."""


class Ways(Struct, frozen=True, kw_only=True):
    """What the configuration says about credentials."""

    command: tuple[str, ...] = ()
    role_arn: str | None = None
    """Role to assume with the keys that are found."""
    duration_s: int = DURATION_S
    metadata: bool = True
    """Whether the metadata service may be asked if no other source has keys."""


class Opened(NamedTuple):
    """A source that has keys, and warnings for the user."""

    source: KeySource
    warnings: tuple[str, ...]


async def find_keys(
    profile: str | None,
    environ: Mapping[str, str],
    *,
    ways: Ways | None = None,
    network: Network | None = None,
    purpose: str = "acctops",
    system: Path = SYSTEM,
) -> Opened:
    """Return the first source that exists, ready to sign; CredentialsError names every place that was searched.

    `profile` is the one that flag, job or config names; it wins over the environment, as with tccli. `purpose`, the
    run's id, goes into the names of role sessions. Without `network`, no source that needs the network is used.
    """
    spec = KeySpec(profile=profile)
    return await open_keys(spec, environ, ways=ways, network=network, purpose=purpose, system=system)


async def open_keys(
    spec: KeySpec,
    environ: Mapping[str, str],
    *,
    ways: Ways | None = None,
    network: Network | None = None,
    purpose: str = "acctops",
    system: Path = SYSTEM,
) -> Opened:
    """Return the source that `spec` names, ready to sign; CredentialsError if it has no usable keys."""
    opener = _Opener(environ, ways or Ways(), network, purpose, system)
    by_environment = opener.role_of_environment() if spec.profile is None else ""
    role_arn = spec.role_arn or by_environment or opener.ways.role_arn
    source = await opener.base(spec.profile, has_role=bool(by_environment), is_assumed=bool(role_arn))
    if role_arn:
        where = ROLE if role_arn == by_environment else ""
        session = environ.get(SESSION)
        source = opener.assume(source, role_arn, session, where)
        if by_environment and not where:
            opener.followed -= {ROLE}
    opener.warn_of_variables(spec.profile, source)
    if isinstance(source, FetchedKeys) and source.is_empty:
        await source.open()
    _refuse_expired(source, network.clock() if network is not None else time.time())
    return Opened(source, tuple(dict.fromkeys(opener.warnings)))


def _refuse_expired(source: KeySource, now: float) -> None:
    if source.expires_at is not None and source.expires_at <= now:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(source.expires_at))
        raise CredentialsError(f"{source.label}: its keys expired at {at}; log in again ({_LOGIN})")


class _Opener:
    """Searches the places where keys may be."""

    def __init__(
        self, environ: Mapping[str, str], ways: Ways, network: Network | None, purpose: str, system: Path
    ) -> None:
        self.ways = ways
        self.warnings: list[str] = []
        self._environ = environ
        self._network = network
        self._purpose = purpose
        # Never relative: else anybody who can write in the current directory could decide who acts.
        self._home = home_of(environ) or Path("/nonexistent")
        self._files = (self._home / ".tencentcloud" / "credentials", system)
        self._roles: list[str] = []
        """Roles of the chain, from its base."""
        self.followed: set[str] = set()
        """Variables of the environment that decided who acts."""
        self._looked = [f"{', '.join(NAMES[:2])} (or …_FILE)"]

    def role_of_environment(self) -> str:
        """Return the role that the environment names; empty if there is none, or if tccli would ignore it."""
        role = self._environ.get(ROLE, "").strip()
        if role and not self._environ.get(SESSION, "").strip():
            self.warnings.append(f"{ROLE} is not assumed, as with tccli: {SESSION} is not set beside it; set it, too")
            return ""
        return role

    async def base(self, profile: str | None, *, has_role: bool, is_assumed: bool) -> KeySource:
        """Return the source, without a role of environment, flag or config. `has_role`: the environment's role replaces
        the one of the CLI's default profile. `is_assumed`: the caller assumes a role with this source."""
        if profile is not None:
            return self._named(profile)
        by_environment = environment_keys(self._environ)
        self.followed = {ROLE}
        if by_environment is not None:
            self.followed |= {*NAMES, *(f"{name}_FILE" for name in NAMES)}
            self.warnings += by_environment[1]
            return by_environment[0] if is_assumed else self._in_role_of_profile(by_environment[0])
        if self.ways.command:
            from engine.credentials.command import command_keys

            return command_keys(self.ways.command, self._network.clock if self._network is not None else time.time)
        self.followed |= {PROFILE}
        return self._default(has_role=has_role) or await self._around()

    def _in_role_of_profile(self, keys: KeySource) -> KeySource:
        """Return `keys`, or the role that the CLI's default profile names, assumed with them, as the CLI does."""
        name = self._environ.get(PROFILE, "").strip() or "default"
        path = cli_path(self._home, name)
        if not is_there(path):
            return keys
        try:
            profile = said(path, read_private(path).text, read_cli)
        except CredentialsError as error:
            self.warnings.append(f"{error}; whether it names a role is not known, and none is assumed")
            return keys
        if profile.role_arn is None:
            return keys
        if profile.role_session is None:
            self.warnings.append(f"{path}: its role-arn is not assumed with the environment's keys: {_NO_SESSION}")
            return keys
        self.followed |= {PROFILE}
        self.warnings.append(
            f"{path}: its role-arn is assumed with the environment's keys, as tccli does; "
            "remove it from the profile, or name another profile in TCCLI_PROFILE, to sign with the keys themselves"
        )
        return self.assume(keys, profile.role_arn, profile.role_session, str(path))

    def warn_of_variables(self, profile: str | None, source: KeySource) -> None:
        """Warn of each variable of the environment that names an identity and is not followed."""
        instead = f"profile {profile} is asked for by name" if profile is not None else f"{source.label} comes first"
        self.warnings += idle_variables(self._environ, self.followed, instead)
        self.warnings += unknown_variables(self._environ)
        arn = self._environ.get("TKE_ROLE_ARN", "").strip()
        if arn and not self._roles and "TKE" not in source.label and self._is_pod():
            self.warnings.append(
                f"the variables of a TKE pod are set, and {source.label} comes first; tccli would act as its role"
            )

    def _is_pod(self) -> bool:
        from engine.credentials.roles import TKE

        return all(self._environ.get(name, "").strip() for name in TKE)

    # ---- files -----------------------------------------------------------------------------------------------------

    def _named(self, name: str) -> KeySource:
        """Return a profile by name: the CLI's, else a section of the first SDK file that has it."""
        path = cli_path(self._home, name)
        if is_there(path):
            return self._cli(path, name, has_role=False)
        for sdk in self._files:
            if is_there(sdk) and name in said(sdk, read_private(sdk).text, read_sections):
                return self._section(sdk, name)
        others = sorted(other.stem for other in path.parent.glob("*.credential"))
        for sdk in self._files:
            if is_there(sdk):
                others += [f"[{section}] of {sdk}" for section in said(sdk, read_private(sdk).text, read_sections)]
        there = f"there are {', '.join(others)}" if others else "there is none"
        raise CredentialsError(f"profile {name}: no file {path}; {there}; run `tccli configure --profile {name}`")

    def _default(self, *, has_role: bool) -> KeySource | None:
        asked = self._environ.get("TCCLI_PROFILE", "").strip()
        name = asked or "default"
        path = cli_path(self._home, name)
        self._looked.append(str(path))
        if is_there(path):
            return self._cli(path, name, has_role=has_role)
        if name != "default":  # asked for by name: no other profile replaces it
            others = ", ".join(sorted(other.stem for other in path.parent.glob("*.credential"))) or "none"
            correct = f"correct or unset it, or run `tccli configure --profile {name}`"
            raise CredentialsError(f"TCCLI_PROFILE: no file {path}; of tccli's profiles there are {others}; {correct}")
        for sdk in self._files:
            self._looked.append(str(sdk))
            if not is_there(sdk):
                continue
            sections = said(sdk, read_private(sdk).text, read_sections)
            if "default" in sections:
                return self._section(sdk, "default")
            # The vendor's SDK crashes here (PY-COMMON). The file has other profiles, and no default one.
            others = f"has {', '.join(sections)}: name one with --profile" if sections else "nor any other"
            self._looked[-1] += f" (has no section [default]; {others})"
        return None

    def _cli(self, path: Path, name: str, *, has_role: bool) -> KeySource:
        label = f"tccli profile {name}"
        profile = said(path, read_private(path).text, read_cli)
        self._warn_of_odd(path, profile, CLI_NAMES)
        if profile.kind == "cvm-role" and not (has_role and profile.has_keys):
            from engine.credentials.metadata import instance_keys

            if profile.has_keys or profile.role_arn:
                self.warnings.append(
                    f"{path}: is of type cvm-role: its own keys and role are not used, as with tccli; "
                    f"`tccli configure set use-cvm-role false --profile {name}` to use them"
                )
            return instance_keys(self._wire(f"{label} is of type cvm-role"))
        if profile.kind not in ("", "default", "cvm-role") and not profile.has_keys:
            raise CredentialsError(
                f"{path}: holds no keys but a login of type {shown(profile.kind[:20])}; log in again ({_LOGIN})"
            )
        passes_over = profile.role_arn is not None and profile.role_session is None
        if passes_over and not has_role:
            self.warnings.append(f"{path}: its role-arn is not assumed: {_NO_SESSION}; add one, or remove the role-arn")
        return self._file(label, path, read_cli, profile, has_role=has_role or passes_over)

    def _warn_of_odd(self, path: Path, profile: Profile, known: tuple[str, ...]) -> None:
        self.warnings += [f"{path}: {shown(name)} is not followed{did_you_mean(name, known)}" for name in profile.odd]

    def _section(self, path: Path, name: str, met: tuple[str, ...] = ()) -> KeySource:
        """Return a section's keys, or its role, assumed with the keys of its `source_profile`; `met` led to it."""
        if name in met:
            chain = " → ".join((*met, name))
            raise CredentialsError(f"{path}: source_profile goes in a circle: {chain}; name a section that has keys")
        if met and name not in said(path, read_private(path).text, read_sections):
            raise CredentialsError(
                f"{path}: section [{met[-1]}] has source_profile {name}, and there is no such section"
            )
        read = read_section(name)
        profile = said(path, read_private(path).text, read)
        self._warn_of_odd(path, profile, SECTION_NAMES)
        label = "credentials file of this machine" if path == self._files[1] else "credentials file"
        label += "" if name == "default" else f", profile {name}"
        if profile.source is None:
            return self._file(label, path, read, profile)
        if profile.role_arn is None:
            raise CredentialsError(f"{path}: section [{name}] has a source_profile and no role_arn to assume with it")
        base = self._section(path, profile.source, (*met, name))
        return self.assume(base, profile.role_arn, profile.role_session, f"{path}: section [{name}]")

    def _file(self, label: str, path: Path, read: _Reader, profile: Profile, *, has_role: bool = False) -> KeySource:
        source = profile_keys(label, path, read, profile.role_arn)
        self.warnings += source.warnings
        if profile.role_arn is None or has_role:
            return source
        return self.assume(source, profile.role_arn, profile.role_session, str(path))

    # ---- the network -----------------------------------------------------------------------------------------------

    def assume(self, base: KeySource, role_arn: str, session: str | None, where: str) -> KeySource:
        """Assume a role, named at `where`, with the keys of `base`; CredentialsError if the chain has it already."""
        from engine.credentials.roles import assumed_keys, role_words, session_name

        words = role_words(role_arn, where)
        if role_arn in self._roles:
            chain = " → ".join((*self._roles, role_arn))
            raise CredentialsError(f"role {words} is assumed twice, which goes in a circle: {chain}; remove one")
        self._roles.append(role_arn)
        if len(self._roles) > _MOST_LINKS:
            raise CredentialsError(f"more than {_MOST_LINKS} roles on top of each other: {' → '.join(self._roles)}")
        network = self._wire(f"role {words} is to be assumed")
        return assumed_keys(base, role_arn, session_name(session, self._purpose), network, self.ways.duration_s)

    async def _around(self) -> KeySource:
        """Return the role of the machine on which this runs: the instance's, else the pod's."""
        from engine.credentials.metadata import NobodyThereError, instance_keys
        from engine.credentials.roles import TKE, session_name, web_identity_keys

        if self._network is not None and self.ways.metadata:
            source = instance_keys(self._network)
            try:
                await source.open()
            except NobodyThereError as nobody:
                self._looked.append(str(nobody))
            else:
                return source
        set_of_tke = [name for name in TKE if self._environ.get(name, "").strip()]
        pod = None
        if self._network is not None:
            pod = web_identity_keys(self._environ, session_name(None, self._purpose), self._network)
        if pod is not None:
            return pod
        missing = [name for name in TKE if name not in set_of_tke]
        if set_of_tke and missing:
            self._looked.append(f"TKE's variables ({', '.join(missing)} not set)")
        raise CredentialsError(f"no API keys: looked in {'; '.join(self._looked)}; {HOW}")

    def _wire(self, why: str) -> Network:
        if self._network is None:
            raise CredentialsError(f"{why}, which needs the network")
        return self._network


if TYPE_CHECKING:
    from collections.abc import Callable

    _Reader = Callable[[str], Profile]
