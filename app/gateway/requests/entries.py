"""From what the spool keeps of a request to a row of the log. Nothing here knows a database."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import orjson

from app.gateway.requests.redact import redacted

MOST = 128 * 1024  # characters that are kept of what was asked, and of the answer
PREVIEW = 300  # characters
ITEM = 16  # what an item of a list or of an object counts beside its text
Row = dict[str, Any]


def row(line: Row, *, full: bool, days: int, redact: bool) -> Row:
    """The columns of LoggedRequest for a line of the spool."""
    at = datetime.fromisoformat(line["at"])
    same = (
        "id", "workspace_id", "user_id", "api_key_id", "endpoint", "model", "deployment_id",
        "status", "completed", "streamed", "prompt_tokens", "completion_tokens", "first_token_ms",
        "duration_ms",
    )  # fmt: skip
    made = {name: line[name] for name in same}
    made |= {"at": at, "expires_at": at + timedelta(days=days), "full": full}
    if not full:
        bare = {"asked": without_text(line["body"]), "answer": {}, "redacted": False}
        return made | bare | {"truncated": False, "question": "", "reply": "", "words": ""}
    asked, answer = Cut(redact), Cut(redact)
    body = asked.of(line["body"])
    said = answer.of(heard(line["events"]) if line["streamed"] else told(line["answer"]))
    questions, replies = list(texts_asked(body)), list(texts_said(said))
    return made | {
        "redacted": redact,
        "truncated": asked.cut or answer.cut or line["cut"],
        "asked": body,
        "answer": said,
        "question": questions[-1][:PREVIEW] if questions else "",
        "reply": " ".join(replies)[:PREVIEW],
        "words": "\n".join([*questions, *replies]),
    }


def without_text(body: Row) -> Row:
    """Numbers and switches; how many messages."""
    kept: Row = {
        name: value for name, value in body.items() if isinstance(value, bool | int | float)
    }
    if isinstance(body.get("messages"), list):
        kept["message_count"] = len(body["messages"])
    return kept


class Cut:
    """A copy of a JSON value whose text is bounded, and redacted if asked for."""

    def __init__(self, redact: bool) -> None:
        self.redact = redact
        self.left = MOST
        self.cut = False

    def of(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.of(one) for one in value if self.room()]
        if isinstance(value, dict):
            return {self.text(name): self.of(one) for name, one in value.items() if self.room()}
        return value

    def room(self) -> bool:
        self.left -= ITEM
        self.cut = self.cut or self.left <= 0
        return self.left > 0

    def text(self, text: str) -> str:
        kept = text[: max(0, self.left)]
        self.cut = self.cut or len(kept) < len(text)
        self.left -= len(kept)
        kept = kept.replace("\0", "")  # which the database takes no more than JSON of it
        return redacted(kept) if self.redact else kept


# -- answers -----------------------------------------------------------------------------


def told(answer: str) -> Row:
    """A whole answer without what is not text: vectors, log probabilities, ids."""
    try:
        found = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return {"error": {"message": answer[:1000]}} if answer else {}
    if not isinstance(found, dict):
        return {}
    kept = {name: found[name] for name in ("error", "output", "status") if found.get(name)}
    if isinstance(found.get("choices"), list):
        kept["choices"] = [choice(one) for one in found["choices"] if isinstance(one, dict)]
    if found.get("object") == "list":
        kept["vectors"] = len(found.get("data") or [])
    return kept


def choice(one: Row) -> Row:
    kept = {name: one[name] for name in ("text", "finish_reason") if one.get(name) is not None}
    if isinstance(one.get("message"), dict):
        kept["message"] = {
            name: value for name, value in one["message"].items() if value not in (None, [], "")
        }
    return kept


def heard(events: list[str]) -> Row:
    """What the pieces of a stream join to."""
    made: dict[int, Row] = {}
    kept: Row = {}
    for event in events:
        for chunk in chunks(event):
            if chunk.get("error"):
                kept["error"] = chunk["error"]
            if isinstance(chunk.get("response"), dict):  # of /v1/responses: the last has all
                kept |= told(orjson.dumps(chunk["response"]).decode())
            for one in chunk.get("choices") or []:
                join(made.setdefault(one.get("index", 0), {}), one)
    if made:
        kept["choices"] = [choice(made[index]) for index in sorted(made)]
    return kept


def chunks(event: str) -> Iterator[Row]:
    for line in event.splitlines():
        if line.startswith("data: {"):
            try:
                found = orjson.loads(line.removeprefix("data: "))
            except orjson.JSONDecodeError:
                continue
            yield found


def join(made: Row, piece: Row) -> None:
    if piece.get("finish_reason"):
        made["finish_reason"] = piece["finish_reason"]
    if piece.get("text"):
        made["text"] = made.get("text", "") + piece["text"]
    delta = piece.get("delta")
    if not isinstance(delta, dict):
        return
    message = made.setdefault("message", {"role": "assistant"})
    for name in ("content", "reasoning_content", "reasoning", "refusal"):
        if isinstance(delta.get(name), str):
            message[name] = message.get(name, "") + delta[name]
    for call in delta.get("tool_calls") or []:
        calls = message.setdefault("tool_calls", [])
        index = call.get("index", 0)
        while len(calls) <= min(index, 100):
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        mine = calls[min(index, 100)]
        if call.get("id"):
            mine["id"] = call["id"]
        for name in ("name", "arguments"):
            mine["function"][name] += (call.get("function") or {}).get(name) or ""


# -- text --------------------------------------------------------------------------------


def texts_asked(body: Row) -> Iterator[str]:
    """In order: the last is what was asked last."""
    for message in body.get("messages") or []:
        yield from texts_of(message.get("content") if isinstance(message, dict) else None)
    for name in ("instructions", "input", "prompt"):
        yield from texts_of(body.get(name))


def texts_said(answer: Row) -> Iterator[str]:
    for one in answer.get("choices") or []:
        message = one.get("message") or {}
        for said in (message.get("reasoning_content"), message.get("content"), one.get("text")):
            yield from texts_of(said)
        for call in message.get("tool_calls") or []:
            function = call.get("function") or {}
            yield f"{function.get('name', '')}({function.get('arguments', '')})"
    for item in answer.get("output") or []:
        yield from texts_of(item.get("content") if isinstance(item, dict) else None)
    if isinstance(answer.get("error"), dict):
        yield str(answer["error"].get("message", ""))


def texts_of(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                yield part
            elif isinstance(part, dict):
                yield from texts_of(part.get("text") or part.get("content"))
