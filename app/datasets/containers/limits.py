"""How much a compressed or otherwise unfolded upload may become, and how long that may take.

What an archive declares about itself is never believed: bytes are counted as they come out.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from app.config import settings
from app.errors import DISK_FULL, N_, Invalid, Unavailable

FACTOR = 4  # all that comes out of an upload, in largest uploads
RATIO = 250  # bytes out of each byte that came; JSON of few distinct rows comes to about 100
FREE = 16 * 2**20  # bytes that may come out whatever the ratio
SECONDS = 3600  # for one file
LEFT = 512 * 2**20  # bytes that stay free on the disk
BEAT = 1.0  # seconds between two looks at the clock and the disk

MAX_ENTRIES = 10_000  # files in an archive
MAX_COLUMNS = 1000
MAX_NAME = 200  # characters of a column's name
MAX_NOTES = 50


def printable(name: str) -> str:
    """A file's or column's name as it can be shown: its last 120 characters, all printable."""
    clean = "".join(char if char.isprintable() else "�" for char in name)
    return clean if len(clean) <= 120 else "…" + clean[-119:]


def broken(name: str) -> Invalid:
    """What every kind of damage is called."""
    return Invalid(
        N_("“%(file)s” is damaged or cut short: it cannot be read to its end."),
        code="file.broken",
        field="file",
        file=printable(name),
    )


class Budget:
    """Counts what comes out of an upload of `size` bytes into the directory `into`."""

    def __init__(self, size: int, into: Path, beat: Callable[[], None]) -> None:
        self.most = min(settings.max_upload_mb * 2**20 * FACTOR, max(FREE, size * RATIO))
        self.by_ratio = self.most == size * RATIO or self.most == FREE
        self.read = self.written = 0
        self.into, self.beat = into, beat
        self.looked = time.monotonic()
        self.deadline = self.looked + SECONDS

    def file(self) -> None:
        """A file begins: it has its own time."""
        self.deadline = time.monotonic() + SECONDS

    def out(self, count: int, name: str) -> None:
        """`count` bytes came out of `name`. Raises Invalid when they become too many."""
        self.read += count
        if self.read > self.most:
            raise self.too_much(name)
        self.look(name)

    def wrote(self, count: int, name: str) -> None:
        """`count` bytes went to the disk for `name`. Raises Invalid."""
        self.written += count
        if self.written > self.most:
            raise self.too_much(name)
        self.look(name)

    def too_much(self, name: str) -> Invalid:
        if self.by_ratio:
            return Invalid(
                N_(
                    "“%(file)s” unpacks to more than %(most)s times its size, which no real "
                    "data does. It was not read."
                ),
                code="file.bomb",
                field="file",
                file=printable(name),
                most=RATIO,
            )
        return Invalid(
            N_("“%(file)s” unpacks to more than the %(most)s MiB that are allowed here."),
            code="file.unpacked",
            field="file",
            file=printable(name),
            most=self.most // 2**20,
        )

    def look(self, name: str) -> None:
        """Every second: the clock, the disk, and a sign of life to the caller."""
        now = time.monotonic()
        if now < self.looked + BEAT:
            return
        self.looked = now
        self.beat()
        if now > self.deadline:
            raise Invalid(
                N_("“%(file)s” took longer than %(minutes)s minutes to unpack."),
                code="file.slow",
                field="file",
                file=printable(name),
                minutes=SECONDS // 60,
            )
        if shutil.disk_usage(self.into).free < LEFT:
            raise Unavailable(
                DISK_FULL,
                code="disk_full",
            )
