"""Logged conversations as a dataset: each answer with what it answered."""

from collections.abc import Iterable
from typing import Any

import orjson

from app.accounts.auth import Principal
from app.datasets import work
from app.datasets.intake.upload import Upload, part, scratch
from app.datasets.tables import DatasetVersion
from app.errors import N_, Conflict
from app.gateway.requests import service
from app.gateway.requests.schemas import DatasetFrom
from app.gateway.requests.tables import LoggedRequest

MOST = 20_000  # entries that one dataset is made of
ENDED = ("stop", "tool_calls")  # by itself; an answer that was cut off is nothing to learn
LEARNED = ("content", "reasoning_content", "tool_calls")
Row = dict[str, Any]


def make(who: Principal, wanted: DatasetFrom) -> tuple[DatasetVersion, int, int]:
    """A draft of the entries that match: it, its rows, and how many entries gave none.

    Raises Conflict if they are too many, or give nothing.
    """
    seen: set[bytes] = set()
    rows: list[Row] = []
    left_out = 0
    for count, entry in enumerate(service.every(who, wanted)):
        if count >= MOST:
            raise Conflict(
                N_("More than %(most)s requests match. Narrow the choice."),
                code="too_many",
                most=MOST,
            )
        made = row(entry)
        if made is None:
            left_out += 1
        elif (line := orjson.dumps(made)) not in seen:
            seen.add(line)
            rows.append(made)
    if not rows:
        raise Conflict(
            N_(
                "None of these requests gives a row: that needs a chat that was answered to its end "
                "and whose key keeps everything."
            ),
            code="no_rows",
        )
    return work.take(who, written(rows[::-1], wanted.name)), len(rows), left_out


def row(entry: LoggedRequest) -> Row | None:
    """The conversation, of which the answer alone is learned; None for what is none."""
    asked = entry.asked.get("messages")
    answers = entry.answer.get("choices") or [{}]
    whole = entry.full and entry.status == 200 and entry.completed and not entry.truncated
    message = answers[0].get("message")
    if not (whole and asked and message and answers[0].get("finish_reason") in ENDED):
        return None
    last = {name: message[name] for name in LEARNED if message.get(name)}
    if not last.get("content") and not last.get("tool_calls"):
        return None
    before = [
        one | {"weight": 0} if one.get("role") == "assistant" else one
        for one in asked
        if isinstance(one, dict)
    ]
    made: Row = {"messages": [*before, {"role": "assistant", "content": "", **last}]}
    if entry.asked.get("tools"):
        made["tools"] = entry.asked["tools"]
    return made


def written(rows: Iterable[Row], name: str) -> Upload:
    """The rows as an upload."""
    upload = Upload(scratch(), "requests.jsonl", fields={"name": name})
    with (upload.directory / part(0)).open("wb") as file:
        for one in rows:
            upload.size += file.write(orjson.dumps(one) + b"\n")
    upload.files = [{"name": upload.file_name, "bytes": upload.size}]
    return upload
