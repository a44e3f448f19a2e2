"""Rows on their way to Postgres, in files that outlive whoever wrote them.

A process has files of its own, `usage-<process>-<number>.jsonl`, and holds a lock for as long as it
lives, which the kernel gives back however it dies. Nobody else touches its files before that: in
a container next to ours neither its number nor its start time would say whether it lives.
"""

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from app.config import settings
from app.db import new_id

Row = dict[str, Any]

process = new_id("gw")
lock = threading.RLock()  # the event loop appends, a thread flushes
number = 0  # of the file that is appended to
file: int | None = None  # the same, open
held: int | None = None  # our lock, open: whoever finds it free knows that we are dead


def path_of(one: str, count: int) -> Path:
    return settings.spool / f"usage-{one}-{count}.jsonl"


def lock_of(one: str) -> Path:
    return settings.spool / f"usage-{one}.lock"


# -- our own -----------------------------------------------------------------------------


def append(lines: bytes) -> None:
    """On disk, as far as the death of this process goes, when this returns."""
    global file
    with lock:
        if file is not None and not os.fstat(file).st_nlink:  # somebody removed it
            os.close(file)
            file = None
        if file is None:
            file = begin()
        if os.write(file, lines) < len(lines):  # a full disk; what comes later stands elsewhere
            os.close(file)
            file = None
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def begin() -> int:
    """A new file, under a lock that is ours."""
    global number, held
    settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    while held is None or not same(held, lock_of(process)):
        if held is not None:
            os.close(held)
        held = os.open(lock_of(process), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
    number += 1
    return os.open(
        path_of(process, number), os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_EXCL, 0o600
    )


def same(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def turn(lines: bytes) -> list[Path]:
    """Go on in a new file, which begins with `lines`, if any; the files that are complete now."""
    global file
    with lock:
        if file is not None:
            os.close(file)
            file = None
        if lines:
            append(lines)
            return [path for path in files(process) if path != path_of(process, number)]
        return files(process)


# -- anybody's ---------------------------------------------------------------------------


def files(one: str) -> list[Path]:
    """The oldest first: of an open row the last line counts."""
    found = settings.spool.glob(f"usage-{one}-*.jsonl")
    return sorted(found, key=lambda path: int(path.stem.rpartition("-")[2]))


@contextlib.contextmanager
def left_behind() -> Iterator[list[list[Path]]]:
    """The files of each process that died. Nobody else is given them meanwhile."""
    found = []
    with contextlib.ExitStack() as stack:
        for one in sorted({owner(path) for path in settings.spool.glob("usage-*")}):
            if one != process and stack.enter_context(dead(one)):
                found.append(files(one))
                stack.callback(tidy, one)
        yield found


def owner(path: Path) -> str:
    name = path.stem.removeprefix("usage-")
    return name if path.suffix == ".lock" else name.rpartition("-")[0]


@contextlib.contextmanager
def dead(one: str) -> Iterator[bool]:
    descriptor = os.open(lock_of(one), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def tidy(one: str) -> None:
    """Its lock goes when nothing of it is left."""
    if not files(one):
        lock_of(one).unlink(missing_ok=True)


def read(paths: Iterable[Path]) -> list[Row]:
    rows = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # flushed meanwhile
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(orjson.JSONDecodeError):  # cut short by a kill
                    rows.append(orjson.loads(line))
    return rows


def settled() -> Iterator[Row]:
    """What stands in any file and is no longer open: it may be in Postgres already."""
    return (row for row in read(settings.spool.glob("usage-*.jsonl")) if not row.get("open"))
