"""What a job writes, for DashScope's clients: by line, and as it comes."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.gateway.dashscope.fine_tunes import STATES
from app.gateway.tuning import service, view
from app.gateway.tuning.service import Both
from app.jobs import history, stream
from app.jobs.states import FINAL
from app.queue import transaction

LOOK = 1.0  # seconds between two looks
QUIET = 15.0  # seconds without a line, after which a comment keeps clients from giving up
OVER = (*FINAL, "failed", "cancelled")


def by_line(
    db: Session, both: Both, say: stream.Say, *, offset: int, count: int
) -> tuple[list[str], int]:
    """`count` lines from number `offset` on, which begins with 1; and how many there are."""
    first = max(offset, 1) - 1
    found: list[str] = []
    total = 0
    for line in lines(db, both, say):
        if first <= total < first + count:
            found.append(line)
        total += 1
    return found, total


def lines(db: Session, both: Both, say: stream.Say) -> Iterator[str]:
    """Of all attempts; of a job whose files were refused, why."""
    if both.job is None:
        error = view.error(both, say)
        yield from [error["message"]] if error else []
        return
    offset, more, rest = 0, True, ""
    while more:
        text, offset, more = history.log_from(
            db, both.job.id, offset, final=both.job.state in FINAL
        )
        *whole, rest = (rest + text).split("\n")
        yield from whole
    if rest:
        yield rest


# -- as it comes -------------------------------------------------------------------------


@dataclass
class Seen:
    """How far a reader has come."""

    state: str = ""
    cursor: stream.Cursor = field(default_factory=stream.Cursor)
    rest: str = ""  # of a line that is not whole


async def follow(workspace_id: str, row_id: str, say: stream.Say) -> AsyncIterator[bytes]:
    """Server-sent events until the job is over: a line of its log, a step's metrics, a status."""
    seen = Seen()
    spoke = time.monotonic()
    number = 0
    while True:
        found, done = await run_in_threadpool(look, workspace_id, row_id, seen, say)
        for one in found:
            number += 1
            yield b"id:%d\nevent:message\ndata:%s\n\n" % (number, orjson.dumps(one))
            spoke = time.monotonic()
        if done:
            return
        if time.monotonic() - spoke > QUIET:
            yield b": still here\n\n"
            spoke = time.monotonic()
        await asyncio.sleep(LOOK)


def look(
    workspace_id: str, row_id: str, seen: Seen, say: stream.Say
) -> tuple[list[dict[str, Any]], bool]:
    """Everything new, and whether there will be nothing more. No session is held between two."""
    found: list[dict[str, Any]] = []
    with transaction() as db:
        both = service.get(db, workspace_id, row_id)
        state = both.state  # before the log: when it is final, so is that
        more = False
        if both.job:
            final = state in FINAL
            at = seen.cursor
            piece = history.log_after(db, both.job.id, at.fence, at.offset, final=final)
            metrics, seq = history.metrics_after(db, both.job.id, at.seq, points=stream.POINTS)
            seen.cursor = stream.Cursor(piece.fence, piece.offset, seq)
            *whole, seen.rest = (seen.rest + piece.text).split("\n")
            found += [{"type": "log", "message": line} for line in whole]
            found += [{"type": "metrics", **line} for line in metrics]
            more = piece.more
            if final and not more and seen.rest:
                found.append({"type": "log", "message": seen.rest})
        if state != seen.state:
            seen.state = state
            error = view.error(both, say)
            said = {"type": "status", "status": STATES[state]}
            found.append(said | ({"message": error["message"]} if error else {}))
    return found, state in OVER and not more
