"""Backups by the clock, and at once: the row is what is wanted, a worker makes the file."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import platform
from app.accounts.auth import Principal
from app.alerts import service as alerts
from app.backups import making
from app.backups.making import Wanted
from app.backups.tables import Backup
from app.config import settings
from app.db import now
from app.errors import N_, Conflict, DomainError
from app.queue import send, transaction

TASK = "workers.make_backup"
ALERT = "backup"  # the subject: there is one series of backups
LOST = timedelta(hours=12)  # after which one that neither failed nor succeeded is given up
PREFIX = "danlu-scheduled-"
GAVE_UP = N_("The worker that made it ended before it was done.")
FAILED = N_("The backup of %(at)s failed: %(why)s")


def listed(db: Session, limit: int = 20) -> list[Backup]:
    """Newest first."""
    return list(db.scalars(select(Backup).order_by(Backup.created_at.desc()).limit(limit)))


def ask(db: Session, who: Principal | None) -> Backup:
    """One, as soon as a worker is free. Raises Conflict while one is being made."""
    open_one = select(Backup.id).where(Backup.state.in_(("waiting", "running")))
    if db.scalar(open_one.limit(1)):
        raise Conflict(N_("A backup is being made already."))
    made = Backup(asked_by=who.user_id if who else None)
    db.add(made)
    db.flush()
    send(db, TASK, made.id)
    return made


def due(db: Session) -> None:
    """For the sweep: one a day, at the time that is set; a nudge for one that nobody took up; and an
    end for one whose worker died.
    """
    last = db.scalar(select(Backup).order_by(Backup.created_at.desc()).limit(1).with_for_update())
    if last and last.state in ("waiting", "running"):
        if last.created_at < now() - LOST:
            settle(db, last, DomainError(GAVE_UP, code="lost"))
        elif last.state == "waiting":
            send(db, TASK, last.id)
        return
    at = platform.read(db).backups.at
    if at and (last is None or last.created_at < latest(at, now()) <= now()):
        ask(db, None)


def latest(at: str, moment: datetime) -> datetime:
    """The last time that it was `at` (HH:MM) in UTC."""
    hour, minute = map(int, at.split(":"))
    today = moment.astimezone(UTC).replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today <= moment else today - timedelta(days=1)


def make(backup_id: str) -> None:
    """The body of the task. Claimed first: a doubled nudge makes no second file."""
    with transaction() as db:
        row = db.get(Backup, backup_id, with_for_update=True)
        if row is None or row.state != "waiting":
            return
        row.state, row.node = "running", settings.node
        wanted = platform.read(db).backups
    failure: DomainError | None = None
    made: Path | None = None
    try:
        made = write(wanted)
    except DomainError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - whatever it is, the row and the alert say so
        failure = DomainError(N_("%(why)s"), why=f"{type(error).__name__}: {error}"[:500])
    with transaction() as db:
        row = db.get_one(Backup, backup_id, with_for_update=True)
        if made:
            row.file, row.size = str(made), made.stat().st_size
        settle(db, row, failure)


def write(wanted: platform.Backups) -> Path:
    """The file; those before the last few go. Raises DomainError."""
    place = Path(wanted.directory) if wanted.directory else settings.home / "backups"
    if not wanted.directory:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    making.room_for_database(place)
    before = os.umask(0o077)
    try:
        name = making.name().removeprefix("danlu-")
        made = making.make(place / f"{PREFIX}{name}", Wanted(wanted.artefacts, wanted.key))
    finally:
        os.umask(before)
    making.keep_last(place, wanted.keep, PREFIX)
    return made


def settle(db: Session, row: Backup, failure: DomainError | None) -> None:
    row.finished_at = now()
    if failure is None:
        row.state, row.error = "succeeded", None
        alerts.resolve(db, "backup_failed", ALERT)
        return
    row.state, row.error = "failed", failure.kept()
    why = {"message": failure.message, "params": failure.params}
    at = f"{row.created_at:%Y-%m-%d %H:%M} UTC"
    alerts.raise_(db, "backup_failed", ALERT, FAILED, {"at": at, "why": why}, link="/admin/storage")
