"""Ships a run directory to the database: what is new in its log, metrics, events and status.

How far it has come stands in the database, so a node that restarts goes on without a gap and
without a double. Offsets move only after a commit; after a failed one they are read again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from app.jobs import history
from app.jobs import runs as jobs
from app.nodework.asking import do

log = structlog.get_logger()

CHUNK = 256 * 1024  # bytes of log per transaction
LOG_LIMIT = 64 * 1024 * 1024  # bytes of log kept of one attempt; the run directory has it all
LINES = 1000  # metrics, or events, per transaction
BLOCK = 4 * 1024 * 1024  # bytes of a line file looked at per transaction; a longer line is skipped
CUT = b"\n[danlu] The log is longer than 64 MiB. The rest is not kept.\n"


class Lines:
    """A growing JSONL file, read once from start to end. A half-written line waits."""

    def __init__(self, path: Path, usable: Callable[[dict[str, Any]], bool]) -> None:
        self.path = path
        self.usable = usable
        self.offset = 0

    def new(self) -> tuple[list[dict[str, Any]], int]:
        """The next usable lines, and the offset after them. Moves nothing."""
        data = tail(self.path, self.offset, BLOCK)
        found: list[dict[str, Any]] = []
        end = self.offset
        *whole, _half = data.split(b"\n")
        for line in whole[:LINES]:
            end += len(line) + 1
            value = parsed(line)
            if value is not None and self.usable(value):
                found.append(value)
            elif line.strip():
                log.warning("a line that says nothing", file=str(self.path), before=end)
        if end == self.offset and len(data) == BLOCK:  # no line is that long
            end += BLOCK
        return found, end


class Outbox:
    """Of one attempt. `ship` until it says that nothing is left."""

    def __init__(self, job_id: str, fence: int, directory: Path) -> None:
        self.job_id = job_id
        self.fence = fence
        self.directory = directory
        self.metrics = Lines(directory / "metrics.jsonl", is_metric)
        self.events = Lines(directory / "events.jsonl", is_event)
        self.log_offset = -1  # not known yet
        self.last_step = 0
        self.shipped_status: dict[str, Any] | None = None
        self.refused = False  # the fence has moved on: nothing of ours counts any more

    def ship(self, *, final: bool = False) -> bool:
        """Ship one portion; True if there is more. `final`: nothing more will be written, so half
        a character is taken as it is. Raises what the database raises; nothing is lost then.
        """
        if self.refused:
            return False
        if self.log_offset < 0:
            self.recall()
        chunk = self.chunk(final)
        lines, metrics_end = self.metrics.new()
        metrics = [line for line in lines if line["step"] >= self.last_step]
        events, events_end = self.events.new()
        status = self.status()
        if chunk or metrics or events or status != self.shipped_status:
            after, self.log_offset = self.log_offset + len(chunk), -1  # unknown until committed
            self.refused = not do(
                jobs.ship,
                self.job_id,
                self.fence,
                log=(after - len(chunk), chunk) if chunk else None,
                metrics=metrics,
                events=events,
                status=status,
            )
            self.log_offset = after
        moved = (metrics_end, events_end) != (self.metrics.offset, self.events.offset)
        self.metrics.offset, self.events.offset = metrics_end, events_end
        self.shipped_status = status
        return not self.refused and (bool(chunk) or moved)

    def recall(self) -> None:
        """How far the database says that we have come."""
        self.log_offset, self.last_step = do(history.shipped, self.job_id, self.fence)
        self.shipped_status = None

    def chunk(self, final: bool) -> bytes:
        if self.log_offset >= LOG_LIMIT:
            over = self.log_offset == LOG_LIMIT and tail(self.directory / "log", LOG_LIMIT, 1)
            return CUT if over else b""
        data = tail(
            self.directory / "log", self.log_offset, min(CHUNK, LOG_LIMIT - self.log_offset)
        )
        at_end = len(data) + self.log_offset == LOG_LIMIT
        return data if final or at_end else whole_characters(data)

    def status(self) -> dict[str, Any] | None:
        """{state, phase, step, total, error}, or None before the stage has written one."""
        return read_status(self.directory)


def read_status(directory: Path) -> dict[str, Any] | None:
    """`status.json`, its values made safe; it is replaced as a whole, so never half there."""
    try:
        value = parsed((directory / "status.json").read_bytes())
    except OSError:
        return None
    if value is None:
        return None
    phase = str(value.get("phase") or "").replace("\0", "")
    return value | {"phase": phase} | {name: number(value.get(name)) for name in ("step", "total")}


def tail(path: Path, offset: int, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)
    except FileNotFoundError:
        return b""


def whole_characters(data: bytes) -> bytes:
    """`data` without the first bytes of a UTF-8 character whose others are still to come."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # a later byte of some character
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if length > back else data
    return data


def parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def number(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def is_metric(line: dict[str, Any]) -> bool:
    step = line.get("step")
    return isinstance(step, int) and 0 <= step < 2**31


def is_event(line: dict[str, Any]) -> bool:
    return (
        isinstance(line.get("t"), int | float)
        and 0 <= line["t"] < 2**33
        and isinstance(line.get("kind"), str)
        and "\0" not in line["kind"]
        and isinstance(line.get("message"), str)
        and isinstance(line.get("params") or {}, dict)
    )
