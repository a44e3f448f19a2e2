"""The artefact store: finished directories (models, datasets), by id.

An id such as `models/mdl_x` or `segments/3f…` is a relative path. A local store is a
directory; anything else is an fsspec address, fetched into a content cache.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from app.config import settings

ID = re.compile(r"[a-z]+/[A-Za-z0-9._-]+\Z")


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
