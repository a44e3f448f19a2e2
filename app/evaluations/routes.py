"""The pages of evaluations: the list, the form, the answer, and its rows."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Form as FormField
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, requires
from app.errors import DomainError
from app.evaluations import forms, sending, service, view
from app.evaluations.states import FINAL, OPEN
from app.queue import Db, transaction
from app.web import Parsed, parsed, redirect, render, sentence

router = APIRouter(prefix="/evaluations", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "jobs:write")]
Maker = Annotated[Principal, requires("member", "datasets:write")]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
PAGE = 50
ROWS = 20


class Typed(BaseModel):
    """A form as it was typed: `forms.read` makes sense of it."""

    model_config = ConfigDict(extra="allow")


class Sorted(BaseModel):
    """How the rows of an evaluation are chosen on its page."""

    order: str = Field("", max_length=10)
    scorer: str = Field("", max_length=40)
    candidate: str = Field("", max_length=40)
    label: str = Field("", max_length=200)
    length: str = Field("", max_length=20)
    said: str = Field("", max_length=200)
    offset: int = Field(0, ge=0, le=1_000_000)


Form = Annotated[Parsed[Any], parsed(Typed)]


@router.get("", name="evaluations:list")
def list_evaluations(
    request: Request, who: Reader, db: Db, q: str = "", model: str = "", offset: Offset = 0
) -> Response:
    return listing(request, who, db, q, model, offset)


@router.get("/table", name="evaluations:table")
def table(
    request: Request, who: Reader, db: Db, q: str = "", model: str = "", offset: Offset = 0
) -> Response:
    """The table alone; it asks for itself while something moves."""
    return listing(request, who, db, q, model, offset, block="table")


def listing(
    request: Request,
    who: Principal,
    db: Db,
    q: str,
    model: str,
    offset: int,
    block: str | None = None,
) -> Response:
    found, more = service.list_evaluations(
        db, who.workspace_id, q=q[:200].strip(), model_id=model, offset=offset, limit=PAGE
    )
    several = service.candidates(db, [one.id for one in found])
    shown = [
        {
            "one": one,
            "candidates": several[one.id],
            "progress": view.progress(one, several[one.id]),
            "verdicts": view.verdicts(one, several[one.id]),
        }
        for one in found
    ]
    return render(
        request,
        "evaluations/list.html",
        block=block,
        shown=shown,
        moving=any(one.state in OPEN for one in found),
        more=more,
        q=q,
        model=model,
        offset=offset,
        size=PAGE,
    )


@router.get("/new", name="evaluations:new")
def new(
    request: Request, who: Writer, db: Db, dataset: str = "", model: str = "", compare: str = ""
) -> Response:
    """`model` (kind:target) is evaluated, beside `compare`."""
    chosen = [one for one in (compare, model) if one]
    return form_page(request, who, db, None, dataset, chosen)


def form_page(
    request: Request,
    who: Principal,
    db: Session,
    form: Parsed[Any] | None,
    dataset: str = "",
    chosen: list[str] | None = None,
) -> Response:
    return render(
        request,
        "evaluations/new.html",
        status=422 if form else 200,
        form=form,
        dataset=dataset,
        chosen=chosen or [],
        **forms.offered(db, who),
    )


@router.post("", name="evaluations:create")
def create(request: Request, who: Writer, form: Form) -> Response:
    if body := forms.read(form):
        try:
            made = service.create(who, body)
            return redirect(request, "evaluations:detail", evaluation_id=made.id)
        except DomainError as error:
            error.field = forms.field_of(error.field or "")
            form.refuse(error)
    with transaction() as db:
        return form_page(request, who, db, form)


@router.post("/estimate", name="evaluations:estimate")
def estimate(request: Request, who: Writer, db: Db, form: Form) -> Response:
    """What it would take, while the form is filled in."""
    found, told = None, ""
    if body := forms.read(form):
        try:
            found = service.preview(db, who, body)
        except DomainError as error:
            told = sentence(request, error)
    return render(request, "evaluations/new.html", block="estimate", estimate=found, told=told)


@router.post("/endpoint", name="evaluations:endpoint")
def try_endpoint(request: Request, who: Writer, form: Form) -> Response:
    """Does the endpoint that is typed there answer?"""
    tried, told = None, ""
    try:
        if asked := forms.endpoint(form):
            tried = view.tried(request, who, asked)
    except DomainError as error:
        told = sentence(request, error)
    told = told or next(iter(form.errors.values()), "")
    return render(request, "evaluations/new.html", block="tried", tried=tried, told=told)


@router.get("/{evaluation_id}", name="evaluations:detail")
def detail(
    request: Request, evaluation_id: str, who: Reader, db: Db, asked: Annotated[Sorted, Query()]
) -> Response:
    return answer(request, who, db, evaluation_id, asked)


@router.get("/{evaluation_id}/state", name="evaluations:state")
def state(request: Request, evaluation_id: str, who: Reader, db: Db) -> Response:
    """How far it is; the whole page again once it is over."""
    one = service.get(db, who.workspace_id, evaluation_id)
    if one.state not in OPEN:
        return redirect(request, "evaluations:detail", evaluation_id=one.id)
    return answer(request, who, db, evaluation_id, Sorted.model_validate({}), block="state")


@router.get("/{evaluation_id}/rows", name="evaluations:rows")
def some_rows(
    request: Request, evaluation_id: str, who: Reader, db: Db, asked: Annotated[Sorted, Query()]
) -> Response:
    return answer(request, who, db, evaluation_id, asked, block="rows")


def answer(
    request: Request,
    who: Principal,
    db: Db,
    evaluation_id: str,
    asked: Sorted,
    block: str | None = None,
) -> Response:
    one = service.get(db, who.workspace_id, evaluation_id)
    several = service.candidates(db, [one.id])[one.id]
    return render(
        request,
        "evaluations/detail.html",
        block=block,
        **view.page(request, db, one, several),
        **(view.rows_of(db, one, several, asked.model_dump(), ROWS) if block != "state" else {}),
        over=one.state in FINAL,
    )


@router.post("/{evaluation_id}/dataset", name="evaluations:dataset")
def dataset(
    request: Request,
    evaluation_id: str,
    who: Maker,
    numbers: Annotated[list[int], FormField(alias="rows", default_factory=list, max_length=500)],
) -> Response:
    """The ticked rows as a draft."""
    made = sending.make(who, evaluation_id, numbers)
    return redirect(request, "datasets:detail", dataset_id=made.dataset_id)


@router.post("/{evaluation_id}/{action}", name="evaluations:act")
def act(request: Request, evaluation_id: str, action: str, who: Writer, db: Db) -> Response:
    """Pause, resume, cancel or delete."""
    acts: dict[str, Any] = {
        "pause": service.pause,
        "resume": service.resume,
        "cancel": service.cancel,
        "delete": service.delete,
    }
    service.get(db, who.workspace_id, evaluation_id)
    acts.get(action, service.get)(db, who.workspace_id, evaluation_id)
    if action == "delete":
        return redirect(request, "evaluations:list")
    return redirect(request, "evaluations:detail", evaluation_id=evaluation_id)
