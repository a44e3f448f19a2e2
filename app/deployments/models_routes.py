"""What pages of models show of training and serving: needs of a preset, and code that calls."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, requires
from app.deployments import needs, runners, service, view
from app.deployments.samples import samples
from app.errors import N_, Invalid
from app.jobs.methods import METHODS
from app.models import presets
from app.models import service as models
from app.models.tables import Model
from app.queue import Db
from app.web import render

router = APIRouter(prefix="/deployments", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "models:read")]


@router.get("/needs", name="deployments:needs", dependencies=[requires("viewer", "models:read")])
def show_needs(request: Request, db: Db, preset: str = "") -> Response:
    """What a preset needs, for its card."""
    found = presets.find(preset)
    if found is None:
        raise Invalid(N_("There is no such preset."), field="preset")
    need = needs.needs(db, found)
    return render(request, "deployments/needs.html", needs=need, methods=METHODS)


@router.get("/code/{model_id}", name="deployments:model_code")
def code(request: Request, model_id: str, who: Reader, db: Db) -> Response:
    """Programs that call a model, for its card: by the name that serves it, or would."""
    model = models.get(db, who.workspace_id, model_id)
    serving = served(db, who.workspace_id, model)
    name = serving or view.free_name(db, who.workspace_id, model.name)
    return render(
        request,
        "deployments/code.html",
        model=model,
        serving=serving,
        name=name,
        samples=samples(name, embeds=runners.of(model) == runners.POOLING),
    )


def served(db: Session, workspace_id: str, model: Model) -> str:
    """The name of a deployment of the model, a ready one before others; "" if there is none."""
    rows, _ = service.list_deployments(db, workspace_id, model_id=model.id, limit=20)
    ready = sorted(rows, key=lambda one: one.state != "ready")
    return ready[0].name if ready else ""
