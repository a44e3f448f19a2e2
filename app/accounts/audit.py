"""The audit log: every change of a table that declares `__audited__ = True`, written in the very
transaction that makes it; and `note` for bulk statements and for what changes no row.

A class may also say: `__unaudited__`, columns that nobody chose (progress, beats, counters);
`__hidden__`, columns of which only is told that they changed. Hashes, sealed columns and fields named
like a secret are hidden wherever they stand. The log is append-only: a trigger in the database refuses
changes, and deletions but by `clear`.
"""

import json
import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import delete, event, insert, inspect, select, text
from sqlalchemy.orm import ColumnProperty, InstanceState, Session, UOWTransaction
from sqlalchemy.orm.attributes import History
from sqlalchemy.orm.util import identity_key

from app import sealing
from app.accounts import acting, platform
from app.accounts.tables import AuditEntry, Membership, User
from app.db import new_id, now
from app.queue import transaction

CHANGED = "•••"  # stands for a value that is not told
NEVER = {  # columns of bookkeeping, wherever they stand
    "id", "workspace_id", "created_at", "created_by", "updated_at", "updated_by", "seen_at",
    "used_at", "last_used_at", "touched_at", "beat_at", "claimed_at", "attempts", "cursor",
}  # fmt: skip
# Told only where somebody did it: of what the platform does to them, nouns have events of their own.
STATES = {
    "state", "status", "reason", "error", "phase", "desired", "finished_at", "ready_at", "started_at",
}  # fmt: skip
MOVES = {  # a column that says when: what was done by setting it, and by emptying it
    "deleted_at": ("delete", "restore"),
    "revoked_at": ("revoke", "restore"),
    "disabled_at": ("disable", "enable"),
}
NAMES = ("email", "name", "title", "file_name", "slug", "label")
SECRETIVE = re.compile(
    r"(^|_)(password|passwd|secrets?|token|api_?key|credentials?|private_key|access_key)$|_hash$",
    re.IGNORECASE,
)
LONGEST, MOST, DEEPEST = 300, 40, 4  # characters of a text, entries of a list, levels
PIECE = 5000  # entries that one sweep lets go, at most


class Hidden:
    """Stands for a value that is not told; no two are equal."""


# -- what is told of a value -----------------------------------------------------------------


def told(name: str, value: Any, deep: int = 0) -> Any:
    """A value as the log keeps it: JSON, no secret, nothing long."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if SECRETIVE.search(name) or isinstance(value, Hidden) or sealing.looks_sealed(value):
        return CHANGED
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[:LONGEST]}… ({len(value)})"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict) and deep < DEEPEST:
        return {str(key): told(str(key), one, deep + 1) for key, one in list(value.items())[:MOST]}
    if isinstance(value, list | tuple | set) and deep < DEEPEST:
        kept = [told(name, one, deep + 1) for one in list(value)[:MOST]]
        return kept if len(value) <= MOST else [*kept, f"… ({len(value)})"]
    return f"({type(value).__name__})"


def differing(before: Any, after: Any) -> tuple[Any, Any]:
    """Of two objects, only the fields that differ, however deep."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return before, after
    old, new = {}, {}
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            old[key], new[key] = differing(before.get(key), after.get(key))
    return old, new


# -- rows that the ORM writes ----------------------------------------------------------------


def noun_of(cls: type[Any]) -> str:
    """ApiKey → api_key."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def columns(cls: type[Any]) -> list[ColumnProperty[Any]]:
    """Those that are told of a class, hidden ones too."""
    skipped = NEVER | set(getattr(cls, "__unaudited__", ()))
    return [one for one in inspect(cls).column_attrs if one.key not in skipped]


def hidden(cls: type[Any], column: ColumnProperty[Any]) -> bool:
    kind = getattr(column.columns[0], "type", None)
    return (
        column.key in getattr(cls, "__hidden__", ())
        or isinstance(kind, sealing.Sealed)
        or bool(SECRETIVE.search(column.key))
    )


def value_of(cls: type[Any], column: ColumnProperty[Any], value: Any) -> Any:
    return Hidden() if value and hidden(cls, column) else value


def entry_of(row: Any, action: str) -> dict[str, Any] | None:
    """What the log says of a row in the session that was written just now; None: nothing."""
    state: InstanceState[Any] = inspect(row)
    cls = type(row)
    if acting.current().kind == acting.SYSTEM and hasattr(cls, "__audited_in__"):
        return None  # part of a noun that has events of its own
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for column in columns(cls):
        history = state.attrs[column.key].history if action == "update" else None
        if history is None:  # a new row, or one that goes; what was not loaded is not asked for
            value = value_of(cls, column, state.dict.get(column.key))
            if value not in (None, "", {}, []):
                (before if action == "delete" else after)[column.key] = value
        elif changed(history):
            # Without a value before, the attribute was set unread.
            old = history.deleted[0] if history.deleted else None
            before[column.key] = value_of(cls, column, old)
            after[column.key] = value_of(cls, column, history.added[0] if history.added else None)
    if action == "update":
        if acting.current().kind == acting.SYSTEM:
            for name in STATES & after.keys():
                del before[name], after[name]
        if not after:
            return None
        action = move(after)
    return {
        "action": action,
        "noun": noun_of(cls),
        "noun_id": "/".join(
            str(one) for one in state.identity or inspect(cls).primary_key_from_instance(row)
        ),
        "name": name_of(cls, state),
        "before": before,
        "after": after,
        "workspace_id": workspace_of(cls, state),
    }


def changed(history: History) -> bool:
    if not history.has_changes():
        return False
    return list(history.added or []) != list(history.deleted or [])


def move(after: dict[str, Any]) -> str:
    for column, (done, undone) in MOVES.items():
        if column in after:
            return done if after[column] else undone
    return "update"


def name_of(cls: type[Any], state: InstanceState[Any]) -> str:
    secret = getattr(cls, "__hidden__", ())
    if cls is Membership and state.session:
        user = state.session.identity_map.get(identity_key(User, state.dict.get("user_id")))
        return str(user.email) if user else ""
    names = (state.dict.get(name) for name in NAMES if name not in secret)
    return next((str(name)[:200] for name in names if name), "")


def workspace_of(cls: type[Any], state: InstanceState[Any]) -> str | None:
    """Whose change it is. Rows that hang on another noun of a workspace say `__audited_in__ = "view"`:
    the workspace that is in view.
    """
    if cls.__name__ == "Workspace":
        return str(state.dict.get("id"))
    if getattr(cls, "__audited_in__", "") == "view":
        return acting.current().workspace_id
    found = state.dict.get("workspace_id")
    return str(found) if found else None


def heard(session: Session, _: UOWTransaction) -> None:
    """After each flush: write what it changed into the log, in the same transaction."""
    entries = [
        entry_of(row, action)
        for action, rows in (("create", session.new), ("update", session.dirty), ("delete", session.deleted))
        for row in rows
        if getattr(type(row), "__audited__", False)
    ]  # fmt: skip
    write(session, [entry for entry in entries if entry])


event.listen(Session, "after_flush", heard)


# -- what the ORM does not see -----------------------------------------------------------------


def note(
    db: Session,
    action: str,
    noun: str,
    noun_id: str = "",
    *,
    name: str = "",
    workspace_id: str | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """An entry about a bulk statement, or about something that changes no row (an export, a sign-in).

    Of `before` and `after` only what differs is kept. `workspace_id` None: the platform's own affair,
    which the admins of workspaces do not see.
    """
    entry = {
        "action": action, "noun": noun, "noun_id": noun_id, "name": name[:200],
        "workspace_id": workspace_id, "before": before or {}, "after": after or {},
    }  # fmt: skip
    write(db, [entry])


def note_apart(action: str, noun: str, noun_id: str = "", **more: Any) -> None:
    """As `note`, in a transaction of its own: for what is refused and so rolled back."""
    with transaction() as db:
        note(db, action, noun, noun_id, **more)


def write(db: Session, entries: Iterable[dict[str, Any]]) -> None:
    by = acting.current()
    rows = []
    for entry in entries:
        before, after = differing(entry["before"], entry["after"])
        about = entry | {"before": told("", before), "after": told("", after)}
        rows.append(
            about
            | {
                "id": new_id("aud"), "at": now(), "actor": by.kind, "user_id": by.user_id,
                "user_name": by.name, "api_key_id": by.api_key_id, "ip": by.ip, "agent": by.agent,
                "request_id": by.request_id,
                "words": words(about, by),
            }
        )  # fmt: skip
    if rows:
        db.connection().execute(insert(AuditEntry), rows)


def words(entry: dict[str, Any], by: acting.Acting) -> str:
    """What the search looks through, in lower case."""
    parts = [entry["noun_id"], entry["name"], by.name, by.ip, by.request_id]
    parts += [
        json.dumps(entry[side], ensure_ascii=False) for side in ("before", "after") if entry[side]
    ]
    return " ".join(parts).lower()[:4000]


# -- retention ---------------------------------------------------------------------------------


def clear(db: Session) -> None:
    """A step of the sweep: let go of what is older than the settings say, a bounded piece each time."""
    days = platform.read(db).audit.days
    old = (
        select(AuditEntry.id)
        .where(AuditEntry.at < now() - timedelta(days=days))
        .order_by(AuditEntry.at)
        .limit(PIECE)
    )
    found = db.scalars(old).all()
    if found:
        db.execute(text("SELECT set_config('danlu.audit_clears', 'on', true)"))
        db.execute(delete(AuditEntry).where(AuditEntry.id.in_(found)))
        db.execute(text("SELECT set_config('danlu.audit_clears', '', true)"))
