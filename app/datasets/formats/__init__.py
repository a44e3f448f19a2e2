"""What a row of an upload may be, and the one form in which rows are kept.

A row as kept is `{messages, tools?}` (sft), `{text}` (pretrain), `{messages, chosen, rejected,
tools?}` (preference) or `{messages, label, tools?}` (kto); KINDS says which format gives which.
Pure: only the standard library and orjson.
"""

import hashlib
from typing import Any

import orjson

from app.datasets.formats import columns
from app.datasets.formats.alpaca import FIELDS as ALPACA_FIELDS
from app.datasets.formats.alpaca import from_alpaca
from app.datasets.formats.completion import from_completion
from app.datasets.formats.kto import from_kto
from app.datasets.formats.messages import from_messages
from app.datasets.formats.parts import BadRow, Row, kind, shown
from app.datasets.formats.preference import from_preference
from app.datasets.formats.sharegpt import from_sharegpt
from app.datasets.formats.text import from_text
from app.errors import N_

__all__ = [
    "FORMATS", "KINDS", "BadRow", "Row", "detect", "fingerprint", "kind", "normalise",
    "row_hash", "shown",
]  # fmt: skip

KINDS = {
    "messages": "sft",
    "alpaca": "sft",
    "sharegpt": "sft",
    "completion": "sft",
    "text": "pretrain",
    "preference": "preference",
    "kto": "kto",
}
FORMATS = tuple(KINDS)
# what says that a row means to be of a format, if perhaps a broken one
MARKS = {
    "messages": {"messages", "conversations"},
    "alpaca": {"instruction", "output"},
    "sharegpt": {"conversations", "messages"},
    "completion": {"prompt", "completion"},
    "text": {"text"},
    "preference": {"chosen", "rejected", "preferred_output", "non_preferred_output"},
    "kto": {"label", "kto_tag"},
}
# beside a text these are an answer or a class: nobody means to go on with pre-training then
ANSWERS = {
    "label", "labels", "target", "answer", "output", "response", "summary", "completion", "category"
}  # fmt: skip


def detect(row: Any) -> str:
    """A format of FORMATS by the row's fields, or an empty string: then a mapping must say it."""
    if not isinstance(row, dict):
        return ""
    if "preferred_output" in row and "non_preferred_output" in row:
        return "preference"
    if isinstance(row.get("chosen"), str | dict | list) and isinstance(
        row.get("rejected"), str | dict | list
    ):
        return "preference"
    found = conversational(row)
    if found and (type(row.get("label")) is bool or "kto_tag" in row):
        return "kto"
    if not found and isinstance(row.get("text"), str) and not ANSWERS & row.keys():
        return "text"
    return found


def conversational(row: Row) -> str:
    """Of the four formats that hold a question and an answer, the one it is."""
    turns = row.get("conversations", row.get("messages"))
    if "messages" in row or "conversations" in row:
        first = turns[0] if isinstance(turns, list) and turns else None
        if isinstance(first, dict) and "from" in first and "role" not in first:
            return "sharegpt"
        if isinstance(first, dict) and "role" in first:
            return "messages"
        return "messages" if "messages" in row else "sharegpt"
    if "instruction" in row and ("output" in row or row.keys() <= ALPACA_FIELDS):
        return "alpaca"
    if "input" in row and "output" in row:
        return "alpaca"
    if "prompt" in row and "completion" in row:
        return "completion"
    return ""


def normalise(raw: Any, form: str, mapping: columns.Mapping | None = None) -> tuple[Row, set[str]]:
    """The row as it is kept, without an id, and the names of the fields that were left out.

    `form` is the file's format; a row of another is refused. `mapping` says which column is what.
    Raises BadRow with the first thing that is wrong.
    """
    if not isinstance(raw, dict):
        raise BadRow(
            "row.type",
            "",
            N_("A row must be a JSON object, and this is of the type %(found)s."),
            found=kind(raw),
        )
    if mapping:
        form = mapping["format"]
        if mapping.get("columns"):
            try:
                row, left = read(columns.apply(raw, mapping), form, mapping.get("tags"))
            except BadRow as bad:
                bad.path = columns.original(bad.path, mapping)
                raise
            return row, left | columns.unmapped(raw, mapping)
        return read(raw, form, mapping.get("tags"))
    found = detect(raw)
    if found != form and is_other(raw, found, form):
        raise BadRow(
            "row.other_format",
            "",
            N_(
                "This row has the format “%(found)s”, and the rows before it “%(format)s”. "
                "Put them in files of their own."
            ),
            found=found,
            format=form,
        )
    return read(raw, form)


def is_other(row: Row, found: str, form: str) -> bool:
    """Whether it is a row of another format than `form`, and not a broken one of it."""
    if not found or not form:
        return False
    if KINDS[form] in ("preference", "kto"):
        return not MARKS[form] & row.keys()
    return KINDS[found] != KINDS[form] or not MARKS[form] & row.keys()


def read(row: Row, form: str, tags: dict[str, str] | None = None) -> tuple[Row, set[str]]:
    match form:
        case "messages":
            return from_messages(row)
        case "alpaca":
            return from_alpaca(row)
        case "sharegpt":
            return from_sharegpt(row, tags)
        case "completion":
            return from_completion(row)
        case "text":
            return from_text(row)
        case "preference":
            return from_preference(row, tags)
        case "kto":
            return from_kto(row, "sharegpt" if tags else conversational(row), tags)
    raise BadRow(
        "row.format",
        "",
        N_("The fields of this row are none of a known format. Say which column is what."),
    )


def fingerprint(digest: str, row: Row) -> str:
    """The running hash over rows: of the hash so far and this row without its id. Hex."""
    body = {name: value for name, value in row.items() if name != "id"}
    return hashlib.sha256(digest.encode() + orjson.dumps(body)).hexdigest()


def row_hash(row: Row) -> str:
    """What the row says, whatever its id: 32 hex digits."""
    body = {name: value for name, value in row.items() if name != "id"}
    return hashlib.blake2b(orjson.dumps(body)).hexdigest()[:32]
