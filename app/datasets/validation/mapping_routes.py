"""The page on which a user says which column is what, with the first rows as they would become."""

from collections.abc import Mapping as Values
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from app.accounts.auth import Principal, requires
from app.datasets import service
from app.datasets.formats import columns
from app.datasets.formats.sharegpt import TAGS
from app.datasets.routes import show
from app.datasets.rows import browse
from app.datasets.tables import DatasetVersion
from app.datasets.validation import mapping, mapping_api
from app.errors import DomainError
from app.queue import transaction
from app.web import Parsed, redirect, render, sentence

router = APIRouter(prefix="/datasets", include_in_schema=False)
Writer = Annotated[Principal, requires("member", "datasets:write")]


async def form_fields(request: Request) -> dict[str, str]:
    form = await request.form()
    return {name: value for name, value in form.items() if isinstance(value, str)}


Fields = Annotated[dict[str, str], Depends(form_fields)]


@router.get("/{dataset_id}/mapping", name="datasets:mapping")
def page(request: Request, dataset_id: str, who: Writer, version: str = "") -> Response:
    found = waiting(who, dataset_id, version)
    return show(request, "datasets/mapping.html", found, **context(request, found, {}))


@router.get("/{dataset_id}/mapping/form", name="datasets:mapping_form")
def form(request: Request, dataset_id: str, who: Writer, version: str = "") -> Response:
    """The form as it is filled in, with the fields of its format, and the preview."""
    found = waiting(who, dataset_id, version)
    return render(
        request,
        "datasets/mapping.html",
        block="mapping",
        version=found,
        dataset=found.dataset,
        **context(request, found, request.query_params),
    )


@router.post("/{dataset_id}/mapping", name="datasets:set_mapping")
def submit(request: Request, dataset_id: str, who: Writer, fields: Fields) -> Response:
    version = fields.get("version", "")
    try:
        chosen = mapping.checked(read(fields))
    except DomainError as error:
        refused: Parsed[Any] = Parsed(request, fields)
        refused.refuse(error)
        found = waiting(who, dataset_id, version)
        about = context(request, found, fields, refused)
        return show(request, "datasets/mapping.html", found, status=error.status, **about)
    with transaction() as db:
        mapping.submit(db, who, dataset_id, version, chosen)
    return redirect(request, "datasets:detail", dataset_id=dataset_id)


def waiting(who: Principal, dataset_id: str, version: str) -> DatasetVersion:
    with transaction() as db:
        found = service.version(db, who.workspace_id, dataset_id, version)
    mapping.waits(found)
    return found


def read(fields: Values[str, str]) -> dict[str, Any]:
    """The mapping that a form says: `format`, `column.<field>`, `tag.<tag>`."""
    given: dict[str, Any] = {"format": fields.get("format", ""), "columns": {}, "tags": {}}
    if given["format"] in columns.FIELDS:
        for field in columns.FIELDS[given["format"]]:
            given["columns"][field] = fields.get(f"column.{field}", "")
    if given["format"] == "sharegpt":
        given["tags"] = {tag: fields.get(f"tag.{tag}", "") for tag in TAGS}
    return given


def context(
    request: Request,
    version: DatasetVersion,
    fields: Values[str, str],
    refused: "Parsed[Any] | None" = None,
) -> dict[str, Any]:
    """What the form shows. Without fields it is the guess; a field of a format that was not
    asked about yet is guessed for it.
    """
    rows = mapping.sample(version)
    names = columns.names(rows)
    guess = version.mapping or columns.guess(names, rows[0] if rows else None)
    chosen = read(fields) if fields.get("format") in columns.FIELDS else dict(guess)
    if fields and any(f"column.{name}" not in fields for name in columns.FIELDS[chosen["format"]]):
        chosen["columns"] = carried(chosen["format"], guess["columns"], fields)
    chosen["columns"] = {name: column for name, column in chosen["columns"].items() if column}
    chosen["tags"] = {name: tag for name, tag in chosen.get("tags", {}).items() if tag}
    try:
        mapping.checked(chosen)
        seen, missing = mapping.preview(rows, chosen), ""
    except DomainError as error:
        seen, missing = [], sentence(request, error)
    return {
        "names": names,
        "chosen": chosen,
        "fields": columns.FIELDS,
        "tags": TAGS,
        "previews": [mapping_api.preview_out(request, one) for one in seen],
        "pretty": browse.pretty,
        "missing": missing,
        "rows_seen": rows,
        "form": refused,
        "asked": {"version": str(version.number)},
    }


ASKS = ("instruction", "prompt")
SAYS = ("output", "completion")


def carried(form: str, guess: Values[str, str], fields: Values[str, str]) -> dict[str, str]:
    """The columns for another format: what is the same thing under another name is kept."""
    given = {name.removeprefix("column."): value for name, value in fields.items()}
    kept = {}
    for name in columns.FIELDS[form]:
        same = next((group for group in (ASKS, SAYS) if name in group), ())
        if f"column.{name}" in fields:  # it was asked about: what was chosen holds
            column = given[name]
        else:
            found = (before.get(one) for before in (given, guess) for one in (name, *same))
            column = next(filter(None, found), "")
        if column:
            kept[name] = column
    return kept
