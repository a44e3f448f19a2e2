"""`ours FILE`, `peer FILE` or `batches FILE`: the structural pass over a file, on one core.

Prints {rows, bad, repeats, seconds, rss_mb}. All find the rows, check JSON, shape, roles and
order, and find rows that are equal to one before them. Ours is what an upload goes through: it
writes the rows with an index, and their hashes, to the disk on the way, and says of each bad row
what is wrong with it. The peers are `datasets.load_dataset("json")` and the same checks.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROLES = {"system", "user", "assistant", "tool"}


def ours(path: Path, scratch: Path) -> dict[str, int]:
    from app.datasets.containers.unpacking import Source
    from app.datasets.rows import duplicates, segments
    from app.datasets.validation import validate

    source = Source(path.name, "json", path, path.stat().st_size, spooled=False, mapping=None)
    cursor, rows, bad, hashes, done = validate.Cursor(), 0, 0, [], False
    while not done:
        directory = scratch / str(len(hashes))
        directory.mkdir()
        step = validate.step([source], cursor, directory, "dv_bench", 16 * 2**20)
        hashes.append(duplicates.Hashes(directory / segments.HASHES))
        cursor, done = step.cursor, step.done
        rows, bad = rows + step.rows, bad + len(step.issues)
    return {"rows": rows, "bad": bad, "repeats": sum(1 for _ in duplicates.repeats(hashes))}


def peer(path: Path, scratch: Path) -> dict[str, int]:
    """A loop over the rows, as its documentation has it."""
    return checked(loaded(path, scratch))


def batches(path: Path, scratch: Path) -> dict[str, int]:
    """The quickest way there is to its rows: Arrow, a thousand rows at a time."""
    parts = loaded(path, scratch).with_format("arrow").iter(1000)
    return checked(row for part in parts for row in part.to_pylist())


def loaded(path: Path, scratch: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(scratch)
    )


def checked(rows: Any) -> dict[str, int]:
    import orjson
    import xxhash

    bad = repeats = count = 0
    seen: set[bytes] = set()
    for count, row in enumerate(rows, start=1):  # noqa: B007 - how many there were
        if not good(row):
            bad += 1
            continue
        digest = xxhash.xxh3_128_digest(orjson.dumps(row))
        repeats += digest in seen
        seen.add(digest)
    return {"rows": count - bad, "bad": bad, "repeats": repeats}


def good(row: Any) -> bool:
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        return False
    for at, turn in enumerate(turns):
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES or not isinstance(content, str) or "\0" in content:
            return False
        if role == "system" and at:
            return False
    first = turns[0]["role"] == "system"
    return (
        len(turns) > first
        and turns[first]["role"] == "user"
        and turns[-1]["role"] == "assistant"
        and bool(turns[-1]["content"].strip())
    )


def main(what: str, file: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(dir=Path(file).parent) as scratch:
        work = {"ours": ours, "peer": peer, "batches": batches}[what]
        if what == "ours":
            import app.datasets.validation.validate  # noqa: F401 - starting Python is not measured
        else:
            import datasets  # noqa: F401
        started = time.perf_counter()
        found = work(Path(file), Path(scratch))
        seconds = time.perf_counter() - started
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found | {"seconds": round(seconds, 3), "rss_mb": round(rss, 1)}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
    main(*sys.argv[1:])
