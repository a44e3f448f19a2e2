"""The lines of a batch's files: read, checked, written. Nothing here knows a database."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from app.db import new_id
from app.errors import N_, DomainError
from app.failures import OPENAI_TYPES

MOST = 50_000  # lines of one batch
LONGEST = 16 * 2**20  # bytes of one line, as of any request
MOST_ERRORS = 100  # that are told of
LONGEST_ID = 512  # characters of a custom_id


@dataclass(frozen=True)
class Line:
    number: int  # in the file, from 1
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of one line."""

    line: int
    ok: bool
    answer: str
    usage: dict[str, int] = field(default_factory=dict)  # columns of Batch


# -- reading -----------------------------------------------------------------------------


def raw(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line that is not empty, with its number; one that is too long is cut off there."""
    number = 0
    while data := file.readline(LONGEST + 1):
        number += 1
        rest = data
        while len(rest) > LONGEST and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST + 1)
        if text := data.removeprefix(b"\xef\xbb\xbf").strip():
            yield number, text


def asked(path: Path, done: set[int]) -> Iterator[Line]:
    """The lines of a checked file that are not done."""
    with path.open("rb") as file:
        for number, data in raw(file):
            if number not in done:
                found = orjson.loads(data)
                yield Line(number, found["custom_id"], found["body"])


# -- checking ----------------------------------------------------------------------------


@dataclass
class Check:
    """What the lines seen so far have in common, and what is wrong with them."""

    endpoint: str
    model: str | None = None
    total: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def take(self, number: int, data: bytes) -> None:
        self.total += 1
        if self.total <= MOST and (found := self.wrong(number, data)):
            self.errors.append(found)

    @property
    def over(self) -> bool:
        """There is no use in reading on."""
        return self.total > MOST or len(self.errors) >= MOST_ERRORS

    def end(self) -> None:
        if self.total > MOST:
            told = N_("The file has more than %(most)s requests.")
            self.errors.insert(0, problem("too_many_tasks", told, most=MOST))
        elif not self.total:
            self.errors.append(problem("empty_file", N_("The file has no requests.")))

    def wrong(self, number: int, data: bytes) -> dict[str, Any] | None:
        if len(data) > LONGEST:
            told = N_("This line is longer than %(most)s MiB.")
            return problem("invalid_json_line", told, line=number, most=LONGEST // 2**20)
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            told = N_("This line is not parseable as valid JSON.")
            return problem("invalid_json_line", told, line=number)
        for name in ("custom_id", "method", "url", "body"):
            if found.get(name) in (None, ""):
                told = N_("Missing required parameter: '%(name)s'.")
                return problem(
                    "missing_required_parameter", told, line=number, param=name, name=name
                )
        return (
            self.wrong_id(number, found["custom_id"])
            or self.wrong_address(number, found)
            or self.wrong_body(number, found["body"])
        )

    def wrong_id(self, number: int, custom_id: Any) -> dict[str, Any] | None:
        if not isinstance(custom_id, str) or len(custom_id) > LONGEST_ID:
            told = N_("custom_id must be a text of at most %(most)s characters.")
            return problem("invalid_value", told, line=number, param="custom_id", most=LONGEST_ID)
        if custom_id in self.seen:
            told = N_("The custom_id “%(id)s” is there more than once.")
            return problem(
                "duplicate_custom_id", told, line=number, param="custom_id", id=custom_id[:100]
            )
        self.seen.add(custom_id)
        return None

    def wrong_address(self, number: int, found: dict[str, Any]) -> dict[str, Any] | None:
        if found["method"] != "POST":
            told = N_("The method must be POST.")
            return problem("invalid_method", told, line=number, param="method")
        if found["url"] != self.endpoint:
            told = N_("The url must be the batch's endpoint, %(endpoint)s.")
            return problem("url_mismatch", told, line=number, param="url", endpoint=self.endpoint)
        return None

    def wrong_body(self, number: int, body: Any) -> dict[str, Any] | None:
        model = body.get("model") if isinstance(body, dict) else None
        if not isinstance(model, str) or not model:
            told = N_("Missing required parameter: '%(name)s'.")
            return problem(
                "missing_required_parameter", told, line=number, param="body.model", name="model"
            )
        if self.model is None:
            self.model = model
        elif model != self.model:
            told = N_("All requests of a batch ask the same model; the first asks %(first)s.")
            return problem(
                "model_mismatch", told, line=number, param="body.model", first=self.model[:200]
            )
        return None


def problem(
    code: str, message: str, *, line: int | None = None, param: str | None = None, **params: Any
) -> dict[str, Any]:
    """What is wrong with a batch, as its row keeps it."""
    return {"code": code, "line": line, "param": param, "message": message, "params": params}


# -- writing -----------------------------------------------------------------------------


def answered(line: Line, status: int, request_id: str, body: Any) -> Outcome:
    """The line for an answer of an engine, or for what was said instead of one."""
    ok = 200 <= status < 300
    response = {"status_code": status, "request_id": request_id, "body": body}
    return Outcome(
        line.number,
        ok,
        written(line.custom_id, response, None),
        usage_of(body.get("usage")) if ok and isinstance(body, dict) else {},
    )


def refused(line: Line, error: DomainError, request_id: str) -> Outcome:
    """The line for a request that never became one, as `/v1` would have answered it."""
    status = 400 if error.status == 422 else error.status
    kind = OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    said = {"message": str(error), "type": kind, "param": error.field, "code": error.code}
    return answered(line, status, request_id, {"error": said})


def unanswered(custom_id: str, code: str, message: str) -> str:
    """The line for a request that was not executed."""
    return written(custom_id, None, {"code": code, "message": message})


def written(custom_id: str, response: dict[str, Any] | None, error: Any) -> str:
    line = {
        "id": new_id("batch_req"),
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return orjson.dumps(line).decode()


def usage_of(usage: Any) -> dict[str, int]:
    """An engine's usage as columns of Batch."""
    if not isinstance(usage, dict):
        return {}
    asked_, said = (usage.get(f"{name}_tokens_details") or {} for name in ("prompt", "completion"))
    return {
        "prompt_tokens": usage.get("prompt_tokens") or 0,
        "cached_tokens": asked_.get("cached_tokens") or 0,
        "completion_tokens": usage.get("completion_tokens") or 0,
        "reasoning_tokens": said.get("reasoning_tokens") or 0,
    }
