"""What the runs of a job wrote, all attempts in order: its log, its metrics, its events."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import case, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.jobs.tables import JobEvent, JobLog, JobMetric

PIECE = 256 * 1024  # bytes of log read at a time, at most
WINDOW = 30  # steps over which the speed is measured
LONG = 300  # steps from which the rest of the time is estimated
HALT = 10  # times the next longest step: something else held the run up, once
CHUNKS = 32  # chunks read at a time, at most
# what a terminal would obey: CSI and OSC sequences, other escapes, control characters
CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


# -- how far we are ----------------------------------------------------------------------


def shipped(db: Session, job_id: str, fence: int) -> tuple[int, int]:
    """Bytes of an attempt's log that stand here, and its last step that does."""
    end = func.max(JobLog.offset + func.octet_length(JobLog.data))
    size = db.scalar(select(end).where(JobLog.job_id == job_id, JobLog.fence == fence))
    last = func.max(JobMetric.step)
    step = db.scalar(select(last).where(JobMetric.job_id == job_id, JobMetric.fence == fence))
    return int(size or 0), int(step or 0)


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
        if cut == 0 and more:  # one endless line: cut between two characters
            cut = whole_characters(data)
    left = cut
    for number, start, part in taken:
        if left > 0:
            fence, offset = number, start + min(left, len(part))
        left -= len(part)
    return Piece(plain(data[:cut].decode(errors="replace")), fence, offset, more and cut > 0)


def whole_characters(data: bytes) -> int:
    """The length of `data` without the first bytes of a UTF-8 character that goes on after it."""
    for back in range(1, min(4, len(data))):
        lead = data[-back]
        if lead & 0xC0 != 0x80:
            length = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            return len(data) - back if length > back else len(data)
    return len(data)


def log_from(db: Session, job_id: str, offset: int, *, final: bool) -> tuple[str, int, bool]:
    """The log of all attempts, put end to end, from byte `offset`: (text, next offset, more)."""
    starts, end = attempts(db, job_id)
    if offset >= end:
        return "", end, False
    piece = log_after(db, job_id, *locate(db, job_id, offset), final=final)
    return piece.text, starts[piece.fence] + piece.offset, piece.more


def attempts(db: Session, job_id: str) -> tuple[dict[int, int], int]:
    """Where the log of each attempt starts when all are put end to end, and where the last ends."""
    starts: dict[int, int] = {}
    end = 0
    for fence, length in db.execute(
        select(JobLog.fence, func.max(JobLog.offset + func.octet_length(JobLog.data)))
        .where(JobLog.job_id == job_id)
        .group_by(JobLog.fence)
        .order_by(JobLog.fence)
    ):
        starts[fence] = end
        end += length
    return starts, end


def locate(db: Session, job_id: str, offset: int) -> tuple[int, int]:
    """The attempt, and the byte of its own log, at byte `offset` of all put end to end."""
    place = (0, 0)
    for fence, start in attempts(db, job_id)[0].items():
        if start <= offset:
            place = (fence, offset - start)
    return place


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


def metrics_after(
    db: Session, job_id: str, seq: int, *, points: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Entries written since the cursor `seq`, by step, and the new cursor.

    With `points`, a long history is thinned to about so many: every n-th step, all evaluations
    and the last step.
    """
    new = (JobMetric.job_id == job_id, JobMetric.seq > seq)
    count, last_seq, last_step = db.execute(
        select(func.count(), func.max(JobMetric.seq), func.max(JobMetric.step)).where(*new)
    ).one()
    if not count:
        return [], seq
    query = select(JobMetric.data).where(*new, JobMetric.seq <= last_seq)
    if points and count > points:
        query = query.where(
            (JobMetric.step % (count // points + 1) == 0)
            | JobMetric.data.has_key("eval_loss")
            | (JobMetric.step == last_step)
        )
    return list(db.scalars(query.order_by(JobMetric.step))), last_seq


@dataclass(frozen=True)
class Pace:
    """How fast a run goes, measured over its last steps; None before there is enough to tell.

    `seconds_per_step` is for what is left: over many steps, so that evaluations and checkpoints
    count as often as they come, but a single long halt does not.
    """

    loss: float | None
    tokens_per_second: float | None
    seconds_per_step: float | None


def pace(db: Session, job_id: str) -> Pace:
    """Of the newest attempt."""
    rows = db.execute(
        select(
            JobMetric.fence,
            JobMetric.step,
            JobMetric.data["loss"].label("loss"),
            JobMetric.data["t"].label("at"),
            JobMetric.data["tokens"].label("tokens"),
        )
        .where(JobMetric.job_id == job_id, JobMetric.data.has_key("loss"))
        .order_by(JobMetric.step.desc())
        .limit(LONG)
    ).all()
    if not rows:
        return Pace(None, None, None)
    loss = rows[0].loss
    same = [row for row in rows if row.fence == rows[0].fence and row.at]
    near = same[:WINDOW]
    steps = near[0].step - near[-1].step if near else 0
    seconds = near[0].at - near[-1].at if near else 0
    if steps < 1 or seconds <= 0:
        return Pace(loss, None, None)
    tokens = sum(row.tokens or 0 for row in near[:-1])
    gaps = sorted(
        (after.at - before.at) / (after.step - before.step) for after, before in pairwise(same)
    )
    if len(gaps) > 2 and gaps[-1] > HALT * max(gaps[-2], 0.1):
        gaps.pop()
    return Pace(loss, tokens / seconds if tokens else None, sum(gaps) / len(gaps))


def tail_start(db: Session, job_id: str, size: int) -> int:
    """The offset, for `log_from`, of the last `size` bytes of the log of all attempts."""
    return max(0, attempts(db, job_id)[1] - size)


def events(db: Session, job_id: str, after: int = 0) -> list[JobEvent]:
    """What happened, in order; `after` is the id of the last one known."""
    return list(
        db.scalars(
            select(JobEvent)
            .where(JobEvent.job_id == job_id, JobEvent.id > after)
            .order_by(JobEvent.id)
        )
    )
