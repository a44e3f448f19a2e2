"""How errors are answered: a page, a toast, problem+json, OpenAI's body or DashScope's. One set for
all.
"""

import errno
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from psycopg.errors import DiskFull
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException

from app.errors import (
    N_,
    DomainError,
    Invalid,
    NotFound,
    TooMany,
    Unauthenticated,
    Unavailable,
    disk_full,
)
from app.web import asks, field_messages, here, is_htmx, render, sentence, translate

log = structlog.get_logger()

TITLES = {
    400: N_("Bad request"),
    401: N_("Sign in first"),
    402: N_("The balance is used up"),
    403: N_("Not allowed"),
    404: N_("Not found"),
    405: N_("Not possible here"),
    409: N_("Not in this state"),
    413: N_("Too large"),
    422: N_("Please check what you entered"),
    429: N_("Too many requests"),
    500: N_("Something went wrong"),
    503: N_("Not available right now"),
    507: N_("No room"),
}
# what the framework itself raises, in our words
SENTENCES = {
    400: N_("The request could not be read."),
    404: N_("There is nothing at this address."),
    405: N_("This address does not take this method."),
    413: N_("The body is larger than allowed here."),
    415: N_("This content type is not taken here."),
}
CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}
NO_DATABASE = N_("The database does not answer. Try again in a moment.")
OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
DASHSCOPE_CODES = {
    401: "InvalidApiKey",
    402: "Arrearage",
    403: "AccessDenied",
    404: "NotFound",
    409: "Conflict",
    413: "BadRequest.TooLarge",
    429: "Throttling.RateQuota",
    500: "InternalError",
    503: "ServiceUnavailable",
    507: "ServiceUnavailable",
    504: "GatewayTimeout",
}
QUOTA = "insufficient_quota"  # waiting does not help
OPENAI_STATUS = {409: 400, 422: 400}  # both clients would send a conflict again, to no avail


def respond(request: Request, error: DomainError, fields: dict[str, str] | None = None) -> Response:
    """The answer to `error` in the form the caller of this path reads, in their language.

    `fields` has a sentence per field, keyed by dotted path.
    """
    headers = dict(error.headers)
    if isinstance(error, TooMany | Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    path = request.scope["path"]
    if path.startswith(("/v1/", "/inference/")) or path == "/v1":
        return openai(request, error, fields, headers)
    if path.startswith("/dashscope/"):
        return dashscope(request, error, fields, headers)
    if path.startswith("/api/") or speaks_json(request):
        return problem(request, error, fields, headers)
    return page(request, error, headers)


def speaks_json(request: Request) -> bool:
    """A script of a page: it sends JSON, or wants JSON or events back."""
    accept = request.headers.get("accept", "")
    if request.headers.get("content-type", "").startswith("application/json"):
        return True
    return "text/html" not in accept and ("json" in accept or "event-stream" in accept)


def openai(
    request: Request,
    error: DomainError,
    fields: dict[str, str] | None,
    headers: dict[str, str],
) -> Response:
    message = sentence(request, error)
    param = error.field
    if fields:
        param, message = next((name, f"{name}: {text}") for name, text in fields.items())
    default = "server_error" if error.status >= 500 else "invalid_request_error"
    status = OPENAI_STATUS.get(error.status, error.status)
    body = {
        "message": message,
        "type": error.code if error.code == QUOTA else OPENAI_TYPES.get(error.status, default),
        "param": param,
        "code": error.code,
    }
    return JSONResponse({"error": body}, status_code=status, headers=headers)


def dashscope(
    request: Request,
    error: DomainError,
    fields: dict[str, str] | None,
    headers: dict[str, str],
) -> Response:
    message = sentence(request, error)
    if fields:
        message = "; ".join(f"{name}: {text}" for name, text in fields.items())
    status = OPENAI_STATUS.get(error.status, error.status)
    code = DASHSCOPE_CODES.get(error.status, "InvalidParameter")
    if error.code == QUOTA:
        code = "Throttling.AllocationQuota"
    body = {
        "code": "Model.NotExist" if error.code == "model_not_found" else code,
        "message": message,
        "request_id": request.state.request_id,
    }
    return JSONResponse(body, status_code=status, headers=headers)


def problem(
    request: Request,
    error: DomainError,
    fields: dict[str, str] | None,
    headers: dict[str, str],
) -> Response:
    """RFC 9457, with our stable `code`."""
    if error.field and not fields:
        fields = {error.field: sentence(request, error)}
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": translate(request, TITLES.get(error.status, TITLES[400])),
        "status": error.status,
        "detail": sentence(request, error),
        "code": error.code,
        "request_id": request.state.request_id,
    }
    if fields:
        body["errors"] = [{"field": name, "message": text} for name, text in fields.items()]
    return JSONResponse(
        body,
        status_code=error.status,
        headers=headers,
        media_type="application/problem+json",
    )


def page(request: Request, error: DomainError, headers: dict[str, str]) -> Response:
    if isinstance(error, Unauthenticated):
        return to_login(request)
    title = translate(request, TITLES.get(error.status, TITLES[400]))
    context: dict[str, Any] = {
        "title": title,
        "message": sentence(request, error),
        "error_id": request.state.request_id if error.status >= 500 else None,
        "error_status": error.status,
        "more": asks(error),
    }
    if is_htmx(request):
        headers |= {"HX-Retarget": "#toasts", "HX-Reswap": "beforeend"}
        response = render(request, "errors/toast.html", status=error.status, **context)
    else:
        response = render(request, "errors/page.html", status=error.status, **context)
    response.headers.update(headers)
    return response


def to_login(request: Request) -> Response:
    """To the sign-in page, and afterwards back to what was asked for."""
    if is_htmx(request):
        current = urlsplit(request.headers.get("hx-current-url", ""))
        back = current.path + ("?" + current.query if current.query else "")
        return Response(status_code=401, headers={"HX-Redirect": login_url(back)})
    return RedirectResponse(login_url(here(request)), status_code=303)


def login_url(back: str) -> str:
    return f"/login?next={quote(back)}" if back not in ("", "/") else "/login"


# -- the handlers ------------------------------------------------------------------------


async def on_domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DomainError)
    return respond(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = DomainError(SENTENCES.get(error.status_code, SENTENCES[400]))
    known.status = error.status_code
    known.code = CODES.get(error.status_code, "invalid")
    response = respond(request, known)
    response.headers.update(error.headers or {})
    return response


async def on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if any(part["loc"][:1] == ("path",) for part in errors):
        return respond(request, NotFound())
    invalid = Invalid(N_("Something in the request is missing or not allowed."))
    return respond(request, invalid, field_messages(request, errors))


async def on_data_error(request: Request, error: Exception) -> Response:
    """A NUL in a text, or a number past what its column holds."""
    log.info("value refused by the database", error=str(error)[:300])
    return respond(
        request,
        Invalid(N_("A text or a number in the request is outside what can be stored.")),
    )


def unexpected(request: Request, error: Exception) -> Response:
    """What stands below us failed, or a fault of ours: logged with an id for the reader."""
    log.error("unexpected error", path=request.scope["path"], exc_info=error)
    if is_full(error):
        return respond(request, disk_full())
    if isinstance(error, OperationalError):
        return respond(request, Unavailable(NO_DATABASE, code="database"))
    ours = DomainError(
        N_("This is our fault, not yours. Try again; if it stays, report the id %(id)s."),
        code="internal_error",
        id=request.state.request_id,
    )
    ours.status = 500
    return respond(request, ours)


def is_full(error: BaseException | None) -> bool:
    """Is it that a disk is full, the database's or ours?"""
    if isinstance(error, Unavailable):
        return error.code == "disk_full"
    if isinstance(error, OperationalError):
        return isinstance(error.orig, DiskFull)
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def install(app: FastAPI) -> None:
    app.add_exception_handler(DomainError, on_domain_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(DataError, on_data_error)
