"""Of pages: the evaluation on a job's page, and the form that lets a candidate serve."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from app.accounts.auth import Principal, requires
from app.deployments import aliases
from app.deployments import service as deployments
from app.errors import DomainError
from app.evaluations import promoting, service, tuning, view
from app.evaluations.states import OPEN
from app.evaluations.tuning_schemas import PromotionCreate
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/evaluations", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "deployments:write")]


@router.get("/of-job/{job_id}", name="evaluations:of_job")
def of_job(request: Request, job_id: str, who: Reader, db: Db) -> Response:
    """A part of the job's page; it asks for itself while something goes on."""
    found = tuning.of_job(db, who.workspace_id, job_id)
    one, promotion = found["evaluation"], found["promotion"]
    moves = one is not None and one.state in OPEN
    moves = moves or (promotion is not None and promotion.state in ("waiting", "starting"))
    return render(
        request,
        "evaluations/of_job.html",
        **found,
        moves=moves or (one is None and not found["job"].evaluated),
        progress=view.progress(one, found["candidates"]) if one else (0, 0),
    )


@router.get("/{evaluation_id}/promotions", name="evaluations:promotions")
def promotions(request: Request, evaluation_id: str, who: Reader, db: Db) -> Response:
    """A part of the evaluation's page."""
    return show(request, who, db, evaluation_id)


@router.post("/{evaluation_id}/promotions", name="evaluations:promote")
def promote(
    request: Request,
    evaluation_id: str,
    form: Annotated[Parsed[PromotionCreate], parsed(PromotionCreate)],
    who: Writer,
    db: Db,
) -> Response:
    if form.data:
        try:
            promoting.promote(
                db, who, evaluation_id, form.data.candidate, form.data.name, form.data.needs
            )
            return redirect(request, "evaluations:detail", evaluation_id=evaluation_id)
        except DomainError as error:
            db.rollback()
            form.refuse(error)
    return show(request, who, db, evaluation_id, form)


def show(
    request: Request, who: Principal, db: Db, evaluation_id: str, form: Parsed[Any] | None = None
) -> Response:
    one = service.get(db, who.workspace_id, evaluation_id)
    names = {each.name for each in deployments.names(db, who.workspace_id) if not each.embeds}
    names |= {each.name for each in aliases.listed(db, who.workspace_id)}
    return render(
        request,
        "evaluations/promotions.html",
        status=422 if form else 200,
        block=None if form else "promotions",
        one=one,
        candidates=[each for each in service.candidates(db, [one.id])[one.id] if each.model_id],
        promotions=promoting.of(db, one.id),
        names=sorted(name for name in names if not name.startswith("eval-")),
        form=form,
    )
