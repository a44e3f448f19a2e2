"""Files of an import, fetched in stretches: each from where it stands, and checked at its end.

A file is `{name, url, size, sha256, validator}`; size, sha256 and validator may be missing or
empty. Its bytes so far are the truth: whoever takes the next stretch goes on from there with
Range, where the server can prove that it still has the same file, and starts over where it cannot.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app import addresses, fetching
from app.errors import N_, disk_full

LONGEST = 600.0  # seconds for one answer, from servers that cannot take up again
WAIT = (2, 5, 15, 30, 60)  # seconds before the second try without a new byte, the third ...


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
