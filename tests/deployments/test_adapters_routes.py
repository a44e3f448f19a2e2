"""The tab of a deployment's adapters, and its JSON."""

from sqlalchemy.orm import Session

from app.deployments import carrying, service
from app.deployments.tables import Deployment
from app.models.tables import Model
from tests.conftest import Client
from tests.deployments.acts import body, run
from tests.deployments.speakers import make_base, make_tuned
from tests.deployments.test_routes import at, soup
from tests.factories import make_node
from tests.jobs.people import principal


def served(db: Session, client: Client) -> tuple[Deployment, Model]:
    """A base that is ready, and an adapter of it."""
    make_node(db, id="node-1", devices=2)
    base = make_base(db)
    who = principal(db, client.workspace)
    host = service.create(db, who, body(base, name="host"))
    run(db, host)
    tuned = make_tuned(db, client.workspace, base)
    db.commit()
    return host, tuned


def load_all(db: Session) -> None:
    for one in carrying.to_do(db, "node-1"):
        for guest in one.unload:
            carrying.mark_unloaded(db, one.replica_id, one.fence, guest.id)
        for guest in one.load:
            carrying.mark_loaded(db, one.replica_id, one.fence, guest.id, seconds=0.3)
    db.commit()


def test_the_tab_adds_unloads_and_removes(client: Client, db: Session) -> None:
    host, tuned = served(db, client)
    page = f"/deployments/{host.id}"
    assert at(soup(client.get(f"{page}?tab=adapters")), "deploy-tab-adapters")
    tab = soup(client.get(f"{page}/adapters"))
    assert at(tab, "adapter-model").select_one("[selected]")["value"] == tuned.id
    bad = client.post(f"{page}/adapters", data={"name": "Not allowed", "model": tuned.id})
    assert bad.status_code == 422
    assert "Not allowed" in bad.text
    taken = client.post(f"{page}/adapters", data={"name": "host", "model": tuned.id})
    assert "There is a deployment called host already" in soup(taken).text
    made = client.post(f"{page}/adapters", data={"name": "mood", "model": tuned.id})
    assert made.headers["location"] == f"{page}?tab=adapters"

    row = at(soup(client.get(f"{page}/adapters")), "adapter-row")
    assert (row["data-name"], row["data-state"]) == ("mood", "starting")
    db.expire_all()
    load_all(db)
    tab = soup(client.get(f"{page}/adapters"))
    assert at(tab, "adapter-row")["data-state"] == "ready"
    assert "0.3 s" in at(tab, "adapter-row").text
    guest = soup(client.get("/deployments")).select('[data-testid="deploy-row"]')[0]
    shown = soup(client.get(f"/deployments/{guest['data-deployment']}"))
    assert host.id in at(shown, "deploy-host").select_one("a")["href"]
    assert "host" in soup(client.get(f"/deployments/{guest['data-deployment']}/adapters")).text

    refused = client.post(f"{page}/stop")
    assert refused.status_code == 409
    assert "mood" in refused.text
    action = at(tab, "adapter-unload").find_parent("form")["action"]
    assert client.post(action).status_code == 303
    db.expire_all()
    load_all(db)
    tab = soup(client.get(f"{page}/adapters"))
    assert at(tab, "adapter-row")["data-state"] == "stopped"
    assert client.post(at(tab, "adapter-load").find_parent("form")["action"]).status_code == 303
    assert client.post(at(tab, "adapter-remove").find_parent("form")["action"]).status_code == 303
    assert "None is loaded." in client.get(f"{page}/adapters").text
    assert client.post(action).status_code == 404


def test_the_form_says_that_it_is_carried(client: Client, db: Session) -> None:
    host, tuned = served(db, client)
    plan = at(soup(client.get(f"/deployments/new?model={tuned.id}")), "deploy-plan").text
    assert f"{host.name} carries it" in plan
    large = make_tuned(db, client.workspace, db.get_one(Model, host.model_id), r=64)
    db.commit()
    plan = at(soup(client.get(f"/deployments/new?model={large.id}")), "deploy-plan").text
    assert "room for adapters up to rank 32; this one has rank 64" in plan
    assert "Merging" in plan


def test_json(api: Client, db: Session) -> None:
    host, tuned = served(db, api)
    path = f"/api/v1/deployments/{host.id}/adapters"
    made = api.post(path, json={"name": "mood", "model": tuned.name})
    assert made.status_code == 201, made.text
    assert (made.json()["host"], made.json()["replicas"]) == (host.id, [])
    load_all(db)
    found = api.get(path).json()
    assert (found["most"], found["rank"]) == (64, 32)
    (one,) = found["data"]
    assert (one["name"], one["state"], one["rank"]) == ("mood", "ready", 12)
    assert one["replicas"][0]["seconds"] == 0.3
    refused = api.post(path, json={"name": "base", "model": host.model_id})
    assert (refused.status_code, refused.json()["code"]) == (422, "not_carried")
    again = api.post(f"/api/v1/deployments/{one['id']}/adapters", json={"name": "x", "model": "y"})
    assert again.json()["code"] == "no_room"
