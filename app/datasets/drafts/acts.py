"""Acts: what one click changed in a draft. Written as one, undone as one, kept as history.

What is to change is found with no session open, and written if the draft is still the edition
that was read; if it is not, it is found again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import User
from app.datasets import service
from app.datasets.drafts import overlay
from app.datasets.drafts.overlay import Key, Overlay
from app.datasets.states import DRAFT, PUBLISHED
from app.datasets.tables import DatasetVersion, DraftAct, RowEdit
from app.errors import N_, Conflict, NotFound
from app.queue import transaction

MOST_EDITS = 20_000  # rows with edits in a draft; a larger act writes new segments instead
TRIES = 5

NOT_OPEN = N_("Version %(number)s is not a draft, so its rows cannot be changed.")
FROZEN = N_(
    "Version %(number)s is published, so its rows cannot be changed. Make a new draft from it."
)
BUSY = N_("A large change of this draft is under way. Wait until it is done, or stop it.")
FULL = N_(
    "This draft has as many changed rows as it can hold (%(most)s). Publish it, and make a new "
    "draft from it."
)
MOVED = N_("Others are changing this draft at this moment. Try again.")


@dataclass(frozen=True)
class Change:
    key: Key
    row_id: str
    before: bytes | None  # None: there was no such row
    after: bytes | None  # None: it is deleted


@dataclass(frozen=True)
class Done:
    """What an act left: the version as it now is, and the rows that it wrote."""

    version: DatasetVersion
    act: DraftAct
    changes: list[Change]


# -- the draft ---------------------------------------------------------------------------


def draft(db: Session, who: Principal, dataset_id: str, which: str = "") -> DatasetVersion:
    """To change it: locked, and with no large act under way. Raises Conflict, NotFound."""
    found = open_draft(db, who, dataset_id, which)
    if running(db, found.id):
        raise Conflict(BUSY, code="busy")
    return found


def open_draft(db: Session, who: Principal, dataset_id: str, which: str) -> DatasetVersion:
    """A draft, locked, whatever is under way in it. Raises Conflict, NotFound."""
    service.own(db, who, dataset_id)
    found = service.version(db, who.workspace_id, dataset_id, which)
    db.refresh(found, ["status", "rows", "segments", "edition"], with_for_update=True)
    if found.status != DRAFT:
        frozen = found.status == PUBLISHED
        raise Conflict(
            FROZEN if frozen else NOT_OPEN,
            code="published" if frozen else "not_draft",
            number=found.number,
        )
    return found


def running(db: Session, version_id: str) -> DraftAct | None:
    """The large act that is under way."""
    query = select(DraftAct).where(DraftAct.version_id == version_id, DraftAct.state == "running")
    return db.scalar(query)


def change(
    who: Principal,
    dataset_id: str,
    which: str,
    what: str,
    find: Callable[[DatasetVersion, Overlay], list[Change]],
) -> Done:
    """Do what `find` says is to be done, as one act."""
    for _ in range(TRIES):
        with transaction() as db:
            seen = draft(db, who, dataset_id, which)
        over = overlay.of(seen)
        changes = find(seen, over)
        with transaction() as db:
            held = draft(db, who, dataset_id, seen.id)
            if held.edition == seen.edition:
                if len(over.ids) + len(changes) > MOST_EDITS:
                    raise Conflict(FULL, code="too_many_edits", most=MOST_EDITS)
                act = begin(db, held, who.user_id, what)
                write(db, act, changes)
                finish(held, act)
                return Done(held, act, changes)
    raise Conflict(MOVED, code="busy")


def begin(db: Session, held: DatasetVersion, user_id: str | None, what: str) -> DraftAct:
    """The next act of a draft that is locked. What was undone cannot be done again after it."""
    db.execute(
        update(DraftAct)
        .where(DraftAct.version_id == held.id, DraftAct.state == "undone")
        .values(state="dropped")
    )
    newest = db.scalar(select(func.max(DraftAct.number)).where(DraftAct.version_id == held.id))
    act = DraftAct(
        version_id=held.id,
        number=(newest or 0) + 1,
        what=what,
        state="running",
        user_id=user_id,
        rows=0,
        growth=0,
    )
    db.add(act)
    db.flush()
    return act


def write(db: Session, act: DraftAct, changes: list[Change]) -> None:
    """Add rows to what an act changes."""
    if changes:
        about: dict[str, Any] = {"version_id": act.version_id, "act_id": act.id}
        db.execute(
            insert(RowEdit),
            [
                about
                | {
                    "place": one.key[0],
                    "rank": one.key[1],
                    "row_id": one.row_id,
                    "before": one.before,
                    "after": one.after,
                }
                for one in changes
            ],
        )
    act.rows += len(changes)
    act.growth += sum((one.before is None) - (one.after is None) for one in changes)


def finish(held: DatasetVersion, act: DraftAct) -> None:
    """The act counts from now on."""
    act.state, act.cursor, act.claimed_at = "done", {}, None
    held.rows += act.growth
    held.edition += 1


# -- undo, redo, history -----------------------------------------------------------------


def undo(who: Principal, dataset_id: str, which: str = "") -> DraftAct:
    """Take back the newest act. Raises Conflict if there is none."""
    return turn(who, dataset_id, which, back=True)


def redo(who: Principal, dataset_id: str, which: str = "") -> DraftAct:
    """Do again what was undone last. Raises Conflict if there is nothing."""
    return turn(who, dataset_id, which, back=False)


def turn(who: Principal, dataset_id: str, which: str, *, back: bool) -> DraftAct:
    with transaction() as db:
        held = draft(db, who, dataset_id, which)
        act = turning(db, held.id, back=back)
        if act is None:
            message = N_("There is nothing to undo.") if back else N_("There is nothing to redo.")
            raise Conflict(message, code="nothing")
        act.state = "undone" if back else "done"
        held.rows += -act.growth if back else act.growth
        held.edition += 1
        if act.segments:
            held.segments = act.segments["before" if back else "after"]
    return act


def turning(db: Session, version_id: str, *, back: bool) -> DraftAct | None:
    """The act that undo, or redo, would turn."""
    query = select(DraftAct).where(
        DraftAct.version_id == version_id,
        DraftAct.state == ("done" if back else "undone"),
        DraftAct.rows > 0,
    )
    order = DraftAct.number.desc() if back else DraftAct.number.asc()
    return db.scalar(query.order_by(order).limit(1))


def standing(db: Session, version_id: str) -> dict[str, DraftAct]:
    """What `running` and `turning` find, in one query: by state, those there are."""
    mine = DraftAct.version_id == version_id, DraftAct.rows > 0
    last = select(func.max(DraftAct.number)).where(*mine, DraftAct.state == "done")
    next_ = select(func.min(DraftAct.number)).where(*mine, DraftAct.state == "undone")
    query = select(DraftAct).where(
        DraftAct.version_id == version_id,
        or_(
            DraftAct.state == "running",
            DraftAct.number.in_([last.scalar_subquery(), next_.scalar_subquery()]),
        ),
    )
    return {one.state: one for one in db.scalars(query)}


def history(
    db: Session, version_id: str, *, offset: int = 0, limit: int = 50
) -> list[tuple[DraftAct, str | None]]:
    """Acts with the name of who did them, the newest first."""
    query = (
        select(DraftAct, User.shown)
        .outerjoin(User, User.id == DraftAct.user_id)
        .where(DraftAct.version_id == version_id)
        .order_by(DraftAct.number.desc())
    )
    return [(act, name) for act, name in db.execute(query.offset(offset).limit(limit))]


def trail(
    db: Session, version_id: str, row_id: str, limit: int = 50
) -> list[tuple[RowEdit, DraftAct, str | None]]:
    """What happened to one row, the newest first."""
    query = (
        select(RowEdit, DraftAct, User.shown)
        .join(DraftAct, DraftAct.id == RowEdit.act_id)
        .outerjoin(User, User.id == DraftAct.user_id)
        .where(RowEdit.version_id == version_id, RowEdit.row_id == row_id)
        .order_by(DraftAct.number.desc())
    )
    return [(edit, act, name) for edit, act, name in db.execute(query.limit(limit))]


def get(db: Session, version_id: str, act_id: str) -> DraftAct:
    """Raises NotFound."""
    act = db.get(DraftAct, act_id)
    if act is None or act.version_id != version_id:
        raise NotFound
    return act


def edits_of(db: Session, act_id: str, *, offset: int = 0, limit: int = 20) -> list[RowEdit]:
    query = select(RowEdit).where(RowEdit.act_id == act_id).order_by(RowEdit.id)
    return list(db.scalars(query.offset(offset).limit(limit)))
