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
from tests.factories import make_job, make_node


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
