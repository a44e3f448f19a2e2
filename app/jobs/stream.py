"""A job as it happens, as server-sent events: state, log, metrics, devices, event, and done at the
end.

An event's id is a cursor, so a reader that comes back with Last-Event-ID misses nothing and
gets nothing twice. No database session is held between two looks.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app.db import now
from app.jobs import history, loads, waiting
from app.jobs.states import FINAL
from app.jobs.tables import Job, JobEvent
from app.queue import transaction
from app.web import translate

LOOK = 1.0  # seconds between two looks
LIFE = 600.0  # seconds; then the reader comes back with the last id
QUIET = 15.0  # seconds without an event, after which a comment keeps proxies from hanging up
POINTS = 2000  # of a long history; `/metrics` has every step

Say = Callable[[str, dict[str, Any]], str]  # msgid and params to a sentence


@dataclass(frozen=True)
class Cursor:
    """How far a reader has come: a byte of an attempt's log, a metric, an event, a reading of the
    devices.
    """

    fence: int = 0
    offset: int = 0
    seq: int = 0
    event: int = 0
    load: int = 0

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """From an event's id; the start, if it is not one of ours."""
        parts = text.split(".")
        if len(parts) not in (4, 5) or not all(
            part.isdecimal() and len(part) < 16 for part in parts
        ):
            return cls()
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.fence}.{self.offset}.{self.seq}.{self.event}.{self.load}"


@dataclass(frozen=True)
class Look:
    """What one look found: events with their ids, and whether there is more, or ever will be."""

    frames: list[bytes]
    cursor: Cursor
    state: dict[str, Any]
    more: bool
    done: bool


def speaker(request: Request) -> Say:
    """Says an event's or an error's msgid in the reader's language. Both may come from a run
    directory, so one whose places do not fit its params is shown as it is.
    """

    def say(message: str, params: dict[str, Any]) -> str:
        try:
            return translate(request, message, **params)
        except (KeyError, TypeError, ValueError):
            return message

    return say


def error_of(job: Job, say: Say) -> dict[str, Any] | None:
    """{code, message}: why the job failed, in the reader's language."""
    if not job.error:
        return None
    message = say(str(job.error.get("message") or ""), job.error.get("params") or {})
    return {"code": str(job.error.get("code") or "failed"), "message": message}


def response(job_id: str, last_id: str, say: Say) -> StreamingResponse:
    return StreamingResponse(
        follow(job_id, Cursor.parse(last_id), say),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def follow(job_id: str, cursor: Cursor, say: Say) -> AsyncIterator[bytes]:
    """The events of a job that exists, until it is over or `LIFE` has passed."""
    yield b"retry: 2000\n\n"
    state: dict[str, Any] = {}
    start = spoke = time.monotonic()
    while time.monotonic() - start < LIFE:
        found = await run_in_threadpool(look, job_id, cursor, state, say)
        cursor, state = found.cursor, found.state
        for frame in found.frames:
            yield frame
            spoke = time.monotonic()
        if found.done:
            yield encode("done", cursor, {"state": state["state"]})
            return
        if time.monotonic() - spoke > QUIET:
            yield b": still here\n\n"
            spoke = time.monotonic()
        if not found.more:
            await asyncio.sleep(LOOK)


def look(job_id: str, cursor: Cursor, known: dict[str, Any], say: Say) -> Look:
    """Everything since `cursor`. The state is read before the log: when it is final, so is that."""
    frames = []
    with transaction() as db:
        job = db.get_one(Job, job_id)
        final = job.state in FINAL
        for event in history.events(db, job_id, cursor.event):
            cursor = replace(cursor, event=event.id)
            frames.append(encode("event", cursor, event_of(event, say)))
        metrics, seq = history.metrics_after(db, job_id, cursor.seq, points=POINTS)
        cursor = replace(cursor, seq=seq)
        if metrics:
            frames.append(encode("metrics", cursor, metrics))
        if readings := loads.of(db, job_id, cursor.load):
            cursor = replace(cursor, load=readings[-1].id)
            frames.append(encode("devices", cursor, loads.shown(readings)))
        piece = history.log_after(db, job_id, cursor.fence, cursor.offset, final=final)
        cursor = replace(cursor, fence=piece.fence, offset=piece.offset)
        if piece.text:
            frames.append(encode("log", cursor, {"text": piece.text}))
        reason = waiting.reasons(db, [job])[job_id]
        state = snapshot(job, reason, history.pace(db, job_id), error_of(job, say))
    if state != known:
        frames.append(encode("state", cursor, state))
    return Look(frames, cursor, state, piece.more, final and not piece.more)


def snapshot(
    job: Job, reason: str, pace: history.Pace, error: dict[str, Any] | None
) -> dict[str, Any]:
    """The state of a job. `eta` is an estimate in seconds, from the pace of the last steps."""
    running = job.state == "running"
    eta = None
    if running and pace.seconds_per_step and job.total > job.step:
        eta = round((job.total - job.step) * pace.seconds_per_step)
    return {
        "id": job.id,
        "state": job.state,
        "reason": reason,
        "phase": job.phase,
        "step": job.step,
        "total": job.total,
        "loss": pace.loss,
        "tokens_per_second": pace.tokens_per_second and round(pace.tokens_per_second),
        "eta": eta,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "result_model": job.result_model_id,
        "finishing": job.finishing,
        "error": error,
    }


def elapsed(job: Job) -> float | None:
    """Seconds since the first attempt started, waiting and pauses included."""
    if job.started_at is None:
        return None
    return ((job.finished_at or now()) - job.started_at).total_seconds()


def event_of(event: JobEvent, say: Say) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": event.at,
        "kind": event.kind,
        "message": say(event.message, event.params),
        "params": event.params,
    }


def encode(kind: str, cursor: Cursor, data: Any) -> bytes:
    """One frame. JSON has no raw newline, so the data is one line whatever a log holds."""
    return f"event: {kind}\nid: {cursor}\ndata: {orjson.dumps(data).decode()}\n\n".encode()
