"""A new draft from a published version, and throwing a draft away."""

from sqlalchemy import delete, select, update

from app import storage
from app.accounts.auth import Principal
from app.datasets import service
from app.datasets.drafts import acts, comparing
from app.datasets.files import drop, of_acts
from app.datasets.states import DRAFT, IMPORTING, PUBLISHED, PUBLISHING, switch
from app.datasets.tables import (
    DatasetEvent,
    DatasetIssue,
    DatasetMeasure,
    DatasetVersion,
    DraftAct,
    RowEdit,
)
from app.errors import N_, Conflict
from app.queue import transaction

NOT_PUBLISHED = N_("Version %(number)s is not published. A new draft starts from a published one.")
OPEN = N_("Version %(number)s is an open draft already. Publish or discard it first.")
ONLY = N_("This is the only version. Delete the dataset instead.")


def begin(who: Principal, dataset_id: str, which: str = "") -> DatasetVersion:
    """The next version of a dataset, a draft with the rows of `which`. It shares its segments.

    Raises Conflict while another such draft is open: two people would edit past each other.
    """
    with transaction() as db:
        dataset = service.own(db, who, dataset_id)
        parent = service.version(db, who.workspace_id, dataset_id, which)
        if parent.status != PUBLISHED:
            raise Conflict(NOT_PUBLISHED, code="not_published", number=parent.number)
        for one in service.versions(db, dataset_id):
            if one.status in (DRAFT, PUBLISHING) and one.recipe.get("made") == "draft":
                raise Conflict(OPEN, code="open_draft", number=one.number)
        added = service.add_version(
            db,
            dataset,
            user_id=who.user_id,
            status=IMPORTING,
            parent_id=parent.id,
            recipe={"made": "draft", "from": parent.number},
            format=parent.format,
            kind=parent.kind,
            mapping=parent.mapping,
            file_name=parent.file_name,
            files=parent.files,
            bytes=parent.bytes,
            rows=parent.rows,
            segments=parent.segments,
        )
        switch(db, added, DRAFT, user_id=who.user_id)
        return service.version(db, who.workspace_id, dataset_id, added.id)


def discard(who: Principal, dataset_id: str, which: str = "") -> None:
    """Throw a draft away, with its edits. Raises Conflict if it is the only version."""
    with transaction() as db:
        held = acts.open_draft(db, who, dataset_id, which)
        if len(service.versions(db, dataset_id)) == 1:
            raise Conflict(ONLY, code="only_version")
        named = list(db.scalars(select(DraftAct).where(DraftAct.version_id == held.id)))
        artefacts = {part["artefact"] for part in held.segments} | of_acts(named)
        comparisons = comparing.forget(db, held.id)
        db.execute(
            update(DatasetVersion)
            .where(DatasetVersion.parent_id == held.id)
            .values(parent_id=held.parent_id)
        )
        for table in (RowEdit, DraftAct, DatasetMeasure, DatasetIssue, DatasetEvent):
            db.execute(delete(table).where(table.version_id == held.id))
        known = held.checks.get("artefact", "")
        upload = held.upload
        db.delete(held)
    for artefact in artefacts:
        drop(artefact)
    for artefact in (*comparisons, known, upload):
        if artefact:
            storage.delete(artefact)
