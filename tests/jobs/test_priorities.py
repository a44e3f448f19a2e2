"""How urgent a job is: who may say so, where it shows, and what waits for what until when."""

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import Membership
from app.cluster import fair
from app.cluster import service as cluster
from app.cluster.tables import Request
from app.db import now
from app.errors import Invalid
from app.jobs.tables import Job
from tests.conftest import Client
from tests.factories import (
    make_dataset,
    make_deployment,
    make_device,
    make_job,
    make_model,
    make_node,
    make_replica,
)


def queued(db: Session, client: Client, **asked: object) -> Job:
    job = make_job(db, client.workspace, client.user)
    values = {"devices": 1, "seconds": 600.0} | asked
    cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=client.workspace.id, **values)
    return job


def role(db: Session, client: Client, name: str) -> None:
    found = db.scalars(select(Membership).where(Membership.user_id == client.user.id)).one()
    found.role = name
    client.user.is_platform_admin = False
    db.commit()


def test_priority_is_changed_while_it_waits(db: Session, api: Client) -> None:
    make_node(db, devices=1)
    first, second = queued(db, api), queued(db, api)
    role(db, api, "admin")
    answer = api.patch(f"/api/v1/jobs/{second.id}", json={"priority": "high"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["priority"] == "high"
    assert {grant.owner_id for grant in cluster.decide(db)} == {second.id}
    db.commit()
    refused = api.patch(f"/api/v1/jobs/{second.id}", json={"priority": "low"})
    assert refused.status_code == 200  # its row is still queued: the sweep did not hand it over
    assert api.get(f"/api/v1/jobs/{first.id}").json()["waiting"]["reason"] == "devices"


@pytest.mark.parametrize(
    ("name", "priority", "status"),
    [
        ("member", "normal", 200),
        ("member", "high", 403),
        ("admin", "high", 200),
        ("owner", "urgent", 403),
    ],
)
def test_who_may_say_so(db: Session, api: Client, name: str, priority: str, status: int) -> None:
    make_node(db)
    job = queued(db, api)
    role(db, api, name)
    answer = api.patch(f"/api/v1/jobs/{job.id}", json={"priority": priority})
    assert answer.status_code == status, answer.text


def test_a_workspace_may_let_its_members_go_higher(db: Session, api: Client) -> None:
    make_node(db)
    job = queued(db, api)
    fair.put(db, api.workspace.id, 2.0, cluster.HIGH)
    role(db, api, "member")
    assert api.patch(f"/api/v1/jobs/{job.id}", json={"priority": "high"}).status_code == 200
    for weight, priority in ((0, 1), (1001, 1), (1, cluster.URGENT)):
        with pytest.raises(Invalid):
            fair.put(db, api.workspace.id, weight, priority)


def test_where_it_stands_and_when_it_should_start(db: Session, client: Client) -> None:
    make_node(db, devices=1)
    running, second, third = (queued(db, client) for _ in range(3))
    cluster.decide(db)
    cluster.foresee(db)
    requests = {one.owner_id: one for one in db.scalars(select(Request))}
    assert requests[running.id].position is None
    assert [requests[one.id].position for one in (second, third)] == [1, 2]
    starts = [requests[one.id].starts_at for one in (second, third)]
    assert starts[0] is not None
    assert starts[1] is not None
    assert abs(starts[0] - now() - timedelta(seconds=600)) < timedelta(seconds=20)
    assert abs(starts[1] - starts[0] - timedelta(seconds=600)) < timedelta(seconds=20)
    db.commit()
    page = client.get(f"/jobs/{third.id}").text
    assert "Number 2 of 2 in the queue." in page
    assert 'data-testid="starts-at"' in page
    assert "data-clock" in client.get("/jobs").text
    assert 'data-testid="job-priority"' in page
    answer = client.post(f"/jobs/{third.id}/priority", data={"priority": "low"})
    assert answer.status_code == 303
    assert "Its priority is low now." in client.get(f"/jobs/{third.id}").text
    assert client.post(f"/jobs/{third.id}/priority", data={"priority": "x"}).status_code == 422


def test_nobody_says_when_where_no_end_is_in_sight(db: Session, client: Client) -> None:
    make_node(db, devices=1)
    cluster.ask(
        db, owner_kind="replica", owner_id="r", workspace_id=client.workspace.id, devices=1,
        memory=2**30,
    )  # fmt: skip
    cluster.decide(db)
    job = queued(db, client)
    cluster.decide(db)
    cluster.foresee(db)
    request = cluster.waiting(db, "job", job.id)
    assert request is not None
    assert (request.position, request.starts_at) == (1, None)


def test_a_job_may_ask_for_one_model_of_devices(db: Session, api: Client) -> None:
    node = make_node(db, devices=1)
    make_device(db, node, name="cpu:9", model="Other processor")
    model, data = make_model(db, None), make_dataset(db, api.workspace)
    db.commit()
    body = {"name": "x", "model": model.id, "dataset": data.dataset_id}
    refused = api.post("/api/v1/jobs", json=body | {"device_model": "H900"})
    assert refused.status_code == 422
    assert "Other processor" in refused.text
    made = api.post("/api/v1/jobs", json=body | {"device_model": "Other processor"})
    assert made.status_code == 201, made.text
    assert made.json()["device_model"] == "Other processor"
    grants = cluster.decide(db)
    assert [grant.devices for grant in grants] == [["cpu:9"]]


def test_the_form_offers_models_where_there_are_several(db: Session, client: Client) -> None:
    node = make_node(db, devices=1)
    make_dataset(db, client.workspace)
    make_model(db, None)
    db.commit()
    assert "job-device-model" not in client.get("/jobs/new").text
    make_device(db, node, name="cpu:9", model="Other processor")
    db.commit()
    page = client.get("/jobs/new").text
    assert 'data-testid="job-device-model"' in page
    job = queued(db, client, model="Other processor")
    job.device_model = "Other processor"
    blocker = queued(db, client, model="Other processor", priority=2)
    cluster.decide(db)
    cluster.foresee(db)
    db.commit()
    assert blocker.id != job.id
    assert "It wants devices of the model Other processor." in client.get(f"/jobs/{job.id}").text
    assert "in the queue" in client.get("/").text


def test_a_deployment_tells_where_it_stands(db: Session, api: Client) -> None:
    make_node(db, devices=1)
    queued(db, api)
    cluster.decide(db)
    deployment = make_deployment(db, api.workspace, api.user, state="pending", desired="running")
    replica = make_replica(db, deployment, state="pending")
    cluster.ask(
        db, owner_kind="replica", owner_id=replica.id, workspace_id=api.workspace.id, devices=1,
        memory=2**30,
    )  # fmt: skip
    cluster.decide(db)
    cluster.foresee(db)
    db.commit()
    waiting = api.get(f"/api/v1/deployments/{deployment.id}").json()["waiting"]
    assert (waiting["reason"], waiting["position"], waiting["queue"]) == ("devices", 1, 1)
    assert waiting["starts_at"]
