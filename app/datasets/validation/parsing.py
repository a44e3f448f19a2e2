"""What is wrong with the bytes of one row, said so that its author finds the place."""

from typing import Any

import orjson

from app.datasets import formats
from app.datasets.containers.reader import Piece
from app.datasets.formats import BadRow
from app.errors import N_


def parse(piece: Piece) -> Any:
    """Raises BadRow for what is not UTF-8 or not JSON, or nested past what can be stored."""
    data = piece.data or b""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        reason, at = error.msg, error.pos
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise BadRow(
            "text.encoding",
            "",
            N_("The row is not valid UTF-8, at byte %(byte)s of it."),
            byte=error.start + 1,
        ) from None
    if not data:
        raise BadRow("json.empty", "", N_("An element is missing: there is a comma too many."))
    if "depth limit" in reason:
        raise BadRow("json.deep", "", N_("The nesting is too deep."))
    if piece.after.shape in ("lines", "spool"):
        raise BadRow(
            "json.invalid",
            "",
            N_("This line is not valid JSON, at character %(at)s: %(reason)s."),
            at=at + 1,
            reason=formats.shown(reason),
        )
    raise BadRow(
        "json.invalid",
        "",
        N_("This element, which begins on line %(begins)s, is not valid JSON: %(reason)s."),
        begins=piece.line,
        reason=formats.shown(reason),
    )
