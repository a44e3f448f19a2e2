"""The description of the API: what FastAPI makes of the routes, and what it cannot know of them.

Every operation says who may, which errors it answers in which form, and shows an example.
"""

import threading
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.dashboard import contracts, examples

METHODS = ("get", "post", "put", "patch", "delete")
PUBLIC = ("/healthz", "/readyz")
ABOUT = """\
Everything that the console does. Send `Authorization: Bearer` and an API key.

* Lists answer `{data, has_more}`. Go on with `after`, the id of the last entry that you have, and
  `limit`.
* Errors are problem details (RFC 9457) with a stable `code`; under `/v1` they are OpenAI's, under
  `/dashscope` DashScope's.
* A `POST` with an `Idempotency-Key` happens once: for 24 hours the same request with the same key is
  given the same answer.
* Times are UTC, sizes bytes.
"""
ERRORS = {
    "400": "The request could not be read.",
    "401": "No API key, or one that is not valid.",
    "403": "The key lacks the scope, or its person the role.",
    "404": "There is no such thing in this workspace.",
    "409": "It is in a state in which this cannot be done.",
    "413": "The body is larger than allowed here.",
    "422": "Something in the request is missing or not allowed; `errors` says what.",
    "429": "Too often, or too much at once; `Retry-After` says when to come back.",
    "500": "Our fault; `request_id` is what to report.",
    "503": "Not now; `Retry-After` says when to come back.",
}
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Any text that is new for each thing to be done. See the introduction.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "0b7d9f4e-import-monday",
}

describing = threading.Lock()


def describe(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of all that is for programs. Made once: the web process keeps it."""
    with describing:  # FastAPI's part of it is not for two threads at once
        if app.openapi_schema is None:
            app.openapi_schema = described(app)
    return app.openapi_schema


def described(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
    parts = schema["components"]
    parts["schemas"] = {
        name: model
        for name, model in parts["schemas"].items()
        if name not in ("HTTPValidationError", "ValidationError")
    } | contracts.SCHEMAS
    parts["responses"] = refusals()
    parts["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key: dk-…"}
    }
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            complete(path, method, operation)
            contracts.fill(path, method, operation)
            examples.add(parts["schemas"], operation)
    return schema


def complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """What holds for every operation: a summary, the key, the errors, the idempotency key."""
    text = operation.get("description", "")
    operation["summary"] = text.replace("\n", " ").split(". ")[0].rstrip(".")[:120]
    if path in PUBLIC:
        return
    operation["security"] = [{"key": []}]
    parameters = operation.setdefault("parameters", [])
    if method == "post" and path.startswith("/api/v1/"):
        parameters.append(IDEMPOTENCY)
    given = {status: one for status, one in operation["responses"].items() if status != "422"}
    operation["responses"] = given | errors(path, method, parameters) | given
    if not parameters:
        del operation["parameters"]


def errors(path: str, method: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """Status → response, in the form that the path's clients read."""
    left_out = {"413"} if method == "get" else set()
    if not parameters and method == "get":
        left_out |= {"404"}
    kind = contracts.error_of(path)
    return {
        status: {"$ref": f"#/components/responses/{kind}{status}"}
        for status in ERRORS
        if status not in left_out
    }


def refusals() -> dict[str, Any]:
    """The errors in each of the three forms, to be referred to."""
    return {
        f"{kind}{status}": {
            "description": text,
            "content": {media: {"schema": contracts.ref(kind), "example": shown}},
        }
        for kind, media in contracts.ERRORS.items()
        for status, text in ERRORS.items()
        for shown in [contracts.example(kind, int(status), text)]
    }
