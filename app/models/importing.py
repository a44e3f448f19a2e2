"""Imports: the files of a model fetched, checked, and put into the registry.

An import's cursor says how far it is: `{files: [{name, url, size, sha256, validator, done}], at,
received, total, best, tries, waits, commit, left_out, turn}`. The bytes lie in `settings.uploads`
of the node that began it until all are here; the sizes on disk are the truth. A failed import
keeps them for a day, so that trying again goes on from there.
"""

import copy
import shutil
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import addresses, hubs, storage
from app.config import settings
from app.db import now
from app.errors import N_, DomainError, disk_full
from app.models import arriving, sources
from app.models.states import FAILED, IMPORTING, SUCCEEDED, switch
from app.models.tables import ModelImport
from app.pulling import Stopped, Stretch, alone, digest, pour, pull
from app.queue import CONTROL, node_queue, send, transaction

log = structlog.get_logger()

STRETCH = 5.0  # seconds, after which a fetch that can be taken up again lets others have a turn
STALE = timedelta(minutes=5)  # of silence, after which whoever claimed it is dead
MAX_ATTEMPTS = 5
GIVEN_UP: dict[str, Any] = {
    "code": "stopped",
    "message": N_(
        "The import stopped unexpectedly several times. Try again; if it stays, an administrator "
        "finds the reason in the server's log."
    ),
    "params": {},
}


def nudge(db: Session, one: ModelImport) -> None:
    """Tell a worker that there is a stretch to take: the one that has the bytes, if one has."""
    queue = node_queue(one.node_id) if one.node_id else CONTROL
    send(db, "workers.import_model", one.id, queue=queue)


def place(import_id: str) -> Path:
    """Where the bytes of an import collect."""
    return settings.uploads / f"model-{import_id}"


def import_model(import_id: str) -> None:
    """One stretch of an import: the body of the task `workers.import_model`.

    One at a time on a machine, so that its worker has a slot left for what is quick.
    """
    with alone(settings.uploads / "importing-models") as ours:
        one = claim(import_id) if ours else None
        if one is None:
            return
        place(one.id).mkdir(exist_ok=True, mode=0o700)
        Import(one, copy.deepcopy(one.cursor), time.monotonic() + STRETCH, STALE).take()
    with transaction() as db:
        nudge_next(db)


def claim(import_id: str) -> ModelImport | None:
    """The import, if it moves and nobody else is at it. Detached; counts the attempt."""
    with transaction() as db:
        query = select(ModelImport).where(
            ModelImport.id == import_id, ModelImport.state == IMPORTING
        )
        one = db.scalar(query.with_for_update(skip_locked=True))
        if one is None or (one.claimed_at and one.claimed_at > now() - STALE):
            return None
        if one.node_id not in (None, settings.node):
            return None
        if one.attempts >= MAX_ATTEMPTS:
            switch(db, one, FAILED, error=GIVEN_UP)
            return None
        one.attempts += 1
        one.claimed_at, one.node_id = now(), settings.node
    return one


def nudge_next(db: Session) -> None:
    """Whoever has waited longest for a turn."""
    query = select(ModelImport).where(
        ModelImport.state == IMPORTING, ModelImport.claimed_at.is_(None)
    )
    turn = func.coalesce(ModelImport.cursor["turn"].astext, "")
    if one := db.scalar(query.order_by(turn, ModelImport.created_at).limit(1)):
        nudge(db, one)


class Import(Stretch[ModelImport]):
    """A model's files, fetched into one directory."""

    @property
    def directory(self) -> Path:
        return place(self.one.id)

    # -- fetching

    def go(self) -> bool:
        with suppress(FileNotFoundError):
            storage.fetch(arriving.artefact(self.one.id))  # only what comes after was not done
            return True
        if "files" not in self.cursor:
            self.cursor |= sources.listed(self.one)
            self.save()
        self.room()
        for number, file in enumerate(self.cursor["files"]):
            path = self.directory / file["name"]
            have = path.stat().st_size if path.exists() else -1
            if have == file.get("done", -2):
                continue
            if "done" in file:  # it was whole once, and was touched since
                path.unlink(missing_ok=True)
                have = -1
            self.cursor["at"] = number
            if not self.fetch(file, path, max(have, 0)):
                self.later()
                return False
            file["sha256"] = file.get("sha256") or digest(path, self.beat)
            file["done"] = path.stat().st_size
            self.save()
        return True

    def room(self) -> None:
        """Raises Unavailable where what is still to come would fill the disk."""
        left = (self.cursor["total"] or 0) - self.received()
        if left > shutil.disk_usage(self.directory).free:
            raise disk_full()

    def fetch(self, file: dict[str, Any], path: Path, have: int) -> bool:
        """One file, from where it stands. False if it is to be gone on with later."""
        if "url" in file:
            return pull(
                file,
                path,
                limit=settings.max_model_gb * sources.GIB - (self.received() - have),
                until=self.until,
                beat=self.beat,
                allow=hubs.endpoint(self.one.source["from"])[1],
                headers=hubs.headers(self.one.source["from"], sources.token(self.one)),
            )
        offset = 0 if "member" in file or have > file["size"] else have
        came = pour(
            sources.pieces(self.one, file, offset),
            path,
            offset,
            self.beat,
            None if "member" in file else self.until,
        )
        if came and path.stat().st_size != file["size"]:
            path.unlink()
            raise addresses.Interrupted(
                N_("“%(name)s” changed while it was read."),
                code="import.changed",
                name=file["name"],
            )
        return came

    def received(self) -> int:
        if not self.directory.is_dir():  # they are in the store already
            return int(self.cursor.get("received", 0))
        return sum(path.stat().st_size for path in self.directory.iterdir())

    def ours(self, db: Session, *, claimed: bool = True) -> ModelImport:
        one = db.get(ModelImport, self.one.id, with_for_update=True)
        if one is None or one.state != IMPORTING:
            raise Stopped
        if claimed and one.claimed_at != self.one.claimed_at:  # silent for too long: taken over
            raise Stopped
        return one

    def fail(self, error: DomainError) -> None:
        """Its bytes stay for a day."""
        with suppress(Stopped), transaction() as db:
            one = self.ours(db, claimed=False)
            one.cursor = copy.deepcopy(self.cursor) | {"tries": 0, "waits": None}
            why = error.kept()
            switch(db, one, FAILED, error=why)

    # -- the end

    def finish(self) -> None:
        """What was fetched is a model, or is refused."""
        artefact = arriving.artefact(self.one.id)
        try:
            directory = storage.fetch(artefact)
            notes = self.cursor.get("notes", [])
        except FileNotFoundError:
            directory, notes = self.directory, arriving.disarm(self.directory)
            self.cursor["notes"] = notes
        facts = arriving.inspected(directory)
        with transaction() as db:
            arriving.base_of(db, self.ours(db, claimed=False), directory, facts)
        self.save()
        if directory == self.directory:
            storage.move(directory, artefact)
            directory = storage.fetch(artefact)
        try:
            with transaction() as db:
                one = self.ours(db, claimed=False)  # it may have taken long, but it is all there
                one.cursor = copy.deepcopy(self.cursor)
                one.model_id = arriving.register(db, one, directory, facts).id
                switch(db, one, SUCCEEDED)
        except Stopped:
            storage.delete(artefact)
            raise
        if self.one.source["from"] == "upload":
            storage.delete(sources.upload(self.one.id))
        shutil.rmtree(self.directory, ignore_errors=True)
