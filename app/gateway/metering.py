"""Tokens: what an engine says it used, and what to think of where it says nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from app.gateway.limits import Need

BYTES = 4  # of a prompt for each of its tokens; of Chinese, three quarters of a token a character
USUAL = 1024  # tokens that an answer may have if the request does not say
MOST = 131_072  # and if it says more than any engine gives
UNKNOWN_SPEED = 10.0  # tokens a second of one answer, before any has ended
PROMPTS = ("messages", "prompt", "input", "tools")
ENDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")

DATA = b"data: "
CHUNK_USAGE = b',"usage":{'
FLAT, END = b"}}\n\n", b"}\n\n"
CHOICES, NO_CHOICES = b'"choices":[{', b'"choices":[]'

speeds: dict[str, float] = {}  # deployment → tokens a second of one answer, lately


@dataclass(frozen=True)
class Tokens:
    """Of one request, by the ledger's names. Cached ones are the prompt's, reasoned the answer's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


def needs(path: str, body: dict[str, Any]) -> Need:
    """What a request may use, by an estimate of its prompt and what it says of its answer."""
    said = [body[name] for name in PROMPTS if body.get(name)]
    prompt = len(orjson.dumps(said)) // BYTES + 1
    if path == "embeddings":
        return Need(prompt, 0, 0)
    ends = [body[name] for name in ENDS if isinstance(body.get(name), int)]
    answers = body.get("n") or 1
    if ends and isinstance(answers, int):
        end = max(0, min(ends[0], MOST)) * answers
        return Need(prompt, end, end)
    return Need(prompt, 1, USUAL)


def read(usage: dict[str, Any]) -> Tokens:
    """An engine's own count, as Chat Completions or as Responses name it."""
    given = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    made = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return Tokens(
        usage.get("prompt_tokens") or usage.get("input_tokens") or 0,
        usage.get("completion_tokens") or usage.get("output_tokens") or 0,
        given.get("cached_tokens") or 0,
        made.get("reasoning_tokens") or 0,
    )


def without_usage(piece: bytes, known: bytes, is_wanted: bool) -> tuple[bytes, bytes]:
    """A stream's events as the client gets them, if any, and the usage so far, JSON.

    Engines tell with each chunk what is used by then, which is cut out: OpenAI does not. The last
    event of Chat Completions has nothing else, and is for who asked for it. An event of Responses
    is left as it is.
    """
    at = piece.find(CHUNK_USAGE)
    if at < 0 or NO_CHOICES in piece or CHOICES not in piece:
        events = (event + b"\n\n" for event in piece.split(b"\n\n") if event)
        return events_without_usage(events, known, is_wanted)
    while at >= 0:
        start = at + len(CHUNK_USAGE) - 1
        end = piece.index(b"}", start) + 1
        while piece.find(b"{", start + 1, end) >= 0 and unclosed(piece, start, end):
            end = piece.index(b"}", end) + 1
        known = piece[start:end]
        piece = piece[:at] + piece[end:]
        at = piece.find(CHUNK_USAGE, at)
    return piece, known


def unclosed(piece: bytes, start: int, end: int) -> bool:
    return piece.count(b"{", start, end) > piece.count(b"}", start, end)


def events_without_usage(
    events: Iterable[bytes], known: bytes, is_wanted: bool
) -> tuple[bytes, bytes]:
    """The same, slowly."""
    passed = []
    for event in events:
        start = event.find(DATA)
        if b'"usage"' not in event or start < 0:
            passed.append(event)
            continue
        if CHOICES in event and CHUNK_USAGE in event:
            event, known = without_usage(event, known, is_wanted)  # noqa: PLW2901
            passed.append(event)
            continue
        chunk = orjson.loads(event[start + len(DATA) :])
        usage = chunk.get("usage") or (chunk.get("response") or {}).get("usage")
        if usage:
            known = orjson.dumps(usage)
        if is_wanted or chunk.get("choices") != [] or not usage:
            passed.append(event)
    return b"".join(passed), known


def learn(row: dict[str, Any]) -> None:
    """How fast this deployment answers, from a request that ended well."""
    if row["duration_ms"] and row["completion_tokens"]:
        speed = 1000 * row["completion_tokens"] / row["duration_ms"]
        was = speeds.get(row["owner_id"], speed)
        speeds[row["owner_id"]] = was + 0.1 * (speed - was)


def guess(deployment_id: str, seconds: float, most: int) -> int:
    """Tokens of an answer that nobody has seen, after so many seconds."""
    return min(round(seconds * speeds.get(deployment_id, UNKNOWN_SPEED)), most)
