"""Cleaning as JSON: the operators, a preview, and the version that a pipeline makes."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.accounts.auth import Principal, requires
from app.datasets import api, schemas
from app.datasets.cleaning import run
from app.datasets.cleaning.operators import GROUPS, TABLE, Operator
from app.datasets.cleaning.pipeline import Pipeline, check, schema
from app.datasets.cleaning.preview import Example, Preview, preview
from app.datasets.drafts import overlay
from app.queue import transaction
from app.web import said, translate

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Writer = Annotated[Principal, requires("member", "datasets:write")]


class ParameterOut(BaseModel):
    """A setting of a step."""

    name: str
    label: str
    kind: str = Field(description="int, number, words, languages or model")
    minimum: float
    maximum: float
    default_zh: float | None
    default_en: float | None
    required: bool


class OperatorOut(BaseModel):
    """A step that a pipeline can have."""

    name: str
    group: str
    label: str
    description: str
    changes: str = Field(description="edit: it rewrites texts; drop: it leaves rows out")
    parameters: list[ParameterOut]


class OperatorList(BaseModel):
    """The steps that a pipeline can have."""

    data: list[OperatorOut]
    has_more: bool
    groups: dict[str, str]
    pipeline: dict[str, Any] = Field(description="JSON schema of a pipeline")


class Asked(Pipeline):
    """A pipeline, and the version that it is to clean."""

    version: str = Field("", description="A number or an id; the newest if left out")

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(language=self.language, steps=self.steps)


class PieceOut(BaseModel):
    """A piece of a text that was cleaned."""

    kind: str = Field(description="same, gone or new")
    text: str


class ExampleOut(BaseModel):
    """A row before and after cleaning."""

    row: int = Field(description="The row's number from 0")
    before: list[PieceOut]
    after: list[PieceOut] = Field(description="Empty: the row is left out")
    why: str = Field(description="Why it is left out")


class TriedOut(BaseModel):
    """What a pipeline would do."""

    operator: str
    changed: int
    dropped: int
    examples: list[ExampleOut]


class PreviewOut(BaseModel):
    """What a pipeline would do to the first rows."""

    rows: int = Field(description="Rows that were tried")
    kept: int
    changed: int = Field(description="Of those that stay")
    skipped: int = Field(description="Rows too long to be tried")
    total: int = Field(description="Rows of the version")
    complete: bool = Field(description="False: the time was up before all of the sample was tried")
    steps: list[TriedOut]


@router.get("/cleaning/operators", dependencies=[requires("viewer", "datasets:read")])
def operators(request: Request) -> OperatorList:
    """What a pipeline may be made of, with ranges and the cutoffs for Chinese and English."""
    return OperatorList(
        data=[operator_out(request, one) for one in TABLE],
        has_more=False,
        groups={name: translate(request, label) for name, label in GROUPS.items()},
        pipeline=schema(),
    )


@router.post("/{dataset_id}/cleaning/preview")
def try_out(request: Request, dataset_id: str, who: Reader, body: Asked) -> PreviewOut:
    """Try a pipeline on a sample, for a second at most. Nothing is written."""
    pipeline = check(body.pipeline)
    return preview_out(request, pipeline, tried(who, dataset_id, body.version, pipeline))


@router.post("/{dataset_id}/cleaning", status_code=201)
def clean(request: Request, dataset_id: str, who: Writer, body: Asked) -> schemas.DatasetWithErrors:
    """Make a new version. It is `importing` while it is made; what is left out is a warning."""
    return api.report(request, run.begin(who, dataset_id, body.pipeline, which=body.version))


@router.post("/{dataset_id}/cleaning/cancel")
def cancel(
    request: Request, dataset_id: str, who: Writer, version: str = ""
) -> schemas.DatasetWithErrors:
    """Stop a cleaning. What it made so far is removed."""
    return api.report(request, run.cancel(who, dataset_id, version))


def tried(who: Principal, dataset_id: str, which: str, pipeline: Pipeline) -> Preview:
    """No database session is open while rows are read."""
    with transaction() as db:
        found = run.cleanable(db, who, dataset_id, which)
        run.check_models(db, who, pipeline)
    return preview(pipeline, lambda start: overlay.lines(found, start), overlay.of(found).rows)


def operator_out(request: Request, operator: Operator) -> OperatorOut:
    return OperatorOut(
        name=operator.name,
        group=operator.group,
        label=translate(request, operator.label),
        description=translate(request, operator.what),
        changes=operator.changes,
        parameters=[
            ParameterOut(
                name=one.name,
                label=translate(request, one.label),
                kind=one.kind,
                minimum=one.low,
                maximum=one.high,
                default_zh=one.zh,
                default_en=one.en,
                required=one.required,
            )
            for one in operator.parameters
        ],
    )


def preview_out(request: Request, pipeline: Pipeline, found: Preview) -> PreviewOut:
    return PreviewOut(
        **{name: getattr(found, name) for name in PreviewOut.model_fields if name != "steps"},
        steps=[
            TriedOut(
                operator=step.operator,
                changed=one.changed,
                dropped=one.dropped,
                examples=[example_out(request, example) for example in one.examples],
            )
            for step, one in zip(pipeline.steps, found.steps, strict=True)
        ],
    )


def example_out(request: Request, example: Example) -> ExampleOut:
    return ExampleOut(
        row=example.row,
        before=[PieceOut(kind=kind, text=text) for kind, text in example.before],
        after=[PieceOut(kind=kind, text=text) for kind, text in example.after],
        why=said(request, example.why) if example.why else "",
    )
