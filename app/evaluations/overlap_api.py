"""JSON: evaluated rows that stand in training data."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.accounts.auth import Principal, requires
from app.datasets import service as datasets
from app.evaluations import overlaps, service
from app.evaluations.overlap_schemas import OverlapAsk, OverlapRow, Overlaps
from app.evaluations.schemas import Settings
from app.paging import Limit
from app.queue import transaction

router = APIRouter(tags=["evaluations"])
LOOK = 2.0  # seconds that a request looks before it answers
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]


def out(key: overlaps.Key | None, offset: int, limit: int) -> Overlaps:
    found = overlaps.look(key, LOOK)
    if found.error:
        raise found.error
    few = found.hits[offset : offset + limit]
    return Overlaps(
        complete=found.complete,
        read=found.read,
        total=found.total,
        rows=found.rows,
        found=len(found.hits),
        kinds=found.counts,
        partial=found.partial,
        data=[
            OverlapRow(
                number=one.hit.number,
                kind=one.hit.kind,
                share=one.hit.share,
                text=one.text,
                dataset=one.dataset_id,
                version=one.hit.source,
                found_number=one.hit.place,
                found_text=one.found,
            )
            for one in (overlaps.shown(key, few) if key else [])
        ],
        has_more=len(found.hits) > offset + limit,
    )


@router.post("/api/v1/evaluations/overlaps", name="api:evaluations:look_for_overlaps")
def look_for_overlaps(
    body: OverlapAsk, who: Reader, offset: Offset = 0, limit: Limit = 20
) -> Overlaps:
    """Before anything is started: which rows to be evaluated stand in training data."""
    settings = Settings.model_validate({"limit": body.limit, "seed": body.seed})
    with transaction() as db:
        sources = overlaps.candidates_learnt(db, who.workspace_id, body.candidates)
        sources += [datasets.published(db, who.workspace_id, one).id for one in body.training]
        key = overlaps.key(db, who.workspace_id, body.dataset, settings, sources)
    return out(key, offset, limit)


@router.get("/api/v1/evaluations/{evaluation_id}/overlaps", name="api:evaluations:overlaps")
def get_overlaps(
    evaluation_id: str, who: Reader, offset: Offset = 0, limit: Limit = 20
) -> Overlaps:
    """Which of its rows stand in what its candidates were trained on here."""
    with transaction() as db:
        one = service.get(db, who.workspace_id, evaluation_id)
        key = overlaps.of_evaluation(db, one)
    return out(key, offset, limit)
