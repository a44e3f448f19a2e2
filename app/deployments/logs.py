"""What the engines of a deployment write, start by start: its end, its lines, and as it grows."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.deployments.states import ACTIVE, replicas_of
from app.deployments.tables import Deployment, Replica, ReplicaLog
from app.errors import N_, NotFound
from app.jobs.history import plain, whole_characters
from app.queue import transaction

TAIL = 64 * 1024  # bytes of a log that a page begins with
PIECE = 256 * 1024  # bytes of log read at a time, at most
CHUNKS = 32  # chunks read at a time, at most
LOOK = 1.0  # seconds between two looks
LIFE = 600.0  # seconds; then the reader comes back with the last id
RESTING = ("stopped", "error")  # nothing is written until somebody starts it again
QUIET = 15.0  # seconds without an event, after which a comment keeps proxies from hanging up


@dataclass(frozen=True)
class Place:
    """How far a reader has come: a byte of the log of one start."""

    fence: int = 0
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> "Place":
        """From an event's id; the start, if it is not one of ours."""
        parts = text.split(".")
        if len(parts) != 2 or not all(part.isdecimal() and len(part) < 16 for part in parts):
            return cls()
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.fence}.{self.offset}"


@dataclass(frozen=True)
class Piece:
    """Log text, fit for any screen, and where to go on."""

    text: str
    place: Place
    more: bool  # there may be more right now
    cut: bool = False  # something stands before it


MOST_WRITERS = 50  # shown to choose from


# -- which -------------------------------------------------------------------------------


def chosen(db: Session, deployment: Deployment, replica_id: str = "") -> Replica:
    """A replica by its id, by default the first of the newest revision. Raises NotFound."""
    for replica in writers(db, deployment.id):
        if replica_id in ("", replica.id):
            return replica
    raise NotFound(N_("There is no such replica."))


def writers(db: Session, deployment_id: str) -> list[Replica]:
    """The replicas, and what is left of those that have written something (a revision that did not
    start, say); those of the newest revision first.
    """
    wrote = select(ReplicaLog.replica_id).where(ReplicaLog.replica_id == Replica.id).exists()
    left = select(Replica).where(Replica.deployment_id == deployment_id, wrote)
    found = {one.id: one for one in (*replicas_of(db, deployment_id), *db.scalars(left))}
    return sorted(found.values(), key=lambda one: (-one.revision, one.index))[:MOST_WRITERS]


def starts(db: Session, replica_id: str) -> list[int]:
    """The starts that have written something which is kept, newest first."""
    found = select(ReplicaLog.fence).where(ReplicaLog.replica_id == replica_id).distinct()
    return sorted(db.scalars(found), reverse=True)


def named(db: Session, replica: Replica, start: int | None) -> int:
    """The start that is meant: the newest, where none is named. Raises NotFound."""
    kept = starts(db, replica.id)
    if start is not None and start not in kept:
        raise NotFound(N_("The log of this start is not kept any more."))
    return start if start is not None else (kept or [replica.fence])[0]


def final(replica: Replica, fence: int) -> bool:
    """Nothing more will be written."""
    return fence < replica.fence or replica.state not in ACTIVE


# -- reading -----------------------------------------------------------------------------


def after(db: Session, replica_id: str, place: Place, *, final: bool) -> Piece:
    """The log of one start from a byte on. It ends with a line: half a line waits for its other
    half, unless the log is `final`.
    """
    length = func.octet_length(ReplicaLog.data)
    chunks = db.execute(
        select(ReplicaLog.offset, ReplicaLog.data)
        .where(
            ReplicaLog.replica_id == replica_id,
            ReplicaLog.fence == place.fence,
            ReplicaLog.offset + length > place.offset,
        )
        .order_by(ReplicaLog.offset)
        .limit(CHUNKS)
    ).all()
    if not chunks:
        return Piece("", place, False)
    begin = max(place.offset, chunks[0].offset)  # what was before may be gone
    data = b"".join(chunk.data for chunk in chunks)[begin - chunks[0].offset :]
    more = len(chunks) == CHUNKS or len(data) > PIECE
    data = data[:PIECE]
    size = len(data)
    if more or not final:
        size = data.rfind(b"\n") + 1
        if size == 0 and more:  # one endless line: cut between two characters
            size = whole_characters(data)
    text = plain(data[:size].decode(errors="replace"))
    return Piece(text, Place(place.fence, begin + size), more and size > 0)


def end(db: Session, replica: Replica, fence: int) -> Piece:
    """The last lines of a start, TAIL bytes at most."""
    length = func.octet_length(ReplicaLog.data)
    first, last = db.execute(
        select(func.min(ReplicaLog.offset), func.max(ReplicaLog.offset + length)).where(
            ReplicaLog.replica_id == replica.id, ReplicaLog.fence == fence
        )
    ).one()
    begin = max(first or 0, (last or 0) - TAIL)
    piece = after(db, replica.id, Place(fence, begin), final=final(replica, fence))
    if begin == 0:
        return piece
    _, line, rest = piece.text.partition("\n")
    return Piece(rest if line else piece.text, piece.place, piece.more, cut=True)


def pieces(replica_id: str, fence: int, *, final: bool) -> Iterator[str]:
    """All that is kept of a start."""
    place, more = Place(fence), True
    while more:
        with transaction() as db:
            piece = after(db, replica_id, place, final=final)
        yield piece.text
        place, more = piece.place, piece.more


def lines(replica_id: str, fence: int, *, final: bool) -> Iterator[str]:
    rest = ""
    for text in pieces(replica_id, fence, final=final):
        *whole, rest = (rest + text).split("\n")
        yield from whole
    if rest:
        yield rest


# -- following ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What one look found: events with their ids, and whether there is more, or ever will be."""

    frames: list[bytes]
    place: Place
    more: bool
    done: bool


async def follow(replica_id: str, place: Place, start: int | None) -> AsyncIterator[bytes]:
    """The log as it grows, as server-sent events: `log`, and `start` where the engine was started
    anew. It ends when nothing more will come; with `start`, when that one is over. No session is held
    between two looks.
    """
    yield b"retry: 2000\n\n"
    began = spoke = time.monotonic()
    while time.monotonic() - began < LIFE:
        found = await run_in_threadpool(look, replica_id, place, start)
        place = found.place
        for frame in found.frames:
            yield frame
            spoke = time.monotonic()
        if found.done:
            yield encode("done", place, {})
            return
        if time.monotonic() - spoke > QUIET:
            yield b": still here\n\n"
            spoke = time.monotonic()
        if not found.more:
            await asyncio.sleep(LOOK)


def look(replica_id: str, place: Place, start: int | None) -> Look:
    """Everything since `place`. The state is read before the log: when it is final, so is that."""
    frames: list[bytes] = []
    with transaction() as db:
        replica = db.get(Replica, replica_id)
        if replica is None:
            return Look(frames, place, False, True)
        if place.fence == 0:
            place = Place(named(db, replica, start))
        over = final(replica, place.fence)
        last = start is not None or replica.state in RESTING
        piece = after(db, replica_id, place, final=over)
        place = piece.place
        if piece.text:
            frames.append(encode("log", place, {"text": piece.text}))
        elif start is None and over:
            newer = [one for one in starts(db, replica_id) if one > place.fence]
            if newer:
                place = Place(newer[-1])
                frames.append(encode("start", place, {"start": place.fence}))
                return Look(frames, place, True, False)
    return Look(frames, place, piece.more, last and over and not piece.more)


def encode(kind: str, place: Place, data: dict[str, Any]) -> bytes:
    """One frame. JSON has no raw newline, so the data is one line whatever a log holds."""
    return f"event: {kind}\nid: {place}\ndata: {orjson.dumps(data).decode()}\n\n".encode()
