"""Usage that survives: appended to a spool file first, then flushed to Postgres.

A request's row is on disk before its response ends, so neither a database that is away nor a
kill -9 of this process loses it. Rows are idempotent by request id: flushing twice is harmless.
"""

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import orjson
import psutil
import structlog
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.config import settings
from app.gateway import figures
from app.queue import transaction
from app.quotas import service as quotas

log = structlog.get_logger()
FLUSH_SECONDS = 1.0

lock = threading.Lock()


def own_file() -> Path:
    return settings.spool / f"usage-{os.getpid()}.jsonl"


def append(row: dict[str, Any]) -> None:
    """Write one usage row (columns of `quotas.tables.Usage`) to this process's spool."""
    line = orjson.dumps(row) + b"\n"
    figures.observe(row)
    with lock:
        settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        with own_file().open("ab") as file:
            file.write(line)


def abandoned() -> list[Path]:
    """Spools that nobody appends to: set aside for flushing, or of a process that died."""
    found = []
    for path in settings.spool.glob("usage-*.jsonl"):
        pid = path.stem.removeprefix("usage-").split("-")[0]
        if path != own_file() and not ("-" not in path.stem[6:] and psutil.pid_exists(int(pid))):
            found.append(path)
    return found


def flush() -> int:
    """Move every spooled row to Postgres; the number of rows. The file goes after the commit."""
    with lock:
        if own_file().exists():
            aside = own_file().with_name(f"{own_file().stem}-{os.urandom(4).hex()}.jsonl")
            own_file().rename(aside)
    total = 0
    for path in abandoned():
        rows = []
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):  # a line cut short by a kill
                rows.append(orjson.loads(line))
        if rows:
            with transaction() as db:
                quotas.record(db, rows)
        path.unlink(missing_ok=True)
        total += len(rows)
    return total


async def flush_forever() -> None:
    """Flush each second; a database that is away only delays."""
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            await run_in_threadpool(flush)
        except (DBAPIError, OSError) as error:
            log.warning("usage stays in the spool", error=str(error).splitlines()[0])
