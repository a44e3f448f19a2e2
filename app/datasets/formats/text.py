"""Plain text, to go on with pre-training."""

from app.datasets.formats.parts import BadRow, Row, text, unused
from app.errors import N_


def from_text(row: Row) -> tuple[Row, set[str]]:
    if row.get("text") is None:
        raise BadRow("text.missing", "text", N_("The field “text” is missing."))
    found = text(row["text"], "text")
    if not found.strip():
        raise BadRow("text.empty", "text", N_("The text is empty."))
    return {"text": found}, unused(row, {"text"})
