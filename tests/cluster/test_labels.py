"""Who asks for labels runs only where a node has all of them."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy.orm import Session

from app.cluster import labels, service
from app.cluster.tables import Node
from app.deployments.tables import Deployment
from app.errors import Invalid
from app.jobs.tables import Job
from tests.conftest import Client
from tests.factories import make_dataset, make_model, make_node, make_workspace

ROOM_B = {"gpu": "h200", "room": "b"}


def ask(db: Session, team: str, owner: str, **more: Any) -> None:
    service.ask(db, owner_kind="job", owner_id=owner, workspace_id=team, **({"devices": 1} | more))


def granted(db: Session) -> dict[str, str]:
    return {grant.owner_id: grant.node_id for grant in service.decide(db)}


def test_a_node_must_have_all_of_them(db: Session) -> None:
    make_node(db, id="a", labels={"gpu": "h200", "room": "a"})
    make_node(db, id="b", labels=ROOM_B, devices=1)
    make_node(db, id="c")
    team = make_workspace(db).id
    for number in range(2):
        ask(db, team, f"b{number}", labels=ROOM_B)
    ask(db, team, "h200", labels={"gpu": "h200"})
    assert granted(db) == {"b0": "b", "h200": "a"}
    waits = service.waiting(db, "job", "b1")
    assert waits
    assert waits.reason == "devices"
    service.release(db, "job", "b0")
    assert granted(db) == {"b1": "b"}


def test_labels_count_when_devices_are_given(db: Session) -> None:
    node = make_node(db, id="a", labels={"gpu": "h200"})
    team = make_workspace(db).id
    ask(db, team, "one", labels={"gpu": "h200"})
    node.labels = {"gpu": "a100"}
    assert granted(db) == {}
    waits = service.waiting(db, "job", "one")
    assert waits
    assert waits.reason == "node"
    node.labels = {"gpu": "h200", "new": "yes"}
    assert granted(db) == {"one": "a"}
    node.labels = {}
    ask(db, team, "two")
    assert granted(db) == {"two": "a"}  # what runs stays, who asks for none comes


def test_what_no_node_has_is_refused_at_once(db: Session) -> None:
    make_node(db, labels={"gpu": "h200"})
    make_node(db, labels={"room": "b"})
    team = make_workspace(db).id
    with pytest.raises(Invalid, match="labels") as refused:
        ask(db, team, "one", labels=ROOM_B)
    assert refused.value.field == "labels"
    with pytest.raises(Invalid, match="largest"):
        ask(db, team, "two", devices=3, labels={"gpu": "h200"})


def test_what_is_offered(db: Session) -> None:
    make_node(db, labels={"gpu": "h200", "room": "b"})
    make_node(db, labels={"gpu": "a100"})
    assert labels.offered(db) == {"gpu": ["a100", "h200"], "room": ["b"]}
    typed = {"name": "x", "label.gpu": "h200", "label.room": ""}
    assert labels.from_form(typed) == {"name": "x", "labels": {"gpu": "h200"}}
    assert labels.from_form({"name": "x"}) == {"name": "x"}


# -- jobs and deployments ----------------------------------------------------------------


@pytest.fixture
def body(db: Session, client: Client) -> dict[str, Any]:
    """A job on data that is there, for a cluster with and without labels."""
    version = make_dataset(db, client.workspace)
    base = make_model(db)
    make_node(db, id="plain")
    db.commit()
    return {"model": base.id, "dataset": version.id}


def test_a_job_asks_for_them(db: Session, client: Client, body: dict[str, Any]) -> None:
    page = client.get("/jobs/new")
    assert "job-labels" not in page.text  # there is nothing to choose
    refused = client.post("/api/v1/jobs", json=body | {"labels": {"gpu": "h200"}})
    assert (refused.status_code, refused.json()["code"]) == (422, "labels")
    make_node(db, id="h200", labels={"gpu": "h200"}, cordoned=True)
    db.commit()
    made = client.post("/api/v1/jobs", json=body | {"labels": {"gpu": "h200"}})
    assert made.status_code == 201, made.text
    assert made.json()["labels"] == {"gpu": "h200"}
    assert granted(db) == {}
    db.commit()
    shown = client.get(f"/jobs/{made.json()['id']}").text
    assert "gpu=h200" in shown
    again = client.get(f"/jobs/new?again={made.json()['id']}").text
    chosen = BeautifulSoup(again, "html.parser").select_one("[name='label.gpu'] [selected]")
    assert chosen
    assert chosen["value"] == "h200"
    node = db.get_one(Node, "h200")
    node.cordoned = False
    assert granted(db) == {made.json()["id"]: "h200"}


def test_the_form_of_a_job(db: Session, client: Client, body: dict[str, Any]) -> None:
    make_node(db, labels={"gpu": "h200"})
    db.commit()
    typed = body | {"name": "by form", "label.gpu": "h200", "validation": ""}
    made = client.post("/jobs", data=typed)
    assert made.status_code == 303, made.text
    job = db.get_one(Job, made.headers["location"].rpartition("/")[2])
    assert job.labels == {"gpu": "h200"}


def test_a_deployment_asks_for_them(db: Session, client: Client, body: dict[str, Any]) -> None:
    make_node(db, labels={"gpu": "h200"}, cordoned=True)
    db.commit()
    typed = {"name": "there", "model": body["model"], "label.gpu": "h200"}
    made = client.post("/deployments", data=typed)
    assert made.status_code == 303, made.text
    found = db.get_one(Deployment, made.headers["location"].rpartition("/")[2])
    assert found.labels == {"gpu": "h200"}
    refused = client.post(
        "/api/v1/deployments",
        json={"name": "nowhere", "model": body["model"], "labels": {"gpu": "none"}},
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "labels")
