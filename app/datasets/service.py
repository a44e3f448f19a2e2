"""Datasets and versions: finding, adding, publishing, pinning, deleting.

What reads or writes rows is in `app.datasets.work`, as it takes longer than a query.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, func, or_, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session, joinedload, with_expression

from app import paging
from app.accounts.auth import Principal
from app.datasets import presets
from app.datasets.states import (
    DRAFT,
    FAILED,
    MOVING,
    PUBLISHED,
    PUBLISHING,
    STATES,
    VALIDATING,
    switch,
)
from app.datasets.tables import (
    Dataset,
    DatasetEvent,
    DatasetIssue,
    DatasetMeasure,
    DatasetPin,
    DatasetVersion,
)
from app.db import now
from app.errors import N_, Conflict, Forbidden, Invalid, NotFound
from app.queue import send
from app.quotas import stored

STALE = timedelta(seconds=120)  # a claim this old belongs to somebody who died
NAME_LENGTH = 120
MEASURED = (  # tokens of a version whose rows are as they were measured
    select(DatasetMeasure.result["tokens"].as_integer())
    .where(
        DatasetMeasure.version_id == DatasetVersion.id,
        DatasetMeasure.result.is_not(None),
        DatasetVersion.edition == 0,
    )
    .order_by(DatasetMeasure.created_at.desc())
    .limit(1)
    .scalar_subquery()
)
SORTS: dict[str, Any] = {
    "name": func.lower(Dataset.name),
    "rows": DatasetVersion.rows,
    "size": DatasetVersion.bytes,
    "created": Dataset.created_at,
}
ensure_samples = presets.ensure_samples
NOT_HERE = N_("There is no such dataset.")
GONE = {"code": "deleted", "message": N_("The dataset was deleted."), "params": {}}


# -- finding -----------------------------------------------------------------------------


def visible(workspace_id: str) -> Any:
    """The condition on Dataset: the workspace's own, and the samples."""
    return and_(
        or_(Dataset.workspace_id == workspace_id, Dataset.workspace_id.is_(None)),
        Dataset.deleted_at.is_(None),
    )


def get(db: Session, workspace_id: str, dataset_id: str) -> Dataset:
    """Raises NotFound, also for another workspace's."""
    found = db.scalar(select(Dataset).where(Dataset.id == dataset_id, visible(workspace_id)))
    if found is None:
        raise NotFound(NOT_HERE)
    return found


def own(db: Session, who: Principal, dataset_id: str) -> Dataset:
    """To change it: locked, so that it is not deleted meanwhile. Samples are read-only."""
    found = get(db, who.workspace_id, dataset_id)
    if found.workspace_id is None:
        raise Forbidden(N_("This is a sample that everybody reads; it cannot be changed."))
    db.refresh(found, with_for_update=True)
    if found.deleted_at:
        raise NotFound(NOT_HERE)
    return found


def versions(db: Session, dataset_id: str) -> list[DatasetVersion]:
    """The newest first."""
    query = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset_id)
    return list(db.scalars(query.order_by(DatasetVersion.number.desc())))


def version(db: Session, workspace_id: str, dataset_id: str, which: str = "") -> DatasetVersion:
    """`which` is a version's number or id; empty is the newest. `.dataset` is loaded."""
    query = (
        select(DatasetVersion)
        .join(DatasetVersion.dataset)
        .options(
            joinedload(DatasetVersion.dataset), with_expression(DatasetVersion.tokens, MEASURED)
        )
        .where(DatasetVersion.dataset_id == dataset_id, visible(workspace_id))
        .order_by(DatasetVersion.number.desc())
        .limit(1)
    )
    if which.isdecimal() and len(which) < 9:
        query = query.where(DatasetVersion.number == int(which))
    elif which:
        query = query.where(DatasetVersion.id == which)
    found = db.scalar(query)
    if found is None:
        raise NotFound(N_("There is no such version.") if which else NOT_HERE)
    return found


def list_datasets(
    db: Session,
    workspace_id: str,
    *,
    q: str = "",
    status: str = "",
    sort: str = "",
    after: str = "",
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[DatasetVersion], int]:
    """The newest version of each dataset with `.dataset` loaded, and how many there are.

    `sort` is a key of SORTS, with a minus before it to turn it round; by default the newest
    come first and the samples last. `after` is the dataset behind which to begin.
    """
    newest = select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == Dataset.id)
    query: Select[DatasetVersion] = (
        select(DatasetVersion)
        .join(DatasetVersion.dataset)
        .where(visible(workspace_id))
        .where(DatasetVersion.number == newest.correlate(Dataset).scalar_subquery())
    )
    here = query
    if q:
        query = query.where(Dataset.name.icontains(q, autoescape=True))
    if status in STATES:
        query = query.where(DatasetVersion.status == status)
    total = db.scalar(select(func.count()).select_from(query.subquery())) or 0
    column = SORTS.get(sort.removeprefix("-"))
    if column is None:
        order: list[Any] = [Dataset.workspace_id.is_(None), Dataset.created_at.desc()]
    else:
        order = [column.desc() if sort.startswith("-") else column.asc()]
    query = paging.behind(db, query, here, order, Dataset.id, after)
    page = query.options(joinedload(DatasetVersion.dataset))
    return list(db.scalars(page.offset(offset).limit(limit))), total


def issues(
    db: Session, version_id: str, *, level: str = "", offset: int = 0, limit: int = 100
) -> list[DatasetIssue]:
    """In the order of the file; the warnings after the errors."""
    query = select(DatasetIssue).where(DatasetIssue.version_id == version_id)
    if level:
        query = query.where(DatasetIssue.level == level)
    query = query.order_by(DatasetIssue.level, DatasetIssue.number)
    return list(db.scalars(query.offset(offset).limit(limit)))


def events(db: Session, version_ids: list[str]) -> list[DatasetEvent]:
    query = select(DatasetEvent).where(DatasetEvent.version_id.in_(version_ids))
    return list(db.scalars(query.order_by(DatasetEvent.id.desc()).limit(200)))


# -- adding ------------------------------------------------------------------------------


def clean_name(name: str, file_name: str) -> str:
    """Raises Invalid. Without a name, that of the file is taken, or of the folder (`name/`)."""
    stem = file_name[:-1] if file_name.endswith("/") else file_name.rsplit(".", 1)[0]
    name = name.strip() or stem.strip() or "dataset"
    if len(name) > NAME_LENGTH:
        raise Invalid(
            N_("A name has at most %(most)s characters."),
            field="name",
            code="name.too_long",
            most=NAME_LENGTH,
        )
    if not name.isprintable():
        raise Invalid(
            N_("The name contains characters that cannot be shown."),
            field="name",
            code="name.unprintable",
        )
    return name


def create(db: Session, who: Principal, name: str) -> Dataset:
    """A dataset without a version: `add_version` follows in the same transaction."""
    dataset = Dataset(workspace_id=who.workspace_id, name=name, created_by=who.user_id)
    db.add(dataset)
    db.flush()
    return dataset


def add_version(
    db: Session,
    dataset: Dataset,
    *,
    user_id: str | None,
    status: str = VALIDATING,
    **columns: Any,
) -> DatasetVersion:
    """The next version, to be validated or still to be made; the caller does so, or nudges."""
    if dataset.workspace_id:
        stored.check(db, dataset.workspace_id, user_id, int(columns.get("bytes") or 0))
    newest = db.scalar(
        select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset.id)
    )
    added = DatasetVersion(dataset_id=dataset.id, number=(newest or 0) + 1, **columns)
    switch(db, added, status, user_id=user_id)
    return added


# -- publishing --------------------------------------------------------------------------


def publish(
    db: Session, who: Principal, dataset_id: str, *, which: str = "", skip_invalid: bool = False
) -> DatasetVersion:
    """Begin to freeze a draft.

    Raises Conflict if it is none, or has bad rows that nobody agreed to leave out.
    """
    own(db, who, dataset_id)
    draft = version(db, who.workspace_id, dataset_id, which)
    db.refresh(draft, ["status", "rows", "error_count"], with_for_update=True)
    if draft.status != DRAFT:
        raise Conflict(
            N_("Version %(number)s is not a draft, so it cannot be published."),
            code="not_draft",
            number=draft.number,
        )
    if draft.error_count and not skip_invalid:
        first = issues(db, draft.id, level="error", limit=5)
        raise Conflict(
            N_(
                "Rows that cannot be used: %(count)s (line %(lines)s). Publish without them "
                "by saying so (skip_invalid), or upload a corrected file."
            ),
            code="invalid_rows",
            count=draft.error_count,
            lines=", ".join(str(issue.line) for issue in first)
            + (" …" if draft.error_count > len(first) else ""),
        )
    if not draft.rows:
        raise Conflict(N_("There is no row to publish."), code="no_rows")
    switch(db, draft, PUBLISHING, user_id=who.user_id)
    return draft


def published(db: Session, workspace_id: str, wanted: str) -> DatasetVersion:
    """What a job trains on: `wanted` is a version, or a dataset whose newest published one is meant.

    `.dataset` is loaded. Raises NotFound, or Conflict if it is not published.
    """
    query = (
        select(DatasetVersion)
        .join(DatasetVersion.dataset)
        .options(joinedload(DatasetVersion.dataset))
        .where(or_(DatasetVersion.id == wanted, Dataset.id == wanted), visible(workspace_id))
        .order_by((DatasetVersion.status == PUBLISHED).desc(), DatasetVersion.number.desc())
        .limit(1)
    )
    found = db.scalar(query)
    if found is None:
        raise NotFound(NOT_HERE)
    if found.status != PUBLISHED:
        raise Conflict(
            N_("The dataset “%(name)s” is not published yet. Publish it first."),
            code="not_published",
            name=found.dataset.name,
        )
    return found


def list_published(db: Session, workspace_id: str) -> list[DatasetVersion]:
    """What a form can offer: the newest published version of each dataset, samples last."""
    query = (
        select(DatasetVersion)
        .join(DatasetVersion.dataset)
        .options(joinedload(DatasetVersion.dataset))
        .where(visible(workspace_id), DatasetVersion.status == PUBLISHED)
        .order_by(Dataset.id, DatasetVersion.number.desc())
        .ext(distinct_on(Dataset.id))
    )
    found = list(db.scalars(query))
    found.sort(key=lambda one: one.dataset.created_at, reverse=True)
    return sorted(found, key=lambda one: one.dataset.workspace_id is None)


# -- pins and deleting -------------------------------------------------------------------


def pin(db: Session, version_id: str, owner_kind: str, owner_id: str) -> None:
    """`owner` needs this version. Raises NotFound if it was deleted meanwhile."""
    alive = db.scalar(
        select(Dataset.id)
        .join(DatasetVersion, DatasetVersion.dataset_id == Dataset.id)
        .where(DatasetVersion.id == version_id, Dataset.deleted_at.is_(None))
        .with_for_update(read=True, of=Dataset)
    )
    if alive is None:
        raise NotFound(NOT_HERE)
    row = {"version_id": version_id, "owner_kind": owner_kind, "owner_id": owner_id}
    db.execute(insert(DatasetPin).values(row).on_conflict_do_nothing())


def unpin(db: Session, version_id: str, owner_kind: str, owner_id: str) -> None:
    db.execute(
        delete(DatasetPin).where(
            DatasetPin.version_id == version_id,
            DatasetPin.owner_kind == owner_kind,
            DatasetPin.owner_id == owner_id,
        )
    )


def pins(db: Session, dataset_id: str) -> list[DatasetPin]:
    query = select(DatasetPin).join(DatasetVersion, DatasetVersion.id == DatasetPin.version_id)
    return list(db.scalars(query.where(DatasetVersion.dataset_id == dataset_id)))


def remove(db: Session, who: Principal, dataset_id: str) -> None:
    """Delete it with all versions; for some days it can be brought back (`trash`).

    Raises Conflict while something needs it.
    """
    dataset = own(db, who, dataset_id)
    held = pins(db, dataset_id)
    if held:
        raise Conflict(
            N_("“%(name)s” cannot be deleted while jobs need it: %(count)s of them do."),
            code="pinned",
            name=dataset.name,
            count=len({(one.owner_kind, one.owner_id) for one in held}),
        )
    dataset.deleted_at = now()
    for one in versions(db, dataset_id):
        if one.status in MOVING:
            switch(db, one, FAILED, user_id=who.user_id, error=GONE)
    send(db, "workers.clear_dataset", dataset_id)


# -- the sweep ---------------------------------------------------------------------------


# who takes the next stretch of what moves by itself; a version is made as its recipe says
TASKS = {PUBLISHING: "workers.publish_dataset", VALIDATING: "workers.validate_dataset"}
MAKING = {"import": "workers.import_dataset", "cleaning": "workers.clean_dataset"}


def nudge(db: Session, one: DatasetVersion) -> None:
    send(db, TASKS.get(one.status) or MAKING[one.recipe["made"]], one.id)
