"""Every route × everybody who might knock. A route that says nothing about who may, fails.

Objects are made in one workspace; others come with their ids and must find nothing.
"""

import json
from typing import Any

import pytest
from starlette.routing import Mount

from app.accounts.auth import PLATFORM, ROLES, SCOPES, cookie_name
from app.config import settings
from app.main import app
from tests import factories as make
from tests.conftest import Client
from tests.matrix import (
    GUARDED,
    LINES,
    PUBLIC,
    WITH_IDS,
    Line,
    World,
    call,
    failures,
    world,
)
from tests.matrix_people import OWN

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
    asked = [line for line in GUARDED if line.role in above and not line.keyed]
    asked += [line for line in GUARDED if line.managed in above and not own(line, role)]
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
        money = "quota" in line.path or "balance" in line.path
        platform = line.role == PLATFORM or line.managed or money
        if line.keyed or (platform and PLATFORM in (who, line.role)):
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
    assert strangers(anonymous, asked, made, key) == {}


def test_a_key_acts_in_its_workspace_only(db, anonymous, tmp_path):
    """Its user is a member of both; the key is of one."""
    made = world(db, tmp_path)
    make.make_membership(db, made.workspace, made.users["foreign"], "owner")
    key = make.make_key(db, made.elsewhere, made.users["foreign"])
    db.commit()
    asked = [one for one in WITH_IDS if one.role != PLATFORM and OWN not in one.path]
    assert strangers(anonymous, asked, made, key) == {}


def strangers(client: Client, asked: list[Line], made: World, key: str) -> dict[str, int]:
    """The lines of which a key of elsewhere finds anything."""
    found = {line: call(client, line, made, key=key).status_code for line in asked}
    return {str(line): status for line, status in found.items() if status != line.missing}


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


def welcome(line: Line, got: Any) -> str:
    """Empty if the door opened: whatever was missing in the request, it was not the right."""
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
    shut = {}
    made = world(db, tmp_path)
    for line, way in [(one, way) for one in GUARDED if area(one) == of for way in ways(one)]:
        who = holder(line)
        if way == "cookie":
            got = call(anonymous, line, made, made.cookies[who])
        else:
            home = made.elsewhere if line.role == PLATFORM else made.workspace
            key = make.make_key(db, home, made.users[who], scopes=[line.scope])
            db.commit()
            got = call(anonymous, line, made, key=key)
        shut[f"{line} by {way}"] = welcome(line, got)
        if line.method != "GET" and got.status_code < 400:
            made = world(db, tmp_path)  # what the next one asks for may be deleted
    assert {line: why for line, why in shut.items() if why} == {}


def ways(line: Line) -> list[str]:
    """By cookie, but for what only keys open, and by a key with that one scope, but for what
    belongs to a browser: a key has nothing to switch.
    """
    return ["cookie"] * (not line.keyed) + ["key"] * (not line.path.endswith("/switch"))


def own(line: Line, role: str) -> bool:
    """The ids are the member's: they see their own quota."""
    return role == "member" and line.method == "GET" and "/quotas/" in line.path


def holder(line: Line) -> str:
    """The least of those in `World.users` whom the route must serve."""
    own = ("sign_in_id", "secret_id", "key_id", "conversation_id", "preset_id", "request_id")
    if any(part in line.path for part in own):
        return "owner"  # whose these are
    return line.managed or str(line.role)


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
