"""A new secret key: everything that is sealed in the database is sealed anew, in one transaction.

The order is what makes a kill harmless. First the new key stands before the old one in `secret.key`:
from then on processes seal with the new one and unseal both. Then the rows change, all or none. Last the
old key goes. Whoever is killed in between begins again where that was.
"""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from sqlalchemy import Column, Table, Text, select, type_coerce, update
from sqlalchemy.orm import Session

from app import sealing
from app.accounts import audit, platform
from app.accounts.tables import PlatformSettings
from app.config import settings
from app.db import Base


def keys_of(file: Path) -> list[str]:
    """The keys in the file, the first seals. Raises FileNotFoundError."""
    return [
        part for line in file.read_text().splitlines() for part in line.replace(",", " ").split()
    ]


def write(file: Path, keys: list[str]) -> None:
    """In one moment, and on the disk when this returns."""
    partial = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write("".join(f"{key}\n" for key in keys))
            stream.flush()
            os.fsync(stream.fileno())
        owner = file.stat()
        with contextlib.suppress(PermissionError):
            os.chown(partial, owner.st_uid, owner.st_gid)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def begin() -> None:
    """A new key before the one in `secret.key`, unless one stands there already: somebody was killed,
    or put it there. With `DANLU_SECRET_KEY` that is the administrator's to do.
    """
    if settings.secret_key:
        return
    sealing.keys()  # makes the file where there is none
    file = settings.home / sealing.NAME
    found = keys_of(file)
    if len(found) == 1:
        write(file, [Fernet.generate_key().decode(), *found])


def finish() -> bool:
    """Only the first key stays in `secret.key`; False where it is the environment that names them."""
    if settings.secret_key:
        return False
    file = settings.home / sealing.NAME
    write(file, keys_of(file)[:1])
    return True


# -- rows --------------------------------------------------------------------------------


def reseal(db: Session) -> int:
    """Seal everything with the first key. How many values changed; 0 when nothing was left to do.

    Nobody else writes to these tables until this is committed. Raises sealing.WrongKey, and changes
    nothing, where a value was sealed with a key that is not among those.
    """
    newest = sealing.newest()
    changed = 0
    for table, columns in sealed_columns():
        db.connection().exec_driver_sql(f'LOCK TABLE "{table.name}" IN SHARE ROW EXCLUSIVE MODE')
        changed += reseal_table(db, newest, table, columns)
    changed += reseal_settings(db, newest)
    if changed:
        audit.note(db, "reseal", "secret_key", after={"values": changed})
    return changed


def sealed_columns() -> list[tuple[Table, list[Column[Any]]]]:
    found = []
    for table in Base.metadata.sorted_tables:
        columns = [one for one in table.columns if isinstance(one.type, sealing.Sealed)]
        if columns:
            found.append((table, columns))
    return found


def reseal_table(db: Session, newest: Fernet, table: Table, columns: list[Column[Any]]) -> int:
    keys = list(table.primary_key.columns)
    raw = [type_coerce(one, Text).label(f"sealed_{one.name}") for one in columns]
    changed = 0
    for row in db.execute(select(*keys, *raw)).all():
        values = {
            column.name: sealing.resealed(value)
            for column, value in zip(columns, row[len(keys) :], strict=True)
            if value and not sealing.is_of(newest, value)
        }
        if values:
            mine = [key == one for key, one in zip(keys, row[: len(keys)], strict=True)]
            new = {name: type_coerce(value, Text) for name, value in values.items()}
            db.execute(update(table).where(*mine).values(new))
            changed += len(values)
    return changed


def reseal_settings(db: Session, newest: Fernet) -> int:
    row = db.get(PlatformSettings, 1, with_for_update=True, populate_existing=True)
    if row is None:
        return 0
    sections: dict[str, Any] = {name: dict(values) for name, values in row.sections.items()}
    changed = 0
    for name, section in platform.SECTIONS.items():
        for field, value in sections.get(name, {}).items():
            old = platform.is_secret(section, field) and value and not sealing.is_of(newest, value)
            if old:
                sections[name][field] = sealing.resealed(value)
                changed += 1
    if changed:
        table = PlatformSettings.__table__
        db.execute(update(PlatformSettings).where(table.c.id == 1).values(sections=sections))
    return changed
