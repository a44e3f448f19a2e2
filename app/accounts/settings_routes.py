"""Pages: the platform's settings, a card for each section."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from app.accounts import platform
from app.accounts.auth import PLATFORM, Principal, requires
from app.errors import DomainError, NotFound
from app.queue import Db
from app.web import Parsed, field_messages, redirect, render

router = APIRouter(include_in_schema=False)
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


async def read_section(request: Request, section: str) -> Parsed[platform.Section]:
    """A section's form. A box that is not ticked says no; an empty secret stays as it is, unless its
    name stands in `forget`.
    """
    if section not in platform.SECTIONS:
        raise NotFound
    schema = platform.SECTIONS[section]
    form = await request.form(max_files=0)
    values: dict[str, Any] = {}
    for name in schema.model_fields:
        if platform.is_secret(schema, name):
            gone = name in form.getlist("forget")
            values[name] = form.get(name) or ("" if gone else platform.HIDDEN)
        elif platform.is_flag(schema, name):
            values[name] = form.get(name, "false")
        elif name in form:
            values[name] = form[name]
    try:
        return Parsed(request, values, schema.model_validate(values))
    except ValidationError as error:
        return Parsed(request, values, None, field_messages(request, error.errors()))


def page(
    request: Request, db: Db, section: str = "", form: Parsed[platform.Section] | None = None
) -> Response:
    return render(
        request,
        "settings/page.html",
        platform=platform.read(db),
        names=list(platform.SECTIONS),
        refused=section,
        refused_form=form,
        saved=request.query_params.get("saved", ""),
        status=422 if form else 200,
    )


@router.get("/admin/settings", name="settings:page")
def read(request: Request, _: Admin, db: Db) -> Response:
    return page(request, db)


@router.post("/admin/settings/{section}", name="settings:save")
def save(
    request: Request,
    section: str,
    who: Admin,
    form: Annotated[Parsed[platform.Section], Depends(read_section)],
    db: Db,
) -> Response:
    if form.data is None:
        return page(request, db, section, form)
    try:
        platform.change(db, who, **{section: form.data.model_dump()})
    except DomainError as error:
        error.field = f"{error.field}.".removeprefix(f"{section}.").rstrip(".") or None
        form.refuse(error)
        return page(request, db, section, form)
    return redirect(request, f"/admin/settings?saved={section}#{section}")
