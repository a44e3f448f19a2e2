"""The pages of jobs: the list, the form, a job and its live parts."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field, ValidationError

from app.accounts.auth import Principal, requires
from app.cluster import labels
from app.cluster import service as cluster
from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion
from app.errors import DomainError
from app.jobs import (
    evaluating,
    forecast,
    history,
    leaks,
    methods,
    priorities,
    reporters,
    service,
    starts,
    stream,
    view,
    webhook,
)
from app.jobs.data import ALSO, ROWS, Data, form_values
from app.jobs.schemas import AUTO, DATASETS, NAME, JobForm, more_of
from app.jobs.states import FINAL, MOVES
from app.models import service as models
from app.queue import Db, transaction
from app.web import Parsed, parsed, redirect, render, sentence

router = APIRouter(prefix="/jobs", include_in_schema=False)
PAGE = 50
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "jobs:write")]
State = Annotated[str, Query(max_length=20)]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]


class MergeForm(BaseModel):
    model: str
    name: str | None = Field(None, max_length=NAME)


# -- the list ----------------------------------------------------------------------------


@router.get("", name="jobs:list")
def list_jobs(
    request: Request, who: Reader, db: Db, state: State = "", offset: Offset = 0
) -> Response:
    return listing(request, who, db, state, offset)


@router.get("/rows", name="jobs:rows")
def rows(request: Request, who: Reader, db: Db, state: State = "", offset: Offset = 0) -> Response:
    """The table of the list alone; it asks for itself while something runs."""
    return listing(request, who, db, state, offset, block="rows")


def listing(
    request: Request, who: Principal, db: Db, state: str, offset: int, block: str | None = None
) -> Response:
    state = state if state in MOVES else ""
    found, more = service.list_jobs(
        db, who.workspace_id, state=state or None, offset=offset, limit=PAGE
    )
    context: dict[str, Any] = {
        "rows": view.rows(db, found),
        "more": more,
        "state": state,
        "states": list(MOVES),
        "offset": offset,
        "size": PAGE,
    }
    return render(request, "jobs/list.html", block=block, **context)


@router.get("/using/{version_id}", name="jobs:using")
def using(request: Request, version_id: str, who: Reader, db: Db) -> Response:
    """The jobs that read a dataset version, for the dataset's page."""
    rows, more = view.using(db, who.workspace_id, version_id)
    return render(request, "jobs/using.html", rows=rows, more=more)


# -- the form ----------------------------------------------------------------------------


@router.get("/new", name="jobs:new")
def new(
    request: Request, who: Writer, db: Db, model: str = "", dataset: str = "", again: str = ""
) -> Response:
    values: dict[str, Any] = {"validation": AUTO} | dict(request.query_params)
    values |= {"model": model, "dataset": dataset}
    if again:
        settings = service.settings_of(service.get(db, who.workspace_id, again))
        values = form_values(settings) | settings["hyperparameters"] | {"name": ""}
        values |= labels.to_form(values.pop("labels", {}))
        values |= evaluating.form_values(settings.get("evaluation"))
    return form_page(request, who, db, values)


@router.post("", name="jobs:create")
def create(
    request: Request, form: Annotated[Parsed[JobForm], parsed(JobForm)], who: Writer, db: Db
) -> Response:
    if form.data:
        try:
            job = service.create(db, who, form.data.job())
            return redirect(request, "jobs:detail", job_id=job.id)
        except DomainError as error:
            db.rollback()
            field = (error.field or "").removeprefix("hyperparameters.")
            error.field = evaluating.field_of(field) or None
            form.refuse(error)
    return form_page(request, who, db, dict(form.values), form)


def form_page(
    request: Request,
    who: Principal,
    db: Db,
    values: dict[str, Any],
    form: Parsed[JobForm] | None = None,
) -> Response:
    choices = models.visible(db, who.workspace_id)
    published = datasets.list_published(db, who.workspace_id)
    for version in published:
        if values.get("dataset") == version.dataset_id:
            values["dataset"] = version.id
    for model in choices:
        if values.get("model") == model.name:
            values["model"] = model.id
    stages = methods.offered(service.kinds(db) or methods.EVERYWHERE)
    stage = str(values.get("stage") or stage_for(published, values.get("dataset")))
    stage = stage if stage in stages else next(iter(stages))
    method = str(values.get("method"))
    method = method if method in stages[stage] else stages[stage][0]
    data = [version for version in published if version.kind in kinds_of(stage)]
    values |= {"stage": stage, "method": method}
    if form is None and values.get("dataset") not in {version.id for version in data}:
        values["dataset"] = ""  # of another stage
    return render(
        request,
        "jobs/new.html",
        status=422 if form else 200,
        form=form,
        values=values,
        models=choices,
        checkpoints=starts.offered(db, who.workspace_id),
        datasets=data,
        more=mix_lines(values),
        stages={name: (methods.STAGES[name], methods.ABOUT_STAGE[name]) for name in stages},
        methods={
            name: (methods.METHODS[name], methods.ABOUT_METHOD[name]) for name in stages[stage]
        },
        rows=ROWS[methods.KINDS[stage]],
        fields=view.form_fields(stage, method),
        basic=view.BASIC,
        most_devices=service.most_devices(db),
        device_models=cluster.models(db),
        priorities=priorities.allowed(db, who),
        labels=labels.offered(db),
        shares=methods.shares(stage, method),
        titles=view.FIGURES,
        reporters=reporters.offered(db, who),
        asking=[version for version in published if version.kind in evaluating.KINDS],
        scorers=evaluating.SCORERS,
        **guess(request, db, who, values),
    )


def kinds_of(stage: str) -> set[str]:
    """The kinds of rows that a stage can learn from."""
    return {kind for name, kind in {*methods.KINDS.items(), *ALSO} if name == stage}


def stage_for(published: list[DatasetVersion], chosen: Any) -> str:
    """What a chosen dataset is for; conversations, if none is."""
    kind = next((version.kind for version in published if version.id == chosen), "sft")
    return next(stage for stage, wanted in methods.KINDS.items() if wanted == kind)


def mix_lines(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The further datasets of the mix, as they were typed, numbered from 1."""
    numbers: list[int | None] = [*more_of(values), *([None] if "add" in values else [])]
    return [
        {
            "number": place,
            "dataset": values.get(f"more-{number}", ""),
            "amount": values.get(f"amount-{number}", "" if number else 1),
            "by": values.get(f"by-{number}", "multiplier"),
        }
        for place, number in enumerate(numbers, start=1)
    ]


@router.get("/new/dataset", name="jobs:mix_line")
def mix_line(request: Request, who: Writer, db: Db) -> Response:
    """A line for one more dataset; the form as it is says which number is free."""
    taken = more_of(dict.fromkeys(request.query_params, "taken"))
    row = {"number": max(taken, default=0) + 1, "dataset": "", "amount": 1, "by": "multiplier"}
    if len(taken) >= DATASETS - 1:
        return Response(status_code=204)
    kinds = kinds_of(request.query_params.get("stage", "sft"))
    published = datasets.list_published(db, who.workspace_id)
    data = [version for version in published if version.kind in kinds]
    return render(request, "jobs/mix_line.html", row=row, datasets=data)


@router.get("/estimate", name="jobs:estimate")
def estimate(request: Request, who: Writer, db: Db) -> Response:
    """The panel beside the form, for what is in the form just now."""
    return render(
        request,
        "jobs/estimate.html",
        titles=view.FIGURES,
        **guess(request, db, who, dict(request.query_params)),
    )


def typed(values: Mapping[str, Any]) -> JobForm | None:
    """None while the form is not complete or not right."""
    kept = {name: value for name, value in values.items() if value not in ("", None)}
    kept.pop("add", None)
    try:
        return JobForm.model_validate(kept)
    except ValidationError:
        return None


def guess(request: Request, db: Db, who: Principal, values: dict[str, Any]) -> dict[str, Any]:
    """{preview, forecast, problem} for the panel; empty while the form is not complete."""
    nothing: dict[str, Any] = {"preview": None, "forecast": None, "problem": ""}
    form = typed(values)
    if form is None:
        return nothing
    try:
        body = form.job()
        model = starts.find(db, who.workspace_id, body.model).model
        chosen = service.choose_data(db, who.workspace_id, body)
        found = forecast.of(db, who.workspace_id, model, chosen, body)
    except DomainError as error:
        return nothing | {"problem": sentence(request, error)}
    problem = sentence(request, found.refusal) if found.refusal else ""
    return {"preview": found.preview, "forecast": found, "problem": problem}


def chosen_now(who: Principal, form: JobForm) -> Data | None:
    """None if that is no longer to be had."""
    with transaction() as db:
        try:
            return service.choose_data(db, who.workspace_id, form.job())
        except DomainError:
            return None


@router.get("/leaks", name="jobs:leaks")
def look_for_leaks(request: Request, who: Writer) -> Response:
    """Whether validation rows are in the training data too; asks for itself until that is known."""
    form = typed(request.query_params)
    chosen = form and chosen_now(who, form)
    found = leaks.look(chosen, form.seed) if form and chosen else None
    return render(
        request,
        "jobs/leaks.html",
        found=found,
        dropping=bool(form and form.drop_leaks),
        problem=sentence(request, found.error) if found and found.error else "",
    )


@router.post("/merge", name="jobs:merge")
def merge(
    request: Request, form: Annotated[Parsed[MergeForm], parsed(MergeForm)], who: Writer, db: Db
) -> Response:
    """From a model's page: `model` is the adapter."""
    job = service.create_merge(
        db,
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        adapter_id=form.data.model if form.data else "",
        name=form.data.name if form.data else None,
    )
    return redirect(request, "jobs:detail", job_id=job.id)


# -- a job -------------------------------------------------------------------------------


@router.get("/{job_id}", name="jobs:detail")
def detail(request: Request, job_id: str, who: Reader, db: Db, tab: str = "charts") -> Response:
    job = service.get(db, who.workspace_id, job_id)
    context = view.detail(db, job, stream.speaker(request))
    context["priorities"] = priorities.allowed(db, who) if who.may("member") else []
    context["hook_key"] = webhook.key(db, job.workspace_id) if who.may("member") else ""
    return render(request, "jobs/detail.html", tab=tab, **context)


@router.get("/{job_id}/live", name="jobs:live")
def live(request: Request, job_id: str, who: Reader, db: Db) -> Response:
    """The card with the state, again after each change of it."""
    job = service.get(db, who.workspace_id, job_id)
    context = view.live(db, job, stream.speaker(request))
    context["priorities"] = priorities.allowed(db, who) if who.may("member") else []
    return render(request, "jobs/detail.html", block="live", tab="charts", **context)


@router.get("/{job_id}/stream", name="jobs:stream")
def follow(
    request: Request,
    job_id: str,
    who: Reader,
    db: Db,
    after: str = "",
    last_event_id: Annotated[str, Header()] = "",
) -> StreamingResponse:
    """The job's events; `after` is the cursor of the page, before there is a last event."""
    job = service.get(db, who.workspace_id, job_id)
    return stream.response(job.id, last_event_id or after, stream.speaker(request))


@router.get("/{job_id}/log", name="jobs:log")
def download_log(job_id: str, who: Reader, db: Db) -> StreamingResponse:
    """All of the log, to keep."""
    job = service.get(db, who.workspace_id, job_id)
    return StreamingResponse(
        whole_log(job.id, final=job.state in FINAL),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{job.id}.log"'},
    )


def whole_log(job_id: str, *, final: bool) -> Iterator[str]:
    place, more = (0, 0), True
    while more:
        with transaction() as db:
            piece = history.log_after(db, job_id, *place, final=final)
        yield piece.text
        place, more = (piece.fence, piece.offset), piece.more


@router.get("/{job_id}/script", name="jobs:script")
def script(job_id: str, who: Reader, db: Db) -> Response:
    """The job's settings as a shell script that starts it again."""
    job = service.get(db, who.workspace_id, job_id)
    headers = {"Content-Disposition": f'attachment; filename="{job.id}.sh"'}
    return PlainTextResponse(view.script(job), headers=headers)


@router.post("/{job_id}/cancel", name="jobs:cancel")
def cancel(request: Request, job_id: str, who: Writer, db: Db) -> Response:
    service.cancel(db, who.workspace_id, job_id)
    return redirect(request, "jobs:detail", job_id=job_id)


@router.post("/{job_id}/pause", name="jobs:pause")
def pause(request: Request, job_id: str, who: Writer, db: Db) -> Response:
    service.pause(db, who.workspace_id, job_id)
    return redirect(request, "jobs:detail", job_id=job_id)


@router.post("/{job_id}/resume", name="jobs:resume")
def resume(request: Request, job_id: str, who: Writer, db: Db) -> Response:
    service.resume(db, who.workspace_id, job_id)
    return redirect(request, "jobs:detail", job_id=job_id)
