"""The pages of devices and nodes; for members, of the devices that their workspace holds."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.accounts.auth import PLATFORM, Principal, requires
from app.cluster import nodes, readings
from app.dashboard import devices as service
from app.dashboard.schemas import DrainForm, LabelsForm
from app.errors import DomainError
from app.queue import Db
from app.web import Parsed, address, parsed, redirect, render

router = APIRouter(include_in_schema=False)
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


@router.get("/devices", name="dashboard:own_devices")
def own(
    request: Request, who: Annotated[Principal, requires("viewer", "account")], db: Db
) -> Response:
    """What the workspace holds."""
    seen = service.of_workspace(db, who.workspace_id)
    return render(request, "dashboard/own_devices.html", seen=seen)


@router.get("/admin/devices", name="dashboard:devices")
def devices(request: Request, _: Admin, db: Db) -> Response:
    return render(request, "dashboard/devices.html", seen=service.everything(db))


@router.get("/admin/devices/live", name="dashboard:devices_live")
def devices_live(request: Request, _: Admin, db: Db) -> Response:
    """All of the page that changes, which asks for itself every few seconds."""
    return render(request, "dashboard/devices.html", block="live", seen=service.everything(db))


def node_page(
    request: Request, db: Db, node_id: str, form: Parsed[LabelsForm] | None = None
) -> Response:
    return render(
        request,
        "dashboard/node.html",
        seen=service.of_node(db, node_id),
        ranges=list(readings.RANGES),
        form=form,
        status=422 if form else 200,
    )


@router.get("/admin/nodes/{node_id}", name="dashboard:node")
def node(request: Request, node_id: str, _: Admin, db: Db) -> Response:
    return node_page(request, db, node_id)


@router.get("/admin/nodes/{node_id}/live", name="dashboard:node_live")
def node_live(request: Request, node_id: str, _: Admin, db: Db) -> Response:
    """All of the page that changes, which asks for itself every few seconds."""
    seen = service.of_node(db, node_id)
    return render(request, "dashboard/node.html", block="live", seen=seen)


@router.post("/admin/nodes/{node_id}/labels", name="dashboard:label")
def label(
    request: Request,
    node_id: str,
    _: Admin,
    form: Annotated[Parsed[LabelsForm], parsed(LabelsForm)],
    db: Db,
) -> Response:
    if form.data is None:
        return node_page(request, db, node_id, form)
    try:
        nodes.label(db, node_id, nodes.parse(form.data.labels))
    except DomainError as error:
        form.refuse(error)
        return node_page(request, db, node_id, form)
    return back(request, node_id)


@router.post("/admin/nodes/{node_id}/cordon", name="dashboard:cordon")
def cordon(request: Request, node_id: str, _: Admin, db: Db) -> Response:
    nodes.cordon(db, node_id, cordoned=True)
    return back(request, node_id)


@router.post("/admin/nodes/{node_id}/uncordon", name="dashboard:uncordon")
def uncordon(request: Request, node_id: str, _: Admin, db: Db) -> Response:
    """Drained no longer, either."""
    service.uncordon(db, node_id)
    return back(request, node_id)


@router.post("/admin/nodes/{node_id}/drain", name="dashboard:drain")
def drain(
    request: Request,
    node_id: str,
    _: Admin,
    form: Annotated[Parsed[DrainForm], parsed(DrainForm)],
    db: Db,
) -> Response:
    minutes = form.data.minutes if form.data else DrainForm().minutes
    nodes.drain(db, node_id, minutes * 60)
    return back(request, node_id)


def back(request: Request, node_id: str) -> Response:
    return redirect(request, address(request.app, "dashboard:node", node_id=node_id))
