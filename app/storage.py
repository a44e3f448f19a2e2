"""The artefact store: finished directories (models, datasets), by id.

An id such as `models/mdl_x` or `segments/3f…` is a relative path. A local store is a
directory; anything else is an fsspec address, fetched into a content cache.
"""

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

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
    return None if "://" in settings.store_url else Path(settings.store_url)


def remote() -> tuple[Any, str]:
    filesystem, root = fsspec.core.url_to_fs(settings.store_url)
    return filesystem, root.rstrip("/")


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
    if root := local_root():
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
    filesystem, base = remote()
    if not filesystem.exists(f"{base}/{artefact}/.complete"):
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                filesystem.put_file(str(path), f"{base}/{artefact}/{path.relative_to(directory)}")
        filesystem.pipe_file(f"{base}/{artefact}/.complete", b"")
    return artefact


def move(directory: Path, artefact: str) -> str:
    """As `put`, and `directory` is gone: a rename where store and directory share a disk."""
    check(artefact)
    root = local_root()
    if root and not (root / artefact).exists():
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
    if root := local_root():
        if not (root / artefact).is_dir():
            raise FileNotFoundError(artefact)
        return root / artefact
    whole = settings.cache / "artefacts" / artefact
    target = settings.cache / "parts" / artefact if without else whole
    for found in (whole, target):
        if found.is_dir():
            return found
    filesystem, base = remote()
    if not filesystem.exists(f"{base}/{artefact}/.complete"):
        raise FileNotFoundError(artefact)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        if without:
            top = str(filesystem._strip_protocol(f"{base}/{artefact}"))  # noqa: SLF001 - its own spelling
            for path in filesystem.find(top):
                if not path.endswith(without):
                    place = partial / "d" / path.removeprefix(top).lstrip("/")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    filesystem.get_file(path, str(place))
        else:
            filesystem.get(f"{base}/{artefact}/", f"{partial}/d/", recursive=True)
        try:
            os.rename(partial / "d", target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def read(artefact: str, name: str) -> bytes:
    """One file of an artefact, without fetching the rest. Raises FileNotFoundError."""
    check(artefact)
    if "/" in name or name.startswith("."):
        raise ValueError(f"not a file of an artefact: {name!r}")
    if root := local_root():
        return (root / artefact / name).read_bytes()
    cached = settings.cache / "artefacts" / artefact / name
    if cached.is_file():
        return cached.read_bytes()
    filesystem, base = remote()
    content: bytes = filesystem.cat_file(f"{base}/{artefact}/{name}")
    return content


def delete(artefact: str) -> None:
    check(artefact)
    if root := local_root():
        if held(root):
            aside = root / DELETED / artefact
            aside.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # it is not there, or went once before
                os.rename(root / artefact, aside)
        shutil.rmtree(root / artefact, ignore_errors=True)
        return
    for kept in ("artefacts", "parts"):
        shutil.rmtree(settings.cache / kept / artefact, ignore_errors=True)
    filesystem, base = remote()
    if filesystem.exists(f"{base}/{artefact}"):
        filesystem.rm(f"{base}/{artefact}", recursive=True)


def size(artefact: str) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in files(artefact))


def files(artefact: str) -> Iterator[Path]:
    return (path for path in fetch(artefact).rglob("*") if path.is_file())


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
