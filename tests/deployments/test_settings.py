"""What a person sets, on pages and as JSON."""

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import Membership
from app.cluster import service as cluster
from app.cluster.tables import Request
from app.db import now
from app.deployments import phases, replicas, wanted
from app.deployments.states import replicas_of
from app.deployments.tables import Deployment, Replica
from app.models.tables import Model
from tests.conftest import Client
from tests.deployments.acts import store
from tests.deployments.test_routes import at, create, only, soup, sweep
from tests.factories import GIB, make_device, make_model, make_node

CONFIG = {"num_hidden_layers": 32, "num_key_value_heads": 8, "head_dim": 128}


@pytest.fixture
def model(db: Session) -> Model:
    """8 GiB of weights, 128 KiB of cache a token; on nodes whose devices have 24 GiB."""
    made = make_model(db, name="large", parameters=4 * GIB, size=8 * GIB, context_length=131072)
    store(made, "config.json", CONFIG)
    db.commit()
    return made


@pytest.fixture
def cards(db: Session) -> None:
    node = make_node(db, devices=0)
    for index in range(2):
        make_device(db, node, name=f"cuda:{index}", kind="cuda", memory=24 * GIB)
    db.commit()


def start(db: Session, *, ready: bool = True) -> Replica:
    """Grant and start the deployment's newest replica."""
    sweep(db)
    db.expire_all()
    deployment = only(db)[0]
    replica = replicas_of(db, deployment.id)[-1]
    replicas.mark(db, replica.id, replica.fence, phase="fetch")
    replicas.mark_started(
        db, replica.id, replica.fence, pid=2**22, pid_started=1.0,
        address="http://127.0.0.1:1", secret="hidden-secret", engine="vllm",
    )  # fmt: skip
    if ready:
        replicas.mark(db, replica.id, replica.fence, phase="load")
        replicas.mark(db, replica.id, replica.fence, state="ready", phase="")
    db.commit()
    return replica


# -- while one types ---------------------------------------------------------------------


def test_what_does_not_fit_is_one_click_from_fitting(
    client: Client, model: Model, cards: None
) -> None:
    asked = {"model": model.id, "name": "mood", "max_model_len": "65536", "replicas": "2"}
    plan = soup(client.get("/deployments/plan", params=asked))
    assert at(plan, "plan-fit")["data-fit"] == "never"
    buttons = at(plan, "plan-fixes").select("button")
    assert {button["formaction"] for button in buttons} == {"/deployments/new"}
    button = next(one for one in buttons if one["value"].startswith("max_model_len="))
    page = soup(client.get("/deployments/new", params=asked | {"fix": button["value"]}))
    assert at(page, "plan-fit")["data-fit"] == "now"
    assert at(page, "deploy-length")["value"] == button["value"].partition("=")[2]
    assert at(page, "deploy-replicas")["value"] == "2"
    assert at(page, "deploy-name")["value"] == "mood"
    refused = client.post("/deployments", data=asked)
    assert refused.status_code == 422
    assert "fits" in soup(refused).select_one("#e-max_model_len").text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"arguments.trust_remote_code": "true"}, "trust_remote_code is no engine argument"),
        ({"arguments.max_num_seqs": "none"}, "max_num_seqs must be a whole number"),
        ({"quantization": "bitsandbytes"}, "bitsandbytes does not run here"),
        ({"memory_gib": "3"}, "too little"),
        ({"memory_gib": "10", "exclusive": "true"}, "leave one of the two out"),
        ({"devices": "3"}, "No node has 3 devices"),
    ],
)
def test_a_bad_setting_is_said_at_once_and_refused(
    client: Client, model: Model, cards: None, values: dict[str, str], shown: str
) -> None:
    plan = client.get("/deployments/plan", params={"model": model.id} | values)
    assert plan.status_code == 200
    assert shown in soup(plan).text
    refused = client.post("/deployments", data={"name": "mood", "model": model.id} | values)
    assert refused.status_code == 422
    assert shown in soup(refused).text


def test_only_what_can_be_is_offered(client: Client, db: Session, model: Model) -> None:
    make_node(db)
    db.commit()
    form = soup(client.get("/deployments/new"))
    assert len(at(form, "deploy-quantization").select("option")) == 1
    assert form.select_one('[name="arguments.kv_cache_dtype"]') is None
    assert form.select_one('[name="arguments.max_num_seqs"]') is not None
    node = make_node(db, devices=0)
    make_device(db, node, name="cuda:0", kind="cuda")
    db.commit()
    form = soup(client.get("/deployments/new"))
    assert len(at(form, "deploy-quantization").select("option")) > 1
    assert form.select_one('[name="arguments.kv_cache_dtype"]') is not None


# -- changing one that is there ----------------------------------------------------------


def test_the_settings_tab(client: Client, db: Session, model: Model, cards: None) -> None:
    asked = {"memory_gib": "14", "arguments.seed": "7", "max_model_len": "2048"}
    page = create(client, model, **asked)
    start(db)
    shown = soup(client.get(f"{page}?tab=settings"))
    assert at(shown, "deploy-memory")["value"] == "14"
    assert shown.select_one('[name="arguments.seed"]')["value"] == "7"
    assert at(shown, "plan-same")
    form = {
        one["name"]: one.get("value", "")
        for one in shown.select("#edit-form input[name]:not([type=checkbox])")
    }
    assert client.post(f"{page}/edit", data=form | {"engine": "auto"}).status_code == 303
    assert only(db)[0].revision == 1  # nothing was changed
    check = soup(client.get(f"{page}/check", params=form | {"max_model_len": "4096"}))
    assert at(check, "plan-fit")["data-fit"] == "now"
    assert client.post(f"{page}/edit", data=form | {"max_model_len": "4096"}).status_code == 303
    deployment = only(db)[0]
    assert (deployment.revision, deployment.previous, deployment.memory) == (2, 1, 14 * GIB)
    live = soup(client.get(f"{page}/live"))
    assert "Revision 2 takes the place of revision 1" in at(live, "deploy-rolling").text
    shown = soup(client.get(f"{page}?tab=settings"))
    assert len(shown.select('[data-testid="revision-row"]')) == 2
    assert client.post(f"{page}/rollback", data={"revision": "1"}).status_code == 303
    assert only(db)[0].revision == 1


def test_a_change_that_cannot_be_keeps_what_was_typed(
    client: Client, db: Session, model: Model, cards: None
) -> None:
    page = create(client, model)
    asked = {"max_model_len": "99999999", "devices": "2"}
    answer = client.post(f"{page}/edit", data=asked)
    assert answer.status_code == 422
    shown = soup(answer)
    assert shown.select_one("#e-max_model_len") is not None
    assert at(shown, "deploy-devices")["value"] == "2"
    too_much = client.post(f"{page}/edit", data={"max_model_len": "131072"})
    assert too_much.status_code == 422
    assert at(soup(too_much), "plan-fixes").select("button")[0]["formaction"] == page
    fixed = client.get(page, params={"fix": "max_model_len=1024", "max_model_len": "131072"})
    assert at(soup(fixed), "deploy-length")["value"] == "1024"
    assert only(db)[0].revision == 1


def test_a_revision_that_does_not_start_is_told_with_its_remedy(
    client: Client, db: Session, model: Model, cards: None
) -> None:
    page = create(client, model, max_model_len="2048")
    start(db)
    client.post(f"{page}/edit", data={"max_model_len": "8192"})
    replica = start(db, ready=False)
    replicas.ship_log(db, replica.id, replica.fence, 0, b"the failed start\n")
    error = {
        "code": "context_too_long", "message": "No room for %(asked)s.", "permanent": True,
        "params": {"asked": "8192", "suggested": "4352"}, "advice": "Less.",
    }  # fmt: skip
    replicas.end(db, replica.id, replica.fence, error)
    db.commit()
    shown = soup(client.get(page))
    told = at(shown, "deploy-refused")
    assert "No room for 8192." in told.text
    form = at(told, "deploy-fix").find_parent("form")
    assert "4,352 tokens" in form.text
    assert "the failed start" in client.get(f"{page}/log").text
    data = {one["name"]: one["value"] for one in form.select("input")}
    assert client.post(form["action"], data=data).status_code == 303
    deployment = only(db)[0]
    assert (deployment.max_model_len, deployment.revision, deployment.previous) == (4352, 3, 1)


def test_how_urgent_its_replicas_are(
    client: Client, db: Session, model: Model, cards: None
) -> None:
    client.user.is_platform_admin = False
    membership = db.scalars(select(Membership).where(Membership.user_id == client.user.id)).one()
    membership.role = "admin"
    db.commit()
    refused = client.post(
        "/deployments", data={"name": "mood", "model": model.id, "priority": "urgent"}
    )
    assert refused.status_code == 422
    assert "Urgent is for platform administrators." in refused.text
    page = create(client, model, priority="high")
    assert db.scalars(select(Request.priority)).all() == [cluster.HIGH]
    assert client.post(f"{page}/priority", data={"priority": "low"}).status_code == 303
    db.expire_all()
    assert db.scalars(select(Request.priority)).all() == [cluster.LOW]
    assert only(db)[0].revision == 1
    shown = soup(client.get(f"{page}?tab=settings"))
    assert at(shown, "deploy-priority-now").text == "Low"
    offered = [one["value"] for one in at(shown, "deploy-priority").select("option")]
    assert offered == ["low", "normal", "high"]
    membership.role = "member"
    db.commit()
    refused = client.post(f"{page}/priority", data={"priority": "high"})
    assert refused.status_code == 422
    assert "ask one of them" in refused.text
    start(db)
    db.expire_all()
    wanted.ask(db, *only(db))
    assert db.scalars(select(Request.priority)).all() == [cluster.LOW]


def test_scaling_and_a_schedule(client: Client, db: Session, model: Model, cards: None) -> None:
    page = create(client, model)
    assert client.post(f"{page}/scale", data={"replicas": "2"}).status_code == 303
    assert only(db)[0].replicas == 2
    assert client.post(f"{page}/scale", data={"replicas": "99"}).status_code == 422
    data = {
        "timezone": "Asia/Shanghai",
        "windows.0.up": "0 8 * * 1-5",
        "windows.0.down": "0 20 * * *",
    }
    answer = client.post(f"{page}/schedule", data=data)
    assert answer.headers["location"] == f"{page}?tab=settings"
    shown = soup(client.get(answer.headers["location"]))
    assert at(shown, "schedule-up-0")["value"] == "0 8 * * 1-5"
    assert at(soup(client.get(f"{page}/live")), "deploy-next")
    wrong = client.post(f"{page}/schedule", data=data | {"windows.1.up": "at dawn"})
    assert wrong.status_code == 422
    assert "cron" in soup(wrong).text
    assert at(soup(wrong), "schedule-up-1")["value"] == "at dawn"
    assert client.post(f"{page}/schedule", data={"timezone": "UTC"}).status_code == 303
    assert only(db)[0].schedule is None


# -- a start, step by step ---------------------------------------------------------------


def test_steps_say_how_long_it_takes(
    client: Client, db: Session, model: Model, cards: None
) -> None:
    page = create(client, model)
    replica = start(db)
    assert set(replica.took) == {"fetch", "start", "load"}
    replicas.end(db, replica.id, replica.fence)
    db.commit()
    replica = start(db, ready=False)
    replicas.mark(db, replica.id, replica.fence, phase="load", progress=40)
    replica.took = {"fetch": 1.0, "start": 4.0, "load": 10.0, "check": 5.0}
    db.commit()
    live = soup(client.get(f"{page}/live"))
    now_step = at(live, "deploy-phases").select_one("[aria-current=step]")
    assert "40 %" in now_step.text
    assert "(10s)" in now_step.text
    assert "last time 20s" in at(live, "deploy-elapsed").text
    assert live.select_one("progress")["value"]


def test_times_of_phases() -> None:
    def second(number: float) -> datetime:
        return datetime.fromisoformat(f"2026-11-21T12:00:{number:06.3f}+00:00")

    began = {
        "fetch": second(0).isoformat(),
        "load": second(3).isoformat(),
        "start": second(1).isoformat(),
    }
    assert phases.took(began, second(10)) == {"fetch": 1.0, "start": 2.0, "load": 7.0}
    replica = Replica(phase="load", phases=began, took={}, progress=None)
    found = phases.steps(
        replica, {"fetch": 1.0, "start": 2.0, "load": 20.0, "check": 7.0}, second(10)
    )
    assert [(one.phase, one.state) for one in found] == [
        ("fetch", "done"), ("start", "done"), ("load", "now"), ("check", "ahead"),
    ]  # fmt: skip
    assert phases.share_done(found) == 33
    assert phases.left(found) == 20.0
    fresh = phases.steps(Replica(phase="", phases={}, took={}), {}, second(0))
    assert [one.state for one in fresh] == ["now", *["ahead"] * 5]
    assert (phases.share_done(fresh), phases.left(fresh)) == (None, None)
    assert phases.last_time(Replica(took={}), []) == {}


# -- JSON --------------------------------------------------------------------------------


def test_all_of_it_as_json(api: Client, db: Session, model: Model, cards: None) -> None:
    asked = {"model": "large", "max_model_len": 65536}
    plan = api.post("/api/v1/deployments/plan", json=asked).json()
    assert (plan["fits"], plan["engine"], plan["mode"]) == ("never", "vllm", "base")
    assert plan["fixes"][0]["changes"]
    body = {"name": "mood", "model": "large", "max_model_len": 2048, "arguments": {"seed": 7}}
    made = api.post("/api/v1/deployments", json=body)
    assert made.status_code == 201, made.text
    address = f"/api/v1/deployments/{made.json()['id']}"
    start(db)
    changed = api.patch(address, json={"max_model_len": 4096, "replicas": 2})
    assert changed.status_code == 200, changed.text
    one = changed.json()
    assert (one["revision"], one["previous"], one["max_model_len"]) == (2, 1, 4096)
    assert one["arguments"] == {"seed": 7}
    assert api.patch(address, json={}).json()["revision"] == 2
    higher = api.patch(address, json={"priority": "high"}).json()
    assert (higher["priority"], higher["revision"]) == ("high", 2)
    found = api.get(f"{address}/revisions").json()["data"]
    assert [(each["number"], each["current"]) for each in found] == [(2, True), (1, False)]
    assert found[1]["settings"]["max_model_len"] == 2048
    back = api.post(f"{address}/rollback", json={"revision": 1}).json()
    assert (back["revision"], back["previous"]) == (1, None)
    assert api.post(f"{address}/rollback", json={"revision": 7}).status_code == 404
    assert api.post(f"{address}/scale", json={"replicas": 1}).json()["revision"] == 1
    assert db.get(Deployment, one["id"], populate_existing=True).replicas == 1
    schedule = {"timezone": "Asia/Shanghai", "windows": [{"up": "0 8 * * *", "down": "0 20 * * *"}]}
    answer = api.put(f"{address}/schedule", json=schedule)
    assert answer.json()["schedule"] == schedule
    assert datetime.fromisoformat(answer.json()["schedule_next"]) > now()
    assert api.delete(f"{address}/schedule").json()["schedule"] is None
    assert api.get(f"{address}/log", params={"revision": 2}).status_code == 200
    assert api.get(f"{address}/log", params={"revision": 9}).status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"revision": 1}, "invalid"),
        ({"name": "other"}, "invalid"),
        ({"workspace_id": "ws_x"}, "invalid"),
        ({"desired": "stopped"}, "invalid"),
        ({"arguments": {"host": "0.0.0.0"}}, "argument"),
        ({"arguments": {"seed": [1]}}, "invalid"),
        ({"arguments": {f"x{number}": 1 for number in range(99)}}, "invalid"),
        ({"memory": 5}, "invalid"),
        ({"memory": 2**40}, "memory"),
        ({"max_model_len": 131072}, "memory"),
        ({"quantization": "x"}, "quantization"),
        ({"replicas": 0}, "invalid"),
        ({"engine": "llama.cpp"}, "invalid"),
    ],
)
def test_bad_changes_are_refused(
    api: Client, db: Session, model: Model, cards: None, body: dict[str, Any], code: str
) -> None:
    made = api.post("/api/v1/deployments", json={"name": "mood", "model": "large"}).json()
    answer = api.patch(f"/api/v1/deployments/{made['id']}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert db.get_one(Deployment, made["id"]).revision == 1
