"""What goes wrong, in the words kubectl users know.

Two families of message: ``error: ...`` for what the client found itself, and ``Error from server (Reason): ...`` for a
Status the server answered with. Scripts grep for both, so the wording is part of the interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class KubectlError(Exception):
    """A message for the person at the terminal, complete with its prefix, and the exit code that goes with it."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def client_error(message: str) -> KubectlError:
    return KubectlError(f"error: {message}")


class ApiError(KubectlError):
    """The server refused; ``status`` is its meta/v1 Status."""

    def __init__(self, status: Mapping[str, Any], *, doing: str = "") -> None:
        super().__init__(render_status(status, doing=doing))
        self.status = status

    @property
    def reason(self) -> str:
        return str(self.status.get("reason") or "")

    @property
    def not_found(self) -> bool:
        return self.reason == "NotFound"

    def while_doing(self, doing: str) -> ApiError:
        """The same error with what was being done, e.g. ``error when creating "go-demo-2.yml"``."""
        return ApiError(self.status, doing=doing)


def render_status(status: Mapping[str, Any], *, doing: str = "") -> str:
    """A Status as kubectl words it; an Invalid one lists its causes, each with the field it is about."""
    details = status.get("details") or {}
    if status.get("reason") == "Invalid":
        return _render_invalid(status, details)
    message = str(status.get("message") or "unknown error")
    if doing:
        message = f"{doing}: {message}"
    reason = status.get("reason")
    return f"Error from server ({reason}): {message}" if reason else f"Error from server: {message}"


def _render_invalid(status: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    named = details.get("kind") or details.get("name")
    head = (
        f'The {details.get("kind", "")} "{details.get("name", "")}" is invalid' if named else "The request is invalid"
    )
    causes = list(dict.fromkeys(f"{c.get('field', '')}: {c.get('message', '')}" for c in details.get("causes") or []))
    if not causes:
        return f"{head}: {status.get('message', '')}"
    if len(causes) == 1:
        return f"{head}: {causes[0]}"
    return "\n".join([f"{head}: ", *(f"* {cause}" for cause in causes)])
