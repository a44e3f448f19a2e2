"""Fills an empty home and an empty database from a backup."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from app import storage
from app.backups import dump, schema
from app.backups.archive import DATABASE, KEY, Member, Reader, Tell
from app.config import settings
from app.db import engine
from app.errors import N_, Conflict, Invalid


def check(reader: Reader) -> None:
    """Raises Newer for a backup of a newer Danlu, and Conflict where there is data already."""
    schema.refuse_newer(reader.manifest["revision"])
    if not schema.is_empty():
        raise Conflict(N_("The database is not empty. Restore into an empty one."))
    root = storage.local_root()
    if root and root.is_dir() and any(root.iterdir()):
        raise Conflict(
            N_("The artefact store %(path)s is not empty. Restore into an empty one."),
            path=str(root),
        )


def restore(reader: Reader, key: str, tell: Tell) -> dict[str, Any]:
    """Into the home, the store and the database of `settings`, which are empty: files first, then
    the rows that name them, then the migrations since. `key` is a secret key where the backup has
    none. Returns the manifest. Raises Broken, dump.Failed.
    """
    done = 0
    for member in reader.members:
        tell(member.name, done)
        done += member.size
        if member.name == KEY:
            with reader.raw(member) as stream:
                write_key(stream.read().decode())
        elif member.name.startswith("spool/"):
            restore_spool(reader, member)
    if key and reader.named(KEY) is None:
        write_key(key)
    for artefact, member in reader.artefacts():
        tell(member.name, done)
        restore_artefact(reader, artefact, member)
    database = reader.named(DATABASE)
    if database is None:
        raise Invalid(N_("The backup has no database."))
    tell(DATABASE, done)
    with engine().connect() as connection:
        server = schema.server_version(connection)
    with reader.unpacked(database) as stream:
        dump.load(server, stream)
    schema.migrate()
    return reader.manifest


def write_key(text: str) -> None:
    """0600, whole or not at all."""
    partial = settings.home / f".{KEY}-{os.getpid()}"
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text.strip() + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(settings.home / KEY)


def restore_spool(reader: Reader, member: Member) -> None:
    name = member.name.removeprefix("spool/").removesuffix(".zst")
    if "/" in name or name.startswith("."):
        raise Invalid(N_("The backup names a file outside its place: %(name)s"), name=member.name)
    settings.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    with reader.unpacked(member) as stream, (settings.spool / name).open("wb") as file:
        shutil.copyfileobj(stream, file)


def restore_artefact(reader: Reader, artefact: str, member: Member) -> None:
    """By way of the store's own door, so that it may be another kind of store than before."""
    storage.check(artefact)
    place = storage.local_root() or settings.cache
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restoring-", dir=place) as at:
        made = Path(at) / "d"
        made.mkdir()
        reader.unpack(member, made)
        storage.move(made, artefact)
