"""**The** table of settings that one word decides: the nearest of flag, environment, job and config files says it.

A row is all there is to a setting beside its field in `Settings`: its key in files, its flag and variable, what the
help says, what `config show` says. `Job` and `records.RunSettings` have a field of the same name where a job may say
it, and where the journal keeps it. Guards, which add up, are in `guards.STRICTER`.
"""

from __future__ import annotations

from msgspec import Struct


class Setting(Struct, frozen=True, kw_only=True):
    """One setting, by its name in `Settings`; seconds where that ends with `_s`."""

    name: str
    key: str
    """As files write it, in a group `group.key`."""
    metavar: str = ""
    """Of its flag; without one it has neither flag nor variable."""
    help: str = ""
    shown: bool = True
    """Whether `config show` says no more of it than its value."""
    overrides: bool = False
    """Whether a run that is gone on with may be given another, by its flag."""

    @property
    def flag(self) -> str:
        """Its flag, if it has one."""
        return f"--{self.key}" if self.metavar else ""

    @property
    def variable(self) -> str:
        """Its variable in the environment, if it has one."""
        return f"ACCTOPS_{self.key.upper()}" if self.metavar else ""


SETTINGS = (
    Setting(name="site", key="site"),
    Setting(name="credentials", key="credentials", shown=False),
    Setting(name="state_group", key="state_group"),
    Setting(name="quotas", key="quotas", shown=False),
    Setting(name="quota_share", key="quotas.share", shown=False),
    Setting(
        name="rate",
        key="rate",
        metavar="N",
        help="Send at most N calls a second by each lane. Default: the quota, 20.",
        shown=False,
        overrides=True,
    ),
    Setting(
        name="workers", key="workers", metavar="N", help="Have at most N calls in flight. Default: 100.", overrides=True
    ),
    Setting(name="per_instance", key="per_instance"),
    Setting(
        name="timeout_s",
        key="timeout",
        metavar="10s",
        help="Wait so long for one answer. Default: 10s.",
        overrides=True,
    ),
    Setting(
        name="deadline_s",
        key="deadline",
        metavar="D",
        help="Stop sending after so long, such as 15m. Default: from the size of the plan.",
        shown=False,
    ),
    Setting(name="retry_transient_s", key="retry.transient"),
    Setting(name="retry_busy_s", key="retry.busy"),
    Setting(name="stop_after", key="stop_after", shown=False),
    Setting(name="verify", key="verify"),
    Setting(name="notify", key="notify", shown=False),
    Setting(name="language", key="network.language"),
)
WITH_FLAG = {each.key: each for each in SETTINGS if each.metavar}
"""Flag without its dashes → setting."""
