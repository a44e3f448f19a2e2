"""`/api/v1/evaluations`"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.accounts.auth import Principal, requires
from app.evaluations import boards, export, rows, sending, service, trying, view
from app.evaluations.schemas import (
    DatasetFrom,
    EvaluationCreate,
    EvaluationOut,
    Evaluations,
    Rows,
    RowsTaken,
    Standings,
)
from app.evaluations.states import State
from app.paging import After, Limit
from app.queue import Db, transaction

router = APIRouter(tags=["evaluations"])
BASE = "/api/v1/evaluations"
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "jobs:write")]
Maker = Annotated[Principal, requires("member", "datasets:write")]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
Word = Annotated[str, Query(max_length=200)]


@router.post(BASE, status_code=201, name="api:evaluations:create")
def create_evaluation(request: Request, body: EvaluationCreate, who: Writer) -> EvaluationOut:
    """Have rows of a dataset answered by several models, and scored. The first candidate is the
    baseline, the first scorer decides the verdict.
    """
    made = service.create(who, body)
    with transaction() as db:
        return view.out(request, db, [made])[0]


@router.post(f"{BASE}/preview", name="api:evaluations:preview")
def preview(body: EvaluationCreate, who: Writer, db: Db) -> dict[str, Any]:
    """What it would take: an estimate of tokens, seconds and cost. Nothing is started."""
    return service.preview(db, who, body)


@router.post(f"{BASE}/endpoint", name="api:evaluations:endpoint")
def try_endpoint(request: Request, body: trying.EndpointAsked, who: Writer) -> trying.EndpointTold:
    """Ask an endpoint elsewhere one short question: does it work, and if not, why?"""
    return view.tried(request, who, body)


@router.get(BASE, name="api:evaluations:list")
def list_evaluations(
    request: Request,
    who: Reader,
    db: Db,
    state: State | None = None,
    model: Annotated[str, Query(max_length=200, description="That this model answers in.")] = "",
    after: After = "",
    offset: Offset = 0,
    limit: Limit = 20,
) -> Evaluations:
    """The workspace's evaluations, newest first."""
    found, more = service.list_evaluations(
        db,
        who.workspace_id,
        state=state or "",
        model_id=model,
        after=after,
        offset=offset,
        limit=limit,
    )
    return Evaluations(data=view.out(request, db, found), has_more=more)


@router.get(f"{BASE}/{{evaluation_id}}", name="api:evaluations:get")
def get_evaluation(request: Request, evaluation_id: str, who: Reader, db: Db) -> EvaluationOut:
    """How far it is, and once it is over its figures and verdicts."""
    return view.out(request, db, [service.get(db, who.workspace_id, evaluation_id)])[0]


@router.get(f"{BASE}/{{evaluation_id}}/rows", name="api:evaluations:rows")
def get_rows(
    request: Request,
    evaluation_id: str,
    who: Reader,
    db: Db,
    order: Literal["number", "gain", "loss", "best", "worst"] = "number",
    scorer: Annotated[str, Query(max_length=40, description="That sorts: its key.")] = "",
    candidate: Annotated[str, Query(max_length=40, description="That is compared.")] = "",
    label: Word = "",
    offset: Offset = 0,
    limit: Limit = 20,
) -> Rows:
    """Each row with all answers and their scores; the largest gains or losses first, if asked."""
    one = service.get(db, who.workspace_id, evaluation_id)
    several = service.candidates(db, [one.id])[one.id]
    found, more, _ = rows.page(
        db,
        one,
        several,
        scorer=scorer,
        candidate=candidate,
        order=order,
        label=label,
        offset=offset,
        limit=limit,
    )
    return Rows(data=[view.row_out(request, each, several) for each in found], has_more=more)


@router.get(f"{BASE}/{{evaluation_id}}/leaderboard", name="api:evaluations:leaderboard")
def get_leaderboard(evaluation_id: str, who: Reader, db: Db) -> Standings:
    """All that was evaluated on the same rows by the same scorers."""
    one = service.get(db, who.workspace_id, evaluation_id)
    return Standings.model_validate(
        {
            "data": boards.leaderboard(db, one),
            "history": boards.history(db, who.workspace_id, one),
        }
    )


@router.get(
    f"{BASE}/{{evaluation_id}}/export",
    name="api:evaluations:export",
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def get_export(
    evaluation_id: str,
    who: Reader,
    format: Literal["csv", "json"] = "json",  # noqa: A002
) -> StreamingResponse:
    """All rows with answers and scores, as CSV or as one JSON document with the figures."""
    with transaction() as db:
        one = service.get(db, who.workspace_id, evaluation_id)
        several = service.candidates(db, [one.id])[one.id]
    return export.response(one, several, format)


@router.post(f"{BASE}/{{evaluation_id}}/dataset", status_code=201, name="api:evaluations:dataset")
def make_dataset(evaluation_id: str, body: DatasetFrom, who: Maker) -> RowsTaken:
    """A draft dataset of some of its rows, to be corrected and learned from."""
    made = sending.make(who, evaluation_id, body.rows)
    return RowsTaken(id=made.dataset_id, version=made.id, rows=made.rows)


@router.post(f"{BASE}/{{evaluation_id}}/cancel", name="api:evaluations:cancel")
def cancel_evaluation(request: Request, evaluation_id: str, who: Writer, db: Db) -> EvaluationOut:
    """Stop for good. What was answered by then is kept and scored."""
    return view.out(request, db, [service.cancel(db, who.workspace_id, evaluation_id)])[0]


@router.post(f"{BASE}/{{evaluation_id}}/pause", name="api:evaluations:pause")
def pause_evaluation(request: Request, evaluation_id: str, who: Writer, db: Db) -> EvaluationOut:
    """Stop for now: engines that were started for it go."""
    return view.out(request, db, [service.pause(db, who.workspace_id, evaluation_id)])[0]


@router.post(f"{BASE}/{{evaluation_id}}/resume", name="api:evaluations:resume")
def resume_evaluation(request: Request, evaluation_id: str, who: Writer, db: Db) -> EvaluationOut:
    """Go on with the rows that have no answer yet."""
    return view.out(request, db, [service.resume(db, who.workspace_id, evaluation_id)])[0]


@router.delete(f"{BASE}/{{evaluation_id}}", status_code=204, name="api:evaluations:delete")
def delete_evaluation(evaluation_id: str, who: Writer, db: Db) -> Response:
    """Remove it with all answers, once it is over."""
    service.delete(db, who.workspace_id, evaluation_id)
    return Response(status_code=204)
