"""The artefact store: finished directories (models, datasets), by id.

An id such as `models/mdl_x` or `segments/3f…` is a relative path. The store is a directory that all
machines share, or a bucket (`app.bucket`), of which each machine keeps what it needs (`app.cache`).
"""

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from app import bucket, cache
from app.config import settings

ID = re.compile(r"[a-z]+/[A-Za-z0-9._-]+\Z")
DELETED = ".deleted"  # in a local store: what went while a backup was being made
FRESH = 300.0  # seconds; a mark that its backup has not touched for longer stands for nothing


def check(artefact: str) -> str:
    """An artefact id never leaves the store, whoever wrote it."""
    if not ID.match(artefact) or ".." in artefact:
        raise ValueError(f"not an artefact id: {artefact!r}")
    return artefact


def local_root() -> Path | None:
    """The store's directory; None where it is a bucket."""
    if settings.store_url.startswith("s3://"):
        return None
    if "://" in settings.store_url:
        raise ValueError(f"DANLU_STORE is a directory or s3://bucket/prefix, not {settings.store}")
    return Path(settings.store_url)


def sync(directory: Path) -> None:
    """To the disk, so that a database row never outlives the files it names."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def put(directory: Path, artefact: str) -> str:
    """Copy `directory` into the store as `artefact`. Atomic: readers see all of it or nothing.

    Putting an id that exists is a no-op: artefacts are immutable.
    """
    check(artefact)
    root = local_root()
    if root is None:
        bucket.upload(directory, artefact)
        return artefact
    target = root / artefact
    if target.exists():
        return artefact
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        shutil.copytree(directory, partial / "d")
        sync(partial / "d")
        try:
            os.rename(partial / "d", target)
        except OSError:
            if not target.exists():  # somebody else put the same id first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return artefact


def move(directory: Path, artefact: str) -> str:
    """As `put`, and `directory` is gone: a rename where store and directory share a disk."""
    check(artefact)
    root = local_root()
    if root is None:
        cache.adopt(directory, artefact, bucket.upload(directory, artefact))
    elif (root / artefact).exists():
        pass
    else:
        (root / artefact).parent.mkdir(parents=True, exist_ok=True)
        sync(directory)
        with contextlib.suppress(OSError):  # another disk, or somebody was first: copy
            os.rename(directory, root / artefact)
            return artefact
        put(directory, artefact)
    shutil.rmtree(directory, ignore_errors=True)
    return artefact


def fetch(artefact: str, without: tuple[str, ...] = ()) -> Path:
    """A local, read-only directory with the artefact's files. Raises FileNotFoundError.

    What is only fetched for this leaves out the files that end as `without` says.
    """
    check(artefact)
    root = local_root()
    if root is None:
        return cache.fetch(artefact, without)
    if not (root / artefact).is_dir():
        raise FileNotFoundError(artefact)
    return root / artefact


def hold(user: str, artefacts: Iterable[str]) -> None:
    """What `user` (an attempt) works with stays on this machine until `let_go`."""
    if local_root() is None:
        cache.hold(user, map(check, artefacts))


def holders() -> set[str]:
    return cache.holders() if local_root() is None else set()


def let_go(users: Iterable[str]) -> None:
    cache.let_go(users)


def read(artefact: str, name: str) -> bytes:
    """One file of an artefact, without fetching the rest. Raises FileNotFoundError."""
    check(artefact)
    if "/" in name or name.startswith("."):
        raise ValueError(f"not a file of an artefact: {name!r}")
    root = local_root()
    return cache.read(artefact, name) if root is None else (root / artefact / name).read_bytes()


def delete(artefact: str) -> None:
    check(artefact)
    root = local_root()
    if root is None:
        bucket.delete(artefact)
        cache.forget(artefact)
        return
    if held(root):
        aside = root / DELETED / artefact
        aside.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # it is not there, or went once before
            os.rename(root / artefact, aside)
    shutil.rmtree(root / artefact, ignore_errors=True)


# -- what stands there -------------------------------------------------------------------


def standing(kind: str) -> Iterator[tuple[str, datetime]]:
    """The ids of one kind, halves of them too, and when each was last written to."""
    root = local_root()
    if root is None:
        yield from bucket.standing(kind)
        return
    for place in (root / kind).iterdir() if (root / kind).is_dir() else ():
        if ID.match(f"{kind}/{place.name}") and not place.name.startswith("."):
            yield f"{kind}/{place.name}", written(place)


def written(place: Path) -> datetime:
    return datetime.fromtimestamp(place.stat().st_mtime, UTC)


def forget_partial(kind: str, before: datetime) -> None:
    """What puts that were killed left behind, from before that time."""
    root = local_root()
    if root is None:
        bucket.abort(kind, before)
        return
    for place in (root / kind).glob(".partial-*"):
        if written(place) < before:
            shutil.rmtree(place, ignore_errors=True)


# -- while a backup is made --------------------------------------------------------------


def listing(root: Path) -> list[str]:
    """The ids of all complete artefacts in a local store, also of those deleted since `holding`."""
    found: set[str] = set()
    for base in (root, root / DELETED):
        for kind in base.iterdir() if base.is_dir() else ():
            if kind.is_dir() and not kind.name.startswith("."):
                names = (f"{kind.name}/{one.name}" for one in kind.iterdir() if one.is_dir())
                found.update(name for name in names if ID.match(name) and "/." not in name)
    return sorted(found)


def held(root: Path) -> bool:
    """Whether a backup is being made, which may still want what is deleted now."""
    for mark in root.glob(".backup-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - mark.stat().st_mtime < FRESH:
                return True
    return False


@contextlib.contextmanager
def holding(root: Path) -> Iterator[None]:
    """What is deleted meanwhile stays in DELETED, until the last who holds the store lets go."""
    root.mkdir(parents=True, exist_ok=True)
    mark = root / f".backup-{secrets.token_hex(8)}"
    mark.touch()
    done = threading.Event()

    def keep_fresh() -> None:
        while not done.wait(FRESH / 10):
            mark.touch()

    keeper = threading.Thread(target=keep_fresh, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        mark.unlink(missing_ok=True)
        if not held(root):
            shutil.rmtree(root / DELETED, ignore_errors=True)
