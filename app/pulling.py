"""Imports in stretches: each file from where it stands, and checked at its end; and whose turn it is.

A file is `{name, url, size, sha256, validator}`; size, sha256 and validator may be missing or
empty. Its bytes so far are the truth: whoever takes the next stretch goes on from there with
Range, where the server can prove that it still has the same file, and starts over where it cannot.

An import is a row with a cursor: `{files: […], at, received, total, best, tries, waits, turn}`, a
claim and a count of attempts. Bytes that come make good what failed before.
"""

import copy
import errno
import fcntl
import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy.orm import Session

from app import addresses, fetching
from app.db import now
from app.errors import N_, DomainError, Unavailable, disk_full
from app.queue import transaction

log = structlog.get_logger()

LONGEST = 600.0  # seconds for one answer, from servers that cannot take up again
WAIT = (2, 5, 15, 30, 60)  # seconds before the second try without a new byte, the third ...
BEAT = 1.0  # seconds between two looks at whether anybody still wants it


Row = TypeVar("Row", bound=Any)


class Stopped(Exception):
    """Nobody wants it any more, or somebody else is at it."""


@dataclass
class Stretch(ABC, Generic[Row]):
    """One stretch of an import: its row as it was claimed, its cursor as it now is, and when others
    may go on. What is fetched, and what becomes of it, says the class of the import's kind.
    """

    one: Row
    cursor: dict[str, Any]
    until: float  # on the monotonic clock
    stale: timedelta  # of silence, after which whoever claimed it is dead
    beaten: float = 0.0

    @abstractmethod
    def go(self) -> bool:
        """Fetch until all is here, or the time is over: False. Raises DomainError or Stopped."""

    @abstractmethod
    def finish(self) -> None:
        """What was fetched becomes what it is for. Raises DomainError or Stopped."""

    @abstractmethod
    def fail(self, error: DomainError) -> None:
        """This is its end."""

    @abstractmethod
    def received(self) -> int:
        """Bytes that are here, of all files."""

    @abstractmethod
    def ours(self, db: Session, *, claimed: bool = True) -> Row:
        """The row, locked. Raises Stopped."""

    def take(self) -> None:
        """Go, and say how it went."""
        try:
            if self.go():
                self.finish()
        except Stopped:
            log.info("an import was stopped", of=self.one.id)
        except Unavailable as error:  # also Interrupted
            self.rest(error)
        except DomainError as error:
            self.fail(error)

    def beat(self) -> bool:
        """Now and then, say how far it is. True if it was time to."""
        if time.monotonic() < self.beaten + BEAT:
            return False
        self.save()
        return True

    def save(self, **columns: Any) -> None:
        """Write the cursor and keep the claim. Raises Stopped if the import is not ours now."""
        self.beaten = time.monotonic()
        if self.count():
            columns.setdefault("attempts", 1)
        with transaction() as db:
            one = self.ours(db)
            one.cursor = copy.deepcopy(self.cursor)
            one.claimed_at = now()
            for name, value in columns.items():
                setattr(one, name, value)
        self.one = one

    def later(self) -> None:
        """Let others have a turn."""
        self.cursor["turn"] = now().isoformat()
        self.save(claimed_at=None, attempts=0)

    def count(self) -> bool:
        """Whether there is more than ever before; if so, what failed until now is forgotten."""
        got = self.cursor["received"] = self.received()
        if got <= self.cursor.get("best", 0):
            return False
        self.cursor |= {"best": got, "tries": 0, "waits": None}
        return True

    def rest(self, error: DomainError) -> None:
        """Wait before the next try; a full disk is waited out, whatever the number of tries."""
        self.count()
        full = error.code == "disk_full"
        tries = self.cursor.get("tries", 0) + (0 if full else 1)
        log.info("an import was interrupted", of=self.one.id, code=error.code, tries=tries)
        if tries > len(WAIT):
            self.fail(error)
            return
        waits = {"message": error.message, "params": error.params}
        self.cursor |= {"tries": tries, "waits": waits}
        again = now() - self.stale + timedelta(seconds=WAIT[-1] if full else WAIT[tries - 1])
        with suppress(Stopped), transaction() as db:
            one = self.ours(db)
            one.cursor, one.claimed_at, one.attempts = copy.deepcopy(self.cursor), again, 0


@contextmanager
def alone(directory: Path) -> Iterator[bool]:
    """Whether nobody else on this machine is here; nobody comes while this lasts."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = True
    except BlockingIOError:
        ours = False
    try:
        yield ours
    finally:
        os.close(handle)


def pull(
    file: dict[str, Any],
    path: Path,
    *,
    limit: int,
    until: float,
    beat: Callable[[], bool],
    allow: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    heed: Callable[[dict[str, Any], fetching.Answer], None] | None = None,
) -> bool:
    """Fetch `file` to `path`. False if it is to be gone on with later: the monotonic clock is past
    `until`, and it can be.

    `beat` is called with every piece; `heed` once, with what the server says of the file. `limit`
    is in bytes. Raises Refused, Interrupted, TooLarge, Unavailable, or what the two raise.
    """
    have = path.stat().st_size if path.exists() else 0
    if not have or have != file.get("size"):
        proven = file.get("validator") or file.get("sha256")
        with fetching.stream(
            file["url"],
            limit=limit,
            seconds=LONGEST,
            offset=have if proven else 0,  # or nothing would say that the rest belongs to it
            validator=file.get("validator", ""),
            allow=allow,
            headers=headers,
        ) as answer:
            file["size"] = answer.size if answer.size is not None else file.get("size")
            file["validator"] = answer.validator if answer.resumable else ""
            if heed:
                heed(file, answer)
            can = bool(answer.validator and answer.resumable)
            if not pour(answer.chunks, path, answer.offset, beat, until if can else None):
                return False
    if file["size"] not in (None, path.stat().st_size):
        raise addresses.Interrupted(N_("The file came shorter than announced."), code="file.cut")
    if file.get("sha256") and digest(path, beat) != file["sha256"]:
        path.unlink()
        raise addresses.Interrupted(
            N_("“%(name)s” did not come as the hub describes it."),
            code="import.damaged",
            name=file["name"],
        )
    return True


def pour(
    chunks: Iterable[bytes],
    path: Path,
    offset: int,
    beat: Callable[[], bool],
    until: float | None = None,
) -> bool:
    """Write what comes at `offset`. False if the time was over before the end."""
    with path.open("ab") as file:
        file.truncate(offset)
        try:
            for chunk in chunks:
                file.write(chunk)
                over = until is not None and time.monotonic() > until
                if beat() and over:
                    return False
            file.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise disk_full() from None
    return True


def digest(path: Path, beat: Callable[[], bool]) -> str:
    """SHA-256 in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
            beat()
    return found.hexdigest()
