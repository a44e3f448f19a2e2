"""The Statistics tab, what a maximum length would cut, and a row as a model sees it."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, requires
from app.datasets import routes, service
from app.datasets.drafts import overlay
from app.datasets.measures import service as measures
from app.datasets.measures import statistics, tokens
from app.datasets.measures.statistics import DEFAULT_LENGTH, LONGEST
from app.datasets.tables import DatasetVersion
from app.errors import DomainError, NotFound
from app.models.tables import Model
from app.queue import Db, transaction
from app.web import is_htmx, redirect, render, sentence

router = APIRouter(prefix="/datasets", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Writer = Annotated[Principal, requires("member", "datasets:write")]
Length = Annotated[int, Query(ge=1, le=10**9)]


# -- the tab -----------------------------------------------------------------------------


@router.get("/{dataset_id}/statistics", name="datasets:statistics")
def page(
    request: Request,
    dataset_id: str,
    who: Reader,
    db: Db,
    version: str = "",
    model: str = "",
    max_length: Length = DEFAULT_LENGTH,
) -> Response:
    found = service.version(db, who.workspace_id, dataset_id, version)
    return shown(request, db, who, found, version, model, max_length)


@router.get("/{dataset_id}/statistics/panel", name="datasets:statistics_panel")
def panel(
    request: Request,
    dataset_id: str,
    who: Reader,
    db: Db,
    version: str = "",
    model: str = "",
    max_length: Length = DEFAULT_LENGTH,
) -> Response:
    """The moving part of the tab."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    return shown(request, db, who, found, version, model, max_length, block="panel")


@router.post("/{dataset_id}/statistics", name="datasets:measure")
def measure(
    request: Request,
    dataset_id: str,
    who: Writer,
    db: Db,
    version: Annotated[str, Form()] = "",
    model: Annotated[str, Form()] = "",
) -> Response:
    found = service.version(db, who.workspace_id, dataset_id, version)
    chosen = statistics.model_of(db, who.workspace_id, model)
    measures.ask(db, found, chosen)
    if not is_htmx(request):
        path = request.app.url_path_for("datasets:statistics", dataset_id=dataset_id)
        return redirect(request, f"{path}?version={found.number}&model={chosen.id}")
    return shown(request, db, who, found, version, chosen.id, DEFAULT_LENGTH, block="panel")


@router.get("/{dataset_id}/statistics/lengths", name="datasets:statistics_lengths")
def lengths(
    request: Request,
    dataset_id: str,
    who: Reader,
    db: Db,
    version: str = "",
    model: str = "",
    max_length: Length = DEFAULT_LENGTH,
) -> Response:
    """What a maximum length would cut: for this tab, and for the Validation tab."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    return shown(request, db, who, found, version, model, max_length, block="lengths")


def shown(
    request: Request,
    db: Session,
    who: Principal,
    found: DatasetVersion,
    version: str,
    model: str,
    max_length: int,
    block: str | None = None,
) -> Response:
    """The tab, or a block of it. `version` is how the dataset's version was asked for."""
    context = tab(request, db, who, found, model, max_length, charts=block != "lengths")
    return routes.show(
        request,
        "datasets/statistics.html",
        found,
        block=block,
        asked={"version": version},
        **context,
    )


def tab(
    request: Request,
    db: Session,
    who: Principal,
    version: DatasetVersion,
    wanted: str,
    max_length: int,
    *,
    charts: bool,
) -> dict[str, Any]:
    """What the blocks of the tab show; without any base model, only that."""
    max_length = min(max(2, max_length), LONGEST)
    context: dict[str, Any] = {
        "bases": measures.bases(db, who.workspace_id),
        "model": None,
        "measure": None,
        "figures": None,
        "cut": None,
        "late": [],
        "max_length": max_length,
        "trouble": "",
        "automatic": statistics.automatic(version),
        "untrained": statistics.UNTRAINED,
        "shown_rows": statistics.SHOWN_ROWS,
    }
    if not (wanted or context["bases"]):
        return context
    context["model"] = model = statistics.model_of(db, who.workspace_id, wanted)
    try:
        found = measures.find(db, version, model)
    except DomainError as error:  # the model's files are away
        return context | {"trouble": sentence(request, error)}
    context["measure"] = found
    if found and found.result is not None:
        context["figures"] = statistics.figures(found) if charts else found.result
        context["cut"] = statistics.cut(found, max_length)
        context["late"] = statistics.late_rows(found, max_length)
    return context


# -- a row as the model sees it ------------------------------------------------------------


@router.get("/{dataset_id}/rows/{number}/tokens", name="datasets:tokens")
def row_tokens(
    request: Request,
    dataset_id: str,
    number: int,
    who: Reader,
    version: str = "",
    model: str = "",
    max_length: Annotated[int, Query(ge=0, le=10**9)] = 0,
    part: Annotated[int, Query(ge=0, le=1000)] = 0,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Response:
    """A fragment, which shows the trouble that a template makes; by itself, the page with it."""
    with transaction() as db:
        found = service.version(db, who.workspace_id, dataset_id, version)
        bases = measures.bases(db, who.workspace_id)
        chosen = model_or_none(db, who, model)
    row = overlay.row(found, number)
    if not is_htmx(request):
        path = request.app.url_path_for("datasets:row", dataset_id=dataset_id, number=str(number))
        return redirect(request, f"{path}?{urlencode({'version': version, 'view': 'tokens'})}")
    context: dict[str, Any] = {"look": None, "trouble": "", "refusals": tokens.REFUSALS}
    if chosen is not None:
        try:
            context["look"] = tokens.look(
                measures.words_of(chosen.artefact),
                row,
                found.kind,
                max_length=max_length,
                part=part,
                offset=offset,
            )
        except (DomainError, OSError) as error:
            known = error if isinstance(error, DomainError) else NotFound()
            context["trouble"] = sentence(request, known)
    return render(
        request,
        "datasets/tokens.html",
        version=found,
        number=number,
        bases=bases,
        model=chosen,
        asked={"version": version, "max_length": max_length},
        **context,
    )


def model_or_none(db: Session, who: Principal, wanted: str) -> Model | None:
    """None where the workspace has no base model and none was named."""
    if not wanted and not measures.bases(db, who.workspace_id):
        return None
    return statistics.model_of(db, who.workspace_id, wanted)
