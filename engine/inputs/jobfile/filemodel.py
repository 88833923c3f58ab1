"""**The** table of keys an operator may write: job file, config file, list rows. No I/O.

There is one class per mapping, and a field is a key. The field's type has the rule, the words for a person and the
reader that makes the value used inside (`_rule`). Parsers, JSON Schema and its descriptions all come from here. A
pattern is in `extra_json_schema`: as `Meta(pattern=…)` every start would compile it (profiled), for one key at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from engine.api import endpoints, names
from engine.api.actions import ACTIONS
from engine.inputs import window
from engine.inputs.jobfile.values import (
    DURATION_PATTERN,
    action_name,
    day_or_moment,
    distinct,
    is_listed_order,
    moment,
    on_or_off,
    past_proxy,
    proxy_url,
    rare_enough,
    region_name,
    role_duration,
    second_or_more,
    seconds,
    share,
    some_seconds,
    stamp_url,
    stop_after,
    true_or_false,
    wave_share,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _rule(words: str, reader: Callable[[str], object] | None = None, attribute: str = "") -> dict[str, object]:
    """Return what a key's type has for our own reader: words for `expected …`, reader, name of the value inside."""
    return {"words": words, "reader": reader, "attribute": attribute}


def _several(
    words: str, each: object, together: Callable[[Sequence[Any]], object], attribute: str
) -> dict[str, object]:
    """Return the same for a key that takes one value or a list: with the type of each, and what they make together.

    The key's own type is a plain `str | list[str]`: msgspec 0.22 crashes on a union whose members have `extra`.
    """
    return _rule(words, None, attribute) | {"each": each, "together": together}


Text = Annotated[str, Meta(min_length=1, max_length=1000, extra=_rule("text of 1–1,000 characters"))]
ShortText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        extra_json_schema={"pattern": rf"^[^\n\r\t{names.ODD_SIGNS}]+$"},
        extra=_rule("text of 1–100 characters on one line"),
    ),
]
Prose = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1000,
        extra_json_schema={"pattern": f"^[^{names.ODD_SIGNS}]+$"},
        extra=_rule("text of 1–1,000 characters"),
    ),
]
ActionName = Annotated[
    str,
    Meta(
        description="What to do to every target, as the API names it.",
        extra_json_schema={"enum": list(ACTIONS)},
        extra=_rule("an action", action_name),
    ),
]
Region = Annotated[
    str,
    Meta(
        description="Region of the instances, such as ap-singapore. A target may name another.",
        extra_json_schema={"pattern": f"^{names.REGION_PATTERN}$"},
        examples=list(names.REGIONS),
        extra=_rule("a region", region_name),
    ),
]
Profile = Annotated[
    str,
    Meta(
        description="Profile of the vendor's CLI whose keys to use: ~/.tccli/PROFILE.credential.",
        extra_json_schema={"pattern": r"^[^/\\\s.][^/\\\x00-\x1f]{0,99}$"},
        extra=_rule("the name of a tccli profile, not a path"),
    ),
]
RoleArn = Annotated[
    str,
    Meta(
        description="Role to be assumed with whatever keys are found: qcs::cam::uin/UIN:roleName/NAME.",
        extra_json_schema={"pattern": f"^{names.ROLE_PATTERN}$"},
        extra=_rule("the ARN of a role, qcs::cam::uin/UIN:roleName/NAME"),
    ),
]
Profiles = Annotated[
    str | list[str],
    Meta(
        description="Profile of the vendor's CLI whose keys to use; a list: sub-accounts of one cloud account, each "
        "with a quota of its own.",
        extra=_several("the name of a tccli profile, or a list of them", Profile, distinct, "profiles"),
    ),
]
Endpoint = Annotated[
    str,
    Meta(
        description="nearest (default), regional (each target through its own region), an access region, or a URL: "
        "https, or http to loopback.",
        extra_json_schema={"pattern": f"^(?:{endpoints.WORD_PATTERN})$"},
        extra=_rule("an endpoint", endpoints.endpoint_word),
    ),
]
Endpoints = Annotated[
    str | list[str],
    Meta(
        description="Access point to call: nearest (default), regional (each target through its own region), an access "
        "region or a URL; a list: each is a lane with a quota of its own.",
        extra=_several("an endpoint, or a list of them", Endpoint, endpoints.endpoint_words, "endpoints"),
    ),
]
Rate = Annotated[
    float,
    Meta(
        description="Calls a second in each lane. Without it: the action's quota.",
        gt=0,
        le=10_000,
        extra=_rule("a number of calls a second above 0, at most 10000"),
    ),
]
Workers = Annotated[
    int,
    Meta(
        description="Calls in flight at a time in each lane (default 100).",
        ge=1,
        le=10_000,
        extra=_rule("a whole number from 1 to 10000"),
    ),
]
PerInstance = Annotated[
    int,
    Meta(
        description="Calls in flight at a time on one instance (default 4).",
        ge=1,
        le=1_000,
        extra=_rule("a whole number from 1 to 1000"),
    ),
]
_duration = f"^{DURATION_PATTERN}$"
Deadline = Annotated[
    str,
    Meta(
        description="Stop sending after this time, such as 45m; what is left can be resumed.",
        extra_json_schema={"pattern": _duration},
        extra=_rule("a duration", some_seconds, "deadline_s"),
    ),
]
Timeout = Annotated[
    str,
    Meta(
        description="Longest wait for one answer (default 10s).",
        extra_json_schema={"pattern": _duration},
        extra=_rule("a duration", some_seconds, "timeout_s"),
    ),
]
Transient = Annotated[
    str,
    Meta(
        description="How long one call is tried again after passing errors (default 2m).",
        extra_json_schema={"pattern": _duration},
        extra=_rule("a duration", seconds, "retry_transient_s"),
    ),
]
Busy = Annotated[
    str,
    Meta(
        description="How long one call is tried again while its instance is busy (default 10m).",
        extra_json_schema={"pattern": _duration},
        extra=_rule("a duration", seconds, "retry_busy_s"),
    ),
]
StopAfterText = Annotated[
    str,
    Meta(
        description="Stop when this many calls have failed: a number, or a share of the plan such as 5%. Default: "
        "none to lock or unlock, 20 for the CAM actions.",
        extra_json_schema={"pattern": r"^[0-9]{1,9}(?:(?:[.][0-9]{1,3})?%)?$"},
        extra=_rule("a number or a share", stop_after),
    ),
]
KeepAdmins = Annotated[
    int,
    Meta(
        description="Never lock the last so many superusers of an instance that can log in (default 0: no such guard).",
        ge=0,
        le=1_000,
        extra=_rule("a whole number from 0 to 1000"),
    ),
]
MaxTargets = Annotated[
    int,
    Meta(
        description="Refuse a plan of more calls than this.",
        ge=1,
        le=1_000_000_000,
        extra=_rule("a whole number from 1 to 1000000000"),
    ),
]
MaxShare = Annotated[
    str,
    Meta(
        description="Refuse a plan of more than this share of the accounts read on its instances, such as 20%.",
        extra_json_schema={"pattern": r"^(?!0+(?:[.]0+)?%)(?:100(?:[.]0{1,3})?|[0-9]{1,2}(?:[.][0-9]{1,3})?)%$"},
        extra=_rule("a percentage such as 5% or 0.5%", share),
    ),
]
Owner = Annotated[
    str,
    Meta(
        extra_json_schema={"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.@\\\\-]{0,127}[$]?$"},
        extra=_rule("the name or the number of a user"),
    ),
]
GlobText = Annotated[
    str,
    Meta(
        description='instance/user, with * ? [abc] in either part; quote it: "*/breakglass_*".',
        extra_json_schema={"pattern": r"^[A-Za-z0-9_\-*?\[\]!]+/[A-Za-z0-9_\-*?\[\]!.$+#\u00aa-\uffff]+$"},
        extra=_rule("instance/user with * ? [abc]"),
    ),
]
Globs = Annotated[list[GlobText], Meta(min_length=1)]
Protect = Literal["none"] | Globs


class Retry(Struct, forbid_unknown_fields=True, kw_only=True):
    """Time budgets for trying one call again."""

    transient: Transient | UnsetType = UNSET
    busy: Busy | UnsetType = UNSET


class Limits(Struct, forbid_unknown_fields=True, kw_only=True):
    """The largest plan that is not refused. Of all files found the smaller number holds."""

    max_targets: MaxTargets | UnsetType = UNSET
    max_share: MaxShare | UnsetType = UNSET


class JobLimits(Limits, forbid_unknown_fields=True, kw_only=True):
    """The largest plan that is not refused, and how much of it one run takes."""

    take: (
        Annotated[
            int,
            Meta(
                description="Change so many accounts in one run, at most; the rest is left for later and is first in "
                "line next time.",
                ge=1,
                le=1_000_000_000,
                extra=_rule("a whole number from 1 to 1000000000"),
            ),
        ]
        | UnsetType
    ) = UNSET


class Passwords(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where the new password of each account comes from: one of command, file, env."""

    command: (
        Annotated[
            list[str],
            Meta(
                min_length=1,
                description="Program and arguments, run without a shell once per call; prints the password as one "
                "line. {instance}, {user} and {region} are filled in.",
                examples=[["pass", "show", "db/{instance}/{user}"]],
            ),
        ]
        | UnsetType
    ) = UNSET
    file: (
        Annotated[Text, Meta(description="CSV file instance,user,password, readable by its owner alone.")] | UnsetType
    ) = UNSET
    env: (
        Annotated[
            str,
            Meta(
                extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,99}$"},
                description="Environment variable holding the password; for a job with one target.",
                extra=_rule("the name of an environment variable"),
            ),
        ]
        | UnsetType
    ) = UNSET
    stored: (
        Annotated[
            bool,
            Meta(
                description="Whether the command is a store: it has each password before it prints it, and prints the "
                "same one twice. It is asked twice, and a call whose answer is lost may be sent again.",
                extra=_rule("true or false", true_or_false),
            ),
        ]
        | UnsetType
    ) = UNSET


class WindowKeys(Struct, forbid_unknown_fields=True, kw_only=True):
    """Hours of the week in which this job may send: a start outside is refused, and `until` ends the session."""

    days: Annotated[
        list[
            Annotated[
                str,
                Meta(extra_json_schema={"enum": list(window.DAYS)}, extra=_rule("a day", window.day_number)),
            ]
        ],
        Meta(min_length=1, description="Days on which it opens."),
    ]
    start: Annotated[
        str,
        Meta(
            description="When it opens, such as 01:00, on the clock of the time zone.",
            extra_json_schema={"pattern": r"^(?:[01]?[0-9]|2[0-3]):[0-5][0-9]$"},
            extra=_rule("a time of day", window.opening_minutes),
        ),
    ] = field(name="from")
    until: Annotated[
        str,
        Meta(
            description="When it closes; not after `from`: on the next day. 24:00 is the end of the day.",
            extra_json_schema={"pattern": r"^(?:(?:[01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)$"},
            extra=_rule("a time of day", window.minutes),
        ),
    ]
    timezone: Annotated[
        str,
        Meta(
            description="Zone of the tz database.",
            examples=["Asia/Shanghai", "UTC"],
            extra=_rule("a time zone", window.zone_name),
        ),
    ]


Then = Literal["tell", "unlock_rotated", "unlock"]
"""What may be done once a hold has ended, the strictest first (`records.THENS`)."""


class HoldKeys(Struct, forbid_unknown_fields=True, kw_only=True):
    """When the run's hold on its accounts ends (without this key: never), and what is done then: for or until."""

    for_: (
        Annotated[
            str,
            Meta(
                description="So long after the run was confirmed, such as 12h.",
                extra_json_schema={"pattern": _duration},
                extra=_rule("a duration", some_seconds, "for_s"),
            ),
        ]
        | UnsetType
    ) = field(default=UNSET, name="for")
    until: (
        Annotated[
            str,
            Meta(
                description="At this time, with its zone: 2026-12-01T08:00+08:00, or 2026-12-01T00:00Z.",
                extra_json_schema={
                    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})? ?"
                    "(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)$"
                },
                extra=_rule("a time with its zone, such as 2026-12-01T08:00+08:00", moment),
            ),
        ]
        | UnsetType
    ) = UNSET
    then: (
        Annotated[
            Then,
            Meta(
                description="tell (default): a person decides. unlock: acctops tend unlocks what nobody else holds. "
                "unlock_rotated: only what got a new password after the lock. The last two are for LockAccount.",
                extra=_rule("tell, unlock or unlock_rotated"),
            ),
        ]
        | UnsetType
    ) = UNSET


class WatchKeys(Struct, forbid_unknown_fields=True, kw_only=True):
    """When acctops tend reads the accounts again after the run, and tells which are no longer as the run left them."""

    after: (
        Annotated[
            list[
                Annotated[str, Meta(extra_json_schema={"pattern": _duration}, extra=_rule("a duration", some_seconds))]
            ],
            Meta(min_length=1, max_length=100, description="So long after the run, each later than the one before."),
        ]
        | UnsetType
    ) = UNSET
    every: (
        Annotated[
            str,
            Meta(
                description="Again and again, such as 1d; at least 1m.",
                extra_json_schema={"pattern": _duration},
                extra=_rule("a duration of at least 1m", rare_enough, "every_s"),
            ),
        ]
        | UnsetType
    ) = UNSET
    for_: (
        Annotated[
            str,
            Meta(
                description="How long after the run `every` goes on, such as 30d.",
                extra_json_schema={"pattern": _duration},
                extra=_rule("a duration", some_seconds, "for_s"),
            ),
        ]
        | UnsetType
    ) = field(default=UNSET, name="for")


OnRed = Literal["stop", "undo"]


class WaveKeys(Struct, forbid_unknown_fields=True, kw_only=True):
    """A part of the run that must prove itself before the next one begins."""

    take: Annotated[
        str,
        Meta(
            description="How many accounts: a number, a share of this run's plan such as 10% (rounded up), or rest, "
            "which stands last.",
            extra_json_schema={"pattern": r"^(?:rest|0*[1-9][0-9]{0,8}|[0-9]{1,3}(?:[.][0-9]{1,3})?%)$"},
            examples=[3, "10%", "rest"],
            extra=_rule("a number of accounts above 0, a share such as 10%, or rest", wave_share),
        ),
    ]
    soak: (
        Annotated[
            str,
            Meta(
                description="How long to wait, once its accounts are changed and read, before the next (default 0).",
                extra_json_schema={"pattern": _duration},
                extra=_rule("a duration", seconds, "soak_s"),
            ),
        ]
        | UnsetType
    ) = UNSET


class GateKeys(Struct, forbid_unknown_fields=True, kw_only=True):
    """The check that says green or red: asked before the first wave, while a wave soaks, and after every wave."""

    command: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="Program and arguments, run without a shell; JSON on its standard input. Green: it prints the "
            "line `green NONCE` and exits 0. Red: `red NONCE` and 1. Anything else stops the run.",
            examples=[["./check-logins.sh"]],
        ),
    ]
    every: (
        Annotated[
            str,
            Meta(
                description="How often it is asked while a wave soaks (default 5m).",
                extra_json_schema={"pattern": _duration},
                extra=_rule("a duration of at least 1s", second_or_more, "every_s"),
            ),
        ]
        | UnsetType
    ) = UNSET
    timeout: (
        Annotated[
            str,
            Meta(
                description="Longest wait for its word (default 2m).",
                extra_json_schema={"pattern": _duration},
                extra=_rule("a duration of at least 1s", second_or_more, "timeout_s"),
            ),
        ]
        | UnsetType
    ) = UNSET


class Webhook(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where the URL of a webhook is found, which is a secret and stands in neither job nor config: exactly one key."""

    url_file: Annotated[Text, Meta(description="File that holds the URL: https, or http to loopback.")] | UnsetType = (
        UNSET
    )
    url_env: (
        Annotated[
            str,
            Meta(
                extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,99}$"},
                description="Environment variable that holds the URL.",
                extra=_rule("the name of an environment variable"),
            ),
        ]
        | UnsetType
    ) = UNSET


Event = Literal["start", "wave", "finish", "failure"]


class Notify(Struct, forbid_unknown_fields=True, kw_only=True):
    """Who is told how a run goes: a command, a webhook or both."""

    command: (
        Annotated[
            list[str],
            Meta(
                min_length=1,
                description="Program and arguments, run without a shell; the notice is JSON on its standard input.",
                examples=[["/usr/local/bin/page-dba"]],
            ),
        ]
        | UnsetType
    ) = UNSET
    env: (
        Annotated[
            list[Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,99}$"})]],
            Meta(
                min_length=1,
                description="Environment variables that the command needs; it gets no others but the harmless ones "
                "(PATH, HOME, LANG and so on).",
                examples=[["PAGER_TOKEN"]],
            ),
        ]
        | UnsetType
    ) = UNSET
    webhook: Webhook | UnsetType = UNSET
    on: (
        Annotated[
            Event | Annotated[list[Event], Meta(min_length=1)],
            Meta(
                description="start: a run begins; wave: one of its waves has passed; finish: it has ended; failure "
                "(default): it has ended with another exit code than 0, or was refused.",
            ),
        ]
        | UnsetType
    ) = UNSET


class Credentials(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where API keys come from, beside the places that are always searched. Never a key itself."""

    command: (
        Annotated[
            list[str],
            Meta(
                min_length=1,
                description="Program and arguments, run without a shell when no key is in the environment; prints keys "
                "as JSON.",
                examples=[["vault-keys", "--account", "prod"]],
            ),
        ]
        | UnsetType
    ) = UNSET
    role_arn: RoleArn | UnsetType = UNSET
    duration: (
        Annotated[
            str,
            Meta(
                description="How long a session of the role lives (default 2h, at most 12h).",
                extra_json_schema={"pattern": _duration},
                extra=_rule("a duration from 1s to 12h", role_duration, "duration_s"),
            ),
        ]
        | UnsetType
    ) = UNSET
    metadata: (
        Annotated[
            bool,
            Meta(
                description="Ask the metadata service for the role of this CVM instance where nothing else has keys "
                "(default true).",
                extra=_rule("true or false", true_or_false),
            ),
        ]
        | UnsetType
    ) = UNSET
    sts: (
        Annotated[
            str,
            Meta(
                description="STS, where it is not the site's: https, or http to loopback.",
                extra_json_schema={"pattern": f"^(?:{endpoints.PATTERN})$"},
                extra=_rule("an endpoint", endpoints.normal_endpoint),
            ),
        ]
        | UnsetType
    ) = UNSET


NoProxy = Annotated[
    str,
    Meta(extra=_rule("a host, a domain or a network", past_proxy)),
]


class Network(Struct, forbid_unknown_fields=True, kw_only=True):
    """How this host reaches the network, where the environment does not say it."""

    proxy: (
        Annotated[
            str,
            Meta(
                description="Proxy for https, without a password: http://host:port.",
                extra=_rule("the URL of a proxy", proxy_url),
            ),
        ]
        | UnsetType
    ) = UNSET
    no_proxy: (
        Annotated[
            str | list[str],
            Meta(
                description="Hosts, domains and networks that are reached without it.",
                extra=_several("a host, a domain or a network, or a list of them", NoProxy, distinct, "no_proxy"),
            ),
        ]
        | UnsetType
    ) = UNSET
    ca_bundle: (
        Annotated[
            Text,
            Meta(
                description="File of certificates (PEM) to trust instead of the system's.",
                extra=_rule("the path of a file of certificates, such as /etc/ssl/company.pem"),
            ),
        ]
        | UnsetType
    ) = UNSET
    language: (
        Annotated[
            Literal["en-US", "zh-CN"],
            Meta(description="Of the API's messages (default en-US).", extra=_rule("en-US or zh-CN")),
        ]
        | UnsetType
    ) = UNSET


def _pattern(pattern: str, **more: object) -> Meta:
    """Return a pattern for editors alone: msgspec 0.22 at times crashes at exit if two unions of a struct have one."""
    return Meta(extra_json_schema={"pattern": pattern, **more})


_OneInstance = Annotated[str, _pattern(f"^{names.INSTANCE_PATTERN}$", maxLength=names.MOST_INSTANCE)]
_OneRegion = Annotated[str, _pattern(f"^(?:{names.REGION_PATTERN}|all)$", examples=[*names.REGIONS, "all"])]
_NameGlob = Annotated[str, _pattern(r"^[^\x00-\x1f\x7f]+$")]
_UserGlob = Annotated[str, _pattern(r"^[A-Za-z0-9_\-*?\[\]!]+$")]
_Version = Annotated[str, _pattern("^[0-9]{1,3}$")]
_Status = Literal[(*names.INSTANCE_STATUSES, "any")]  # type: ignore[valid-type]
_InstanceType = Literal[(*names.INSTANCE_TYPES, "any")]  # type: ignore[valid-type]
_UserType = Literal[names.USER_TYPES]  # type: ignore[valid-type]
OnOff = bool | Literal["on", "off"]


class InstancesOf(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which instances a match means: all keys must agree; of a list, one value must."""

    ids: Annotated[_OneInstance | list[_OneInstance], Meta(description="Instance ids.")] | UnsetType = UNSET
    name: (
        Annotated[_NameGlob | list[_NameGlob], Meta(description="Globs over the instance's name: prod-*.")] | UnsetType
    ) = UNSET
    tag: (
        Annotated[
            str | list[str] | dict[str, str | list[str]],
            Meta(description="Tags it must have, all of them: env, or env=prod, or {env: [prod, live]}."),
        ]
        | UnsetType
    ) = UNSET
    status: (
        Annotated[
            _Status | list[_Status],
            Meta(description="Status (default running); what it keeps out is named. any: whatever it is."),
        ]
        | UnsetType
    ) = UNSET
    type: (
        Annotated[
            _InstanceType | list[_InstanceType],
            Meta(description="Type (default: all but readonly and guard); what it keeps out is named."),
        ]
        | UnsetType
    ) = UNSET
    engine_version: Annotated[_Version | list[_Version], Meta(description="Major version: 16.")] | UnsetType = UNSET


class UsersOf(Struct, forbid_unknown_fields=True, kw_only=True, rename={"not_": "not"}):
    """Which accounts a match means: all keys must agree; at least one is needed, `glob: "*"` is every account."""

    glob: Annotated[_UserGlob | list[_UserGlob], Meta(description="Globs over names: app_*.")] | UnsetType = UNSET
    type: Annotated[_UserType | list[_UserType], Meta(description="Type: normal, tencentDBSuper.")] | UnsetType = UNSET
    cam: (
        Annotated[
            OnOff,
            Meta(description="Whether CAM verification is on.", extra=_rule("on or off", on_or_off)),
        ]
        | UnsetType
    ) = UNSET
    locked: (
        Annotated[
            bool,
            Meta(
                description="Whether it shows as locked (status 5), by LockAccount or by NOLOGIN in SQL.",
                extra=_rule("true or false", true_or_false),
            ),
        ]
        | UnsetType
    ) = UNSET
    not_: Annotated[_UserGlob | list[_UserGlob], Meta(description="Globs that are not meant.")] | UnsetType = UNSET


class MatchEntry(Struct, forbid_unknown_fields=True, kw_only=True):
    """Accounts to be found: the question is put when the job is planned, and its answer is what runs."""

    regions: (
        Annotated[
            _OneRegion | list[_OneRegion],
            Meta(description="Regions to look in (default: the job's); all: every region but the financial ones."),
        ]
        | UnsetType
    ) = UNSET
    accounts: (
        Annotated[list[str], Meta(min_length=1, description="Accounts of the job to look in (default: all of them).")]
        | UnsetType
    ) = UNSET
    instances: InstancesOf | UnsetType = UNSET
    users: UsersOf
    allow_empty: (
        Annotated[
            bool,
            Meta(
                description="Finding no account is fine (default false: an error).",
                extra=_rule("true or false", true_or_false),
            ),
        ]
        | UnsetType
    ) = UNSET


AccountName = Annotated[
    str,
    Meta(
        description="What the account is called in this job, its journal and its reports.",
        extra_json_schema={"pattern": r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$"},
        extra=_rule("a name of letters, digits, and . _ @ -"),
    ),
]


class AccountEntry(Struct, forbid_unknown_fields=True, kw_only=True):
    """A cloud account whose instances this job acts on, and whose keys sign for it."""

    name: AccountName | UnsetType = UNSET
    profile: Profiles | UnsetType = UNSET
    role_arn: RoleArn | UnsetType = UNSET


class Columns(Struct, forbid_unknown_fields=True, kw_only=True):
    """What the columns of a list are called there."""

    instance: ShortText | UnsetType = UNSET
    user: ShortText | UnsetType = UNSET
    region: ShortText | UnsetType = UNSET
    account: ShortText | UnsetType = UNSET


class TargetEntry(Struct, forbid_unknown_fields=True, kw_only=True):
    """One target with its parts, a list of targets in a file, or a match."""

    instance: (
        Annotated[str, Meta(extra_json_schema={"pattern": f"^{names.INSTANCE_PATTERN}$"}, max_length=64)] | UnsetType
    ) = UNSET
    user: (
        Annotated[str, Meta(extra_json_schema={"pattern": f"^{names.ANY_USER_PATTERN}$"})]
        | list[Annotated[str, Meta(extra_json_schema={"pattern": f"^{names.ANY_USER_PATTERN}$"})]]
        | UnsetType
    ) = UNSET
    region: Region | UnsetType = UNSET
    account: AccountName | UnsetType = UNSET
    csv: (
        Annotated[
            Text, Meta(description="CSV file with a header: instance,user[,region][,account]. - is standard input.")
        ]
        | UnsetType
    ) = UNSET
    jsonl: (
        Annotated[
            Text,
            Meta(description='File of lines {"instance":…,"user":…[,"region":…]}. - is standard input.'),
        ]
        | UnsetType
    ) = UNSET
    columns: Columns | UnsetType = UNSET
    match: MatchEntry | UnsetType = UNSET


class JobFile(Struct, forbid_unknown_fields=True, kw_only=True):
    """A job of acctops: one action on many database accounts."""

    version: (
        Annotated[int, Meta(ge=1, le=1, description="Version of this format: 1.", extra=_rule("1, the only version"))]
        | UnsetType
    ) = UNSET
    name: Annotated[ShortText, Meta(description="Name of the job; default: the file's name.")] | UnsetType = UNSET
    reason: Annotated[Prose, Meta(description="Why this is done; kept in the journal.")] | UnsetType = UNSET
    ticket: (
        Annotated[
            ShortText,
            Meta(
                description="Ticket or incident number; kept in the journal.",
            ),
        ]
        | UnsetType
    ) = UNSET
    action: ActionName
    region: Region | UnsetType = UNSET
    profile: Profiles | UnsetType = UNSET
    accounts: (
        Annotated[
            # Any: a profile's name, or an AccountEntry; `schema` spells it out, `accounts` reads it.
            list[Any],
            Meta(min_length=1, description="Cloud accounts of the targets, each with keys of its own."),
        ]
        | UnsetType
    ) = UNSET
    endpoint: Endpoints | UnsetType = UNSET
    targets: Annotated[
        # Any: the forms of an entry are spelled out by `schema` and read by `targets`.
        list[Any],
        Meta(min_length=1, description="Accounts to act on."),
    ]
    exclude: Annotated[Globs, Meta(description="Targets to leave out of this job.")] | UnsetType = UNSET
    protect: (
        Annotated[
            Protect,
            Meta(description="Accounts that must never be touched, on top of the config's; none waives the reminder."),
        ]
        | UnsetType
    ) = UNSET
    keep_admins: KeepAdmins | UnsetType = UNSET
    limits: JobLimits | UnsetType = UNSET
    order: (
        Annotated[
            Literal["contain", "listed"],
            Meta(
                description="contain (default): superusers first; listed: as the targets are listed. Either way "
                "instances take turns.",
                extra=_rule("contain or listed", is_listed_order, "listed_order"),
            ),
        ]
        | UnsetType
    ) = UNSET
    resend_already: (
        Annotated[
            bool,
            Meta(
                description="Send the call also to accounts that already look as desired, last (default false).",
                extra=_rule("true or false", true_or_false),
            ),
        ]
        | UnsetType
    ) = UNSET
    verify: (
        Annotated[
            bool,
            Meta(
                description="Read the accounts before and after (default true); false: neither, so that nothing is "
                "proven and undo needs a list.",
                extra=_rule("true or false", true_or_false),
            ),
        ]
        | UnsetType
    ) = UNSET
    rate: Rate | UnsetType = UNSET
    workers: Workers | UnsetType = UNSET
    per_instance: PerInstance | UnsetType = UNSET
    retry: Retry | UnsetType = UNSET
    deadline: Deadline | UnsetType = UNSET
    stop_after: StopAfterText | UnsetType = UNSET
    window: WindowKeys | UnsetType = UNSET
    hold: HoldKeys | UnsetType = UNSET
    watch: WatchKeys | UnsetType = UNSET
    waves: (
        Annotated[
            list[WaveKeys],
            Meta(
                min_length=1,
                max_length=100,
                description="Parts of the run, in this order; each must prove itself before the next one begins.",
            ),
        ]
        | UnsetType
    ) = UNSET
    gate: GateKeys | UnsetType = UNSET
    on_red: (
        Annotated[
            OnRed,
            Meta(
                description="What follows a red word of the gate: stop (default), or undo of the wave it is about.",
                extra=_rule("stop or undo"),
            ),
        ]
        | UnsetType
    ) = UNSET
    on_unfinished: (
        Annotated[
            Literal["resume", "new", "refuse"],
            Meta(
                description="What `run` does when the last run of this job was cut off by a crash: go on with it "
                "(default), begin a new one, or refuse.",
                extra=_rule("resume, new or refuse"),
            ),
        ]
        | UnsetType
    ) = UNSET
    passwords: Passwords | UnsetType = UNSET
    notify: Notify | UnsetType = UNSET


class ApprovalsKeys(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which plans need the signatures of further people. Of all files found each adds to it."""

    actions: (
        Annotated[
            str | list[str],
            Meta(
                description="Actions whose plans need it (default OpenAccountCAM and UnlockAccount).",
                extra=_several("an action, or a list of actions", ActionName, distinct, "actions"),
            ),
        ]
        | UnsetType
    ) = UNSET
    above: (
        Annotated[
            int,
            Meta(
                description="A plan of more calls than this needs it (default 200; 0: every plan).",
                ge=0,
                le=1_000_000_000,
                extra=_rule("a whole number from 0 to 1000000000"),
            ),
        ]
        | UnsetType
    ) = UNSET
    approvers: (
        Annotated[
            int,
            Meta(
                description="Keys that must sign beside the requester's (default 1).",
                ge=1,
                le=20,
                extra=_rule("a whole number from 1 to 20"),
            ),
        ]
        | UnsetType
    ) = UNSET
    signers: (
        Annotated[
            Text,
            Meta(
                description="File of the keys that may sign, as ssh-keygen reads it (ALLOWED SIGNERS).",
                extra=_rule("the path of a file, such as /etc/acctops/allowed_signers"),
            ),
        ]
        | UnsetType
    ) = UNSET
    valid: (
        Annotated[
            str,
            Meta(
                description="How long a signature counts (default 30m).",
                extra_json_schema={"pattern": _duration},
                extra=_rule("a duration longer than 0s", some_seconds, "valid_s"),
            ),
        ]
        | UnsetType
    ) = UNSET
    unapproved: (
        Annotated[
            bool,
            Meta(
                description="Whether --unapproved REASON may be said (default false); every file that has `approvals` "
                "must allow it.",
                extra=_rule("true or false", true_or_false),
            ),
        ]
        | UnsetType
    ) = UNSET


TsaUrl = Annotated[
    str,
    Meta(
        description="URL of a time-stamping authority (RFC 3161).",
        extra_json_schema={"pattern": "^https?://[^\\s@?#]+$"},
        extra=_rule("a URL, such as https://tsa.example.org/tsr", stamp_url),
    ),
]


class SealKeys(Struct, forbid_unknown_fields=True, kw_only=True):
    """What seals the end of a run in `heads.jsonl`. All of it comes from the nearest file that has it."""

    key: (
        Annotated[
            Text,
            Meta(
                description="SSH key that signs each line, without a passphrase, or its .pub if an agent has the key.",
                extra=_rule("the path of a file, such as /etc/acctops/seal_key"),
            ),
        ]
        | UnsetType
    ) = UNSET
    tsa: (
        Annotated[
            str | list[str],
            Meta(
                description="Time-stamping authorities (RFC 3161); the first that answers stamps the line.",
                extra=_several("a URL, or a list of URLs", TsaUrl, distinct, "tsa"),
            ),
        ]
        | UnsetType
    ) = UNSET
    tsa_ca: (
        Annotated[
            Text,
            Meta(
                description="File of the certificates (PEM) that vouch for stamps. Without it nobody vouches for one.",
                extra=_rule("the path of a file, such as /etc/acctops/tsa.pem"),
            ),
        ]
        | UnsetType
    ) = UNSET
    signers: (
        Annotated[
            Text,
            Meta(
                description="File of all keys that seal or have sealed, as ssh-keygen reads it (ALLOWED SIGNERS). "
                "Without it only the key of today counts.",
                extra=_rule("the path of a file, such as /etc/acctops/seal_signers"),
            ),
        ]
        | UnsetType
    ) = UNSET
    required_since: (
        Annotated[
            str,
            Meta(
                description="From this day (UTC) or moment on, an end without a seal is a fault (exit 7) for journal "
                "verify --all.",
                extra=_rule("a day, or a time with its zone, such as 2026-12-01", day_or_moment),
            ),
        ]
        | UnsetType
    ) = UNSET


class ConfigFile(Struct, forbid_unknown_fields=True, kw_only=True):
    """How acctops works here: `config.yaml`."""

    site: (
        Annotated[
            Literal["international", "mainland"],
            Meta(description="Whose keys these are.", extra=_rule("international or mainland")),
        ]
        | UnsetType
    ) = UNSET
    endpoint: Endpoints | UnsetType = UNSET
    profile: Profiles | UnsetType = UNSET
    credentials: Credentials | UnsetType = UNSET
    network: Network | UnsetType = UNSET
    state: (
        Annotated[
            Text,
            Meta(description="URL of the PostgreSQL database that has the journals, in place of a directory."),
        ]
        | UnsetType
    ) = UNSET
    state_dir: Annotated[Text, Meta(description="Directory of the journals.")] | UnsetType = UNSET
    state_group: (
        Annotated[
            str,
            Meta(
                extra_json_schema={"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}[$]?$"},
                description="Group that may read the journals.",
                extra=_rule("the name or the number of a group"),
            ),
        ]
        | UnsetType
    ) = UNSET
    trust_owners: (
        Annotated[
            str | list[str],
            Meta(
                description="Users whose configs, jobs and journals are believed as one's own; it counts in one's own "
                "and in the system's config.",
                extra=_several("the name or the number of a user, or a list of them", Owner, distinct, "trust_owners"),
            ),
        ]
        | UnsetType
    ) = UNSET
    protect: Annotated[Globs, Meta(description="Accounts no job may touch.")] | UnsetType = UNSET
    keep_admins: KeepAdmins | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    approvals: ApprovalsKeys | UnsetType = UNSET
    seal: SealKeys | UnsetType = UNSET
    quotas: (
        Annotated[
            dict[str, Rate],
            Meta(
                description="Quota a second per action, if the vendor has changed it; share: how much of it to use; "
                "local: how much a run with --local uses."
            ),
        ]
        | UnsetType
    ) = UNSET
    rate: Rate | UnsetType = UNSET
    workers: Workers | UnsetType = UNSET
    per_instance: PerInstance | UnsetType = UNSET
    timeout: Timeout | UnsetType = UNSET
    deadline: Deadline | UnsetType = UNSET
    retry: Retry | UnsetType = UNSET
    stop_after: StopAfterText | UnsetType = UNSET
    notify: Notify | UnsetType = UNSET
    metrics_file: (
        Annotated[
            Text,
            Meta(
                description="Prometheus textfile to write while a run goes and at its end.",
                extra=_rule("the path of a file, such as /var/lib/node_exporter/acctops.prom"),
            ),
        ]
        | UnsetType
    ) = UNSET
    page_file: (
        Annotated[
            Text,
            Meta(
                description="HTML page to write every 2 s while a run goes, and at its end.",
                extra=_rule("the path of a file, such as /var/www/acctops.html"),
            ),
        ]
        | UnsetType
    ) = UNSET


JOB_ONLY = ("window", "accounts", "verify", "hold", "watch", "waves", "gate", "on_red")
"""Keys of a job that somebody may write into a config by mistake: an error, never ignored."""
