"""**The** table of error codes. Everything about a code is here; to learn a code, add a row.

`row_of` finds the row of a code; `verdicts` says what each treatment means. No other module lists codes: it asks a
property of the code's row instead. Sources: CN-ERR and EN-ERR for the common codes, SEED-LOCK, SEED-CAM and GO-INTL for
those of the actions, PY-PG and PY-INTL `errorcodes.py` for the rest. Codes `Local.*` are ours. They name what happens
between us and the API.
"""

from __future__ import annotations

import re
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Treatment(StrEnum):
    """How a code is treated; `verdicts` turns each treatment into verdict, budget, cure and scope."""

    ALREADY = "already"
    """The target was in the desired state before."""
    REJECTED = "rejected"
    """This target cannot be done as asked."""
    REJECTED_REGION = "rejected_region"
    """No target of the region can be done as asked."""
    ASK = "ask"
    """This target cannot be done as asked, unless one read of the account shows otherwise."""
    THROTTLED = "throttled"
    """Over the quota of the lane."""
    THROTTLED_ACCOUNT = "throttled_account"
    """Over a limit that all lanes of the account share."""
    THROTTLED_ALL = "throttled_all"
    """Over a limit that all lanes share."""
    RETRY = "retry"
    """Transient: retried within the normal budget."""
    RETRY_LANE = "retry_lane"
    """Transient, and other calls of the lane will meet the same."""
    RETRY_FEW = "retry_few"
    """Transient, but it may last: few attempts."""
    RETRY_BUSY = "retry_busy"
    """Transient: the instance is busy with something else, so attempts are slow."""
    PROXY = "proxy"
    """Transient, few attempts: something between us and the API answered."""
    LATER = "later"
    """The call was not sent, for no fault of its own: the next session sends it."""
    CLOCK = "clock"
    """Our clock is off."""
    KEYS = "keys"
    """The keys are refused: fresh keys may help, if the source has others; else as FATAL."""
    FATAL = "fatal"
    """Every call of the lane would fail the same way."""
    FATAL_ALL = "fatal_all"
    """Every call of the run would fail the same way."""
    CONNECT = "connect"
    """No connection: transient, if the transport says that nothing was sent; else in doubt."""
    LOST = "lost"
    """No usable answer: in doubt, unless the transport says that nothing was sent."""


class Meaning(Struct, frozen=True):
    """How a code is treated, what it means, and what the operator does next."""

    treatment: Treatment
    words: str
    """What happened, in one sentence of at most 90 characters."""
    advice: str
    """What to do next, in at most 140 characters."""


class Row(Struct, frozen=True, kw_only=True):
    """One code: its meaning, its other meanings for some actions, and what other modules ask about it."""

    code: str
    """Name of the code. A row for many codes without rows of their own has the name of their kind."""
    meaning: Meaning
    per_action: Mapping[str, Meaning] = MappingProxyType({})
    is_known: bool = True
    """Whether the code has a meaning of its own; else it is judged by the form of its name."""
    is_denial: bool = False
    """Whether CAM denies this to keys that are valid. A policy mends it; another sub-account may be allowed."""
    is_refusal: bool = False
    """Whether the API refused keys, signature or clock, and so did not look at the request itself."""
    is_barred: bool = False
    """Whether the sender is kept out in another way: by its address, by an allowlist, or as it has no keys."""
    no_instance: bool = False
    """Whether there is no such instance in that region under that account."""
    not_sent: bool = False
    """Whether no byte of the attempt has left."""
    may_be_applied: bool = False
    """Whether a write with this answer may have been applied, or may still be."""

    @property
    def no_region(self) -> bool:
        """Whether the API does not know the region, or does not serve it."""
        return self.meaning.treatment is Treatment.REJECTED_REGION

    @property
    def is_about_sender(self) -> bool:
        """Whether the API turned away the sender, and not what the sender asked for."""
        return self.is_denial or self.is_refusal or self.is_barred


_STAYS = "The lines below the report say what takes it all the same; repeat the undo with --exclude to let it stay."
_RERUN = "then: acctops rerun RUN --only failed"
_RESUME = "then: acctops resume RUN"
_LATER = "It was retried in vain. Try later: acctops rerun RUN --only failed. If it lasts, give support the request id."
_WAIT = "Wait until the instance is running (isolated ones never will), " + _RERUN
_SEE_STATE = "Look at the account's state in the console; if this still is wanted, " + _RERUN
_NAME = "Correct or drop the user in the job file, then: acctops plan JOB"
_INSTANCE = "Check instance id, region and account in the job file, then: acctops plan JOB"
_PARAMETERS = "Check instance and user in the job file; if both are right, give support the request id."
_GRANT = "Have CAM grant it: acctops doctor JOB --policy prints what to grant, " + _RERUN
_REGION = "Take this region's targets out of the job, or ask support when it will be served."
_PASSWORD = "Have the password source give another password, " + _RERUN
_KEYS = "Run acctops doctor, put working keys in place, " + _RESUME
_BUG = "This is a fault of acctops or of its version: report it with the request id; nothing was changed."
_NETWORK = "Check DNS, firewall and proxy from this host with acctops doctor, " + _RESUME
_PROXY = "Check HTTPS_PROXY and the endpoint with acctops doctor, " + _RESUME
_SLOWER = "Nothing to do: acctops slows down and goes on. If it lasts, other tools use the same quota; lower --rate."
_LOST = "acctops reads the account to decide. If it stays unknown: acctops rerun RUN --only unknown"


_T = Treatment
_PERHAPS_PASSWORD = Meaning(
    _T.REJECTED,
    "The API does not accept a parameter of this call; it may be the new password.",
    "Password: 8 to 32 characters, lower, upper, digit, symbol, no / first. Mend its source, " + _RERUN,
)
_MAY_BE_APPLIED = (_T.RETRY, _T.RETRY_LANE, _T.RETRY_FEW, _T.LOST)
"""Treatments of answers that do not say at which step the server, or the way to it, failed. A row whose check comes
before anything is done says `may_be_applied=False`."""


def _row(
    code: str,
    treatment: Treatment,
    words: str,
    advice: str,
    *,
    is_denial: bool = False,
    is_refusal: bool = False,
    is_barred: bool = False,
    no_instance: bool = False,
    may_be_applied: bool | None = None,
    is_known: bool = True,
    **per_action: Meaning,
) -> Row:
    return Row(
        code=code,
        meaning=Meaning(treatment, words, advice),
        per_action=MappingProxyType(per_action),
        is_known=is_known,
        is_denial=is_denial,
        is_refusal=is_refusal,
        is_barred=is_barred,
        no_instance=no_instance,
        not_sent=treatment in (_T.CONNECT, _T.LATER),
        may_be_applied=treatment in _MAY_BE_APPLIED if may_be_applied is None else may_be_applied,
    )


def _same(codes: Iterable[str], *meaning: Any, **more: Any) -> tuple[Row, ...]:
    """Return rows of codes that have the same meaning. Any: the other arguments of `_row`."""
    return tuple(_row(code, *meaning, **more) for code in codes)


NO_KEYS = "Local.NoKeys"
"""There are no keys to sign with; the message says why."""
NO_ANSWER = "Local.Timeout"
"""The request was sent, and no answer came in time."""
NOT_SENT = "Local.NotSent"
"""The journal has the attempt, but the transport never got it."""
NO_ACCOUNT = "Local.NoAccount"
UNREAD = "Local.Unread"
UNSEEN = "Local.Unseen"
BAD_ROW = "Local.BadRow"
DROPPED = "Local.Dropped"
CAM_ON = "Local.CamOn"
NOT_APPLIED = "Local.NotApplied"
CHANGED_BACK = "Local.ChangedBack"
NO_SUCH_KEY = "AuthFailure.SecretIdNotFound"

ACCEPTED = "The API accepted the request."
ACCEPTED_ADVICE = "Nothing to do."

_LIMITS = (
    _row(
        "RequestLimitExceeded",
        _T.THROTTLED,
        "More requests in this second than the API's quota for this action.",
        _SLOWER,
    ),
    _row(
        "RequestLimitExceeded.UinLimitExceeded",
        _T.THROTTLED_ACCOUNT,
        "More requests in this second than the whole cloud account may send.",
        _SLOWER,
    ),
    _row(
        "RequestLimitExceeded.GlobalRegionUinLimitExceeded",
        _T.THROTTLED_ACCOUNT,
        "More requests in this second than the cloud account may send over all regions.",
        _SLOWER,
    ),
    _row(
        # Not in the vendor SDK's retry list (CN-ERR).
        "RequestLimitExceeded.IPLimitExceeded",
        _T.THROTTLED_ALL,
        "More requests in this second than one IP address may send.",
        _SLOWER,
    ),
    _row(
        "FailedOperation.OperateFrequencyLimitedError",
        _T.THROTTLED,
        "The database service says this operation comes too often.",
        _SLOWER,
    ),
    _row(
        # A quota, not a rate; suffixes with RateLimit are rates and fall back to THROTTLED.
        "LimitExceeded",
        _T.REJECTED,
        "A quota of the cloud account is used up; it is not the request rate.",
        "See the message for which quota, free or raise it in the console, " + _RERUN,
    ),
)

_IDENTITY = (
    _row(
        "AuthFailure.SignatureExpire",
        _T.CLOCK,
        "This host's clock is more than 5 minutes off the API's.",
        "acctops corrects it once by the server's Date. If it comes again: fix NTP on this host, " + _RESUME,
        is_refusal=True,
    ),
    _row(
        NO_SUCH_KEY,
        _T.KEYS,
        "This key does not exist here: deleted, disabled, mistyped or expired.",
        "It may belong to the other site (international/mainland): check site and keys (acctops doctor), " + _RESUME,
        is_refusal=True,
    ),
    _row(
        "AuthFailure.SignatureFailure",
        _T.KEYS,
        "The signature does not fit: the secret key does not belong to this key id.",
        "Id, key and token must come from one rotation and without stray spaces: acctops doctor, " + _RESUME,
        is_refusal=True,
    ),
    _row(
        "AuthFailure.TokenFailure",
        _T.KEYS,
        "The session token is expired, or belongs to other keys.",
        "Get fresh temporary keys with their token, check with acctops doctor, " + _RESUME,
        is_refusal=True,
    ),
    _row("AuthFailure", _T.FATAL, "CAM could not check signature or permission.", _KEYS, is_refusal=True),
    _row("AuthFailure.InvalidSecretId", _T.FATAL, "This is not the id of a cloud API key.", _KEYS, is_refusal=True),
    _row(
        "AuthFailure.InvalidAuthorization",
        _T.FATAL_ALL,
        "The API cannot read the Authorization header.",
        "A proxy may have changed the header; else it is a fault of acctops. Check with acctops doctor.",
        is_refusal=True,
    ),
    _row(
        "AuthFailure.MFAFailure",
        _T.FATAL,
        "The key's user must pass multi-factor authentication, which a tool cannot.",
        "Use keys of a user or role that needs no MFA for this API, " + _RESUME,
        is_refusal=True,
    ),
    *_same(
        ("AuthFailure.UnauthorizedOperation", "UnauthorizedOperation", "FailedOperation.CamAuthFailed"),
        _T.REJECTED,  # CAM decides per instance for this product: after one denial others may be allowed
        "CAM does not let this key do this on this instance.",
        _GRANT,
        is_denial=True,
        # A policy that names the region may allow LockAccount and still deny CloseAccountCAM: the resource of the
        # latter has no region (CAM's page of the product).
        CloseAccountCAM=Meaning(
            _T.REJECTED,
            "CAM does not let this key do this on this instance.",
            "Have CAM grant CloseAccountCAM; its resource names no region (qcs::postgres::uin/...), " + _RERUN,
        ),
    ),
    _row(
        "UnauthorizedOperation.UserHasNoRealnameAuthentication",
        _T.FATAL,
        "The cloud account has not passed real-name authentication.",
        "Have the account's owner pass it in the console, " + _RESUME,
        is_barred=True,
    ),
    *_same(
        (
            "OperationDenied.CamDeniedError",
            "OperationDenied.AccountOperationDenied",
            "OperationDenied.InstanceAccessDeniedError",
            "ResourceUnavailable.ResourceNoPermission",
        ),
        # The vendor's words: "no permission for the VPC" (ResourceNoPermission), "insufficient permissions"
        # (AccountOperationDenied). The signer lacks a right that another sub-account may have.
        _T.REJECTED,
        "No permission on this instance.",
        _GRANT,
        is_denial=True,
    ),
    *_same(
        (
            "FailedOperation.CamSigAndAuthError",
            "FailedOperation.CamCheckResourceError",
            "FailedOperation.WhitelistConnectError",
        ),
        # The vendor's words: "please try again later". So this does not say what CAM allows, and is no denial.
        # The API looks up permissions before it does anything.
        _T.RETRY,
        "The API could not look up permissions just now.",
        _LATER,
        may_be_applied=False,
    ),
    _row(
        "FailedOperation.CamCheckResourceFailed",
        _T.RETRY_FEW,
        "CAM's check of this resource failed.",
        "Check in CAM that the key's user may do this on this instance, " + _RERUN,
        may_be_applied=False,
    ),
    _row(
        # The allowlist is of users, not of instances (PY-PG): every target would fail.
        "OperationDenied.UserNotInWhiteListError",
        _T.FATAL,
        "This cloud account is not on the allowlist for CAM verification.",
        "Ask Tencent support by ticket to allow it for this account, " + _RESUME,
        is_barred=True,
    ),
    *_same(
        ("IpInBlacklist", "IpNotInWhitelist"),
        _T.FATAL_ALL,
        "The API refuses this host's IP address.",
        "Run from an allowed address, or have the account's IP rules changed, " + _RESUME,
        is_barred=True,
    ),
)

_REQUEST = (
    _row(
        "ActionOffline",
        _T.FATAL,
        "Tencent has withdrawn this action.",
        "See the API's change log or ask support; acctops cannot do this any more.",
    ),
    *_same(
        ("InvalidAction", "InterfaceNameNotFound", "InvalidParameterValue.InterfaceNameNotFound"),
        _T.FATAL,
        "The endpoint does not know this action.",
        "Check that the endpoint is that of the service `postgres` (acctops doctor), " + _RESUME,
    ),
    *_same(
        ("NoSuchVersion", "NoSuchProduct"),
        _T.FATAL_ALL,
        "The endpoint does not know this API or its version.",
        "Check that the endpoint is that of the service `postgres` (acctops doctor), " + _RESUME,
    ),
    *_same(
        ("MissingParameter", "UnknownParameter"),
        _T.FATAL,  # the parameters have the same names for every target
        "The API wants other parameters than acctops sends.",
        _BUG,
    ),
    *_same(
        ("InvalidRequest", "UnsupportedProtocol"),
        _T.FATAL_ALL,
        "The API cannot read the request as acctops or a proxy sent it.",
        "A proxy may have changed it: check with acctops doctor; else report it with the request id.",
    ),
    _row("RequestSizeLimitExceeded", _T.REJECTED, "The request is larger than the API takes.", _PARAMETERS),
    _row(
        "ResponseSizeLimitExceeded",
        _T.RETRY_FEW,
        "The answer would be larger than the API sends.",
        "acctops asks for less at a time; if it lasts, give support the request id.",
    ),
    _row(
        "DryRunOperation",
        _T.REJECTED,
        "The API took this for a dry run; nothing was changed.",
        "acctops sends no dry runs: look for a proxy that adds DryRun, " + _RERUN,
    ),
    *_same(("UnsupportedRegion",), _T.REJECTED_REGION, "The API does not serve this region.", _REGION),
    *_same(
        (
            "InvalidParameterValue.UnsupportedRegionError",
            "InvalidParameterValue.RegionNotSupported",
            "RegionNotSupported",
        ),
        _T.REJECTED_REGION,
        "This action does not exist in this region.",
        _REGION,
    ),
    *_same(
        ("InvalidParameterValue.IllegalRegion", "InvalidParameterValue.InvalidRegionIdError"),
        _T.REJECTED_REGION,
        "The API does not know this region.",
        "Check the spelling of the region in the job file, then: acctops plan JOB",
    ),
    *_same(
        (
            "InvalidParameter",
            "InvalidParameterValue",
            "InvalidParameter.ParameterCheckError",
            "InvalidParameterValue.InvalidParameterValueError",
            "InvalidParameterValue.BizInvalidParameterValueError",
            "InvalidParameterValue.ParameterHandleError",
        ),
        _T.REJECTED,
        "The API does not accept a parameter of this call.",
        _PARAMETERS,
        # CloseAccountCAM documents no code for a bad password, so it probably answers with one of these (inferred).
        CloseAccountCAM=_PERHAPS_PASSWORD,
        ResetAccountPassword=_PERHAPS_PASSWORD,
    ),
    *_same(
        (
            "InvalidParameterValue.StructParseFailed",
            "StructParseFailed",
            "InvalidParameterValue.DataConvertError",
        ),
        _T.REJECTED,
        "The API could not make sense of the request's data.",
        _PARAMETERS,
    ),
    _row("InvalidParameterValue.ParameterLengthLimitError", _T.REJECTED, "A parameter is longer than allowed.", _NAME),
    _row(
        "InvalidParameterValue.ParameterCharacterError",
        _T.REJECTED,
        "A parameter has characters that the API does not take.",
        _NAME,
    ),
    _row(
        "InvalidParameterValue.InvalidDatabaseObjectName",
        _T.REJECTED,
        "The API does not take this name.",
        _NAME,
    ),
    *_same(
        ("UnsupportedOperation",),
        _T.REJECTED,
        "This instance does not support this action.",
        "Take it out of the job, or look up the instance's version and type in the console.",
    ),
    *_same(
        (
            "FailedOperation.ServerlessNotSupportedError",
            "OperationDenied.InstanceTypeDenied",
            "OperationDenied.KernelVersionError",
        ),
        _T.REJECTED,
        "An instance of this type or version does not support this action.",
        "Take it out of the job, or upgrade the instance's kernel version, " + _RERUN,
    ),
)

_ACCOUNTS = (
    _row(
        # For LockAccount and UnlockAccount this is the only code that can mean "account missing" (PY-PG).
        "FailedOperation.PreCheckError",
        _T.REJECTED,
        "The pre-check failed: the account is missing, busy, or in no state for this.",
        _SEE_STATE,
        LockAccount=Meaning(
            _T.ASK, "The pre-check failed: the account is locked already, missing, or busy.", _SEE_STATE
        ),
        UnlockAccount=Meaning(_T.ASK, "The pre-check failed: the account is not locked, missing, or busy.", _SEE_STATE),
    ),
    *_same(
        ("InvalidAccountStatus", "FailedOperation.InvalidAccountStatus"),
        _T.REJECTED,
        "The account's state does not allow this.",
        _SEE_STATE,
        LockAccount=Meaning(_T.ASK, "The account is locked already, or its state forbids this.", _SEE_STATE),
        UnlockAccount=Meaning(_T.ASK, "The account is not locked, or its state forbids this.", _SEE_STATE),
    ),
    _row(
        # PY-PG errorcodes.py line 56: CAM is already enabled on the account.
        "FailedOperation.CheckAccountCAMCloseError",
        _T.REJECTED,
        "CAM verification is on for this account, so this action is refused.",
        "Turn it off first if that is wanted (job with CloseAccountCAM), " + _RERUN,
        OpenAccountCAM=Meaning(
            _T.ALREADY, "CAM verification was on already.", "Nothing to do: the account is as asked."
        ),
        ResetAccountPassword=Meaning(
            _T.REJECTED,
            "CAM verification is on for this account; the password was NOT set.",
            "For a new one: a job with RefreshAccountPassword; or CloseAccountCAM, which turns CAM off and sets one.",
        ),
    ),
    _row(
        # PY-PG errorcodes.py line 59: CAM is already off; the password sent was not applied.
        "FailedOperation.CheckAccountCAMOpenError",
        _T.REJECTED,
        "CAM verification is off for this account, so this action is refused.",
        "Turn it on first if that is wanted: acctops cam-on TARGET --region R",
        CloseAccountCAM=Meaning(
            _T.ALREADY,
            "CAM verification was off already; the password was NOT set.",
            "Set the password yourself if it matters. Only after an earlier try without answer it may be set: test it.",
        ),
    ),
    *_same(
        ("InvalidParameterValue.AccountNotExistError", "InvalidParameterValue.AccountNotExist", "AccountNotExist"),
        _T.REJECTED,
        "There is no such account on this instance.",
        "Correct or drop it in the job file; accounts on an instance: acctops plan JOB",
    ),
    _row(
        "InvalidParameterValue.InvalidAccountNameError",
        _T.REJECTED,
        "The API refuses this user name (rule: 16 letters, digits, _; not postgres, pg_*).",
        "Names of 17 to 63 characters may have no API way: use SQL for this one, or drop it from the job file.",
    ),
    *_same(
        (
            "InvalidParameterValue.InvalidAccountNameFormatError",
            "InvalidParameterValue.InvalidAccountError",
            "InvalidParameterValue.InvalidAccountFormat",
            "InvalidParameterValue.InvalidAccountName",
        ),
        _T.REJECTED,
        "The API refuses this user name (rule: 63 letters, digits, _; no reserved word).",
        _NAME,
    ),
    *_same(
        (
            "InvalidParameterValue.InvalidPasswordLengthError",
            "InvalidParameterValue.InvalidPasswordValueError",
            "InvalidParameterValue.InvalidPasswordFormat",
            "InvalidAccountPassword",
        ),
        _T.REJECTED,
        "The new password breaks the rule: 8 to 32 characters; lower, upper, digit, symbol.",
        _PASSWORD,
    ),
    _row(
        "InvalidParameterValue.DecryptPasswordFailed",
        _T.REJECTED,
        "The API took the password for an encrypted one and could not decrypt it.",
        _PASSWORD,
    ),
)

_INSTANCES = (
    # Not `no_instance`: the code does not say which resource is missing, and a read asks for accounts, too.
    _row("ResourceNotFound", _T.REJECTED, "There is no such instance in this region under this account.", _INSTANCE),
    *_same(
        (
            "ResourceNotFound.InstanceNotFoundError",
            "OperationDenied.ResourceNotFoundError",
            "OperationDenied.ResourceNotFundError",  # sic
            "InstanceNotExist",
            "InvalidParameterValue.InstanceNotExist",
        ),
        _T.REJECTED,
        "There is no such instance in this region under this account.",
        _INSTANCE,
        no_instance=True,
    ),
    *_same(
        (
            "OperationDenied.InstanceStatusLimitOpError",
            "OperationDenied.InstanceStatusLimitError",
            "OperationDenied.InstanceStatusDeniedError",
            "OperationDenied.ROInstanceStatusLimitOpError",
            "ResourceUnavailable.InvalidInstanceStatus",
            "InvalidInstanceStatus",
        ),
        _T.RETRY_BUSY,
        "The instance is busy: its status does not allow this now.",
        _WAIT,
    ),
    *_same(
        ("ResourceInUse", "ResourceUnavailable"),
        _T.RETRY_BUSY,
        "The instance is in use or not available now.",
        _WAIT,
    ),
    *_same(
        ("FailedOperation.LimitOperation", "LimitOperation"),
        _T.RETRY_FEW,
        "Operations on this instance are restricted.",
        "Look in the console for arrears, isolation or a maintenance lock on the instance, " + _RERUN,
        may_be_applied=False,
    ),
    _row(
        "ResourceInsufficient",
        _T.REJECTED,
        "The instance or region has no capacity for this.",
        "Free or buy capacity for the instance in the console, " + _RERUN,
    ),
)

_SERVER = (
    *_same(
        ("DBError", "InternalError.DBError", "FailedOperation.DBError"),
        _T.RETRY_FEW,  # a failover in progress, or something that lasts: give up early, a read shows which
        "A statement failed inside the database: a failover, or something lasting.",
        "Look at instance and account in the console, " + _RERUN + ". If it lasts, give support the request id.",
    ),
    _row(
        "FailedOperation",
        _T.RETRY_FEW,
        "The operation failed; the API says no more.",
        _LATER,
    ),
    _row("FailedOperation.FailedOperationError", _T.RETRY, "The operation failed; the API asks to try later.", _LATER),
    *_same(
        (
            "FailedOperation.DatabaseAccessError",
            "FailedOperation.ServiceAccessError",
            "FailedOperation.OssAccessError",
            "InternalError.DatabaseAccessError",
        ),
        _T.RETRY,
        "The API cannot reach its own management service just now.",
        _LATER,
    ),
    *_same(
        (
            "FailedOperation.DatabaseAffectedError",
            "FailedOperation.OssOperationFailed",
        ),
        _T.RETRY_FEW,
        "The API's management service failed to do it.",
        _LATER,
    ),
    *_same(
        ("FailedOperation.GetInstanceByResourceIdError", "FailedOperation.QueryInstanceBatchError"),
        _T.RETRY,
        "The API cannot look up the instance just now.",
        _LATER,
        may_be_applied=False,
    ),
    *_same(
        # The vendor's words: "failed to create a task, try again later". They do not say which step failed, so the
        # task may exist all the same. A read of the account decides.
        ("FailedOperation.FlowCreateError", "FailedOperation.FlowError"),
        _T.RETRY,
        "The API could not begin the task that does it.",
        _LATER,
    ),
    *_same(
        (
            "InternalError",
            "InternalError.HttpError",
            "InternalError.InternalHttpServerError",
            "InternalError.SystemError",
            "InternalError.TransactioBeginError",  # sic
            "InternalError.UnknownError",
            "InternalError.InstanceDataError",
            "SystemError",
            "UnknownError",
            "UnknownParameter.HttpError",
            "UnknownParameter.InternalInnerServiceError",
        ),
        _T.RETRY,
        "An error inside the API.",
        _LATER,
    ),
    _row("ServiceUnavailable", _T.RETRY_LANE, "The API is down just now.", _LATER),
)

_LOCAL = (
    _row("Local.Dns", _T.CONNECT, "The endpoint's name could not be resolved; nothing was sent.", _NETWORK),
    _row(
        "Local.Connect",
        _T.CONNECT,
        "No connection to the endpoint, or to the proxy before it; nothing was sent.",
        _NETWORK,
    ),
    _row(
        "Local.Tls",
        _T.CONNECT,
        "No secure connection: the endpoint's certificate or TLS failed; nothing was sent.",
        "Check clock, CA certificates and any TLS-inspecting proxy with acctops doctor, " + _RESUME,
    ),
    _row(NO_ANSWER, _T.LOST, "No answer in time; the request may have been applied.", _LOST),
    _row("Local.ConnectionReset", _T.LOST, "The connection broke off; the request may have been applied.", _LOST),
    _row(
        "Local.Truncated",
        _T.LOST,
        "The answer is cut off or damaged; the request may have been applied.",
        _LOST,
    ),
    _row(
        "Local.Html",
        _T.LOST,
        "A web page came instead of the API's answer; the request may have been applied.",
        _LOST,
    ),
    _row("Local.Garbage", _T.LOST, "The answer is not the API's; the request may have been applied.", _LOST),
    _row(
        "Local.NoRequestId",
        _T.LOST,
        "The answer has no request id, so it proves nothing; it may have been applied.",
        _LOST,
    ),
    _row(
        "Local.RepeatedRequestId",
        _T.LOST,
        "The answer has the request id of an earlier one, so it is not this request's.",
        _LOST,
    ),
    _row(
        "Local.Misplaced",
        _T.LOST,
        "The answer is not of the documented shape for this request, so it proves nothing.",
        _LOST,
    ),
    _row(
        "Local.OtherInstance",
        _T.LOST,
        "The answer is about another instance or region than was asked for.",
        _LOST,
    ),
    _row(
        "Local.TooMuch",
        _T.LOST,
        "The answer is larger than any of the API; it was cut off, and may have been applied.",
        _LOST,
    ),
    _row(
        NOT_SENT,
        _T.LATER,
        "Prepared but never sent: the run was stopped first.",
        "Go on with: acctops resume RUN",
    ),
    _row(
        NO_KEYS,
        _T.FATAL,
        "There are no keys to sign with for this account; nothing was sent.",
        "acctops doctor JOB says which source failed and why; mend it, " + _RESUME,
        is_barred=True,
    ),
    _row(
        "Local.PasswordSource",
        _T.REJECTED,
        "The password source gave no password for this account; nothing was sent.",
        "Run the password source by hand for this account, mend it, " + _RERUN,
    ),
    _row(
        NOT_APPLIED,
        _T.REJECTED,
        "The API accepted the request, but reading back shows it was not applied.",
        "Somebody may have changed it back: acctops verify RUN, then: acctops rerun RUN --only failed",
    ),
    _row(
        CHANGED_BACK,
        _T.REJECTED,
        "It was proven done, and a later reading of this run shows that it is so no more.",
        "Find out who changes it back: acctops verify RUN, then: acctops rerun RUN --only failed",
    ),
    _row(
        NO_ACCOUNT,
        _T.REJECTED,
        "There is no such account on this instance.",
        "Correct the name in the list (a near one is named, if there is one), then: acctops run JOB",
    ),
    _row(
        CAM_ON,
        _T.REJECTED,
        "CAM verification is on for this account, so no password was sent.",
        "For a new one: a job with RefreshAccountPassword; or CloseAccountCAM, which turns CAM off and sets one.",
    ),
    _row(
        UNSEEN,
        _T.REJECTED,
        "A match or an undo asks for this, and it could not be looked at.",
        "Mend what hinders the reading, then go on; what is done stays done: acctops rerun RUN --only failed",
    ),
    _row(
        BAD_ROW,
        _T.REJECTED,
        "This row of a list is no target; --skip-bad-rows sent the others.",
        "Correct the row, then (what is done stays done): acctops run JOB",
    ),
    _row(
        DROPPED,
        _T.REJECTED,
        "Somebody took it out of the run while that was going on; nothing was sent for it.",
        "If it is wanted after all, run the job again (what is done stays done): acctops run JOB",
    ),
    *(
        _row(f"Local.{name}", _T.REJECTED, f"The undo leaves it as it is: {words}.", _STAYS)
        for name, words in (
            ("BeforeUnknown", "how it was before the run is not known"),
            ("Edited", "somebody changed it since"),
            ("Gone", "it is not there any more"),
            ("Held", "another run holds it"),
            ("Unproven", "whether the run changed it is not known"),
        )
    ),
    _row(
        UNREAD,
        _T.REJECTED,
        "The instance was not read, and a guard or an unusual name needs its accounts known.",
        "Allow DescribeAccounts on it, or see why it is not read (--no-verify); then: acctops rerun RUN --only failed",
    ),
    *_same(
        ("Local.Http500", "Local.Http502", "Local.Http503", "Local.Http504"),
        _T.LOST,
        "A gateway answered with a server error; the request may have been applied.",
        _LOST,
    ),
    *_same(
        ("Local.Http408", "Local.Http499"),
        _T.LOST,
        "A proxy or gateway gave up waiting; the request may have been applied.",
        _LOST,
    ),
    _row(
        "Local.Http403",
        _T.PROXY,
        "A proxy or gateway answered, not the API: it forbids this address.",
        "Have the proxy or firewall allow the endpoint for this host (acctops doctor), " + _RESUME,
    ),
    _row(
        "Local.Http407",
        _T.PROXY,
        "A proxy or gateway answered, not the API: it wants a login.",
        "Put user and password of the proxy into HTTPS_PROXY, check with acctops doctor, " + _RESUME,
    ),
    _row(
        "Local.Http429",
        _T.THROTTLED,
        "A proxy or gateway answered, not the API: too many requests.",
        _SLOWER,
    ),
)

ALL_CODES: Mapping[str, Row] = MappingProxyType(
    {row.code: row for row in (*_LIMITS, *_IDENTITY, *_REQUEST, *_ACCOUNTS, *_INSTANCES, *_SERVER, *_LOCAL)}
)
"""Every code with a meaning of its own, by name."""

_UNKNOWN = "Read the message, or ask support with the request id. When mended: acctops rerun RUN --only failed"

_HTTP_PROXY = _row("Local.Http4xx", _T.PROXY, "A proxy or gateway answered, not the API.", _PROXY)
"""Row of any HTTP 3xx or 4xx that has none of its own."""
_HTTP_SERVER = _row(
    "Local.Http5xx", _T.LOST, "An HTTP status that is not the API's; the request may have been applied.", _LOST
)
"""Row of any other HTTP status except 200 that has none of its own."""
LOST_ANYHOW = Meaning(_T.LOST, "A fault on the way to the API; the request may have been applied.", _LOST)
"""Meaning of any other code of ours."""
_UNKNOWN_RATE = _row(
    "RequestLimitExceeded", _T.THROTTLED, "A rate limit acctops does not know.", _SLOWER, is_known=False
)
"""Row of any other code with "RateLimit" in it (`LimitExceeded.RateLimitExceeded` of other products)."""
_UNKNOWN_CODE = _row(
    "",
    _T.REJECTED,
    "An error code acctops does not know; it is not retried.",
    _UNKNOWN,
    is_known=False,
    may_be_applied=True,  # nobody has said that it is not
)
"""Row of any other code."""
_BY_FIRST_SEGMENT: Mapping[str, Row] = MappingProxyType(
    {
        row.code: row
        for row in (
            _row(
                "AuthFailure",
                _T.FATAL,
                "A refusal of the keys that acctops does not know.",
                _KEYS,
                is_known=False,
                is_refusal=True,
            ),
            _row(
                "UnauthorizedOperation",
                _T.REJECTED,
                "An error code acctops does not know; it is not retried.",
                _UNKNOWN,
                is_known=False,
                is_barred=True,
            ),
            _UNKNOWN_RATE,
            _row(
                "InternalError", _T.RETRY, "An error inside the API that acctops does not know.", _LATER, is_known=False
            ),
            _row(
                "ServiceUnavailable",
                _T.RETRY,
                "An outage of the API that acctops does not know.",
                _LATER,
                is_known=False,
            ),
            _row(
                "FailedOperation",
                _T.RETRY_FEW,
                "A failed operation that acctops does not know.",
                _LATER,
                is_known=False,
            ),
            _row("Local", LOST_ANYHOW.treatment, LOST_ANYHOW.words, LOST_ANYHOW.advice, is_known=False),
        )
    }
)
"""First part of a code, before its dot → the row of codes that have none of their own. The vendor groups codes so."""
_SUCCESS = Row(code="", meaning=Meaning(_T.ALREADY, ACCEPTED, ACCEPTED_ADVICE), may_be_applied=True)
_HTTP = re.compile(r"Local\.Http(\d{1,3})", re.ASCII)


def row_of(code: str | None) -> Row:
    """Return the row of a code, or of its kind if it has none of its own. None is a success, which may be applied."""
    if code is None:
        return _SUCCESS
    row = ALL_CODES.get(code)
    if row is not None:
        return row
    if (http := _HTTP.fullmatch(code)) is not None:
        return _HTTP_PROXY if 300 <= int(http[1]) < 500 else _HTTP_SERVER
    if "RateLimit" in code:
        return _UNKNOWN_RATE
    return _BY_FIRST_SEGMENT.get(code.partition(".")[0], _UNKNOWN_CODE)


LOST_BEFORE_SEND = "The connection failed before anything was sent; the target is untouched."
LOST_BEFORE_SEND_ADVICE = _NETWORK
LOST_READ = "The answer to a read was lost; a read changes nothing."
LOST_READ_ADVICE = "acctops asks again. If it lasts, check the network with acctops doctor."

_SAID_BY_STS = {
    "Local.Dns": "its name cannot be resolved",
    "Local.Timeout": "no answer in time",
    "Local.": "cannot be reached, or did not answer as STS does",
    "ResourceNotFound.RoleNotFound": "there is no such role; look at the ARN, and at the site (international/mainland)",
    "UnauthorizedOperation": "these keys may not assume this role: its trust policy or their sts:AssumeRole is missing",
    "AuthFailure.UnauthorizedOperation": "these keys may not ask this: their policy lacks sts:{action}",
    "AuthFailure.SecretIdNotFound": "the key does not exist here; it may be of the other site (international/mainland)",
    "AuthFailure.SignatureExpire": "this host's clock is off, and the difference cannot be learnt; set it by NTP",
    "AuthFailure.SignatureFailure": "the secret key does not belong to this key id",
    "AuthFailure.TokenFailure": "the session token is expired, or belongs to other keys",
    "AuthFailure": "the keys are refused",
    "InvalidParameter.WebIdentityTokenError": "the web identity token is not accepted: expired, or of another provider",
    "InvalidParameter.OverTimeError": "the role does not allow a session of that duration",
    "RequestLimitExceeded": "STS is asked too often by this account; try again in a minute",
}
SAID_BY_STS: Mapping[str, str] = MappingProxyType(_SAID_BY_STS)
"""Code of STS, or its first part → words; GO-CN sts/v20180813 lists them for AssumeRole. STS is another API: no call
ends with one of its codes, so they have no rows."""
SAID_OF_ANY_HOST: Mapping[str, str] = MappingProxyType(
    {
        "Local.Dns": "the name of its host cannot be resolved",
        "Local.Tls": "no TLS with its host",
        "Local.Connect": "its host cannot be reached",
        "Local.ConnectionReset": "the connection was reset",
        "Local.Garbage": "its host does not speak HTTP",
        "Local.Truncated": "its answer was cut off",
    }
)
"""Our code for a fault on the way to a host that is not the API's → words."""
