"""Every route × everybody who might knock. A route that says nothing about who may, fails.

Objects are made in one workspace; others come with their ids and must find nothing.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy.orm import Session
from starlette.routing import Mount

from app import storage
from app.accounts.auth import PLATFORM, ROLES, SCOPES, cookie_name
from app.accounts.tables import ApiKey, SignIn, User, Workspace
from app.chat.tables import Conversation
from app.config import settings
from app.datasets import segments
from app.db import now
from app.main import app
from tests import factories as make
from tests.conftest import Client

PUBLIC = {
    "GET /healthz",
    "GET /readyz",
    "GET /login",
    "POST /login",
    "POST /language",
    "GET /api/v1/openapi.json",
}
# Members are managed by the workspace's admins: the service asks, for platform admins may as well.
MANAGED = "/workspaces/{workspace_id}/members"
OWN = "/workspaces/{workspace_id}/switch"  # into any workspace of one's own
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
BODIES = {
    "POST /api/v1/workspaces/{workspace_id}/members": {"email": "new@example.com"},
    "PATCH /api/v1/workspaces/{workspace_id}/members/{user_id}": {"role": "viewer"},
    "PUT /api/v1/quotas/{workspace}": {"devices": 1},
}
FORMS = {
    "POST /jobs/merge": {"model": "{adapter_id}"},
    "POST /workspaces/{workspace_id}/members": {"email": "new@example.com"},
    "POST /workspaces/{workspace_id}/members/{user_id}/role": {"role": "viewer"},
}
UPLOADS = {
    "POST /datasets",
    "POST /datasets/{dataset_id}/versions",
    "POST /api/v1/datasets",
    "POST /api/v1/datasets/{dataset_id}/versions",
}
UPLOAD = (
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
)


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
        return self.path.startswith(("/api/", "/v1/"))

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
    make.make_membership(db, elsewhere, users[PLATFORM], "owner")
    made = World(workspace, users, objects(db, workspace, users, tmp_path), elsewhere)
    for name, user in users.items():
        home = elsewhere if name in ("foreign", PLATFORM) else workspace
        made.cookies[name] = make.make_sign_in(db, user, home)[1]
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
    talk = make.added(
        db, Conversation(workspace_id=workspace.id, user_id=owner.id, title="x", model="x")
    )
    make.make_key(db, workspace, owner)
    make.make_sign_in(db, owner, workspace)
    key = db.query(ApiKey).filter_by(workspace_id=workspace.id).first()
    sign_in = db.query(SignIn).filter_by(user_id=owner.id).first()
    adapter = make.make_model(db, workspace, kind="adapter", base_id=model.id)
    node = make.make_node(db)
    return {
        "dataset_id": version.dataset_id,
        "version_id": version.id,
        "number": "0",
        "model_id": model.id,
        "adapter_id": adapter.id,
        "job_id": job.id,
        "deployment_id": deployment.id,
        "replica_id": replica.id,
        "conversation_id": talk.id,
        "key_id": key.id,
        "sign_in_id": sign_in.id,
        "workspace_id": workspace.id,
        "workspace": workspace.id,
        "user_id": users["member"].id,
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
        more["json"] = BODIES.get(str(line), {})
    try:
        path = line.path.format(**made.ids)
    except KeyError as error:
        pytest.fail(f"{line}: teach `objects` in tests/test_matrix.py what {error} is")
    return client.request(line.method, path, headers=headers, **more)


def failures(found: dict[str, int], allowed: set[int]) -> dict[str, int]:
    return {line: status for line, status in found.items() if status not in allowed}


# -- each route says who may -------------------------------------------------------------


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_route_says_who_may(line):
    assert line.declared == 1, "declare `requires(role, scope)`, or `public()`, once"
    assert (line.role is None) == (str(line) in PUBLIC)
    if line.role:
        assert line.role in (*ROLES, PLATFORM)
        assert line.scope in SCOPES


def test_nothing_but_static_files_is_mounted():
    assert [route.path for route in app.routes if isinstance(route, Mount)] == ["/static"]


# -- who may not -------------------------------------------------------------------------


def test_nobody_gets_nowhere(db, anonymous, tmp_path):
    made = world(db, tmp_path)
    for cookie in (None, "x" * 43, "' OR 1=1 --"):
        pages = {str(one): call(anonymous, one, made, cookie) for one in GUARDED if not one.machine}
        assert failures({line: got.status_code for line, got in pages.items()}, {303}) == {}
        assert {got.headers["location"].split("?")[0] for got in pages.values()} == {"/login"}
        machine = {str(one): call(anonymous, one, made, cookie) for one in GUARDED if one.machine}
        assert failures({line: got.status_code for line, got in machine.items()}, {401}) == {}


def test_a_wrong_key_gets_nowhere_even_with_a_good_cookie(db, anonymous, tmp_path):
    made = world(db, tmp_path)
    found = {}
    for line in GUARDED:
        got = call(anonymous, line, made, made.cookies["owner"], key="dk-" + "x" * 43)
        found[str(line)] = got.status_code
    assert failures(found, {401, 303}) == {}


@pytest.mark.parametrize("role", ["viewer", "member", "admin"])
def test_a_lower_role_is_refused(db, anonymous, tmp_path, role):
    made = world(db, tmp_path)
    above = [*ROLES[ROLES.index(role) + 1 :], PLATFORM]
    asked = [line for line in GUARDED if line.role in above and line.path[:4] != "/v1/"]
    if role != "admin":
        asked += [line for line in GUARDED if MANAGED in line.path]
    assert asked
    found = {
        str(line): call(anonymous, line, made, made.cookies[role]).status_code for line in asked
    }
    assert failures(found, {403}) == {}


def test_owners_are_no_platform_admins(db, anonymous, tmp_path):
    made = world(db, tmp_path)
    asked = [line for line in GUARDED if line.role == PLATFORM]
    found = {
        str(one): call(anonymous, one, made, made.cookies["owner"]).status_code for one in asked
    }
    assert failures(found, {403}) == {}


# -- other workspaces --------------------------------------------------------------------


@pytest.mark.parametrize("who", ["foreign", PLATFORM])
def test_a_foreign_id_is_not_found(db, anonymous, tmp_path, who):
    """Pages, JSON, files, logs and streams. Platform admins are strangers to a workspace's work."""
    made = world(db, tmp_path)
    found = {}
    for line in WITH_IDS:
        platform = line.role == PLATFORM or MANAGED in line.path or "quotas" in line.path
        if line.path.startswith("/v1/") or (platform and PLATFORM in (who, line.role)):
            continue
        got = call(anonymous, line, made, made.cookies[who])
        found[str(line)] = got.status_code
        assert made.workspace.name not in got.text
    assert len(found) > 20
    assert failures(found, {404}) == {}


def test_a_foreign_id_is_not_found_by_key(db, anonymous, tmp_path):
    made = world(db, tmp_path)
    key = make.make_key(db, made.elsewhere, made.users["foreign"])
    db.commit()
    asked = [line for line in WITH_IDS if line.role != PLATFORM]
    found = {str(line): call(anonymous, line, made, key=key).status_code for line in asked}
    assert failures(found, {404}) == {}


def test_a_key_acts_in_its_workspace_only(db, anonymous, tmp_path):
    """Its user is a member of both; the key is of one."""
    made = world(db, tmp_path)
    make.make_membership(db, made.workspace, made.users["foreign"], "owner")
    key = make.make_key(db, made.elsewhere, made.users["foreign"])
    db.commit()
    asked = [one for one in WITH_IDS if one.role != PLATFORM and OWN not in one.path]
    found = {str(line): call(anonymous, line, made, key=key).status_code for line in asked}
    assert failures(found, {404}) == {}


# -- keys and their scopes ---------------------------------------------------------------


def test_a_key_without_the_scope_is_refused(db, anonymous, tmp_path):
    made = world(db, tmp_path)
    admin = make.make_user(db, is_platform_admin=True)
    make.make_membership(db, made.workspace, admin, "owner")
    without = {
        scope: make.make_key(
            db, made.workspace, admin, scopes=[one for one in SCOPES if one != scope]
        )
        for scope in SCOPES
    }
    db.commit()
    found = {
        str(line): call(anonymous, line, made, key=without[line.scope]).status_code
        for line in GUARDED
    }
    assert failures(found, {403}) == {}


# -- who may -----------------------------------------------------------------------------


def welcome(client: Client, line: Line, made: World, **how: str) -> str:
    """Empty if the door opened: whatever was missing in the request, it was not the right."""
    got = call(client, line, made, **how)
    if (
        got.status_code in (401, 403)
        or got.status_code >= 500
        or (
            got.status_code == 303
            and got.headers["location"].startswith("/login")
            and line.path != "/logout"
        )
    ):
        return f"{got.status_code} {got.text[-300:]}"
    if got.status_code == 404 and line.path != "/v1/models/{name}":
        return f"404: the other tests prove nothing of it. {got.text[-300:]}"
    return ""


def area(line: Line) -> str:
    return line.path.removeprefix("/api/v1").split("/")[1] or "home"


@pytest.mark.parametrize("of", sorted({area(line) for line in GUARDED}))
def test_the_role_it_names_is_enough(db, anonymous, tmp_path, of):
    """By cookie for all but /v1, and by a key with that one scope."""
    shut = {}
    for line in [line for line in GUARDED if area(line) == of]:
        if not line.path.startswith("/v1/"):
            made = world(db, tmp_path)
            who = holder(line)
            shut[f"{line} by cookie"] = welcome(anonymous, line, made, cookie=made.cookies[who])
        if not line.path.endswith("/switch"):  # what a browser shows: a key has nothing to switch
            made = world(db, tmp_path)  # the first call may have deleted what this one asks for
            home = made.elsewhere if line.role == PLATFORM else made.workspace
            key = make.make_key(db, home, made.users[holder(line)], scopes=[line.scope])
            db.commit()
            shut[f"{line} by key"] = welcome(anonymous, line, made, key=key)
    assert {line: why for line, why in shut.items() if why} == {}


def holder(line: Line) -> str:
    """The least of those in `World.users` whom the route must serve."""
    if any(part in line.path for part in ("sign_in_id", "key_id", "conversation_id")):
        return "owner"  # whose these are
    return "admin" if MANAGED in line.path else str(line.role)


def test_ids_in_a_body_are_held_to_the_same(db, anonymous, tmp_path):
    """A stranger's job or deployment cannot name this workspace's data or models."""
    made = world(db, tmp_path)
    shared = make.make_model(db)
    own = make.make_dataset(db, made.elsewhere)
    db.commit()
    anonymous.cookies.set(cookie_name(), made.cookies["foreign"])
    job = {"name": "x", "stage": "sft", "method": "lora", "hyperparameters": {}}
    bodies = [
        ("/api/v1/jobs", job | {"model": made.ids["model_id"], "dataset": own.dataset_id}),
        ("/api/v1/jobs", job | {"model": shared.id, "dataset": made.ids["dataset_id"]}),
        ("/api/v1/jobs", job | {"model": shared.id, "dataset": made.ids["version_id"]}),
        (
            "/api/v1/jobs",
            job | {"model": shared.id, "dataset": own.id, "validation": made.ids["dataset_id"]},
        ),
        ("/api/v1/deployments", {"name": "x", "model": made.ids["model_id"]}),
    ]
    for path, body in bodies:
        got = anonymous.post(path, json=body)
        assert got.status_code in (404, 422), (path, json.dumps(body), got.text)
        assert got.status_code == 404 or "model" in got.text or "dataset" in got.text
    assert settings.url  # the app ran against the tests' own address
