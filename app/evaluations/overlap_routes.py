"""Of pages: evaluated rows that stand in training data. Each piece asks for itself until it knows."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from app.accounts.auth import Principal, requires
from app.datasets import service as datasets
from app.errors import DomainError
from app.evaluations import forms, overlaps, service
from app.evaluations.schemas import CandidateIn, Settings
from app.jobs.schemas import more_of
from app.queue import transaction
from app.web import render, sentence

router = APIRouter(prefix="/evaluations/overlaps", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
PAGE = 20


@router.get("/chosen", name="evaluations:overlaps_chosen")
def chosen(request: Request, who: Reader) -> Response:
    """Of the form of an evaluation, as it is filled in just now."""
    values = {name: value for name, value in request.query_params.items() if value}
    return piece(request, who, values, "evaluations:overlaps_chosen", "#evaluation-form")


@router.get("/job", name="evaluations:overlaps_job")
def job(request: Request, who: Reader) -> Response:
    """Of the form of a tuning job: what it learns from, and what it is evaluated on."""
    values = {name: value for name, value in request.query_params.items() if value}
    return piece(request, who, values, "evaluations:overlaps_job", "#job-form")


@router.get("/of/{evaluation_id}", name="evaluations:overlaps")
def of(request: Request, evaluation_id: str, who: Reader, offset: Offset = 0) -> Response:
    """Of an evaluation, on its page."""
    with transaction() as db:
        one = service.get(db, who.workspace_id, evaluation_id)
        key = overlaps.of_evaluation(db, one)
    return show(request, key, "evaluations:overlaps", "", offset, evaluation_id=one.id)


def piece(
    request: Request, who: Principal, values: Mapping[str, Any], route: str, form: str
) -> Response:
    if not (
        "evaluate" in values or any(values.get(f"candidate.{at}") for at in range(forms.SHOWN))
    ):
        return render(request, "evaluations/overlaps.html", found=None, told="")
    try:
        asked = of_job(who, values) if "evaluate" in values else of_form(who, values)
    except (DomainError, ValidationError) as error:
        told = sentence(request, error) if isinstance(error, DomainError) else ""
        return render(request, "evaluations/overlaps.html", found=None, told=told)
    return show(request, asked, route, form, 0)


def of_form(who: Principal, values: Mapping[str, Any]) -> overlaps.Key | None:
    body = forms.body_of(values)
    settings = Settings.model_validate(body["settings"])
    several = [CandidateIn.model_validate(one) for one in body["candidates"]]
    with transaction() as db:
        sources = overlaps.candidates_learnt(db, who.workspace_id, several)
        return overlaps.key(db, who.workspace_id, body["dataset"], settings, sources)


def of_job(who: Principal, values: Mapping[str, Any]) -> overlaps.Key | None:
    settings = Settings.model_validate({"limit": values.get("evaluate_limit")})
    names = ["dataset", *(f"more-{number}" for number in more_of(dict(values)))]
    wanted = [str(values[name]) for name in names if values.get(name)]
    with transaction() as db:
        sources = [datasets.published(db, who.workspace_id, one).id for one in wanted]
        if model := values.get("model"):
            start = CandidateIn(kind="model", target=str(model))
            if "/checkpoint-" in start.target:
                start.kind = "checkpoint"
            sources += overlaps.candidates_learnt(db, who.workspace_id, [start])
        evaluated = str(values["evaluate"])
        return overlaps.key(db, who.workspace_id, evaluated, settings, sources)


def show(
    request: Request,
    key: overlaps.Key | None,
    route: str,
    form: str,
    offset: int,
    **params: str,
) -> Response:
    found = overlaps.look(key)
    hits = found.hits[offset : offset + PAGE]
    return render(
        request,
        "evaluations/overlaps.html",
        found=found,
        told=sentence(request, found.error) if found.error else "",
        compared=len(key.sources) if key else 0,
        rows=overlaps.shown(key, hits) if key else [],
        route=route,
        params=params,
        form=form,
        offset=offset,
        size=PAGE,
    )
