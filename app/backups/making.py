"""Makes a backup while everything runs.

The database first, then the files it names: they were put before their rows were committed, and
what is deleted meanwhile the store keeps aside (`storage.holding`). So every artefact of the dump is
in the backup, save one whose deletion had begun; an artefact that no row names does no harm.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app import storage
from app.backups import dump, schema
from app.backups.archive import DATABASE, KEY, SUFFIX, Tell, Writer
from app.config import settings
from app.db import engine, now
from app.errors import N_, Conflict, DomainError, Invalid

COUNTED = ("workspaces", "users", "datasets", "models", "jobs", "deployments")
SPARE = 64 * 2**20  # bytes that a backup leaves free


class NoRoom(DomainError):
    status = 507
    code = "no_room"


@dataclass(frozen=True)
class Wanted:
    """What goes into a backup besides the database."""

    artefacts: bool = True
    key: bool = True


def quiet(_member: str, _done: int) -> None:
    """Tells nobody."""


def name() -> str:
    """Sorts by time."""
    return f"danlu-{now().astimezone(UTC):%Y%m%dT%H%M%SZ}{SUFFIX}"


def make(place: Path, wanted: Wanted, tell: Tell = quiet) -> Path:
    """A new file at `place`, or under a name of its own in the directory `place`; whole or not at
    all. Raises Conflict if the file exists, and NoRoom, dump.Failed, Invalid.
    """
    target = place / name() if place.is_dir() else place
    if target.exists():
        raise Conflict(N_("%(path)s exists already."), path=str(target))
    if not target.parent.is_dir():
        raise Invalid(N_("There is no directory %(path)s."), path=str(target.parent))
    partial = target.with_name(f".{target.name}-{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w+b") as file:
            fill(Writer(file, tell), wanted)
        os.rename(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(
                N_("The disk of %(path)s has no room for the backup."), path=str(target.parent)
            ) from error
        raise Invalid(
            N_("%(path)s cannot be written: %(why)s"), path=str(target), why=error.strerror or ""
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def fill(writer: Writer, wanted: Wanted) -> None:
    root = storage.local_root() if wanted.artefacts else None
    with storage.holding(root) if root else contextlib.nullcontext():
        facts = about(wanted, has_files=root is not None)
        for file, content in spooled():
            with writer.packed(f"spool/{file}.zst") as stream:
                stream.write(content)
        with writer.packed(DATABASE) as stream:
            dump.dump(facts["postgres"], stream)
        key = settings.home / KEY
        if wanted.key and key.exists():
            with writer.member(KEY) as sink:
                sink.write(key.read_bytes())
        for artefact in storage.listing(root) if root else []:
            put(writer, root, artefact)
    writer.close(facts)


def put(writer: Writer, root: Path | None, artefact: str) -> None:
    """From where it stands, or where it went while it was read."""
    assert root
    member = f"store/{artefact}.tar.zst"
    for base in (root, root / storage.DELETED, root):
        with contextlib.suppress(FileNotFoundError):
            writer.directory(member, base / artefact)
            return


def spooled() -> Iterator[tuple[str, bytes]]:
    """Usage on its way to the database, read before that: a row in both is known by its id."""
    for path in sorted(settings.spool.glob("usage-*.jsonl")):
        with contextlib.suppress(FileNotFoundError):
            yield path.name, path.read_bytes()


def about(wanted: Wanted, *, has_files: bool) -> dict[str, Any]:
    """What the manifest says besides the members."""
    with engine().connect() as connection:
        found = schema.revision(connection)
        counts = {
            table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608 - names of ours
            for table in COUNTED
            if found
        }
        return {
            "danlu": version("danlu"),
            "revision": found,
            "at": now().isoformat(timespec="seconds"),
            "postgres": schema.server_version(connection),
            "node": settings.node,
            "artefacts": "included"
            if has_files
            else "elsewhere"
            if wanted.artefacts
            else "left out",
            "key": "included" if wanted.key and (settings.home / KEY).exists() else "left out",
            "counts": counts,
        }


def room_for_database(place: Path) -> None:
    """Raises NoRoom where a backup of the database alone would hardly fit: indexes are not
    written, and rows shrink to a third or less.
    """
    with engine().connect() as connection:
        needed = schema.database_size(connection) // 3 + SPARE
    free = shutil.disk_usage(place).free
    if free < needed:
        raise NoRoom(
            N_(
                "The disk of %(path)s has %(free)s MB free, and a backup needs about %(needed)s MB."
            ),
            path=str(place),
            free=free // 10**6,
            needed=needed // 10**6,
        )


def keep_last(directory: Path, count: int, prefix: str = "danlu-") -> list[Path]:
    """Delete all backups here but the last `count`; those that went."""
    found = sorted(directory.glob(f"{prefix}*{SUFFIX}"))
    gone = found[:-count] if count else found
    for path in gone:
        path.unlink(missing_ok=True)
    return gone
