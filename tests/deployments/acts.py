"""What tests of deployments do: make adapters, sweep, play the node."""

import json
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.config import settings
from app.deployments import replicas, service, wanted
from app.deployments.schemas import DeploymentCreate
from app.deployments.states import replicas_of
from app.deployments.tables import Deployment, Replica
from app.models.tables import Model
from tests.factories import make_model

LORA = {"peft_type": "LORA", "r": 12, "target_modules": ["q_proj"], "init_lora_weights": True}


def body(model: Model, **more: Any) -> DeploymentCreate:
    return DeploymentCreate.model_validate({"name": "mood", "model": model.id} | more)


def store(model: Model, name: str, content: dict[str, Any]) -> None:
    directory = Path(settings.store_url) / model.artefact
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps(content))


def make_adapter(db: Session, workspace: Workspace, **config: Any) -> Model:
    base = make_model(db, context_length=512)
    adapter = make_model(
        db, workspace, kind="adapter", base_id=base.id, parent_id=base.id, size=1_000_000
    )
    store(adapter, "adapter_config.json", LORA | config)
    return adapter


def sweep(db: Session) -> None:
    wanted.reconcile(db)
    for grant in cluster.decide(db):
        replicas.grant(db, grant.owner_id, grant.node_id)


def only(db: Session, deployment: Deployment) -> Replica:
    (replica,) = replicas_of(db, deployment.id)
    return replica


def started(db: Session, replica: Replica) -> None:
    assert replicas.mark_started(
        db, replica.id, replica.fence, pid=2**22, pid_started=1.0,
        address="http://127.0.0.1:1", secret="s", engine="vllm",
    )  # fmt: skip


def run(db: Session, deployment: Deployment) -> Replica:
    """Take it all the way to ready, as sweep and node would."""
    sweep(db)
    replica = only(db, deployment)
    started(db, replica)
    assert replicas.mark(db, replica.id, replica.fence, state="ready")
    return replica


def messages(db: Session, deployment: Deployment) -> list[str]:
    return [event.message % event.params for event in reversed(service.events(db, deployment.id))]
