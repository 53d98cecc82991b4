"""What a client is told when a request fails: a Status object, in upstream's words.

Programs read ``reason`` and ``details``, people search the web for ``message``, and kubectl shows it as it is; so all
of them are those of apimachinery's api/errors. Anything in the API server raises ``StatusError``; ``app`` sends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.apiserver.admission.errors import Cause, aggregate
from agent.apiserver.registry import JSON, Kind

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class StatusError(Exception):
    """A refused request. ``code`` is HTTP's."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: JSON | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details = {**(details or {}), **({"retryAfterSeconds": retry_after} if retry_after else {})}
        self.retry_after = retry_after

    def status(self) -> JSON:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def success(kind: Kind, name: str, *, uid: str = "", code: int | None = None) -> JSON:
    """The Status that answers a request which has no object to show."""
    status: JSON = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if name:
        status["details"] = _details(kind, name, **({"uid": uid} if uid else {}))
    if code is not None:
        status["code"] = code
    return status


def not_found(kind: Kind, name: str) -> StatusError:
    return StatusError(404, "NotFound", f'{kind.resource} "{name}" not found', details=_details(kind, name))


def no_such_path() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(kind: Kind, name: str) -> StatusError:
    message = f'{kind.resource} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, details=_details(kind, name))


def conflict(kind: Kind, name: str, why: str = MODIFIED, *, subresource: str = "") -> StatusError:
    resource = f"{kind.resource}/{subresource}" if subresource else kind.resource
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return StatusError(409, "Conflict", message, details=_details(kind, name))


def invalid(kind: str, name: str, causes: Sequence[Cause], *, group: str = "") -> StatusError:
    qualified = f"{kind}.{group}" if group else kind
    details: JSON = {"name": name, **({"group": group} if group else {}), "kind": kind, "causes": _causes(causes)}
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {aggregate(causes)}', details=details)


def invalid_object(kind: Kind, name: str, causes: Sequence[Cause]) -> StatusError:
    return invalid(kind.kind, name, causes, group=kind.group)


def forbidden(kind: Kind, name: str, why: str, causes: Sequence[Cause] = ()) -> StatusError:
    details = {**_details(kind, name), **({"causes": _causes(causes)} if causes else {})}
    about = f'{kind.resource} "{name}"' if name else kind.resource
    return StatusError(403, "Forbidden", f"{about} is forbidden: {why}", details=details)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> StatusError:
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", message)


def not_acceptable(accepted: Sequence[str]) -> StatusError:
    return StatusError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}")


def expired(message: str) -> StatusError:
    return StatusError(410, "Expired", message)


def too_large(limit: int) -> StatusError:
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return StatusError(415, "UnsupportedMediaType", message)


def internal_error(message: str) -> StatusError:
    causes = [{"message": message}]
    return StatusError(500, "InternalError", f"Internal error occurred: {message}", details={"causes": causes})


def unavailable(message: str, *, retry_after: int = 1) -> StatusError:
    return StatusError(503, "ServiceUnavailable", message, retry_after=retry_after)


def too_large_version(asked: int, current: int) -> StatusError:
    """The client has seen a later state than the server: it is told to try again (storage/errors.go)."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return StatusError(504, "Timeout", message, details={"causes": causes}, retry_after=1)


def _details(kind: Kind, name: str, **more: Any) -> JSON:
    group: Mapping[str, str] = {"group": kind.group} if kind.group else {}
    return {**({"name": name} if name else {}), **group, "kind": kind.plural, **more}


def _causes(causes: Sequence[Cause]) -> list[JSON]:
    return [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
