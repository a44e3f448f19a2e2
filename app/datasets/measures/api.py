"""Statistics of a version, and the tokens of its rows, as JSON."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from app.accounts.auth import Principal, requires
from app.datasets import service
from app.datasets.drafts import overlay
from app.datasets.measures import service as measures
from app.datasets.measures import statistics, tokens
from app.datasets.measures.service import BROKEN, DONE
from app.datasets.measures.statistics import LONGEST
from app.datasets.schemas import Failure
from app.datasets.tables import DatasetMeasure, DatasetVersion
from app.errors import N_, Conflict, Unavailable
from app.models.tables import Model
from app.queue import Db, transaction
from app.web import said, translate

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Writer = Annotated[Principal, requires("member", "datasets:write")]


class Measure(BaseModel):
    """Which version is to be measured, in the tokens of which model."""

    version: str = Field("", description="A number or an id; the newest if left out")
    model: str = Field("", description="An id or a name; the starter model if left out")


class Statistics(BaseModel):
    """What the rows of a version are to a model."""

    version: int
    version_id: str
    model: str = Field(description="The id of the model whose tokens are counted")
    model_name: str
    state: str = Field(description="queued, running, done or failed")
    progress: float = Field(description="0 to 1")
    error: Failure | None = Field(description="Why the state is failed; POST tries again")
    figures: dict[str, Any] | None = Field(
        description="Once done: rows, tokens, trained, average, percentiles, max, bins of the"
        " length histogram, max_lengths (what each would truncate), untrained (rows without a"
        " trained token), turns, roles, languages, labels, duplicates, longest"
    )
    cut: dict[str, int] | None = Field(description="What `max_length` would do, where it was asked")


class TokenOut(BaseModel):
    """A token of a row."""

    id: int
    token: str = Field(description="As the vocabulary spells it")
    text: str | None = Field(description="Null for the rest of a character of several tokens")
    trained: bool
    special: bool


class TokenPage(BaseModel):
    """A row as a model sees it."""

    model: str
    parts: list[str] = Field(
        description="The texts that the row is trained as; chosen and rejected of a preference"
    )
    part: int = Field(description="Which of them this is, from 0")
    refused: str = Field(description="Why nothing of the row is trained; empty if something is")
    message: str = Field(description="The same for people")
    total: int = Field(description="Tokens of the whole text")
    trained: int = Field(description="Tokens of the whole text that carry loss")
    kept: int = Field(description="Tokens up to `max_length`")
    kept_trained: int
    offset: int
    data: list[TokenOut]
    has_more: bool


@router.get(
    "/{dataset_id}/statistics",
    responses={202: {"model": Statistics, "description": "Still measuring"}},
)
def show(
    request: Request,
    response: Response,
    dataset_id: str,
    who: Reader,
    db: Db,
    version: str = "",
    model: str = "",
    max_length: Annotated[int | None, Query(ge=2, le=LONGEST)] = None,
) -> Statistics:
    """What a version's rows are to a model. 202 while it is measured, 409 before that."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    chosen = statistics.model_of(db, who.workspace_id, model)
    one = measures.find(db, found, chosen)
    if one is None:
        raise Conflict(
            N_("This version has not been measured with this model. POST here to start."),
            code="not_measured",
        )
    return out(request, response, one, found, chosen, max_length)


@router.post(
    "/{dataset_id}/statistics",
    status_code=202,
    responses={200: {"model": Statistics, "description": "Measured before"}},
)
def measure(
    request: Request,
    response: Response,
    dataset_id: str,
    who: Writer,
    db: Db,
    body: Measure | None = None,
) -> Statistics:
    """Measure a version in the tokens of a model, unless that was done before."""
    asked = body or Measure()
    found = service.version(db, who.workspace_id, dataset_id, asked.version)
    chosen = statistics.model_of(db, who.workspace_id, asked.model)
    return out(request, response, measures.ask(db, found, chosen), found, chosen, None)


def out(
    request: Request,
    response: Response,
    one: DatasetMeasure,
    version: DatasetVersion,
    model: Model,
    max_length: int | None,
) -> Statistics:
    done = one.state == DONE
    response.status_code = 200 if one.state in (DONE, BROKEN) else 202
    failure = one.error and Failure(code=one.error["code"], message=said(request, one.error))
    return Statistics(
        version=version.number,
        version_id=version.id,
        model=model.id,
        model_name=model.name,
        state=one.state,
        progress=one.progress,
        error=failure or None,
        figures=statistics.figures(one) if done else None,
        cut=vars(statistics.cut(one, max_length)) if done and max_length else None,
    )


@router.get("/{dataset_id}/rows/{number}/tokens")
def row_tokens(
    request: Request,
    dataset_id: str,
    number: int,
    who: Reader,
    version: str = "",
    model: str = "",
    max_length: Annotated[int, Query(ge=0, le=LONGEST)] = 0,
    part: Annotated[int, Query(ge=0, le=1000)] = 0,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = tokens.PAGE,
) -> TokenPage:
    """The row as the model sees it: its tokens, and which of them are trained."""
    with transaction() as db:
        found = service.version(db, who.workspace_id, dataset_id, version)
        chosen = statistics.model_of(db, who.workspace_id, model)
    row = overlay.row(found, number)
    try:
        directory = measures.words_of(chosen.artefact)
    except OSError as error:
        raise Unavailable(
            N_("The model's files cannot be read from the store."), code="artefact_missing"
        ) from error
    look = tokens.look(
        directory, row, found.kind, max_length=max_length, part=part, offset=offset, limit=limit
    )
    why = tokens.REFUSALS.get(look.refused, "")
    return TokenPage(
        model=chosen.id,
        parts=look.parts,
        part=look.part,
        refused=look.refused,
        message=translate(request, why, reason=look.reason) if why else "",
        total=look.total,
        trained=look.trained,
        kept=look.kept,
        kept_trained=look.kept_trained,
        offset=look.offset,
        data=[TokenOut(**vars(one)) for one in look.tokens],
        has_more=look.next_offset is not None,
    )
