"""Errors that a user can meet. Each carries a status, a stable code and a sentence.

The sentence is a gettext msgid with `%(name)s` places; it is translated when it is
rendered (`app.web`), so the reader's language decides, not the thrower's.
"""

from typing import Any


def N_(message: str) -> str:
    """Mark a msgid for extraction; translate later."""
    return message


class DomainError(Exception):
    """Base of all errors whose sentence is meant for the user."""

    status = 400
    code = "invalid"
    headers: dict[str, str] = {}  # of the answer

    def __init__(
        self, message: str, *, code: str | None = None, field: str | None = None, **params: Any
    ) -> None:
        super().__init__(message % params if params else message)
        self.message = message
        self.params = params
        self.field = field
        if code:
            self.code = code

    def kept(self) -> dict[str, Any]:
        """As rows keep it, for a page in any language."""
        return {"code": self.code, "message": self.message, "params": self.params}


class Invalid(DomainError):
    """The request says something that cannot be done. `field` names the form field, if one."""

    status = 422
    code = "invalid"


class Unauthenticated(DomainError):
    status = 401
    code = "unauthenticated"


class Forbidden(DomainError):
    status = 403
    code = "forbidden"


class NotFound(DomainError):
    """Also what another workspace's id answers."""

    status = 404
    code = "not_found"

    def __init__(self, message: str = N_("There is nothing here."), **kwargs: Any) -> None:
        super().__init__(message, **kwargs)


class Conflict(DomainError):
    """The thing is in a state in which this cannot be done."""

    status = 409
    code = "conflict"


class TooLarge(DomainError):
    status = 413
    code = "too_large"


class TooMany(DomainError):
    """Throttled. `retry_after` in seconds."""

    status = 429
    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after: int, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after = retry_after


class Unavailable(DomainError):
    """Not now: nothing ready serves this. `retry_after` in seconds."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 5, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after = retry_after


class DiskFull(Unavailable):
    """The disk has no room for it, or would go below its floor."""

    status = 507
    code = "disk_full"


DISK_FULL = N_("The server's disk is full. An administrator has to make room.")


def disk_full() -> DiskFull:
    return DiskFull(DISK_FULL)
