"""Pages and JSON of deployments."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.deployments import replicas, wanted
from app.deployments.states import replicas_of
from app.deployments.tables import Deployment, Replica
from app.models.tables import Model
from app.quotas import service as quotas
from tests.conftest import Client
from tests.deployments.acts import make_adapter
from tests.factories import make_model, make_node, make_user, make_workspace
from tests.jobs.people import principal


@pytest.fixture
def model(db: Session) -> Model:
    made = make_model(db, name="danlu-starter")
    db.commit()
    return made


def soup(answer: Any) -> BeautifulSoup:
    assert answer.status_code in {200, 422}, answer.text
    return BeautifulSoup(answer.text, "lxml")


def at(page: BeautifulSoup, name: str) -> Any:
    found = page.select_one(f'[data-testid="{name}"]')
    assert found is not None, f"no {name}"
    return found


def create(client: Client, model: Model, **more: Any) -> str:
    answer = client.post("/deployments", data={"name": "mood", "model": model.id} | more)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def sweep(db: Session) -> None:
    db.expire_all()
    wanted.reconcile(db)
    for grant in cluster.decide(db):
        replicas.grant(db, grant.owner_id, grant.node_id)
    db.commit()


def only(db: Session) -> tuple[Deployment, Replica]:
    db.expire_all()
    deployment = db.scalars(select(Deployment)).one()
    return deployment, replicas_of(db, deployment.id)[0]


# -- pages -------------------------------------------------------------------------------


def test_two_clicks_from_a_model(client: Client, db: Session, model: Model) -> None:
    make_node(db)
    db.commit()
    assert "Nothing is deployed yet" in client.get("/deployments").text
    form = soup(client.get(f"/deployments/new?model={model.id}"))
    assert at(form, "deploy-model").select_one("[selected]")["value"] == model.id
    assert at(form, "deploy-name")["value"] == "danlu-starter"
    assert "estimate" in at(form, "deploy-plan").text
    values = {one["name"]: one.get("value", "") for one in form.select("#deploy-form input[name]")}
    page = create(client, model, **values)
    shown = soup(client.get(page))
    assert at(shown, "deploy-state")["data-state"] == "pending"
    assert at(shown, "deploy-chat")["href"] == "/chat?model=danlu-starter"
    assert at(shown, "deploy-address").text.endswith("/v1")
    assert at(soup(client.get("/deployments")), "deploy-row")["data-deployment"] in page
    using = client.get(f"/deployments/using/{model.id}").text
    assert page in using
    assert "<html" not in using


def test_the_page_follows_the_engine(client: Client, db: Session, model: Model) -> None:
    make_node(db)
    db.commit()
    page = create(client, model)
    sweep(db)
    _, replica = only(db)
    replicas.mark_started(
        db, replica.id, 1, pid=2**22, pid_started=1.0, address="http://127.0.0.1:1",
        secret="hidden-secret", engine="transformers",
    )  # fmt: skip
    replicas.mark(db, replica.id, 1, phase="load")
    replicas.ship_log(db, replica.id, 1, 0, b"<b>\x1b[31mred</b> \xff\n")
    db.commit()
    live = soup(client.get(f"{page}/live"))
    assert at(live, "deploy-state")["data-state"] == "starting"
    assert at(live, "deploy-phases").select_one("[aria-current=step] span").text == "Load the model"
    assert "cannot serve adapters" in live.text
    assert live.select_one("#deployment-live")["hx-trigger"] == "every 1s"
    for tab in ("code", "log", "adapters", "settings", "events", "nonsense"):
        shown = client.get(f"{page}?tab={tab}")
        assert shown.status_code == 200
        assert "hidden-secret" not in shown.text
        assert "<html" in shown.text
    log = client.get(f"{page}/log").text
    assert "&lt;b&gt;" in log
    assert "<b>" not in log

    error = {
        "code": "context_too_long",
        "message": "There is no room for %(asked)s tokens of context: they need %(need)s GiB of cache.",
        "params": {"asked": "32768", "need": "3.5", "suggested": "11216"},
        "advice": "Deploy it with a context of %(suggested)s tokens.",
        "permanent": True,
    }
    replicas.end(db, replica.id, 1, error)
    db.commit()
    failed = soup(client.get(page))
    assert "There is no room for 32768 tokens" in failed.text
    fix = at(failed, "deploy-fix").find_parent("form")
    assert fix.select_one('[name="max_model_len"]')["value"] == "11216"
    assert "hx-get" not in failed.select_one("#deployment-live").attrs
    assert client.post(f"{page}/start").status_code == 303
    assert only(db)[1].error is None


def test_the_list_is_narrowed(client: Client, model: Model) -> None:
    create(client, model)
    create(client, model, name="night")

    def names(**asked: str) -> list[str]:
        page = soup(client.get("/deployments", params=asked))
        return [row.select_one("a").text for row in page.select('[data-testid="deploy-row"]')]

    assert names() == ["night", "mood"]
    assert names(q="MOO") == ["mood"]
    assert names(state="pending") == ["night", "mood"]
    assert names(state="ready") == names(q="nobody") == []
    assert names(state="nonsense") == ["night", "mood"]
    assert at(soup(client.get("/deployments?q=nobody")), "deploy-search")["value"] == "nobody"


def test_what_a_script_fills_is_there_once(client: Client, model: Model) -> None:
    """Curves and log come as fragments and are found by their id."""
    page = create(client, model)
    for tab in ("charts", "log", "adapters"):
        whole = client.get(f"{page}?tab={tab}").text + client.get(f"{page}/{tab}").text
        found = BeautifulSoup(whole, "lxml").select(f"#deployment-{tab}")
        assert len(found) == (2 if tab == "adapters" else 1)  # which takes its own place


def test_a_refusal_leaves_the_page(client: Client, db: Session, model: Model) -> None:
    page = create(client, model)
    db.get_one(Model, model.id).workspace_id = only(db)[0].workspace_id
    db.commit()
    form = soup(client.get(f"/models/{model.id}")).select_one(
        f'[action="/models/{model.id}/delete"]'
    )
    assert form is not None
    assert form["hx-post"] == form["action"]
    answer = client.post(form["hx-post"], headers={"hx-request": "true"})
    assert answer.status_code == 409
    assert answer.headers["hx-retarget"] == "#toasts"
    assert "mood" in answer.text
    assert client.get(page).status_code == 200


@pytest.mark.parametrize("reason", ["devices", "quota"])
def test_a_waiting_one_says_why(client: Client, db: Session, model: Model, reason: str) -> None:
    make_node(db, devices=1 if reason == "devices" else 2)
    if reason == "quota":
        quotas.put(db, client.workspace.id, 1)
    cluster.ask(db, owner_kind="job", owner_id="job_x", workspace_id=client.workspace.id, devices=1)
    cluster.decide(db)
    db.commit()
    page = create(client, model)
    sweep(db)
    sweep(db)
    waits = at(soup(client.get(page)), "deploy-reason")
    assert waits["data-reason"] == reason
    assert {"devices": "free device", "quota": "quota"}[reason] in waits.text


def test_stop_start_delete(client: Client, db: Session, model: Model) -> None:
    page = create(client, model)
    assert client.post(f"{page}/stop").headers["location"] == page
    shown = soup(client.get(page))
    assert at(shown, "deploy-state")["data-state"] == "stopped"
    at(shown, "deploy-start")
    client.post(f"{page}/start")
    shown = soup(client.get(page))
    assert at(shown, "deploy-state")["data-state"] == "pending"
    at(shown, "deploy-stop")
    assert at(shown, "deploy-delete").find_parent("form")["data-confirm"]
    assert client.post(f"{page}/delete").headers["location"] == "/deployments"
    assert client.get(page).status_code == 404


@pytest.mark.parametrize(
    ("values", "field", "said"),
    [
        ({"name": "Not Good"}, "name", "characters that are not allowed"),
        ({"name": ""}, "name", "needed"),
        ({"max_model_len": "999999"}, "max_model_len", "at most 2048"),
        ({"replicas": "0"}, "replicas", "at least 1"),
        ({"devices": "many"}, "devices", "whole number"),
        ({"devices": "9"}, "devices", "No node has 9 devices"),
        ({"model": "nothing"}, "model", "no model"),
        ({"mode": "adapter"}, "mode", "whole model"),
    ],
)
def test_a_bad_form_says_where(
    client: Client, db: Session, model: Model, values: dict[str, str], field: str, said: str
) -> None:
    make_node(db)
    db.commit()
    answer = client.post("/deployments", data={"name": "mood", "model": model.id} | values)
    assert answer.status_code == 422
    page = soup(answer)
    assert said in page.text
    assert page.select_one(f'#e-{field}, [name="{field}"].is-invalid') is not None
    assert db.scalar(select(func.count()).select_from(Deployment)) == 0


def test_a_taken_name_is_said_beside_it(client: Client, model: Model) -> None:
    create(client, model)
    answer = client.post("/deployments", data={"name": "mood", "model": model.id})
    assert "already" in soup(answer).select_one("#e-name").text
    assert at(soup(client.get(f"/deployments/new?model={model.id}")), "deploy-name")["value"]


def test_the_plan_follows_the_form(client: Client, db: Session, model: Model) -> None:
    adapter = make_adapter(db, client.workspace, use_dora=True)
    db.commit()
    shown = client.get("/deployments/plan", params={"model": adapter.id})
    assert "so it is merged first" in shown.text
    assert "<html" not in shown.text
    shown = client.get("/deployments/plan", params={"model": adapter.id, "mode": "adapter"})
    assert "use_dora" in shown.text
    assert "<details open>" in client.get(f"/deployments/new?model={adapter.id}").text
    for odd in (
        {"max_model_len": "x"},
        {"max_model_len": "-5"},
        {"engine": "odd"},
        {"model": "no"},
    ):
        answer = client.get("/deployments/plan", params={"model": model.id} | odd)
        assert answer.status_code == 200, odd


def test_foreign_pages_are_not_there(client: Client, db: Session, model: Model) -> None:
    other = make_workspace(db, owner=make_user(db))
    db.commit()
    theirs = make_foreign(db, other, model)
    for path in ("", "/live", "/log"):
        assert client.get(f"/deployments/{theirs}{path}").status_code == 404
    for action in ("stop", "start", "delete"):
        assert client.post(f"/deployments/{theirs}/{action}").status_code == 404
    assert theirs not in client.get(f"/deployments/using/{model.id}").text


def make_foreign(db: Session, workspace: Any, model: Model) -> str:
    from app.deployments import service
    from app.deployments.schemas import DeploymentCreate

    made = service.create(
        db, principal(db, workspace), DeploymentCreate(name="theirs", model=model.id)
    )
    db.commit()
    return made.id


# -- JSON --------------------------------------------------------------------------------


def test_the_whole_life_as_json(api: Client, db: Session, model: Model) -> None:
    make_node(db)
    db.commit()
    body = {"name": "mood", "model": "danlu-starter", "replicas": 1, "devices": 1}
    made = api.post("/api/v1/deployments", json=body)
    assert made.status_code == 201, made.text
    one = made.json()
    assert (one["state"], one["mode"], one["model"]) == ("pending", "base", model.id)
    assert one["url"].endswith("/v1")
    assert set(one["estimate"]) == {"weights", "cache", "overhead"}
    address = f"/api/v1/deployments/{one['id']}"
    sweep(db)
    _, replica = only(db)
    replicas.mark_started(
        db, replica.id, 1, pid=2**22, pid_started=1.0, address="http://127.0.0.1:1",
        secret="hidden-secret", engine="vllm",
    )  # fmt: skip
    replicas.ship_log(db, replica.id, 1, 0, b"0123456789")
    replicas.mark(db, replica.id, 1, state="ready", memory=5)
    db.commit()
    now = api.get(address)
    assert "hidden-secret" not in now.text
    assert "127.0.0.1:1" not in now.text.replace(one["url"], "")
    assert (now.json()["state"], now.json()["replicas"][0]["memory"]) == ("ready", 5)
    listed = api.get("/api/v1/deployments").json()
    assert ([each["id"] for each in listed["data"]], listed["has_more"]) == ([one["id"]], False)
    log = api.get(f"{address}/log", params={"offset": 0})
    assert (log.text, log.headers["x-next-offset"]) == ("0123456789", "10")
    assert api.get(f"{address}/log", params={"offset": 10, "start": 1}).text == ""
    assert api.get(f"{address}/log", params={"replica": 7}).status_code == 404
    assert api.get(f"{address}/events").json()["data"][0]["message"]
    assert [each["id"] for each in api.get("/v1/models").json()["data"]] == ["mood"]
    assert api.post(f"{address}/stop").json()["state"] == "stopping"
    assert api.post(f"{address}/start").json()["desired"] == "running"
    assert api.delete(address).status_code == 204
    assert api.get(address).status_code == 404
    assert api.delete(address).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nothing"}, 404, "model_not_found"),
        ({"name": "Bad Name"}, 422, "invalid"),
        ({"extra_args": ["--trust-remote-code"]}, 422, "invalid"),
        ({"workspace_id": "ws_other"}, 422, "invalid"),
        ({"engine": "llama.cpp"}, 422, "invalid"),
        ({"devices": 99}, 422, "invalid"),
        ({"devices": 9}, 422, "devices"),
        ({"max_model_len": 10**9}, 422, "invalid"),
    ],
)
def test_bad_json_is_refused(
    api: Client, db: Session, model: Model, body: dict[str, Any], status: int, code: str
) -> None:
    make_node(db)
    db.commit()
    answer = api.post("/api/v1/deployments", json={"name": "mood", "model": model.id} | body)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == code
    assert api.get("/api/v1/deployments").json()["data"] == []


def test_the_name_conflicts(api: Client, model: Model) -> None:
    body = {"name": "mood", "model": model.id}
    assert api.post("/api/v1/deployments", json=body).status_code == 201
    again = api.post("/api/v1/deployments", json=body)
    assert (again.status_code, again.json()["code"]) == (409, "name_taken")
