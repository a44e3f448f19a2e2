"""The pages of imports: by address, by repository, and the way to stop one."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel

from app.accounts import user_secrets
from app.accounts.auth import Principal, requires
from app.accounts.tables import UserSecret
from app.datasets.intake import hubs, imports
from app.datasets.intake.imports import Asked
from app.errors import DomainError
from app.queue import transaction
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/datasets", include_in_schema=False)
Writer = Annotated[Principal, requires("member", "datasets:write")]
MOST = 1000  # files of a repository that the page shows


class Import(BaseModel):
    """The form of both pages; a single file comes as a text, several as a list."""

    name: str = ""
    url: str = ""
    hub: str = ""
    repository: str = ""
    revision: str = ""
    secret: str = ""
    files: list[str] | str = []

    def asked(self) -> Asked:
        files = [self.files] if isinstance(self.files, str) else self.files
        return Asked(**self.model_dump(exclude={"files"}), files=files)


@router.get(
    "/new/url", name="datasets:new_url", dependencies=[requires("member", "datasets:write")]
)
def new_url(request: Request) -> Response:
    return render(request, "datasets/new_url.html", form=None)


@router.get("/new/hub", name="datasets:new_hub")
def new_hub(
    request: Request,
    who: Writer,
    hub: str = "huggingface",
    repository: Annotated[str, Query(max_length=400)] = "",
    revision: Annotated[str, Query(max_length=200)] = "",
    secret: Annotated[str, Query(max_length=60)] = "",
) -> Response:
    """Without a repository, the question for one; with it, its files to choose from."""
    asked = {"hub": hub, "repository": repository, "revision": revision, "secret": secret}
    return hub_page(request, who, Parsed(request, asked) if repository else None)


@router.post("/import", name="datasets:import")
def begin(
    request: Request, who: Writer, form: Annotated[Parsed[Import], parsed(Import)]
) -> Response:
    try:
        added = imports.begin(who, (form.data or Import()).asked())
    except DomainError as error:
        form.refuse(error)
        if form.values.get("hub"):
            return hub_page(request, who, form, status=error.status)
        return render(request, "datasets/new_url.html", status=error.status, form=form)
    return redirect(request, "datasets:detail", dataset_id=added.dataset_id)


@router.post("/{dataset_id}/cancel", name="datasets:cancel")
def cancel(
    request: Request, dataset_id: str, who: Writer, version: Annotated[str, Form()] = ""
) -> Response:
    imports.cancel(who, dataset_id, version)
    return redirect(request, "datasets:detail", dataset_id=dataset_id)


def hub_page(
    request: Request, who: Principal, form: Parsed[Any] | None, status: int = 200
) -> Response:
    """`form` has the hub and the repository that are asked for."""
    listing = None
    values = form.values if form else {}
    if form and not form.errors:
        try:
            hub = values["hub"]
            found = hubs.named(hub, values["repository"], values.get("revision", ""))
            token = user_secrets.chosen_token(who, values.get("secret", ""), hub)
            listing = hubs.look(hub, *found, token)
            hubs.chosen(listing, [])
        except DomainError as error:
            listing = None
            form.refuse(error)
            status = error.status
    return render(
        request,
        "datasets/new_hub.html",
        status=status,
        form=form,
        listing=listing,
        checked={one.path for one in hubs.suggested(listing)} if listing else set(),
        most=MOST,
        secrets=secrets_of(who),
    )


def secrets_of(who: Principal) -> list[UserSecret]:
    with transaction() as db:
        return user_secrets.every(db, who, *hubs.NAMES)
