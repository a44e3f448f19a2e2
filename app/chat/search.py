"""Full text in Chinese and English: an index of short pieces, then the text itself.

A message keeps the set of its pieces in `grams`: pairs of characters where they are Chinese (or any
script without spaces), triples elsewhere. Whatever contains the words sought has all their pieces;
an index over the sets finds those few, and ILIKE says which of them really do.
"""

import re
from typing import Any

from sqlalchemy import and_

from app.chat.tables import ChatMessage

WIDE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")  # fmt: skip
SNIPPET = 60  # characters before and after what was found


def grams(text: str) -> list[str]:
    """The pieces of a text, sorted."""
    text = text.lower()
    found: set[str] = set()
    at = 0
    for match in WIDE.finditer(text):
        narrow(text[at : match.start()], found)
        found.update(text[n : n + 2] for n in range(match.start(), match.end() - 1))
        at = match.end()
    narrow(text[at:], found)
    return sorted(found)


def narrow(text: str, found: set[str]) -> None:
    for word in text.split():
        found.update(word[n : n + 3] for n in range(len(word) - 2))


def contains(words: str) -> Any:
    """The condition on ChatMessage: each of the words is in it."""
    parts = words.split()
    pieces = sorted({piece for part in parts for piece in grams(part)})
    like = [ChatMessage.content.icontains(part, autoescape=True) for part in parts]
    return and_(ChatMessage.grams.contains(pieces), *like) if pieces else and_(*like)


def snippet(text: str, words: str) -> str:
    """What stands around the first of the words."""
    low = text.lower()
    places = [at for at in (low.find(part.lower()) for part in words.split()) if at >= 0]
    at = min(places, default=0)
    cut = text[max(at - SNIPPET, 0) : at + SNIPPET]
    return ("…" if at > SNIPPET else "") + " ".join(cut.split())
