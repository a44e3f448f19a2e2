"""Parquet files, read by DuckDB in a process of its own.

The reader is native code, and the file comes from outside: should it crash, hang or eat memory,
it is this child that ends. The child is given one file and one place to write, no network and no
extensions. Row n of the file becomes line n; lists and structs become JSON.
"""

import subprocess
import sys
import time
from pathlib import Path

from app.datasets.containers.limits import Budget, broken

MEMORY = 1024  # MiB that the reader may take for data
SPACE = 6 * 2**30  # bytes of address space
TOO_MUCH = 27  # the child's exit status
POLL = 0.02  # seconds, at first
CHILD = Path(__file__).with_name("parquet_child.py")


def spool(source: Path, name: str, into: Path, budget: Budget) -> None:
    """Write the rows of `source` to the new file `into`. Raises Invalid."""
    left = budget.most - budget.written
    child = subprocess.Popen(
        [sys.executable, "-I", str(CHILD), str(source.parent), source.name, str(into),
         str(MEMORY), str(SPACE), str(left + 1)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"HOME": str(into.parent), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    try:
        wait = POLL
        while child.poll() is None:
            budget.look(name)
            time.sleep(wait)
            wait = min(wait * 1.5, 0.5)
    finally:
        child.kill()
        child.wait()
    size = into.stat().st_size if into.exists() else 0
    budget.out(size, name)
    budget.wrote(size, name)
    if child.returncode == TOO_MUCH:
        raise budget.too_much(name)
    if child.returncode:
        raise broken(name)
