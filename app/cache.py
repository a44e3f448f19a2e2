"""What this machine keeps of the store: files by their hash, artefacts as directories of links to them.

So a file that two artefacts share is fetched and kept once. What was used least recently goes when
`DANLU_CACHE_GB` is reached; never what a run or an engine holds, nor what was asked for a moment ago.
Locks are the kernel's: they fall with whoever held them, in any process of this machine.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from app import bucket
from app.bucket import File, Manifest
from app.config import settings

log = structlog.get_logger()

RECENT = 900.0  # seconds in which what was asked for counts as in use
SPARE = 256 * 2**20  # bytes of the disk that are left to others


def root() -> Path:
    return settings.cache / "store"


def blob(file: File) -> Path:
    return root() / "blobs" / file.sha256


def directory(artefact: str, *, whole: bool = True) -> Path:
    return root() / ("artefacts" if whole else "parts") / artefact


def partial(artefact: str, *, whole: bool) -> Path:
    return root() / "partial" / f"{artefact.replace('/', '~')}{'' if whole else '~part'}"


@contextlib.contextmanager
def locked(name: str, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    place = root() / "locks" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a") as lock:
        fcntl.flock(lock, kind)
        yield


# -- having ------------------------------------------------------------------------------


def fetch(artefact: str, without: tuple[str, ...] = ()) -> Path:
    """The artefact's files, from the store if need be; fetched once, whoever asks meanwhile waits.

    Raises FileNotFoundError, `bucket.Torn`, and OSError (ENOSPC) where there is no room.
    """
    if found := had(artefact, without):
        return found
    with locked(partial(artefact, whole=not without).name):
        if found := had(artefact, without):
            return found
        files = manifest(artefact)
        wanted = {name: file for name, file in files.items() if not name.endswith(without or "\0")}
        make_room(sum(file.size for file in set(wanted.values()) if not blob(file).exists()))
        filled = partial(artefact, whole=not without)
        for name, file in wanted.items():
            have(artefact, name, file, filled)
        return settle(filled, directory(artefact, whole=not without))


def had(artefact: str, without: tuple[str, ...]) -> Path | None:
    """What is here already; from now on it counts as used."""
    with locked("room", fcntl.LOCK_SH):
        for whole in (True, False) if without else (True,):
            with contextlib.suppress(FileNotFoundError):
                os.utime(directory(artefact, whole=whole))
                return directory(artefact, whole=whole)
    return None


def have(artefact: str, name: str, file: File, filled: Path) -> None:
    """One file into `filled`: a link, to what is here or to what is fetched now."""
    target = filled / "files" / name
    if target.exists():  # of an earlier try
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(blob(file), target)
    except FileNotFoundError:
        coming = filled / "coming"
        try:
            bucket.download(artefact, name, file, coming)
        except bucket.Torn:
            bucket.download(artefact, name, file, coming)
        keep(coming, file, target)


def keep(source: Path, file: File, target: Path) -> None:
    """`source` becomes the kept file, and `target` a link to it."""
    source.chmod(0o444)
    os.link(source, target)
    blob(file).parent.mkdir(parents=True, exist_ok=True)
    source.rename(blob(file))


def settle(filled: Path, target: Path) -> Path:
    """A directory that is complete takes its place."""
    (filled / "files").mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.utime(filled / "files")
    (filled / "files").rename(target)
    shutil.rmtree(filled)
    return target


def manifest(artefact: str) -> Manifest:
    """What files it has; asked of the store once. Raises FileNotFoundError."""
    known = root() / "manifests" / f"{artefact}.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        return {name: File(*facts) for name, facts in json.loads(known.read_bytes()).items()}
    found = bucket.manifest(artefact)
    known.parent.mkdir(parents=True, exist_ok=True)
    written = known.with_name(f"{known.name}.{os.getpid()}-{time.monotonic_ns()}")
    written.write_text(json.dumps(found))
    written.rename(known)
    return found


def read(artefact: str, name: str) -> bytes:
    """One small file. Raises FileNotFoundError."""
    file = manifest(artefact).get(name)
    if file is None:
        raise FileNotFoundError(f"{artefact}/{name}")
    with contextlib.suppress(FileNotFoundError):
        return blob(file).read_bytes()
    return bucket.content(artefact, name)


def adopt(source: Path, artefact: str, files: Manifest) -> None:
    """`source`, which is in the store now, need not be fetched here. Its files are moved, not copied."""
    with locked(partial(artefact, whole=True).name), contextlib.suppress(OSError):
        if had(artefact, ()):
            return
        make_room(sum(file.size for file in files.values()), have=source)
        filled = partial(artefact, whole=True)
        shutil.rmtree(filled, ignore_errors=True)
        for name, file in files.items():
            target = filled / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            keep(source / name, file, target)
        settle(filled, directory(artefact))


def forget(artefact: str) -> None:
    for whole in (True, False):
        shutil.rmtree(directory(artefact, whole=whole), ignore_errors=True)
    (root() / "manifests" / f"{artefact}.json").unlink(missing_ok=True)


# -- holding -----------------------------------------------------------------------------


def hold(user: str, artefacts: Iterable[str]) -> None:
    """Until `let_go`, none of these is given up: `user` (an attempt) works with them."""
    place = root() / "held" / user
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked("room"), place.open("a") as file:
        file.writelines(f"{one}\n" for one in artefacts)


def holders() -> set[str]:
    return {path.name for path in (root() / "held").glob("*")}


def let_go(users: Iterable[str]) -> None:
    for user in users:
        (root() / "held" / user).unlink(missing_ok=True)


def held() -> set[str]:
    found: set[str] = set()
    for path in (root() / "held").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            found.update(path.read_text().splitlines())
    return found


# -- room --------------------------------------------------------------------------------


def limit(gb: int) -> None:
    """What an administrator has set for all nodes; 0: `DANLU_CACHE_GB` counts again."""
    told = root() / "limit"
    if not gb:
        told.unlink(missing_ok=True)
    elif most() != gb * 10**9:
        root().mkdir(parents=True, exist_ok=True)
        partial = root() / f".limit-{os.getpid()}"
        partial.write_text(str(gb))
        partial.rename(told)


def most() -> int:
    """Bytes that may be kept."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((root() / "limit").read_text()) * 10**9
    return settings.cache_gb * 10**9


def used() -> int:
    """Bytes that are kept."""
    return sum(path.stat().st_size for path in (root() / "blobs").glob("*"))


def make_room(need: int, have: Path | None = None) -> None:
    """Give up what was used least recently until `need` more bytes fit.

    What is in use may go past the limit, since refusing would fail work that the disk has room for;
    a disk that has none raises OSError (ENOSPC). With `have` the bytes are on this disk already.
    """
    root().mkdir(parents=True, exist_ok=True)
    with locked("room"):
        clear_partial()
        over = used() + need - most()
        if over <= 0 and free() >= need:
            return
        busy = held()
        for path in sorted(kept(), key=lambda path: path.stat().st_mtime):
            if over <= 0 and (have or free() >= need):
                break
            recent = time.time() - path.stat().st_mtime < RECENT
            if recent or f"{path.parent.name}/{path.name}" in busy:
                continue
            shutil.rmtree(path)
            over -= unlinked()
    if over > 0:
        log.warning("more is in use than the cache may hold", bytes=over, limit=most())
    if not have and free() < need:
        raise OSError(
            errno.ENOSPC,
            f"{need / 1e9:.1f} GB are needed and {max(0, free()) / 1e9:.1f} GB are free; "
            "all that is kept there is in use",
            str(root()),
        )


def kept() -> Iterator[Path]:
    for kind in ("artefacts", "parts"):
        yield from (root() / kind).glob("*/*")


def unlinked() -> int:
    """Remove the files that no artefact has any more; their bytes."""
    total = 0
    for path in (root() / "blobs").glob("*"):
        facts = path.stat()
        if facts.st_nlink == 1:
            path.unlink()
            total += facts.st_size
    return total


def free() -> int:
    return shutil.disk_usage(root()).free - SPARE


def clear_partial() -> None:
    """What somebody fetched who died in the middle of it, and nobody asked for again for an hour."""
    for path in (root() / "partial").glob("*"):
        with (root() / "locks" / path.name).open("a") as lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - path.stat().st_mtime > 3600:
                shutil.rmtree(path)
