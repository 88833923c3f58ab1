"""**The** table of settings with one value: the nearest of flag, environment, job and config files decides it.

A row says all about a setting but its field in `Settings`: its key in files, its flag and variable, its help, and what
`config show` says. If a job may set it, `Job` has a field of the same name; if the journal keeps it,
`records.RunSettings` has one. Guards add up, so they have a table of their own: `guards.STRICTER`.
"""

from __future__ import annotations

from msgspec import Struct


class Setting(Struct, frozen=True, kw_only=True):
    """One setting. `name` is its name in `Settings`; a name that ends with `_s` means seconds."""

    name: str
    key: str
    """Its key in files; within a group `group.key`."""
    metavar: str = ""
    """Metavar of its flag; empty: the setting has neither flag nor variable."""
    help: str = ""
    shown: bool = True
    """Whether `config show` prints just its value."""
    overrides: bool = False
    """Whether a command that goes on with a run may give it another value, by the flag."""

    @property
    def flag(self) -> str:
        """Its flag; empty if it has none."""
        return f"--{self.key}" if self.metavar else ""

    @property
    def variable(self) -> str:
        """Its environment variable; empty if it has none."""
        return f"ACCTOPS_{self.key.upper()}" if self.metavar else ""


SETTINGS = (
    Setting(name="site", key="site"),
    Setting(name="credentials", key="credentials", shown=False),
    Setting(name="state_group", key="state_group"),
    Setting(name="quotas", key="quotas", shown=False),
    Setting(name="quota_share", key="quotas.share", shown=False),
    Setting(name="local_share", key="quotas.local", shown=False),
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
