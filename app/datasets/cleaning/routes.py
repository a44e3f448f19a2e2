"""The Cleaning tab: choose operators and their order, see what they would do, run them."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import ValidationError

from app.accounts.auth import Principal, requires
from app.datasets import routes, service
from app.datasets.cleaning import api as cleaning_api
from app.datasets.cleaning import run
from app.datasets.cleaning.operators import GROUPS, OPERATORS, TABLE
from app.datasets.cleaning.pipeline import MOST_STEPS, Pipeline, Step, check
from app.datasets.tables import DatasetVersion
from app.errors import N_, DomainError, Invalid
from app.models import service as models
from app.queue import transaction
from app.web import is_htmx, redirect, render, sentence

router = APIRouter(prefix="/datasets", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Writer = Annotated[Principal, requires("member", "datasets:write")]

EARLIER = 5  # cleanings of the dataset whose pipelines are offered


@dataclass
class Choice:
    """The form as it is filled in: every operator in its place, those that are chosen, values."""

    version: str = ""
    language: str = "auto"
    order: list[str] = field(default_factory=lambda: list(OPERATORS))
    on: set[str] = field(default_factory=lambda: {one.name for one in TABLE if one.chosen})
    values: dict[str, str] = field(
        default_factory=lambda: {
            f"p.{one.name}.{parameter.name}": parameter.suggested
            for one in TABLE
            for parameter in one.parameters
        }
    )
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def chosen(self) -> list[str]:
        return [name for name in self.order if name in self.on]

    def move(self, name: str, *, up: bool) -> None:
        """Past its neighbour among the chosen."""
        chosen = self.chosen
        if name not in chosen:
            return
        other = chosen.index(name) + (-1 if up else 1)
        if 0 <= other < len(chosen):
            here, there = self.order.index(name), self.order.index(chosen[other])
            self.order[here], self.order[there] = self.order[there], self.order[here]

    def pipeline(self) -> Pipeline:
        """Raises Invalid."""
        steps = []
        for name in self.chosen:
            params: dict[str, Any] = {}
            for one in OPERATORS[name].parameters:
                if value := self.values.get(f"p.{name}.{one.name}", "").strip():
                    params[one.name] = value
            of: Any = self.values.get(f"of.{name}", "all")
            steps.append({"operator": name, "of": of, "params": params})
        if not steps:
            raise Invalid(N_("Choose at least one operator."), code="cleaning.empty")
        try:
            return check(Pipeline.model_validate({"language": self.language, "steps": steps}))
        except ValidationError:
            raise Invalid(N_("The form could not be read."), code="form") from None

    def refuse(self, request: Request, error: DomainError) -> None:
        """Show why beside the parameter, where there is one."""
        parts = (error.field or "").split(".")
        name = ""
        if len(parts) == 4 and parts[1].isdecimal() and int(parts[1]) < len(self.chosen):
            name = f"p.{self.chosen[int(parts[1])]}.{parts[3]}"
        self.errors[name] = sentence(request, error)


def of_recipe(version: DatasetVersion) -> Choice:
    """The form that would make `version` again."""
    pipeline = Pipeline.model_validate(version.recipe["pipeline"])
    choice = Choice(language=pipeline.language, on={step.operator for step in pipeline.steps})
    names = list(dict.fromkeys(step.operator for step in pipeline.steps))
    choice.order = names + [name for name in OPERATORS if name not in names]
    for step in pipeline.steps:
        choice.values[f"of.{step.operator}"] = step.of
        for name, value in step.params.items():
            choice.values[f"p.{step.operator}.{name}"] = shown(step, name, value)
    return choice


def shown(step: Step, name: str, value: Any) -> str:
    if isinstance(value, list):
        kinds = {one.name: one.kind for one in OPERATORS[step.operator].parameters}
        return ("\n" if kinds[name] == "words" else ", ").join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


async def typed(request: Request) -> Choice:
    """The form as it was sent; names that are none of ours are left out."""
    form = await request.form(max_files=0, max_fields=1000)
    values = {name: value for name, value in form.items() if isinstance(value, str)}
    order = [str(name) for name in form.getlist("order") if name in OPERATORS]
    order = list(dict.fromkeys(order)) + [name for name in OPERATORS if name not in order]
    on = {str(name) for name in form.getlist("on")[:MOST_STEPS]} & OPERATORS.keys()
    choice = Choice(values.get("version", ""), values.get("language", "auto"), order, on, values)
    way, _, name = values.get("move", "").partition(":")
    choice.move(name, up=way == "up")
    return choice


Typed = Annotated[Choice, Depends(typed)]


@router.get("/{dataset_id}/cleaning", name="datasets:cleaning")
def page(
    request: Request, dataset_id: str, who: Reader, version: str = "", like: str = ""
) -> Response:
    choice = Choice()
    if like:
        with transaction() as db:
            found = service.version(db, who.workspace_id, dataset_id, like)
        if found.recipe.get("made") == "cleaning":
            choice = of_recipe(found)
    choice.version = version
    return tab(request, who, dataset_id, choice)


@router.post("/{dataset_id}/cleaning/order", name="datasets:cleaning_order")
def order(request: Request, dataset_id: str, who: Writer, choice: Typed) -> Response:
    """The chosen operators in their order, after one was chosen or moved."""
    return tab(request, who, dataset_id, choice, block="order" if is_htmx(request) else None)


@router.post("/{dataset_id}/cleaning/preview", name="datasets:cleaning_preview")
def preview(request: Request, dataset_id: str, who: Writer, choice: Typed) -> Response:
    block = "preview" if is_htmx(request) else None
    try:
        pipeline = choice.pipeline()
        tried = cleaning_api.tried(who, dataset_id, choice.version, pipeline)
    except Invalid as error:
        choice.refuse(request, error)
        return tab(request, who, dataset_id, choice, block=block)
    found = cleaning_api.preview_out(request, pipeline, tried)
    return tab(request, who, dataset_id, choice, block=block, found=found)


@router.post("/{dataset_id}/cleaning", name="datasets:clean")
def clean(request: Request, dataset_id: str, who: Writer, choice: Typed) -> Response:
    try:
        run.begin(who, dataset_id, choice.pipeline(), which=choice.version)
    except Invalid as error:
        choice.refuse(request, error)
        return tab(request, who, dataset_id, choice, status=error.status)
    return redirect(request, "datasets:detail", dataset_id=dataset_id)


@router.post("/{dataset_id}/cleaning/cancel", name="datasets:cleaning_cancel")
def cancel(
    request: Request, dataset_id: str, who: Writer, version: Annotated[str, Form()] = ""
) -> Response:
    run.cancel(who, dataset_id, version)
    return redirect(request, "datasets:versions", dataset_id=dataset_id)


def tab(
    request: Request,
    who: Principal,
    dataset_id: str,
    choice: Choice,
    *,
    block: str | None = None,
    status: int = 200,
    found: cleaning_api.PreviewOut | None = None,
) -> Response:
    context: dict[str, Any] = {
        "choice": choice,
        "operators": OPERATORS,
        "groups": [(name, label, [one for one in TABLE if one.group == name])
                   for name, label in GROUPS.items()],
        "found": found,
        "asked": {"version": choice.version},
    }  # fmt: skip
    with transaction() as db:
        version = service.version(db, who.workspace_id, dataset_id, choice.version)
        if block:
            return render(request, "datasets/cleaning.html", block=block, version=version,
                          dataset=version.dataset, **context)  # fmt: skip
        context["models"] = models.visible(db, who.workspace_id, "base")
        context["earlier"] = [
            one for one in service.versions(db, dataset_id) if one.recipe.get("made") == "cleaning"
        ][:EARLIER]
    return routes.show(request, "datasets/cleaning.html", version, status=status, **context)
