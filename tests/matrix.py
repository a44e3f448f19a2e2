"""What `test_matrix.py` walks: the routes, a workspace with one of everything, and a caller."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy.orm import Session
from starlette.routing import Mount

from app import storage
from app.accounts import platform
from app.accounts.auth import PLATFORM, ROLES, cookie_name
from app.accounts.tables import ApiKey, SignIn, User, Workspace
from app.chat.tables import ChatLane, ChatMessage, ChatPreset, Conversation
from app.datasets.rows import segments
from app.datasets.tables import DraftAct
from app.db import now
from app.deployments import revisions
from app.deployments.tables import Alias
from app.gateway.dashscope.fine_tunes import id_of
from app.jobs.tables import JobCheckpoint
from app.main import app
from app.uploads.tables import Upload
from tests import factories as make
from tests import matrix_evaluations, matrix_gateway, matrix_money, matrix_ops, matrix_people
from tests.conftest import Client
from tests.matrix_gateway import UPLOAD

PUBLIC = matrix_people.PUBLIC | {
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",  # asks for a token of its own: test_prometheus.py
    "GET /login",
    "POST /login",
    "POST /language",
    "GET /api/v1/openapi.json",
    "POST /api/v1/node/join",  # asks for a token of its own, and the next for a node's key:
    "POST /api/v1/node/calls/{name}",  # tests/nodework
}
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
CLEANING = {"steps": [{"operator": "remove_invisible_character"}]}
BODIES = matrix_money.BODIES | {
    "PATCH /api/v1/jobs/{job_id}": {"priority": "low"},
    **matrix_evaluations.BODIES,
    **matrix_ops.BODIES,
    "POST /api/v1/secrets": {"kind": "wandb", "value": "0123456789abcdef"},
    "PUT /api/v1/secrets/{secret_id}": {"value": "0123456789abcdef"},
    "PUT /api/v1/me/language": {"language": "zh"},
    "PUT /api/v1/me/password": {"current": "x", "password": "y"},
    "PATCH /api/v1/nodes/{node_id}": {"labels": {"room": "b"}},
    "PUT /api/v1/tuned-calls": {"mode": "load"},
    "POST /api/v1/deployments/{deployment_id}/adapters": {"name": "x", "model": "x"},
    "PUT /api/v1/deployments/{deployment_id}/idle": {"minutes": 5},
    "POST /api/v1/models": {"preset": "qwen3-0.6b"},
    "POST /api/v1/datasets/{dataset_id}/mapping": {"format": "text", "columns": {"text": "a"}},
    "POST /api/v1/datasets/{dataset_id}/rows": {"rows": [{"messages": []}]},
    "PATCH /api/v1/datasets/{dataset_id}/rows/{row}": {"row": {}, "hash": "x"},
    "POST /api/v1/datasets/{dataset_id}/rows/restore": {"ids": ["r1"]},
    "POST /api/v1/datasets/{dataset_id}/replace": {"find": "x"},
    "POST /api/v1/datasets/{dataset_id}/cleaning": CLEANING,
    "POST /api/v1/deployments/{deployment_id}/scale": {"replicas": 1},
    "POST /api/v1/deployments/{deployment_id}/rollback": {"revision": 1},
    "PUT /api/v1/deployments/{deployment_id}/schedule": {"windows": [{"up": "0 8 * * *"}]},
    "POST /api/v1/datasets/{dataset_id}/cleaning/preview": CLEANING,
    "POST /api/v1/conversations": {"content": "x", "columns": [{"lane": 0, "model": "x"}]},
    "POST /api/v1/conversations/{conversation_id}/answers": {
        "question": "{message_id}",
        "model": "x",
    },
    "POST /api/v1/conversations/{conversation_id}/show": {"message": "{message_id}"},
    "PUT /api/v1/chat-presets": {"name": "x"},
    "POST /api/v1/feedback/dataset": {"kind": "sft"},
    "PUT /api/v1/keys/{key_id}/log": {"log": "full"},
    "POST /v1/uploads/{incoming_id}/complete": {"part_ids": ["part_x"]},
    "PUT /dashscope/api/v1/deployments/{deployed_model}/scale": {"capacity": 1},
}
FORMS = matrix_money.FORMS | {
    "POST /jobs/{job_id}/priority": {"priority": "low"},
    "POST /deployments/{deployment_id}/priority": {"priority": "low"},
    "POST /jobs/merge": {"model": "{adapter_id}"},
    "POST /requests/keys/{key_id}": {"log": "full", "days": "7"},
    "POST /models/import": {"preset": "qwen3-0.6b"},
    "POST /jobs/export": {"model": "{model_id}"},
    "POST /benchmarks": {"model": "{model_id}", "tasks": "mmlu"},
}
BODIES |= matrix_people.BODIES
FORMS |= matrix_people.FORMS
UPLOADS = {
    "POST /batches",
    "POST /datasets",
    "POST /datasets/{dataset_id}/versions",
    "POST /api/v1/datasets",
    "POST /api/v1/datasets/{dataset_id}/versions",
    "POST /v1/files",
    "POST /v1/uploads/{incoming_id}/parts",
    "POST /dashscope/api/v1/files",
}
KEYED = ("/v1/", "/inference/", "/dashscope/")  # where a browser's cookie opens nothing


@dataclass(frozen=True)
class Line:
    """A route, and what it asks of its callers."""

    method: str
    path: str
    declared: int  # how often it says who may
    role: str | None = None
    scope: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def machine(self) -> bool:
        return self.path.startswith(("/api/", *KEYED))

    @property
    def keyed(self) -> bool:
        return self.path.startswith(KEYED)

    @property
    def missing(self) -> int:
        """What a foreign id answers. DashScope's contract says 400 of a file that is not there."""
        return 400 if self.path.startswith("/dashscope/api/v1/files/") else 404

    @property
    def managed(self) -> str:
        """The role in the workspace named that its service asks for, if it does."""
        return matrix_people.managed(self.method, self.path.removeprefix("/api/v1"))

    @property
    def has_id(self) -> bool:
        return "{" in self.path


def requirements(dependant: Any) -> list[Any]:
    """Everything in the route's dependencies that carries a role, however deep."""
    found = [dependant.call] if hasattr(dependant.call, "role") else []
    for inner in dependant.dependencies:
        found += requirements(inner)
    return found


def lines() -> list[Line]:
    found = []
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, Mount) and context.path == "/static":
            continue
        said = requirements(route.dependant) if hasattr(route, "dependant") else []
        asked = {(one.role, one.scope) for one in said}
        role, scope = next(iter(asked)) if len(asked) == 1 else (None, None)
        found += [
            Line(method, context.path, len(asked), role, scope)
            for method in sorted(context.methods or {"ANY"})
        ]
    return found


LINES = lines()
GUARDED = [line for line in LINES if line.role]
WITH_IDS = [line for line in GUARDED if line.has_id]


@dataclass
class World:
    """A workspace with one of everything, and people of every kind."""

    workspace: Workspace
    users: dict[str, User]
    ids: dict[str, str]
    elsewhere: Workspace
    cookies: dict[str, str] = field(default_factory=dict)


def world(db: Session, tmp_path: Path) -> World:
    users = {role: make.make_user(db) for role in ROLES}
    workspace = make.make_workspace(db, owner=users["owner"])
    for role in ROLES[:-1]:
        make.make_membership(db, workspace, users[role], role)
    users["foreign"], users[PLATFORM] = (
        make.make_user(db),
        make.make_user(db, is_platform_admin=True),
    )
    elsewhere = make.make_workspace(db, owner=users["foreign"])
    platform.change(db, None, people={"create_workspaces": True})
    make.make_membership(db, elsewhere, users[PLATFORM], "owner")
    made = World(workspace, users, objects(db, workspace, users, tmp_path), elsewhere)
    for name, user in users.items():
        home = elsewhere if name in ("foreign", PLATFORM) else workspace
        made.cookies[name] = make.make_sign_in(db, user, home)[1]
    made.ids["platform_invitation"] = make.make_invitation(db, None, users[PLATFORM])[0].id
    db.commit()
    return made


def objects(
    db: Session, workspace: Workspace, users: dict[str, User], tmp_path: Path
) -> dict[str, str]:
    """One of everything: path parameter → id. Real files stand behind what can be downloaded."""
    owner = users["owner"]
    rows = [{"id": "r1", "messages": [{"role": "user", "content": "hi"}]}]
    directory = tmp_path / workspace.id
    directory.mkdir()
    written = segments.write(rows, directory)
    storage.put(directory, written.artefact)
    version = make.make_dataset(
        db, workspace, rows=1, segments=[{"artefact": written.artefact, "rows": 1}]
    )
    model = make.make_model(db, workspace, artefact=f"models/{workspace.id}")
    storage.put(directory, model.artefact)
    job = make.make_job(
        db,
        workspace,
        owner,
        state="succeeded",
        model_id=model.id,
        dataset_version_id=version.id,
        finished_at=now(),
    )
    deployment = make.make_deployment(
        db,
        workspace,
        owner,
        model_id=model.id,
        served_model_id=model.id,
        desired="stopped",
        state="stopped",
    )
    replica = make.make_replica(db, deployment, state="stopped")
    guest = make.make_deployment(
        db, workspace, owner, model_id=model.id, served_model_id=model.id, mode="adapter",
        desired="stopped", state="stopped", host_id=deployment.id,
    )  # fmt: skip
    alias = make.added(
        db,
        Alias(
            workspace_id=workspace.id,
            name="steady",
            targets=[{"deployment": deployment.id, "weight": 1}],
        ),
    )
    revisions.add(db, deployment, revisions.current(deployment), owner.id)
    talk = make.added(db, Conversation(workspace_id=workspace.id, user_id=owner.id, title="x"))
    said = make.added(db, ChatMessage(conversation_id=talk.id, role="user", content="x"))
    make.added(db, ChatLane(conversation_id=talk.id, number=0, model="x", head_id=said.id))
    preset = make.added(
        db, ChatPreset(workspace_id=workspace.id, user_id=owner.id, name="x", settings={})
    )
    upload = make.added(
        db,
        Upload(workspace_id=workspace.id, user_id=owner.id, file_name="a.jsonl", size=10),
    )
    secret = make.make_secret(db, owner)
    act = make.added(
        db, DraftAct(version_id=version.id, number=1, what="edit", state="done", user_id=owner.id)
    )
    make.make_key(db, workspace, owner)
    make.make_sign_in(db, owner, workspace)
    key = db.query(ApiKey).filter_by(workspace_id=workspace.id).first()
    sign_in = db.query(SignIn).filter_by(user_id=owner.id).first()
    adapter = make.make_model(db, workspace, kind="adapter", base_id=model.id)
    node = make.make_node(db)
    checkpoint = make.added(
        db, JobCheckpoint(job_id=job.id, step=10, fence=1, node_id=node.id, size=1)
    )
    money = matrix_money.objects(db, workspace, owner, model)
    money |= matrix_evaluations.ids(db, workspace, owner, version.id, model.id)
    file, incoming, tuning = matrix_gateway.tuned(db, workspace, owner, job, tmp_path)
    batch, logged = matrix_gateway.asked(db, workspace, owner, file, key)
    return money | {
        "batch_id": batch.id,
        "batch_file_id": batch.input_file_id,
        "which": "input",
        "request_id": logged.id,
        "file_id": file.id,
        "incoming_id": incoming.id,
        "fine_tuning_job_id": tuning.id,
        "fine_tune_id": id_of(tuning),
        "checkpoint": f"checkpoint-{checkpoint.step}",
        "deployed_model": deployment.name,
        "deployment": deployment.id,
        "dataset_id": version.dataset_id,
        "version_id": version.id,
        "upload_id": upload.id,
        "number": "0",
        "row": "r1",
        "row_id": "r1",
        "act": act.id,
        "secret_id": secret.id,
        "section": "general",
        "version": "1",
        **matrix_ops.objects(db, workspace),
        "model_id": model.id,
        "adapter_id": adapter.id,
        "import_id": make.make_import(db, workspace, owner).id,
        "job_id": job.id,
        "step": str(checkpoint.step),
        "path": "data/runs",
        "deployment_id": deployment.id,
        "guest_id": guest.id,
        "action": "unload",
        "replica_id": replica.id,
        "alias": alias.id,
        "alias_id": alias.id,
        "conversation_id": talk.id,
        "message_id": said.id,
        "preset_id": preset.id,
        "key_id": key.id,
        "sign_in_id": sign_in.id,
        "workspace_id": workspace.id,
        "workspace": workspace.id,
        "user_id": users["member"].id,
        **matrix_people.objects(db, workspace, owner),
        "node_id": node.id,
        "name": deployment.name,
    }


def call(client: Client, line: Line, made: World, cookie: str | None = None, key: str = "") -> Any:
    client.cookies.clear()
    if cookie:
        client.cookies.set(cookie_name(), cookie)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    more: dict[str, Any] = {}
    if str(line) in FORMS:
        more["data"] = {name: text.format(**made.ids) for name, text in FORMS[str(line)].items()}
    elif str(line) in UPLOADS:
        more["files"] = {"file": ("rows.jsonl", UPLOAD)}
    elif line.machine and line.method in UNSAFE and line.method != "DELETE":
        more["json"] = {
            name: matrix_money.filled(text, made.ids)
            for name, text in BODIES.get(str(line), {}).items()
        }
    ids = dict(made.ids)
    if not line.managed:  # not a workspace's: the platform's
        ids["invitation_id"] = ids["platform_invitation"]
    try:
        path = line.path.replace(":path}", "}").format(**ids)
    except KeyError as error:
        pytest.fail(f"{line}: teach `objects` in tests/matrix.py what {error} is")
    return client.request(line.method, path, headers=headers, **more)


def failures(found: dict[str, int], allowed: set[int]) -> dict[str, int]:
    return {line: status for line, status in found.items() if status not in allowed}
