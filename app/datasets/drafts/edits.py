"""Changing rows of a draft, a few at a time: edit, add, delete, restore. Each is checked first."""

from typing import Any

import orjson
from sqlalchemy import func, select

from app.accounts.auth import Principal
from app.config import settings
from app.datasets import formats
from app.datasets.drafts import acts, finding, overlay
from app.datasets.drafts.acts import Change, Done
from app.datasets.drafts.overlay import Entry, Key, Overlay
from app.datasets.tables import DatasetVersion, RowEdit
from app.errors import N_, Conflict, Invalid, NotFound
from app.queue import transaction

MOST_ROWS = 1000  # in one request
ADDED = 10**9  # numbers of added rows begin here: no file has so many lines

FORMATS = {"sft": "messages", "pretrain": "text", "preference": "preference", "kto": "kto"}
CHANGED = N_("%(who)s changed this row meanwhile: %(where)s. Look at it, then change it again.")
GONE = N_("This row was deleted meanwhile.")


def edit(
    who: Principal, dataset_id: str, which: str, row: str, raw: Any, seen: str
) -> tuple[Done, Entry]:
    """Give a row another content. `seen` is the hash of the row that the editor was shown.

    Raises Conflict with what changed if somebody else was quicker, Invalid for a bad row.
    """

    def find(version: DatasetVersion, over: Overlay) -> list[Change]:
        found = same(version, over, row, seen)
        after = checked(version, raw, found.row["id"])
        if after == found.line:
            raise Invalid(N_("Nothing was changed."), code="unchanged")
        return [Change(found.key, found.row["id"], found.line, after)]

    done = acts.change(who, dataset_id, which, "edit", find)
    return done, entry_of(done, done.changes[0])


def same(version: DatasetVersion, over: Overlay, row: str, seen: str | None) -> Entry:
    """The row, if it is still what `seen` says. Raises Conflict, NotFound."""
    try:
        found = finding.named(over, row)
    except NotFound:
        if seen and row in over.ids:
            raise Conflict(GONE, code="row_changed") from None
        raise
    if seen is None or found.hash == seen:
        return found
    with transaction() as db:
        past = acts.trail(db, version.id, found.row["id"])
    then = next((edit for edit, _, _ in past if edit.before and is_row(edit.before, seen)), None)
    where = paths(orjson.loads(then.before), found.row) if then and then.before else []
    raise Conflict(
        CHANGED,
        code="row_changed",
        who=(past[0][2] if past else None) or "?",
        where=", ".join(where[:10]) or found.row["id"],
    )


def is_row(line: bytes, seen: str) -> bool:
    return overlay.row_hash(line) == seen


def add(
    who: Principal, dataset_id: str, which: str, raws: list[Any], after: str = ""
) -> tuple[Done, list[Entry]]:
    """Add rows, at the end or after the row `after`. Raises Invalid for a bad one."""

    def find(version: DatasetVersion, over: Overlay) -> list[Change]:
        few(len(raws))
        keys = keys_after(over, finding.named(over, after).key if after else None, len(raws))
        with transaction() as db:
            fresh = select(func.count()).where(
                RowEdit.version_id == version.id,
                RowEdit.before.is_(None),
                RowEdit.row_id.startswith(f"{version.id}."),
            )
            first = ADDED + 1 + (db.scalar(fresh) or 0)
        made = []
        for at, (raw, key) in enumerate(zip(raws, keys, strict=True)):
            row_id = f"{version.id}.{first + at}"
            prefix = f"rows[{at}]" if len(raws) > 1 else ""
            made.append(Change(key, row_id, None, checked(version, raw, row_id, prefix)))
        return made

    done = acts.change(who, dataset_id, which, "add", find)
    return done, [entry_of(done, one) for one in done.changes]


def keys_after(over: Overlay, key: Key | None, count: int) -> list[Key]:
    """Where `count` new rows stand: after `key`, or at the end."""
    taken = over.ids.values()  # also by rows that are deleted: they may come back
    if key is None:
        end = max([over.base - 1, *(one[0] for one in taken)]) + 1
        return [(end + at, "") for at in range(count)]
    place, rank = key
    limit = min((one[1] for one in taken if one > key and one[0] == place), default="")
    keys = []
    for _ in range(count):
        rank = between(rank, limit)
        keys.append((place, rank))
    return keys


def delete(
    who: Principal, dataset_id: str, which: str, rows: list[str], seen: str | None = None
) -> Done:
    """Delete rows by id; `seen` as in `edit`, of one row."""

    def find(version: DatasetVersion, over: Overlay) -> list[Change]:
        few(len(rows))
        found = [same(version, over, row, seen) for row in dict.fromkeys(rows)]
        if len(found) == over.rows:
            raise Invalid(N_("A version needs at least one row."), code="no_rows")
        return [Change(one.key, one.row["id"], one.line, None) for one in found]

    return acts.change(who, dataset_id, which, "delete", find)


def restore(who: Principal, dataset_id: str, which: str, rows: list[str]) -> Done:
    """Bring back deleted rows, by id, as they were. Raises NotFound if one is not deleted."""

    def find(_: DatasetVersion, over: Overlay) -> list[Change]:
        few(len(rows))
        with transaction() as db:
            query = select(RowEdit).where(RowEdit.id.in_(over.gone), RowEdit.row_id.in_(rows))
            found = list(db.scalars(query))
        if len(found) != len(set(rows)):
            raise NotFound(N_("There is no such deleted row."))
        return [Change((one.place, one.rank), one.row_id, None, one.before) for one in found]

    return acts.change(who, dataset_id, which, "restore", find)


def few(count: int) -> None:
    if not 0 < count <= MOST_ROWS:
        raise Invalid(
            N_("Between 1 and %(most)s rows can be changed at once."), code="rows", most=MOST_ROWS
        )


def entry_of(done: Done, one: Change) -> Entry:
    return Entry(overlay.of(done.version).before(one.key), one.key, one.after or b"")


def checked(version: DatasetVersion, raw: Any, row_id: str, prefix: str = "") -> bytes:
    """The JSON of a row as it is kept. Raises Invalid, naming the place in the row."""
    try:
        if isinstance(raw, dict):
            raw = {name: value for name, value in raw.items() if name != "id"}
        row, unused = formats.normalise(raw, FORMATS[version.kind])
    except formats.BadRow as bad:
        field = ".".join(part for part in (prefix, bad.path) if part) or "row"
        raise Invalid(bad.message, code=bad.code, field=field, **bad.params) from None
    if unused:
        raise Invalid(
            N_("Rows of this dataset have no field “%(name)s”."),
            code="field.unused",
            field=prefix or "row",
            name=min(unused),
        )
    try:
        line = orjson.dumps({"id": row_id, **row})
    except TypeError:
        raise Invalid(
            N_("The row contains something that cannot be stored as JSON in UTF-8."),
            code="text.encoding",
            field=prefix or "row",
        ) from None
    if len(line) > settings.max_row_mb * 2**20:
        raise Invalid(
            N_("The row is larger than %(most)s MiB."),
            code="row.too_large",
            field=prefix or "row",
            most=settings.max_row_mb,
        )
    return line


def paths(old: Any, new: Any, at: str = "") -> list[str]:
    """Where two rows differ: messages[1].content, …"""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        parts = [(f"{at}.{name}" if at else name, old.get(name), new.get(name)) for name in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [(f"{at}[{n}]", *pair) for n, pair in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [at]
    return [path for where, left, right in parts for path in paths(left, right, where)]


def deleted(version: DatasetVersion, *, offset: int = 0, limit: int = 50) -> list[dict[str, Any]]:
    """Rows that can be restored, the last deleted first."""
    gone = overlay.of(version).gone[offset : offset + limit]
    with transaction() as db:
        query = select(RowEdit.id, RowEdit.before).where(RowEdit.id.in_(gone))
        found = {edit: before for edit, before in db.execute(query) if before}
    return [orjson.loads(found[edit]) for edit in gone if edit in found]


# -- ranks -------------------------------------------------------------------------------

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def between(low: str, high: str) -> str:
    """A rank after `low` and before `high`, which is empty for the end. As fractions: 0.low."""
    made = ""
    while True:
        at = len(made)
        small = DIGITS.index(low[at]) if at < len(low) else 0
        large = DIGITS.index(high[at]) if at < len(high) else len(DIGITS)
        if large - small > 1:
            return made + DIGITS[(small + large) // 2]
        made += DIGITS[small]
        if large > small:
            high = ""
