"""Rows for tests: `make_x(db, **overrides)`, flushed, not committed.

Every function gives something valid; overrides are column values.
"""

import itertools
import secrets
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy.orm import Session

from app.accounts import auth
from app.accounts.auth import Principal
from app.accounts.passwords import hash_password
from app.accounts.tables import ApiKey, Invitation, Membership, SignIn, User, UserSecret, Workspace
from app.cluster.tables import Device, Node
from app.datasets.tables import Dataset, DatasetVersion
from app.db import now
from app.deployments.tables import Deployment, Replica
from app.jobs.tables import Job
from app.models.tables import Model, ModelImport

PASSWORD = "correct horse battery"  # of every user made here
GIB = 1024**3
numbers = itertools.count(1)


@cache
def password_hash() -> str:
    return hash_password(PASSWORD)


def added(db: Session, row: Any) -> Any:
    db.add(row)
    db.flush()
    return row


# -- accounts ----------------------------------------------------------------------------


def make_user(db: Session, **overrides: Any) -> User:
    values = {
        "email": f"user{next(numbers)}@example.com",
        "name": "Lin",
        "password_hash": password_hash(),
    }
    return added(db, User(**values | overrides))


def make_workspace(db: Session, *, owner: User | None = None, **overrides: Any) -> Workspace:
    """With an owner, who is made where none is given."""
    number = next(numbers)
    workspace = added(
        db, Workspace(**{"slug": f"team-{number}", "name": f"Team {number}"} | overrides)
    )
    make_membership(db, workspace, owner or make_user(db), "owner")
    return workspace


def make_principal(user: User, workspace: Workspace, **overrides: Any) -> Principal:
    """Who asks: the workspace's owner, signed in."""
    values = {
        "user_id": user.id,
        "email": user.email,
        "name": user.name,
        "workspace_id": workspace.id,
        "workspace_name": workspace.name,
        "role": "owner",
        "is_platform_admin": user.is_platform_admin,
    }
    return Principal(**values | overrides)


def make_membership(db: Session, workspace: Workspace, user: User, role: str) -> Membership:
    return added(db, Membership(workspace_id=workspace.id, user_id=user.id, role=role))


def make_sign_in(
    db: Session, user: User, workspace: Workspace, **overrides: Any
) -> tuple[str, str]:
    """The cookie's name and value."""
    token = secrets.token_urlsafe(32)
    values = {
        "token_hash": auth.digest(token),
        "user_id": user.id,
        "workspace_id": workspace.id,
        "ip": "127.0.0.1",
        "user_agent": "tests",
        "expires_at": now() + timedelta(days=1),
    }
    added(db, SignIn(**values | overrides))
    return auth.cookie_name(), token


def make_key(db: Session, workspace: Workspace, user: User, **overrides: Any) -> str:
    """The secret of an API key, with all scopes unless `scopes` says fewer."""
    secret = "dk-" + secrets.token_urlsafe(32)
    values = {
        "workspace_id": workspace.id,
        "user_id": user.id,
        "name": "tests",
        "prefix": secret[:8],
        "secret_hash": auth.digest(secret),
        "scopes": list(auth.SCOPES),
    }
    added(db, ApiKey(**values | overrides))
    return secret


def make_invitation(
    db: Session, workspace: Workspace | None, inviter: User, **overrides: Any
) -> tuple[Invitation, str]:
    """An open invitation, and the token of its link."""
    token = secrets.token_urlsafe(32)
    values = {
        "workspace_id": workspace and workspace.id,
        "email": f"guest{next(numbers)}@example.com",
        "role": "member",
        "token_hash": auth.digest(token),
        "invited_by": inviter.id,
        "expires_at": now() + timedelta(days=7),
    }
    return added(db, Invitation(**values | overrides)), token


def make_secret(db: Session, user: User, **overrides: Any) -> UserSecret:
    """A token of another service, the user's own."""
    values = {"user_id": user.id, "kind": "mlflow", "name": "x", "value": "x" * 8, "tail": "xxxx"}
    return added(db, UserSecret(**values | overrides))


# -- cluster -----------------------------------------------------------------------------


def make_node(db: Session, *, devices: int = 2, kind: str = "cpu", **overrides: Any) -> Node:
    """A node just seen, with `devices` equal devices `cpu:0`, `cpu:1` ... of 8 GiB."""
    values = {"id": f"node-{next(numbers)}", "host": "127.0.0.1", "seen_at": now()}
    node = added(db, Node(**values | overrides))
    for index in range(devices):
        make_device(db, node, name=f"{kind}:{index}", kind=kind)
    return node


def make_device(db: Session, node: Node, **overrides: Any) -> Device:
    values = {"name": "cpu:0", "kind": "cpu", "model": "Processor", "memory": 8 * GIB}
    return added(db, Device(node_id=node.id, **values | overrides))


# -- datasets, models --------------------------------------------------------------------


def make_dataset(
    db: Session, workspace: Workspace | None, *, status: str = "published", **overrides: Any
) -> DatasetVersion:
    """A dataset with one version, which is returned; `workspace` None makes a preset."""
    name = overrides.pop("name", f"reviews {next(numbers)}")
    dataset = added(db, Dataset(name=name, workspace_id=workspace and workspace.id))
    values = {
        "number": 1,
        "status": status,
        "format": "messages",
        "file_name": "reviews.jsonl",
        "rows": 10,
        "bytes": 1000,
        "segments": [{"artefact": "segments/" + "0" * 64, "rows": 10}],
        "published_at": now() if status == "published" else None,
    }
    version = DatasetVersion(dataset_id=dataset.id, **values | overrides)
    version.dataset = dataset
    return added(db, version)


def make_model(db: Session, workspace: Workspace | None = None, **overrides: Any) -> Model:
    """A base model shared by all, or one of `workspace`."""
    number = next(numbers)
    values = {
        "workspace_id": workspace and workspace.id,
        "name": f"model-{number}",
        "kind": "base",
        "artefact": f"models/model-{number}",
        "architecture": "Qwen3ForCausalLM",
        "parameters": 6_000_000,
        "context_length": 2048,
        "size": 12_000_000,
    }
    return added(db, Model(**values | overrides))


def make_import(db: Session, workspace: Workspace, user: User, **overrides: Any) -> ModelImport:
    """A model on its way in from a hub that nobody has asked yet."""
    values: dict[str, Any] = {
        "workspace_id": workspace.id,
        "created_by": user.id,
        "name": "qwen",
        "source": {"from": "huggingface", "repository": "lin/qwen", "revision": ""},
        "state": "importing",
    }
    return added(db, ModelImport(**values | overrides))


# -- jobs, deployments -------------------------------------------------------------------


def make_job(db: Session, workspace: Workspace, user: User, **overrides: Any) -> Job:
    """A queued LoRA job; makes its model and dataset where they are not given.

    The row alone: `cluster.service.ask` is what makes it wait for a device.
    """
    values: dict[str, Any] = {
        "workspace_id": workspace.id,
        "created_by": user.id,
        "name": f"job {next(numbers)}",
        "stage": "sft",
        "method": "lora",
        "spec": {},
    } | overrides
    if "model_id" not in values:
        values["model_id"] = make_model(db).id
    if "dataset_version_id" not in values:
        values["dataset_version_id"] = make_dataset(db, workspace).id
    return added(db, Job(**values))


def make_deployment(db: Session, workspace: Workspace, user: User, **overrides: Any) -> Deployment:
    """A pending deployment without replicas."""
    values: dict[str, Any] = {
        "workspace_id": workspace.id,
        "created_by": user.id,
        "name": f"deployment-{next(numbers)}",
        "mode": "base",
        "engine": "auto",
    } | overrides
    if "model_id" not in values:
        values["model_id"] = make_model(db).id
    return added(db, Deployment(**values))


def make_replica(db: Session, deployment: Deployment, **overrides: Any) -> Replica:
    return added(db, Replica(**{"deployment_id": deployment.id, "index": 0} | overrides))
