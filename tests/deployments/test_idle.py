"""Sleep: when it comes, what counts as use, and the way back."""

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.db import now
from app.deployments import idle, replicas, service
from app.deployments.tables import Deployment
from app.errors import Conflict
from tests.conftest import Client
from tests.deployments.acts import body, messages, only, run, started, sweep
from tests.factories import make_deployment, make_model, make_node, make_replica


def ready(db: Session, who: Principal, minutes: int | None = 5) -> Deployment:
    make_node(db)
    deployment = service.create(db, who, body(make_model(db), idle_minutes=minutes))
    run(db, deployment)
    return deployment


def quiet(deployment: Deployment, minutes: float, seconds: float = 0) -> None:
    """Nobody has asked for so long."""
    deployment.ready_at = now() - timedelta(hours=1)
    deployment.last_used_at = now() - timedelta(minutes=minutes, seconds=seconds)


# -- to sleep and back -------------------------------------------------------------------


def test_it_sleeps_after_the_time_that_was_set(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    deployment = ready(db, who)
    replica = only(db, deployment)
    quiet(deployment, 5)  # not yet: a gateway may be about to say that it was used
    db.flush()
    idle.rest(db)
    assert deployment.desired == "running"
    quiet(deployment, 5, 21)
    db.flush()
    idle.rest(db)
    assert (deployment.desired, deployment.state, replica.state) == ("idle", "stopping", "stopping")
    assert service.route(db, workspace.id, "mood").asleep
    sweep(db)
    assert replica.state == "stopping"
    assert replicas.end(db, replica.id, replica.fence)
    assert (deployment.state, deployment.ready_at) == ("idle", None)
    sweep(db)
    assert deployment.state == "idle"
    assert [one.name for one in service.names(db, workspace.id)] == ["mood"]
    said = messages(db, deployment)
    assert "No request for 5 minutes: it goes to sleep." in said
    assert "Asleep. Its devices are free; the next request wakes it." in said

    db.info["outbox"] = []
    assert idle.wake(db, deployment.id)
    assert not idle.wake(db, deployment.id)
    assert db.info["outbox"] == [("workers.sweep", (), "control")]
    assert (deployment.desired, deployment.state) == ("running", "pending")
    assert service.route(db, workspace.id, "mood").asleep
    assert [one.name for one in service.names(db, workspace.id)] == ["mood"]
    sweep(db)
    started(db, replica)
    replicas.mark(db, replica.id, replica.fence, state="ready")
    found = service.route(db, workspace.id, "mood")
    assert (found.asleep, len(found.replicas)) == (False, 1)
    idle.rest(db)
    assert deployment.desired == "running"  # ready just now counts as used


def test_use_keeps_it_awake(db: Session, who: Principal) -> None:
    deployment = ready(db, who)
    replica = only(db, deployment)
    for ids in ([deployment.id], [replica.id]):
        quiet(deployment, 60)
        db.flush()
        assert idle.touch(db, ids)
        assert not idle.touch(db, ids)  # at most every ten seconds
        db.refresh(deployment)
        idle.rest(db)
        assert deployment.desired == "running"


@pytest.mark.parametrize("minutes", [None, 120])
def test_without_the_setting_or_before_its_time_it_stays(
    db: Session, who: Principal, minutes: int | None
) -> None:
    deployment = ready(db, who, minutes)
    quiet(deployment, 60)
    db.flush()
    idle.rest(db)
    assert deployment.desired == "running"


def test_only_what_is_ready_goes_to_sleep(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    deployment = ready(db, who)
    replicas.mark(db, only(db, deployment).id, 1, state="unhealthy", strikes=3)
    quiet(deployment, 60)
    db.flush()
    idle.rest(db)
    assert deployment.desired == "running"
    service.stop(db, workspace.id, deployment.id)
    with pytest.raises(Conflict):
        idle.sleep(db, workspace.id, deployment.id)
    assert not idle.wake(db, deployment.id)


def test_a_person_may_start_stop_and_delete_what_sleeps(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    deployment = ready(db, who, None)
    replica = only(db, deployment)

    def lay_down() -> None:
        idle.sleep(db, workspace.id, deployment.id)
        idle.sleep(db, workspace.id, deployment.id)
        if replica.state == "stopping":
            replicas.end(db, replica.id, replica.fence)
        assert deployment.state == "idle"

    lay_down()
    service.start(db, workspace.id, deployment.id)
    assert (deployment.desired, deployment.state) == ("running", "pending")
    lay_down()
    service.stop(db, workspace.id, deployment.id)
    assert (deployment.state, deployment.idled_at) == ("stopped", None)
    assert not service.route(db, workspace.id, "mood").asleep
    assert service.names(db, workspace.id) == []
    service.start(db, workspace.id, deployment.id)
    lay_down()
    service.delete(db, workspace.id, deployment.id)
    assert deployment.state == "stopped"
    assert not idle.wake(db, deployment.id)


# -- the setting -------------------------------------------------------------------------


def test_the_setting_by_api(db: Session, api: Client) -> None:
    model = make_model(db)
    db.commit()
    made = api.post("/api/v1/deployments", json={"name": "a", "model": model.id, "idle_minutes": 5})
    assert (made.status_code, made.json()["idle_minutes"]) == (201, 5)
    path = f"/api/v1/deployments/{made.json()['id']}"
    assert api.put(f"{path}/idle", json={"minutes": 30}).json()["idle_minutes"] == 30
    assert api.put(f"{path}/idle", json={"minutes": None}).json()["idle_minutes"] is None
    for wrong in ({}, {"minutes": 0}, {"minutes": 20_000}, {"minutes": 5, "x": 1}):
        assert api.put(f"{path}/idle", json=wrong).status_code == 422
    said = [event["message"] for event in api.get(f"{path}/events").json()["data"]]
    assert "It sleeps after 30 minutes without a request." in said
    assert "It no longer goes to sleep by itself." in said
    slept = api.post(f"{path}/sleep")
    assert (slept.status_code, slept.json()["state"]) == (200, "idle")
    api.post(f"{path}/stop")
    assert api.post(f"{path}/sleep").json()["code"] == "deployment_stopped"


def test_the_setting_on_the_pages(db: Session, client: Client) -> None:
    model = make_model(db)
    db.commit()
    form = {"name": "mood", "model": model.id}
    wrong = client.post("/deployments", data=form | {"idle_minutes": "0"})
    assert (wrong.status_code, "at least 1" in wrong.text) == (422, True)
    page = client.post("/deployments", data=form | {"idle_minutes": "15"}).headers["location"]
    assert 'value="15"' in client.get(f"{page}?tab=settings").text
    wrong = client.post(f"{page}/idle", data={"idle_minutes": "often"})
    assert (wrong.status_code, "whole number" in wrong.text) == (422, True)
    assert client.post(f"{page}/idle", data={}).status_code == 303
    assert 'value="15"' not in client.get(f"{page}?tab=settings").text
    assert client.post(f"{page}/sleep").headers["location"] == page
    assert 'data-state="idle"' in client.get(page).text


def test_a_page_of_one_that_is_ready_offers_sleep(db: Session, client: Client) -> None:
    made = make_deployment(db, client.workspace, client.user, state="ready", last_used_at=now())
    make_replica(db, made, state="ready")
    db.commit()
    page = client.get(f"/deployments/{made.id}?tab=settings").text
    assert 'data-testid="deploy-sleep"' in page
    assert "Last request" in page
