"""Imports: a version's files fetched from an address or from a hub's repository, then validated.

The version is `importing` meanwhile. Its recipe says what is fetched; its cursor, how far that is:
`{files: [{name, url, size, sha256, validator}], at, received, total, best, tries, waits}`. The
bytes lie in `settings.uploads` until all are here, and the sizes on disk are the truth.
"""

import copy
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import addresses, fetching, storage
from app.accounts import user_secrets
from app.config import settings
from app.datasets import service, work
from app.datasets.intake import hubs
from app.datasets.intake.upload import MAX_FILES, joined, part, partial
from app.datasets.states import FAILED, IMPORTING, VALIDATING, switch
from app.datasets.tables import Dataset, DatasetVersion
from app.errors import N_, DomainError, Invalid
from app.pulling import Stopped, Stretch, alone, pull
from app.queue import transaction
from app.uploads.service import display_name

log = structlog.get_logger()

STRETCH = 5.0  # seconds, after which a fetch that can be taken up again lets others have a turn


def import_version(version_id: str) -> None:
    """One stretch of an import: the body of the task `workers.import_dataset`.

    One at a time on a machine, so that its worker has a slot left for what is quick.
    """
    with alone(settings.uploads / "importing") as ours:
        one = work.claim(version_id, IMPORTING) if ours else None
        if one is None:
            return
        partial(one.id).mkdir(exist_ok=True, mode=0o700)
        until = time.monotonic() + STRETCH
        Import(one, copy.deepcopy(one.cursor), until, service.STALE).take()
    with transaction() as db:
        nudge_next(db)


class Import(Stretch[DatasetVersion]):
    """A version's files, fetched into the parts of an upload."""

    @property
    def directory(self) -> Path:
        return partial(self.one.id)

    # -- fetching

    def go(self) -> bool:
        with suppress(FileNotFoundError):
            storage.fetch(self.one.upload)  # only what comes after was not done
            return True
        if "files" not in self.cursor:
            self.cursor |= listed(self.one.recipe, self.token())
            self.save()
        for number, file in enumerate(self.cursor["files"]):
            path = self.directory / part(number)
            have = path.stat().st_size if path.exists() else 0
            if have and have == file.get("done"):
                continue
            self.cursor["at"] = number
            if not self.fetch(file, path, have):
                self.later()
                return False
            file["done"] = path.stat().st_size
            self.save()
        return True

    def fetch(self, file: dict[str, Any], path: Path, have: int) -> bool:
        """One file, from where it stands. False if it is to be gone on with later."""
        return pull(
            file,
            path,
            limit=settings.max_upload_mb * 2**20 - (self.received() - have),
            until=self.until,
            beat=self.beat,
            allow=allowed(self.one.recipe),
            headers=hubs.headers(self.one.recipe["from"], self.token()),
            heed=self.heed,
        )

    def token(self) -> str:
        """What its user chose to show the hub. Raises NotFound if that is gone."""
        recipe = self.one.recipe
        if "secret" not in recipe:
            return ""
        with transaction() as db:
            workspace_id = db.get_one(Dataset, self.one.dataset_id).workspace_id
        return user_secrets.hub_token(recipe["secret"], recipe["from"], workspace_id)

    def heed(self, file: dict[str, Any], answer: fetching.Answer) -> None:
        """What the server says of the file."""
        by_address = self.one.recipe["from"] == "url"
        if by_address and answer.headers.get("content-type", "").startswith("text/html"):
            raise addresses.Refused(
                N_("There is a web page at this address, not a file of data."), code="address.page"
            )
        file["name"] = file["name"] or display_name(answer.name) or "data"
        if by_address:
            self.cursor["total"] = answer.size

    def received(self) -> int:
        return sum(path.stat().st_size for path in self.directory.iterdir())

    def ours(self, db: Session, *, claimed: bool = True) -> DatasetVersion:
        one = db.get(DatasetVersion, self.one.id, with_for_update=True)
        if one is None or one.status != IMPORTING:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise Stopped
        if claimed and one.claimed_at != self.one.claimed_at:  # silent for too long: taken over
            raise Stopped
        return one

    def fail(self, error: DomainError) -> None:
        with suppress(Stopped), transaction() as db:
            why = error.kept()
            switch(db, self.ours(db), FAILED, error=why)
        shutil.rmtree(self.directory, ignore_errors=True)

    def finish(self) -> None:
        """What was fetched is now an upload like any other: to be validated."""
        files = [{"name": file["name"], "bytes": file["done"]} for file in self.cursor["files"]]
        if not all(file["bytes"] for file in files):
            raise Invalid(N_("The file is empty."), code="file.empty")
        if (self.directory / part(0)).exists():
            storage.move(self.directory, self.one.upload)
        try:
            with transaction() as db:
                one = self.ours(db, claimed=False)  # it may have taken long, but it is all there
                switch(db, one, VALIDATING)
                one.cursor = {}
                one.files, one.file_name = files, joined(files)
                one.bytes = sum(file["bytes"] for file in files)
                if "commit" in self.cursor:
                    one.recipe = one.recipe | {
                        "commit": self.cursor["commit"],
                        "files": [file["name"] for file in files],
                    }
                service.nudge(db, one)
        except Stopped:
            storage.delete(self.one.upload)
            raise


def nudge_next(db: Session) -> None:
    """Whoever has waited longest for a turn."""
    query = select(DatasetVersion).where(
        DatasetVersion.status == IMPORTING,
        DatasetVersion.claimed_at.is_(None),
        DatasetVersion.recipe["made"].astext == "import",
    )
    turn = func.coalesce(DatasetVersion.cursor["turn"].astext, "")
    if one := db.scalar(query.order_by(turn, DatasetVersion.created_at).limit(1)):
        service.nudge(db, one)


def allowed(recipe: dict[str, Any]) -> tuple[str, ...]:
    """Where this may connect to besides public addresses: to the hub that an admin named."""
    return () if recipe["from"] == "url" else hubs.endpoint(recipe["from"])[1]


def listed(recipe: dict[str, Any], token: str = "") -> dict[str, Any]:
    """What of a hub's repository is to be fetched, as a cursor. Raises DomainError."""
    listing = hubs.look(recipe["from"], recipe["repository"], recipe["revision"], token)
    files = hubs.chosen(listing, recipe["files"])
    if len(files) > MAX_FILES:
        raise Invalid(
            N_("These are %(count)s files. Choose %(most)s of them at most."),
            code="file.many",
            count=len(files),
            most=MAX_FILES,
        )
    total = sum(file.size or 0 for file in files)
    if total > settings.max_upload_mb * 2**20:
        raise fetching.too_large(settings.max_upload_mb * 2**20)
    return {
        "commit": listing.commit,
        "total": total,
        "at": 0,
        "files": [
            {
                "name": file.path,
                "url": hubs.address(listing, file),
                "size": file.size,
                "sha256": file.sha256,
            }
            for file in files
        ],
    }
