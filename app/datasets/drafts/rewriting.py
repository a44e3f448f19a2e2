"""Changes of a draft that touch many rows, and publishing one with edits: in stretches.

An act looks through all rows. While it changes few, it leaves edits; past `MOST_CHANGES` it
begins again and writes new segments, as publishing does: one at a time, those that nothing
touches as they are. Each stretch is applied if the cursor is still where it began, so that
being killed, or done twice, does no harm.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.datasets import service
from app.datasets.drafts import acts, overlay, replacing
from app.datasets.drafts.acts import Change
from app.datasets.drafts.overlay import Entry, Overlay
from app.datasets.drafts.replacing import Wanted
from app.datasets.files import drop, of_acts, room
from app.datasets.rows import segments
from app.datasets.states import DRAFT, PUBLISHING
from app.datasets.tables import DatasetVersion, DraftAct, RowEdit
from app.db import now
from app.errors import N_, Conflict, Invalid
from app.queue import send, transaction

log = structlog.get_logger()

MOST_CHANGES = 5000  # rows that an act leaves as edits
STRETCH_SECONDS = 5.0
INLINE_SECONDS = 2.0  # an act that is done by then is done when the request returns
TAIL_ROWS = 50_000  # rows added at the end join a last segment up to this size
MAX_ATTEMPTS = 5
TASK = "workers.change_draft"

Alter = Callable[[Entry], bytes | None]  # None: the row is deleted

STOPPED: dict[str, Any] = {
    "code": "stopped",
    "message": N_("The work stopped unexpectedly several times. Nothing was changed."),
    "params": {},
}


# -- asking for it -----------------------------------------------------------------------


def replace(who: Principal, dataset_id: str, which: str, wanted: Wanted) -> DraftAct:
    """Replace in every row that matches; a long work is `running` when this returns."""
    return start(who, dataset_id, which, "replace", {"wanted": wanted.to_json()})


def delete_found(who: Principal, dataset_id: str, which: str, filters: dict[str, Any]) -> DraftAct:
    """Delete every row that a search finds; a long work is `running` when this returns."""
    return start(who, dataset_id, which, "delete", {"filters": filters})


def start(
    who: Principal, dataset_id: str, which: str, what: str, params: dict[str, Any]
) -> DraftAct:
    with transaction() as db:
        held = acts.draft(db, who, dataset_id, which)
        alteration(held, DraftAct(what=what, params=params))  # whether it can be done at all
        act = acts.begin(db, held, who.user_id, what)
        act.params, act.claimed_at = params, now()  # by us: the sweep leaves it alone
    try:
        act = stretch(act, INLINE_SECONDS)
    except BaseException:
        with transaction() as db:
            if (one := db.get(DraftAct, act.id, with_for_update=True)) is not None:
                give_up(db, one)
        raise
    if act.state == "running":
        with transaction() as db:
            db.get_one(DraftAct, act.id).claimed_at = None
            send(db, TASK, act.id)
    return act


def stop(who: Principal, dataset_id: str, which: str = "") -> None:
    """Stop the large act that is under way: nothing of it stays."""
    with transaction() as db:
        held = acts.open_draft(db, who, dataset_id, which)
        act = acts.running(db, held.id)
        if act is None:
            raise Conflict(N_("Nothing is under way."), code="nothing")
        made = of_acts([act])
        give_up(db, act)
    for artefact in made:
        drop(artefact)


def give_up(db: Session, act: DraftAct, error: dict[str, Any] | None = None) -> None:
    db.execute(delete(RowEdit).where(RowEdit.act_id == act.id))
    act.state, act.cursor, act.claimed_at, act.rows, act.growth = "failed", {}, None, 0, 0
    if error:
        act.error = error


# -- taking turns ------------------------------------------------------------------------


def change_draft(act_id: str) -> None:
    """One stretch of a large act: the body of the task `workers.change_draft`."""
    with transaction() as db:
        query = select(DraftAct).where(DraftAct.id == act_id, DraftAct.state == "running")
        act = db.scalar(query.with_for_update(skip_locked=True))
        if act is None or act.what == "publish" or fresh(act):
            return
        if given_up := act.attempts >= MAX_ATTEMPTS:
            act.claimed_at = None
        else:
            act.attempts += 1
            act.claimed_at = now()
    if given_up:
        fail(act.id, STOPPED)
        return
    try:
        after = stretch(act)
    except Invalid as error:  # such as an expression that takes too long
        fail(act.id, error.kept())
        return
    if after.state == "running":
        with transaction() as db:
            if (one := db.get(DraftAct, act.id, with_for_update=True)) is not None:
                one.claimed_at, one.attempts = None, 0
                send(db, TASK, one.id)


def fail(act_id: str, error: dict[str, Any]) -> None:
    """Nothing of the act stays but the reason."""
    with transaction() as db:
        act = db.get(DraftAct, act_id, with_for_update=True)
        if act is None or act.state != "running":
            return
        made = of_acts([act])
        give_up(db, act, error)
    for artefact in made:
        drop(artefact)


def fresh(act: DraftAct) -> bool:
    return act.claimed_at is not None and act.claimed_at > now() - service.STALE


def resend(db: Session) -> None:
    """Nudge whoever goes on with an act that nobody is at."""
    waiting = select(DraftAct).where(DraftAct.state == "running", DraftAct.what != "publish")
    for act in db.scalars(waiting.limit(100)):
        if not fresh(act):
            send(db, TASK, act.id)


# -- a stretch ---------------------------------------------------------------------------


def stretch(act: DraftAct, seconds: float = STRETCH_SECONDS) -> DraftAct:
    """Go on from the act's cursor, and say so in the database. The act as it then is."""
    with transaction() as db:
        version = db.get_one(DatasetVersion, act.version_id)
    over = overlay.of(version)
    alter, refused = alteration(version, act)
    if "at" in act.cursor:
        return fold(version, over, act, alter, refused)
    begun = act.cursor.get("number", 0)
    changes: list[Change] = []
    number = begun
    until = time.monotonic() + seconds
    for entry in overlay.entries(over, begun):
        after = alter(entry)
        number = entry.number + 1
        if after != entry.line:
            changes.append(Change(entry.key, overlay.id_of(entry.line), entry.line, after))
            if act.rows + len(changes) > MOST_CHANGES:
                break
        if number % 64 == 0 and time.monotonic() > until:
            break
    with transaction() as db:
        held, one = hold(db, version, act)
        if one is None:
            return act
        if one.rows + len(changes) > min(MOST_CHANGES, acts.MOST_EDITS - len(over.ids)):
            db.execute(delete(RowEdit).where(RowEdit.act_id == one.id))
            one.rows, one.growth, one.cursor = 0, 0, {"at": 0, "made": []}
            one.params = one.params | {"refused": 0}
            return one
        acts.write(db, one, changes)
        note(one, refused)
        one.cursor = {"number": number}
        if number == over.rows:
            leave_some(held, one)
            acts.finish(held, one)
    return one


def hold(
    db: Session, version: DatasetVersion, act: DraftAct
) -> tuple[DatasetVersion, DraftAct | None]:
    """Both, locked; no act if somebody else went on with it, or stopped it."""
    held = db.get_one(DatasetVersion, version.id, with_for_update=True, populate_existing=True)
    one = db.get(DraftAct, act.id, with_for_update=True, populate_existing=True)
    wanted = PUBLISHING if act.what == "publish" else DRAFT
    if one is None or one.state != "running" or one.cursor != act.cursor or held.status != wanted:
        return held, None
    return held, one


def leave_some(held: DatasetVersion, act: DraftAct) -> None:
    """Raises Invalid when the act would leave nothing."""
    if held.rows + act.growth <= 0:
        raise Invalid(N_("A version needs at least one row."), code="no_rows")


def note(act: DraftAct, refused: list[int]) -> None:
    """How many rows were left as they were, as a rule forbids what they would become."""
    if refused:
        act.params = act.params | {"refused": act.params.get("refused", 0) + len(refused)}


def alteration(version: DatasetVersion, act: DraftAct) -> tuple[Alter, list[int]]:
    """What the act makes of a row, and a list that takes the rows it must leave alone."""
    refused: list[int] = []
    if act.what == "replace":
        pattern = replacing.compiled(Wanted.from_json(act.params["wanted"]))

        def put(entry: Entry) -> bytes | None:
            made = replacing.changed(version, pattern, entry)
            if made is not None and made[0] is None:
                refused.append(entry.number)
            return made[0] if made and made[0] else entry.line

        return put, refused
    if act.what == "delete":
        found = overlay.finder(**act.params["filters"])
        return lambda entry: None if found(entry.line) else entry.line, refused
    return lambda entry: entry.line, refused


# -- new segments ------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What becomes one segment: rows `start` to `stop` of the draft."""

    segment: dict[str, Any] | None  # None: rows added at the end
    start: int
    stop: int
    touched: bool


def parts(over: Overlay) -> list[Part]:
    """How a draft is cut into its segments."""
    made: list[Part] = []
    place = 0
    for at, segment in enumerate(over.segments):
        end = place + segment["rows"]
        last = at == len(over.segments) - 1
        start = over.before((place, ""))
        stop = over.before((end, ""))
        if last and segment["rows"] <= TAIL_ROWS:
            stop = over.rows
        made.append(Part(segment, start, stop, touched(over, place, end, stop - start)))
        place = end
    if not made or made[-1].stop < over.rows:
        made.append(Part(None, made[-1].stop if made else 0, over.rows, touched=True))
    return made


def touched(over: Overlay, place: int, end: int, rows: int) -> bool:
    """Whether an edit lies in the segment of places `place` to `end`."""
    if rows != end - place:
        return True
    keys = over.keys
    at = bisect_left(keys, (place, ""))
    return at < len(keys) and keys[at] < (end, "")


def fold(
    version: DatasetVersion, over: Overlay, act: DraftAct, alter: Alter, refused: list[int]
) -> DraftAct:
    """Write the next segment; after the last, they are the draft's."""
    at = act.cursor["at"]
    cut = parts(over)
    part = cut[at]
    counts = {"rows": 0, "growth": 0}

    def rows() -> Iterator[dict[str, Any]]:
        for entry in overlay.entries(over, part.start, part.stop):
            after = alter(entry)
            if after != entry.line:
                counts["rows"] += 1
                counts["growth"] -= after is None
            if after is not None:
                yield orjson.loads(after)

    made: list[dict[str, Any]] = []
    if part.touched or act.what != "publish":
        with room() as directory:
            written = segments.write(rows(), directory)
            if part.segment and not part.touched and not counts["rows"]:
                made = [part.segment]
            elif written.rows:
                storage.move(directory, written.artefact)
                made = [{"artefact": written.artefact, "rows": written.rows}]
    elif part.segment:
        made = [part.segment]
    with transaction() as db:
        held, one = hold(db, version, act)
        if one is not None:
            one.rows += counts["rows"]
            one.growth += counts["growth"]
            note(one, refused)
            one.cursor = {"at": at + 1, "made": [*act.cursor["made"], *made]}
            if at + 1 == len(cut):
                leave_some(held, one)
                one.segments = {"before": held.segments, "after": one.cursor["made"]}
                held.segments = one.cursor["made"]
                acts.finish(held, one)
    if one is None:
        for new in made:
            drop(new["artefact"])
        return act
    return one


# -- publishing --------------------------------------------------------------------------


def prepare(db: Session, held: DatasetVersion, user_id: str | None) -> None:
    """Before a draft is published: an act that writes its edits into segments, if it has any."""
    if acts.running(db, held.id):
        raise Conflict(acts.BUSY, code="busy")
    if held.edition and overlay.load(db, held.id).ids:
        act = acts.begin(db, held, user_id, "publish")
        act.cursor = {"at": 0, "made": []}


def settle(version: DatasetVersion) -> bool:
    """One stretch of writing the edits of a draft that is being published. False: all done."""
    with transaction() as db:
        act = acts.running(db, version.id)
    if act is None:
        return False
    stretch(act)
    return True


def forget(version_id: str) -> None:
    """Remove the segments that only undoing would need: the version is fixed, or gone."""
    kept = select(DraftAct).where(
        DraftAct.version_id == version_id,
        or_(DraftAct.segments.is_not(None), DraftAct.state == "running"),
    )
    with transaction() as db:
        artefacts = of_acts(list(db.scalars(kept)))
    for artefact in artefacts:
        drop(artefact)
    with transaction() as db:
        for act in db.scalars(kept.with_for_update()):
            act.cursor = {}
            if act.segments:
                act.segments = {}
            if act.state == "running":
                act.state = "failed"
