"""What the runs of a job wrote, all attempts in order: its log, its metrics, its events."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import case, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.jobs.tables import JobEvent, JobLog, JobMetric

PIECE = 256 * 1024  # bytes of log read at a time, at most
CHUNKS = 32  # chunks read at a time, at most
# what a terminal would obey: CSI and OSC sequences, other escapes, control characters
CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


# -- writing -----------------------------------------------------------------------------


def store_log(db: Session, job_id: str, fence: int, offset: int, data: bytes) -> None:
    """A chunk at its offset in the attempt's log; one that is there already stays."""
    row = {"job_id": job_id, "fence": fence, "offset": offset, "data": data}
    db.execute(insert(JobLog).values(**row).on_conflict_do_nothing())


def store_metrics(db: Session, job_id: str, fence: int, lines: list[dict[str, Any]]) -> None:
    """One row per step. A line of an evaluation joins the line of its step; a newer fence's
    line replaces an older one's.
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in lines:
        entry = storable(line)
        if "loss" not in entry:  # an evaluation: its time is not the step's
            entry.pop("t", None)
        steps.setdefault(int(line["step"]), {}).update(entry)
    new = insert(JobMetric).values(
        [
            {"job_id": job_id, "step": step, "fence": fence, "data": data}
            for step, data in sorted(steps.items())
        ]
    )
    same = JobMetric.fence == new.excluded.fence
    db.execute(
        new.on_conflict_do_update(
            index_elements=[JobMetric.job_id, JobMetric.step],
            set_={
                "fence": new.excluded.fence,
                "data": case(
                    (same, JobMetric.data.op("||")(new.excluded.data)), else_=new.excluded.data
                ),
                "seq": text("DEFAULT"),
            },
            where=JobMetric.fence <= new.excluded.fence,
        )
    )


def store_events(db: Session, job_id: str, fence: int, lines: list[dict[str, Any]]) -> None:
    known = {
        (event.at, event.kind, event.message)
        for event in db.scalars(
            select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.fence == fence)
        )
    }
    for line in lines:
        event = JobEvent(
            job_id=job_id,
            fence=fence,
            at=datetime.fromtimestamp(float(line["t"]), UTC),
            kind=str(line["kind"])[:40],
            message=storable(str(line["message"])[:2000]),
            params=storable(line.get("params") or {}),
        )
        if (event.at, event.kind, event.message) not in known:
            db.add(event)


def storable(value: Any) -> Any:
    """`value` without what JSONB refuses: a number that is none becomes null, NUL goes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {storable(str(name)): storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


# -- reading -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Log text, fit for any screen, and where to go on: a byte of an attempt's own log."""

    text: str
    fence: int
    offset: int
    more: bool  # there may be more right now


def log_after(db: Session, job_id: str, fence: int, offset: int, *, final: bool) -> Piece:
    """The log from byte `offset` of attempt `fence` on, and of the attempts after it.

    It ends with a line: half a line waits for its other half, unless the job is `final`.
    """
    first = (
        select(func.max(JobLog.offset))
        .where(JobLog.job_id == job_id, JobLog.fence == fence, JobLog.offset <= offset)
        .scalar_subquery()
    )
    chunks = db.execute(
        select(JobLog.fence, JobLog.offset, JobLog.data)
        .where(
            JobLog.job_id == job_id,
            tuple_(JobLog.fence, JobLog.offset) >= tuple_(fence, func.coalesce(first, offset)),
        )
        .order_by(JobLog.fence, JobLog.offset)
        .limit(CHUNKS)
    ).all()
    taken: list[tuple[int, int, bytes]] = []  # attempt, offset, bytes
    size = 0
    for chunk in chunks:
        skip = max(0, offset - chunk.offset) if chunk.fence == fence else 0
        data = chunk.data[skip : skip + PIECE - size]
        if data:
            taken.append((chunk.fence, chunk.offset + skip, data))
            size += len(data)
    more = len(chunks) == CHUNKS or size == PIECE
    data = b"".join(part for _, _, part in taken)
    cut = size
    if more or not final:
        cut = data.rfind(b"\n") + 1
        if cut == 0 and size == PIECE:  # one endless line: cut between two characters
            cut = len(data.decode(errors="ignore").encode()) or size
    left = cut
    for number, start, part in taken:
        if left > 0:
            fence, offset = number, start + min(left, len(part))
        left -= len(part)
    return Piece(plain(data[:cut].decode(errors="replace")), fence, offset, more and cut > 0)


def log_from(db: Session, job_id: str, offset: int, *, final: bool) -> tuple[str, int, bool]:
    """The log of all attempts, put end to end, from byte `offset`: (text, next offset, more)."""
    lengths = db.execute(
        select(JobLog.fence, func.max(JobLog.offset + func.octet_length(JobLog.data)))
        .where(JobLog.job_id == job_id)
        .group_by(JobLog.fence)
        .order_by(JobLog.fence)
    )
    starts: dict[int, int] = {}
    fence, own, end = 0, 0, 0
    for number, length in lengths:
        starts[number] = end
        if end <= offset:
            fence, own = number, offset - end
        end += length
    if offset >= end:
        return "", end, False
    piece = log_after(db, job_id, fence, own, final=final)
    return piece.text, starts[piece.fence] + piece.offset, piece.more


def plain(text: str) -> str:
    """Without anything that a terminal or a page would obey. A carriage return becomes a line."""
    return CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def metrics(db: Session, job_id: str) -> list[dict[str, Any]]:
    """One entry per step, in order."""
    return list(
        db.scalars(
            select(JobMetric.data).where(JobMetric.job_id == job_id).order_by(JobMetric.step)
        )
    )


def metrics_after(db: Session, job_id: str, seq: int) -> tuple[list[dict[str, Any]], int]:
    """Entries written since the cursor `seq`, by step, and the new cursor."""
    rows = db.execute(
        select(JobMetric.seq, JobMetric.data)
        .where(JobMetric.job_id == job_id, JobMetric.seq > seq)
        .order_by(JobMetric.step)
    ).all()
    return [row.data for row in rows], max((row.seq for row in rows), default=seq)


def events(db: Session, job_id: str, after: int = 0) -> list[JobEvent]:
    """What happened, in order; `after` is the id of the last one known."""
    return list(
        db.scalars(
            select(JobEvent)
            .where(JobEvent.job_id == job_id, JobEvent.id > after)
            .order_by(JobEvent.id)
        )
    )
