"""The user says which column is what, for a file whose rows match no known format.

Validation calls `wait` with the first rows; a page and the API show what they would become, and
`submit` sends the file back to validation.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.config import settings
from app.datasets import formats, service
from app.datasets.containers import reader
from app.datasets.formats import FORMATS, BadRow, Row, columns
from app.datasets.formats.columns import FIELDS, Mapping
from app.datasets.formats.sharegpt import TAGS
from app.datasets.states import MAPPING, VALIDATING, switch
from app.datasets.tables import DatasetVersion
from app.errors import N_, Conflict, Invalid
from app.uploads.service import BODY

SAMPLE_ROWS = 20
SAMPLE_BYTES = 2**18  # of a sample, as JSON
TEXT_CHARS = 2000  # longer texts are cut in a sample
SHOWN = 5  # rows in a preview
# what a mapping may name beside what a page offers
MORE = {
    "preference": {"messages", "conversations", "instruction", "input", "history"},
    "kto": {
        "messages", "conversations", "instruction", "input", "output", "history", "kto_tag"
    },
}  # fmt: skip
ENOUGH = {  # a mapping needs one of these sets
    "preference": [{one, "chosen", "rejected"} for one in ("prompt", "messages", "conversations", "instruction", "input")]
    + [{"chosen", "rejected"}],
    "kto": [
        {*one, label}
        for one in (["prompt", "completion"], ["messages"], ["conversations"], ["instruction", "output"])
        for label in ("label", "kto_tag")
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Preview:
    """A row of the file and what it would become, or why it cannot."""

    raw: Row
    row: Row | None = None
    why: BadRow | None = None
    unused: list[str] = field(default_factory=list)


# -- the sample --------------------------------------------------------------------------


def wait(db: Session, version: DatasetVersion, rows: list[Any]) -> None:
    """Let a version wait for its mapping. `rows` are the first of the file; the guess is kept."""
    sample = small(rows)
    switch(db, version, MAPPING)
    version.mapping = columns.guess(columns.names(sample), sample[0] if sample else None)
    # as a text, for JSONB forgets the order of columns
    version.cursor = {"sample": orjson.dumps(sample).decode()}
    db.flush()


def small(rows: list[Any]) -> list[Row]:
    """The first rows that are objects, their texts cut, as far as they fit."""
    kept: list[Row] = []
    size = 0
    for row in rows:
        if not isinstance(row, dict):
            continue
        cut = shortened(row)
        size += len(orjson.dumps(cut))
        if size > SAMPLE_BYTES or len(kept) == SAMPLE_ROWS:
            break
        kept.append(cut)
    return kept


def shortened(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return value[:TEXT_CHARS].replace("\0", "�")
    if depth > 20:
        return None
    if isinstance(value, list):
        return [shortened(one, depth + 1) for one in value[:50]]
    if isinstance(value, dict):
        return {
            name.replace("\0", "�")[:300]: shortened(one, depth + 1) for name, one in value.items()
        }
    return value


def sample(version: DatasetVersion) -> list[Row]:
    """Rows to show. Those that `wait` kept, or else the first of an upload of one plain file."""
    if kept := version.cursor.get("sample"):
        return list(orjson.loads(kept))
    try:
        path = storage.fetch(version.upload) / BODY
        place = reader.begin(path)
    except (OSError, Invalid):
        return []
    rows = []
    for number, piece in enumerate(reader.pieces(path, place, settings.max_row_mb * 2**20)):
        if number == SAMPLE_ROWS:
            break
        try:
            rows.append(orjson.loads(piece.data or b""))
        except orjson.JSONDecodeError:
            continue
    return small(rows)


# -- a mapping from outside ----------------------------------------------------------------


def checked(given: Any) -> Mapping:
    """`given` as a mapping. Raises Invalid, naming the field."""
    if not isinstance(given, dict) or given.get("format") not in FORMATS:
        raise Invalid(
            N_("Choose a format: %(formats)s."),
            code="mapping.format",
            field="format",
            formats=", ".join(FORMATS),
        )
    form = str(given["format"])
    known = set(FIELDS[form]) | MORE.get(form, set())
    chosen = texts(given.get("columns") or {}, known, "columns")
    needed = {name for name, must in FIELDS[form].items() if must}
    if not any(one <= set(chosen) for one in ENOUGH.get(form, [needed])):
        missing = sorted(needed - set(chosen))
        raise Invalid(
            N_("The format “%(format)s” also needs a column for: %(missing)s."),
            code="mapping.columns",
            field=f"columns.{missing[0]}" if missing else "columns",
            format=form,
            missing=", ".join(missing),
        )
    mapping: Mapping = {"format": form, "columns": chosen}
    if tags := texts(given.get("tags") or {}, set(TAGS), "tags"):
        mapping["tags"] = tags
    return mapping


def texts(given: Any, known: set[str], what: str) -> dict[str, str]:
    """Names of `known` with their texts, the empty ones left out. Raises Invalid."""
    if not isinstance(given, dict):
        raise Invalid(
            N_("“%(name)s” must be an object."), code=f"mapping.{what}", field=what, name=what
        )
    for name, value in given.items():
        if name not in known or not isinstance(value, str | None) or len(value or "") > 1000:
            raise Invalid(
                N_("“%(name)s” is not known here, or its value is no text. Known are: %(known)s."),
                code=f"mapping.{what}",
                field=what,
                name=formats.shown(str(name)),
                known=", ".join(sorted(known)),
            )
    return {name: value for name, value in given.items() if value}


def preview(rows: list[Row], mapping: Mapping) -> list[Preview]:
    """What the first rows would become."""
    made = []
    for raw in rows[:SHOWN]:
        try:
            row, unused = formats.normalise(raw, "", mapping)
        except BadRow as why:
            made.append(Preview(raw, why=why))
        else:
            made.append(Preview(raw, row, unused=sorted(unused)))
    return made


def submit(
    db: Session, who: Principal, dataset_id: str, which: str, mapping: Mapping
) -> DatasetVersion:
    """Back to validation with this mapping. Raises Conflict if the version does not wait for one."""
    service.own(db, who, dataset_id)
    version = service.version(db, who.workspace_id, dataset_id, which)
    db.refresh(version, ["status"], with_for_update=True)
    waits(version)
    switch(db, version, VALIDATING, user_id=who.user_id)
    version.mapping = mapping
    version.format = mapping["format"]
    service.nudge(db, version)
    return version


def waits(version: DatasetVersion) -> None:
    if version.status != MAPPING:
        raise Conflict(
            N_("Version %(number)s does not wait for its columns to be named."),
            code="not_mapping",
            number=version.number,
        )
