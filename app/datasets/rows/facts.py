"""What is known of each row of a segment, kept beside it for search and filters.

The artefact `facts/<name of the segment>` holds `rows.parquet` (number, roles, turns,
length, language, flags, text), or `rows.jsonl` with the same where rows are few; `rows.hash` (40 bytes a row: the hash of the row, that of what comes
before its answer, and the number in its id) and `remarks.json`. It follows from the segment alone, so versions that share
a segment share it.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson
import structlog
import xxhash

from app.datasets.formats import Row
from app.datasets.formats.parts import Remark
from app.datasets.rows import segments, warnings
from app.datasets.rows.duplicates import SIZE, Hashes
from app.datasets.rows.languages import language

PARQUET, HASHES, REMARKS, LINES = "rows.parquet", "rows.hash", "remarks.json", "rows.jsonl"
WIDTH = 40  # bytes a row in HASHES
LISTED = 10_000  # remarks with the same code that are listed
FEW = 2000  # rows that are not worth a process that writes Parquet
SHORT = 2**20  # bytes of a row of facts that need not go to Parquet
MEMORY = 1024  # MiB that the process that writes Parquet may take for data
GROUP_BYTES = 32 * 2**20  # of a row group, about
LOOKED_AT = 300  # characters that say what language a row is in
ROLES = {"system": 1, "user": 2, "assistant": 4, "tool": 8}

log = structlog.get_logger()
digest = xxhash.xxh3_128_digest


def artefact(segment: str) -> str:
    """The name of a segment's facts."""
    return f"facts/{segment.partition('/')[2]}"


def write(
    source: Path, directory: Path, pack: Path | None, beat: Callable[[], None]
) -> segments.Written | None:
    """Look at each row of the segment `source`, writing its facts into `directory`.

    With `pack`, the rows are written there as well, compressed, and what was written is returned.
    `beat` is called now and then.
    """
    with Facts(directory, segments.hashes(source)) as out:
        rows = out.take(segments.lines(source), beat)
        written = segments.pack(rows, pack) if pack else None
        for _ in rows:
            pass
    if out.rows > FEW or out.longest > SHORT:
        to_parquet(directory, out.rows, out.longest)
    return written


class Facts:
    def __init__(self, directory: Path, wholes: Iterator[bytes] | None) -> None:
        self.directory = directory
        self.wholes = wholes  # the hashes of the rows, if they are known
        self.counts: Counter[str] = Counter()
        self.listed: list[dict[str, Any]] = []
        self.rows = self.longest = 0  # `longest` is the bytes of a line

    def __enter__(self) -> Self:
        self.lines: BinaryIO = (self.directory / LINES).open("wb")
        self.hashes: BinaryIO = (self.directory / HASHES).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.hashes.close()
        found = {"counts": self.counts, "listed": self.listed}
        (self.directory / REMARKS).write_bytes(orjson.dumps(found))

    def take(self, lines: Iterator[bytes], beat: Callable[[], None]) -> Iterator[bytes]:
        """Note each row, and hand its JSON on."""
        for number, line in enumerate(lines):
            if number % 1000 == 0:
                beat()
            row = orjson.loads(line)
            parts = warnings.texts(row)
            text = "\n".join([part for _, part in parts])
            found = warnings.found_in(row, parts, text)
            for one in found:
                self.remark(number, row["id"], one)
            self.note(number, line, row, text, warnings.flags(found))
            yield line

    def remark(self, number: int, row_id: str, one: Remark) -> None:
        self.counts[one.code] += 1
        if self.counts[one.code] <= LISTED:
            self.listed.append({"row": number, "id": row_id} | asdict(one))

    def note(self, number: int, line: bytes, row: Row, text: str, flags: int) -> None:
        messages = row.get("messages", ())
        facts = {
            "number": number,
            "roles": roles(row),
            "turns": len(messages) + ("chosen" in row),
            "length": len(text),
            "language": language(text[:LOOKED_AT]),
            "flags": flags,
            "text": text.casefold(),
        }
        data = orjson.dumps(facts, option=orjson.OPT_APPEND_NEWLINE)
        self.rows += 1
        self.longest = max(self.longest, len(data))
        self.lines.write(data)
        tail = row["id"].rpartition(".")[2]
        named = int(tail) if tail.isdecimal() and len(tail) < 19 else 0
        whole = next(self.wholes) if self.wholes else digest(b"{" + line.partition(b",")[2])
        self.hashes.write(whole + digest(prompt(row)) + named.to_bytes(8, "little"))


def whole(directory: Path) -> Hashes:
    """What the rows of a segment are, by its facts."""
    return Hashes(directory / HASHES, WIDTH)


def prompts(directory: Path) -> Hashes:
    return Hashes(directory / HASHES, WIDTH, SIZE)


def named(directory: Path, row: int) -> int:
    """The number in the id of a row; 0 if there is none."""
    with (directory / HASHES).open("rb", buffering=0) as file:
        file.seek(row * WIDTH + 2 * SIZE)
        return int.from_bytes(file.read(8), "little")


def searched(row: Row) -> str:
    """All texts of a row, as a search sees them."""
    return "\n".join(text for _, text in warnings.texts(row))


def roles(row: Row) -> int:
    """The bits of the roles that have a say in a row."""
    bits = ROLES["assistant"] if "chosen" in row else 0
    for message in row.get("messages", ()):
        bits |= ROLES[message["role"]]
    return bits


def prompt(row: Row) -> bytes:
    """What comes before the answer, as bytes; of a text, all of it."""
    if "text" in row:
        return orjson.dumps(row["text"])
    messages = row["messages"]
    return orjson.dumps(messages if "chosen" in row else messages[:-1])


def to_parquet(directory: Path, rows: int, longest: int) -> None:
    """LINES becomes PARQUET, in a process of its own: native code, and memory that is its own.

    Where it fails, as enormous rows may make it, there are neither: searches go through the rows.
    """
    lines = directory / LINES
    group = GROUP_BYTES * rows // lines.stat().st_size // 2048 * 2048
    run = subprocess.run(
        [sys.executable, "-I", str(CHILD), str(directory), LINES, PARQUET, str(MEMORY),
         str(max(longest + 1024, 2 * SHORT)), str(min(max(group, 2048), 61_440))],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={"HOME": str(directory), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    if run.returncode:
        log.warning("the facts of a segment cannot be made searchable", status=run.returncode)
        (directory / PARQUET).unlink(missing_ok=True)
    lines.unlink()


CHILD = Path(__file__).with_name("facts_child.py")
