"""The API's own tables as its pages print them: actions, parameters, limits, codes, regions, names. No I/O.

This second table of actions is intended. `engine.api.actions` is the client's reading of the pages, this is the
server's. A test that runs one against the other finds a misreading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from engine.simulator.wire import Refusal

VERSION = "2017-03-12"
NORMAL, LOCKED = 2, 5
"""AccountInfo.Status of an account in use, and of a locked one (D-ACCTS)."""


class Parameter(NamedTuple):
    """One request parameter."""

    kind: type
    required: bool = False


class ActionSpec(NamedTuple):
    """One action as its page describes it."""

    name: str
    quota: int
    """"A maximum of N requests can be initiated per second"."""
    parameters: Mapping[str, Parameter]
    needs_region: bool = True
    account_missing: str = ""
    """Code for an account that does not exist: it differs by action (PY-PG). Empty for a read."""
    account_busy: str = ""
    """Code for an account in a transitional status (inferred: the only code of its list that can carry it)."""
    instance_status: str = ""
    """Code for an instance that is not running; RefreshAccountPassword lists a sibling (SEED-LOCK, PY-PG)."""
    before: tuple[int, bool] = (NORMAL, False)
    """Status and CAM verification that an account has before the action."""
    after: tuple[int, bool] = (NORMAL, False)
    """Status and CAM verification that an account has after the action."""
    refused: str = ""
    """Code for an account whose CAM is not as in `before`; for `Repeat.PRECHECK`, also for the status in `after`."""
    refreshes: bool = False
    """Whether the action makes a new CAM password."""
    lists_old_names: bool = False
    """Whether the action's list of codes has the older rule for names, too (SEED-LOCK, D-CREATE)."""
    bad_length: str = "InvalidParameter.ParameterCheckError"
    """Code for a password that is too short or too long; CloseAccountCAM lists none for passwords (SEED-LOCK)."""
    bad_password: str = "InvalidParameter.ParameterCheckError"  # noqa: S105 - a code
    """Code for a password that breaks another rule."""

    @property
    def is_write(self) -> bool:
        """Whether the action changes an account."""
        return bool(self.account_missing)


_TARGET = {"DBInstanceId": Parameter(str, required=True), "UserName": Parameter(str, required=True)}
_PAGE = {
    "Limit": Parameter(int),
    "Offset": Parameter(int),
    "OrderBy": Parameter(str),
    "OrderByType": Parameter(str),
}
_PRECHECK = "FailedOperation.PreCheckError"
_FAILED = "FailedOperation.FailedOperationError"
_NOT_EXIST = "InvalidParameterValue.AccountNotExistError"
_STATUS = "OperationDenied.InstanceStatusLimitOpError"

ACTIONS: Mapping[str, ActionSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            # SEED-LOCK and D-UNLOCK list no account-not-found code: only PreCheckError can say it (SEED-LOCK, PY-PG)
            ActionSpec(
                "LockAccount",
                20,
                _TARGET,
                True,
                _PRECHECK,
                _PRECHECK,
                _STATUS,
                after=(LOCKED, False),
                refused=_PRECHECK,
                lists_old_names=True,
            ),
            ActionSpec(
                "UnlockAccount",
                20,
                _TARGET,
                True,
                _PRECHECK,
                _PRECHECK,
                _STATUS,
                before=(LOCKED, False),
                refused=_PRECHECK,
                lists_old_names=True,
            ),
            ActionSpec(  # SEED-CAM
                "OpenAccountCAM",
                20,
                _TARGET,
                True,
                _NOT_EXIST,
                _FAILED,
                _STATUS,
                after=(NORMAL, True),
                refused="FailedOperation.CheckAccountCAMCloseError",
            ),
            ActionSpec(  # D-CLOSE: the not-found code without "Error", and the bare FailedOperation
                "CloseAccountCAM",
                20,
                {**_TARGET, "Password": Parameter(str, required=True), "PasswordEncrypt": Parameter(bool)},
                True,
                "InvalidParameterValue.AccountNotExist",
                "FailedOperation",
                _STATUS,
                before=(NORMAL, True),
                refused="FailedOperation.CheckAccountCAMOpenError",
            ),
            ActionSpec(  # D-REFRESH
                "RefreshAccountPassword",
                20,
                _TARGET,
                True,
                _NOT_EXIST,
                _FAILED,
                "OperationDenied.InstanceStatusLimitError",
                before=(NORMAL, True),
                after=(NORMAL, True),
                refused="FailedOperation.CheckAccountCAMOpenError",
                refreshes=True,
            ),
            ActionSpec(  # D-RESET: no code for the instance's status, so PreCheckError is inferred
                "ResetAccountPassword",
                100,
                {**_TARGET, "Password": Parameter(str, required=True)},
                True,
                _NOT_EXIST,
                _PRECHECK,
                _PRECHECK,
                refused="FailedOperation.CheckAccountCAMCloseError",
                lists_old_names=True,
                bad_length="InvalidParameterValue.InvalidPasswordLengthError",
                bad_password="InvalidParameterValue.InvalidPasswordValueError",  # noqa: S106 - a code
            ),
            ActionSpec("DescribeAccounts", 1000, {"DBInstanceId": Parameter(str, required=True), **_PAGE}),  # D-ACCTS
            ActionSpec("DescribeDBInstances", 1000, {"Filters": Parameter(list), **_PAGE}),  # D-INST
            ActionSpec("DescribeRegions", 1000, {}, needs_region=False),  # D-REGIONS
        )
    }
)

REGIONS: Mapping[str, str] = MappingProxyType(
    {
        "ap-bangkok": "Bangkok",
        "ap-beijing": "Beijing",
        "ap-chengdu": "Chengdu",
        "ap-chongqing": "Chongqing",
        "ap-guangzhou": "Guangzhou",
        "ap-hongkong": "Hong Kong",
        "ap-jakarta": "Jakarta",
        "ap-nanjing": "Nanjing",
        "ap-seoul": "Seoul",
        "ap-shanghai": "Shanghai",
        "ap-shanghai-fsi": "Shanghai Finance",
        "ap-shenzhen-fsi": "Shenzhen Finance",
        "ap-singapore": "Singapore",
        "ap-tokyo": "Tokyo",
        "eu-frankfurt": "Frankfurt",
        "na-ashburn": "Virginia",
        "na-siliconvalley": "Silicon Valley",
        "sa-saopaulo": "São Paulo",
    }
)
"""The product's 18 regions (SEED-LOCK)."""
CLOSED_REGIONS: Mapping[str, str] = MappingProxyType({"na-toronto": "Toronto"})
"""Listed by DescribeRegions as UNAVAILABLE in its sample (SEED-LOCK)."""

MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        "FailedOperation": "Operation failed. Please try again later.",
        "FailedOperation.CheckAccountCAMCloseError": "Checking database account status error: the account has enabled "
        "CAM verification. the current operation is not supported.",
        "FailedOperation.CheckAccountCAMOpenError": "Checking database account status error: the account has not "
        "enabled CAM verification. the current operation is not supported.",
        "FailedOperation.DatabaseAccessError": "Failed to access database management service. Please try again later. "
        "If the problem persists, please contact customer service.",
        "FailedOperation.FailedOperationError": "Operation failed. Please try again later.",
        "FailedOperation.PreCheckError": "Pre-check failed",
        "DBError": "Backend database execution error.",
        "InternalError.DBError": "Backend database execution error.",
        "InvalidParameter.ParameterCheckError": "Failed to check the parameter.",
        "InvalidParameterValue.AccountNotExist": "The account does not exist.",
        "InvalidParameterValue.AccountNotExistError": "The account does not exist.",
        "InvalidParameterValue.InvalidAccountNameError": "The account setting is invalid. please follow the account "
        "naming rules: the account name must be 1-16 characters, can only consist of letters, digits, or underscores; "
        "cannot be postgres; cannot start with a digit, pg_, or tencentdb_; all rules are case-insensitive.",
        "InvalidParameterValue.InvalidAccountNameFormatError": "The account is invalid. follow the account naming "
        "rules: it must consist of letters (a-z, a-z), digits (0-9), and underscores (_), start with a letter or "
        "underscore (_), and be no more than 63 characters. system reserved keywords cannot be used, 'postgres' is not "
        "allowed, and it cannot start with 'pg_' or 'tencentdb_'.",
        "InvalidParameterValue.InvalidPasswordLengthError": "The password length is invalid.",
        "InvalidParameterValue.InvalidPasswordValueError": "The password value is invalid.",
        "InvalidParameterValue.InvalidParameterValueError": "Invalid parameter value.",
        "InvalidParameterValue.UnsupportedRegionError": "The incoming region does not support this API feature.",
        "OperationDenied.InstanceAccessDeniedError": "You do not have the permission to operate this resource.",
        "OperationDenied.InstanceStatusLimitError": "This operation cannot be performed on an instance in this status.",
        "OperationDenied.InstanceStatusLimitOpError": "This operation cannot be performed on an instance in this "
        "status.",
        "OperationDenied.UserNotInWhiteListError": "User not in allowlist.",
        "ResourceNotFound.InstanceNotFoundError": "The instance does not exist.",
        "AuthFailure.SecretIdNotFound": "The SecretId is not found. Please ensure that your SecretId is correct.",
        "AuthFailure.TokenFailure": "Token failure: the token is missing, wrong or expired.",
        "AuthFailure.UnauthorizedOperation": "The request is not authorized by CAM. Please check your CAM policies.",
        "InternalError": "An internal error has occurred. Please retry your request.",
        "NoSuchVersion": "The API version does not exist.",
        "RequestLimitExceeded": "The number of requests exceeds the frequency limit.",
        "RequestLimitExceeded.UinLimitExceeded": "The number of requests of the main account exceeds the limit.",
        "RequestLimitExceeded.IPLimitExceeded": "The number of requests of the source IP exceeds the limit.",
        "RequestSizeLimitExceeded": "The request is too large.",
        "ResourceUnavailable": "The resource is unavailable.",
        "ServiceUnavailable": "The service is temporarily unavailable.",
        "UnsupportedProtocol": "The HTTP method is not supported; only GET and POST are.",
    }
)
"""The pages' messages by code; the message of any other code is its own name."""

_INSTANCE = re.compile(r"(?:postgres|pgro)-[a-z0-9]{1,32}")
"""Well-formed instance id. The pages' samples have eight characters after the hyphen; no page states the length, so it
is left open. Read-only instances are known as `pgro-…`."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_RESERVED = re.compile(r"(?i)postgres|(?:pg_|tencentdb_).*")
_PASSWORD = tuple(re.compile(part) for part in ("[a-z]", "[A-Z]", "[0-9]", r"[()`~!@#$%^&*\-+=_|{}\[\]:<>,.?/]"))


def refusal(code: str, message: str = "") -> Refusal:
    """Return a refusal with the given message, or with the page's message if none is given."""
    return Refusal(code, message or MESSAGES.get(code, code))


def is_instance_id(instance: str) -> bool:
    """Return whether the API could have issued this id."""
    return _INSTANCE.fullmatch(instance) is not None


def name_refusal(spec: ActionSpec, user: str, *, refuse_long: bool, by_sql: bool = False) -> Refusal | None:
    """Return the refusal of a user name, or None. Two rules for names disagree (SEED-LOCK, D-CREATE).

    Lock and Unlock list the codes of both rules, the CAM actions only the newer one's. `refuse_long`: whether Lock and
    Unlock refuse 17 to 63 characters, as the older rule does; False follows the newer rule. `by_sql`: whether the
    account is there, so that SQL may have given it a name that keeps neither rule.
    """
    both = spec.lists_old_names
    if _NAME.fullmatch(user) is None and not by_sql:
        return refusal("InvalidParameterValue.InvalidAccountNameFormatError")
    if _RESERVED.fullmatch(user) or (both and refuse_long and len(user) > 16):
        suffix = "InvalidAccountNameError" if both else "InvalidAccountNameFormatError"
        return refusal(f"InvalidParameterValue.{suffix}")
    return None


def password_refusal(spec: ActionSpec, password: str) -> Refusal | None:
    """Return the refusal of a password, or None: 8-32, no leading `/`, lower, upper, digit and special (SEED-LOCK)."""
    if not 8 <= len(password) <= 32:
        return refusal(spec.bad_length)
    if password.startswith("/") or not all(part.search(password) for part in _PASSWORD):
        return refusal(spec.bad_password)
    return None


def check_parameters(spec: ActionSpec, parameters: dict[str, Any], *, from_query: bool) -> Refusal | None:
    """Return the refusal of wrong names or types, or None. Convert the texts of a GET in place. Any: JSON values."""
    for name in parameters:
        if name not in spec.parameters:
            return Refusal("UnknownParameter", f"The parameter `{name}` is not recognized.")
    for name, (kind, required) in spec.parameters.items():
        if name not in parameters:
            if required:
                return Refusal("MissingParameter", f"The request is missing a required parameter `{name}`.")
            continue
        if from_query:
            parameters[name] = _typed(kind, parameters[name])
        if type(parameters[name]) is not kind:  # `isinstance` would take a bool for an int
            words = {str: "a string", int: "an integer", bool: "a boolean", list: "an array"}
            return Refusal("InvalidParameter", f"The type of parameter `{name}` is wrong: it must be {words[kind]}.")
    return None


def _typed(kind: type, value: Any) -> Any:
    """Return a query string's text as the parameter's type, or unchanged if it cannot be converted."""
    if kind is int and isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        return int(value)
    if kind is bool and value in ("true", "false"):
        return value == "true"
    return value
