"""A caller of a World without any transport: signs with the tests' own signer and reads the answer."""

from __future__ import annotations

import json
from typing import Any

from engine.simulator.wire import WireAnswer
from engine.simulator.world import World
from tests.support.tc3 import signed_headers

NOW = 1_790_000_000.0
ACCESS = "postgres.intl.tencentcloudapi.com"
INSTANCE = "postgres-4sfuv15b"
USER = "app_user"


class Caller:
    """Calls a world at a time of the test's choosing."""

    def __init__(self, world: World, *, access: str = ACCESS, **signing: Any) -> None:
        self.world = world
        self.access = access
        self.signing = signing

    def answer(self, action: str, parameters: object, *, at: float = NOW, **signing: Any) -> WireAnswer:
        body = parameters if isinstance(parameters, bytes) else json.dumps(parameters).encode()
        headers = signed_headers(action, body, **{"host": self.access, "at": at, **self.signing, **signing})
        return self.world.handle(method="POST", query="", headers=headers, body=body, access=self.access, now=at)

    def call(self, action: str, parameters: object, *, at: float = NOW, **signing: Any) -> dict[str, Any]:
        answer = self.answer(action, parameters, at=at, **signing)
        assert answer.status == 200
        response: dict[str, Any] = json.loads(answer.body)["Response"]
        return response

    def code(self, action: str, parameters: object, *, at: float = NOW, **signing: Any) -> str | None:
        error = self.call(action, parameters, at=at, **signing).get("Error")
        return error["Code"] if error else None

    def write(
        self, action: str, instance: str = INSTANCE, user: str = USER, *, at: float = NOW, **signing: Any
    ) -> str | None:
        """The code of a write with well-formed parameters."""
        parameters = {"DBInstanceId": instance, "UserName": user}
        if action in ("CloseAccountCAM", "ResetAccountPassword"):
            parameters["Password"] = "Abcdef1!"
        return self.code(action, parameters, at=at, **signing)

    def rows(self, instance: str = INSTANCE, *, at: float = NOW, **parameters: Any) -> list[dict[str, Any]]:
        """One page of DescribeAccounts."""
        details: list[dict[str, Any]] = self.call("DescribeAccounts", {"DBInstanceId": instance, **parameters}, at=at)[
            "Details"
        ]
        return details


_SHARED = (
    "FailedOperation.DatabaseAccessError InvalidParameter.ParameterCheckError "
    "InvalidParameterValue.InvalidAccountNameFormatError ResourceNotFound.InstanceNotFoundError"
)
_LOCK = (
    "DBError FailedOperation.FailedOperationError FailedOperation.PreCheckError InternalError.DBError "
    "InvalidParameterValue.InvalidAccountNameError OperationDenied.InstanceAccessDeniedError "
    "OperationDenied.InstanceStatusLimitOpError"
)
_CAM = "InvalidParameterValue.UnsupportedRegionError OperationDenied.UserNotInWhiteListError"
DOCUMENTED = {
    "LockAccount": f"{_SHARED} {_LOCK}",
    "UnlockAccount": f"{_SHARED} {_LOCK} InvalidParameterValue.InvalidDatabaseObjectName "
    "InvalidParameterValue.ParameterLengthLimitError",
    "OpenAccountCAM": f"{_SHARED} {_CAM} FailedOperation.CheckAccountCAMCloseError "
    "FailedOperation.FailedOperationError InvalidParameterValue.AccountNotExistError "
    "OperationDenied.InstanceStatusLimitOpError",
    "CloseAccountCAM": f"{_SHARED} {_CAM} FailedOperation FailedOperation.CheckAccountCAMOpenError "
    "InvalidParameterValue.AccountNotExist OperationDenied.InstanceStatusLimitOpError",
    "RefreshAccountPassword": f"{_SHARED} {_CAM} FailedOperation.CheckAccountCAMOpenError "
    "FailedOperation.FailedOperationError InvalidParameterValue.AccountNotExistError "
    "OperationDenied.InstanceStatusLimitError",
}
"""Codes of each write action as its page lists them (SEED-LOCK, PY-PG)."""
DOCUMENTED_COUNTS = {
    "LockAccount": 11,
    "UnlockAccount": 13,
    "OpenAccountCAM": 10,
    "CloseAccountCAM": 10,
    "RefreshAccountPassword": 10,
}
