"""What a judge replied: a verdict with its reason, or nonsense. Pure.

The reply is hostile: the material may have talked the judge into anything. Only a JSON object of
the form asked for counts, and a reply that holds two verdicts that differ holds none.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from app.evaluations.judging.prompts import Dimension
from app.evaluations.prompts import thoughtless

LONGEST = 20_000  # characters of a reply that are looked at
MOST_OBJECTS = 50
MOST_REASON = 4_000
NUMBER = re.compile(r"\s*(\d{1,3}(?:\.\d{1,4})?)\s*(?:/\s*\d+|分)?\s*")
WINNERS = {
    "a": "A", "b": "B", "tie": "tie", "draw": "tie", "equal": "tie", "平": "tie", "平局": "tie",
    "answer a": "A", "answer b": "B", "回答a": "A", "回答b": "B", "回答 a": "A", "回答 b": "B",
}  # fmt: skip
T = TypeVar("T")


class Nonsense(ValueError):
    """No verdict can be read from the reply."""


@dataclass(frozen=True)
class Reply:
    """`scores` by the dimension's key, or `winner`: A, B or tie."""

    reason: str
    scores: dict[str, float]
    winner: str = ""


def scores(text: str, several: Sequence[Dimension], scale: int) -> Reply:
    """A number from 1 to `scale` for every dimension. Raises Nonsense."""

    def read(found: dict[str, Any]) -> Reply:
        given = found.get("scores", found.get("score"))
        if not isinstance(given, dict):
            if len(several) > 1:
                raise Nonsense
            given = {several[0].name: given}
        by_name = {plain(str(name)): value for name, value in given.items()}
        made = {}
        for one in several:
            name = next((each for each in (one.name, one.key) if plain(each) in by_name), None)
            if name is None:
                raise Nonsense
            made[one.key] = number(by_name[plain(name)], scale)
        return Reply(reason(found), made)

    return only(text, read, lambda one: tuple(sorted(one.scores.items())))


def winner(text: str) -> Reply:
    """A, B or a tie. Raises Nonsense."""

    def read(found: dict[str, Any]) -> Reply:
        said = WINNERS.get(plain(str(found.get("winner", ""))))
        if said is None:
            raise Nonsense
        return Reply(reason(found), {}, said)

    return only(text, read, lambda one: one.winner)


def only(text: str, read: Callable[[dict[str, Any]], Reply], said: Callable[[Reply], Any]) -> Reply:
    """The one verdict of the reply; Nonsense where there is none, or where two differ."""
    found = []
    for one in objects(thoughtless(text)[-LONGEST:]):
        try:
            found.append(read(one))
        except Nonsense:
            continue
    if not found or any(said(one) != said(found[0]) for one in found):
        raise Nonsense
    return found[-1]


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a text, whatever stands around them; not those within others."""
    decoder = json.JSONDecoder(strict=False)  # judges break lines within strings
    at = looked = 0
    while (at := text.find("{", at)) >= 0 and looked < MOST_OBJECTS:
        looked += 1
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        at = end
        if isinstance(found, dict):
            yield found


def plain(text: str) -> str:
    """Of a name: without case, width and spaces at the ends."""
    return unicodedata.normalize("NFKC", text).strip().casefold()


def number(value: Any, scale: int) -> float:
    """Raises Nonsense for what is no number from 1 to `scale`."""
    if isinstance(value, str):
        match = NUMBER.fullmatch(unicodedata.normalize("NFKC", value))
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Nonsense
    if not math.isfinite(value) or not 1 <= value <= scale:
        raise Nonsense
    return float(value)


def reason(found: dict[str, Any]) -> str:
    said = found.get("reason", "")
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return text[:MOST_REASON]
