"""One row as a model sees it: `python -m app.datasets.measures.tokenise`, JSON in, JSON out.

A process of its own, because the chat template and the tokenizer are a stranger's: it has little
memory, little time and no secrets, and `app.datasets.tokens` ends it when it takes too long.
"""

import json
import resource
import sys
from array import array
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import Encoding

from app.errors import DomainError
from app.models import vocabulary
from app.models.chat_template import ChatTemplateError
from app.models.marking import Dropped, Marker, Row, StopUntrained, Text
from app.models.vocabulary import Vocabulary

MEMORY = 2 * 2**30  # bytes of address space
CPU_SECONDS = 20


def confine() -> None:
    """Before anything of a stranger's is read."""
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """One page of the tokens of one text of the row; see `tokens.Look`."""
    words = vocabulary.load(Path(asked["model"]))
    if words.template is None and "text" not in asked["row"]:
        return {"refused": "no_template"}
    marker = words.marker(datetime.now())  # noqa: DTZ005 - the template's wall clock
    texts, refused, reason = texts_of(marker, asked["row"], asked["kind"])
    if not texts:
        return {"refused": refused, "reason": reason}
    part = min(asked["part"], len(texts) - 1)
    text = texts[part]
    (encoding,) = marker.encode([text])
    ids: Sequence[int] = []
    trained = bytearray()
    try:
        marked = marker.mark(text, encoding)
        ids, trained = marked.ids, marked.trained()
    except StopUntrained:
        assert isinstance(encoding, Encoding)  # a document has no turns
        refused, ids = "no_stop", encoding.ids
        trained = bytearray(len(ids))
    most = asked["max_length"] or len(ids)
    page = range(asked["offset"], min(len(ids), asked["offset"] + asked["limit"]))
    before = len(marker.around[0]) if text.plain else 0
    return {
        "refused": refused,
        "reason": reason,
        "parts": [one.part for one in texts],
        "part": part,
        "total": len(ids),
        "trained": sum(map(bool, trained)),
        "kept": min(most, len(ids)),
        "kept_trained": sum(map(bool, trained[:most])),
        "offset": asked["offset"],
        "tokens": [
            {
                "id": ids[at],
                "token": words.tokenizer.id_to_token(ids[at]) or "",
                "text": piece(text, encoding, at - before, words),
                "trained": bool(trained[at]),
                "special": ids[at] in words.special,
            }
            for at in page
        ],
    }


def texts_of(marker: Marker, row: Row, kind: str) -> tuple[list[Text], str, str]:
    """What the row is trained as. A row that trains nothing is still shown, with the reason why."""
    try:
        return marker.texts(row, kind), "", ""
    except Dropped as dropped:
        refused, reason = dropped.kind, dropped.reason
    if refused in ("no_answer", "unweighted", "unstable") and row.get("messages"):
        messages = [*row["messages"], row["chosen"]] if "chosen" in row else row["messages"]
        try:
            return [Text("", marker.render(messages, row), [])], refused, reason
        except ChatTemplateError as error:
            return [], "refused", str(error.params.get("reason", error))
    return [], refused, reason


def piece(text: Text, encoding: "Encoding | array[int]", at: int, words: Vocabulary) -> str | None:
    """The characters of a token; None inside of a character that takes several, or around a text."""
    if not 0 <= at < len(encoding):
        return None
    if isinstance(encoding, array):  # of a very long document: its places are not known
        return words.tokenizer.decode([encoding[at]], skip_special_tokens=False)
    place = encoding.token_to_chars(at)
    if place is None or (at and encoding.token_to_chars(at - 1) == place):
        return None
    return text.text[slice(*place)]


def main() -> None:
    confine()
    try:
        found = look(json.load(sys.stdin))
    except DomainError as error:
        found = {"error": error.kept()}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
