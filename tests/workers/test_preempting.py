"""Training makes room for work of a higher priority, and goes on from its checkpoint: real runs."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.accounts.tables import User, Workspace
from app.cluster import service as cluster
from app.config import settings
from app.jobs import history, service
from app.queue import transaction
from tests import factories
from tests.workers.stand_in import SUCCEEDS, TRAINS, install, look, make_job, start, tick_until
from workers import runs, sweep


@pytest.fixture
def team(db: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, User]:
    monkeypatch.setattr(settings, "train_python", str(install(tmp_path, TRAINS)))
    user = factories.make_user(db)
    factories.make_node(db, id=settings.node, devices=1)
    return factories.make_workspace(db, owner=user), user


def test_it_saves_leaves_waits_at_its_place_and_goes_on(
    db: Session, team: tuple[Workspace, User], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = make_job(db, *team)
    asked = ask_again(db, low.id, priority=cluster.LOW)
    start(low)
    tick_until(lambda: look(low.id).step >= 3)
    high = make_job(db, *team, name="urgent one")
    ask_again(db, high.id, priority=cluster.HIGH)
    sweep.run(sweep.decide)
    assert (look(low.id).state, look(low.id).reason) == ("pausing", "preempted")
    assert reason(high.id) == "preempting"
    sweep.run(sweep.decide)  # told once
    tick_until(lambda: look(low.id).state == "queued")
    left = look(low.id)
    assert (left.reason, left.retries, left.error) == ("preempted", 0, None)
    with transaction() as own:
        request = cluster.waiting(own, "job", low.id)
        assert request is not None
        assert (request.created_at, request.preemptions, request.priority) == (asked, 1, 1)
        told = [event.kind for event in history.events(own, low.id)]
    assert "preempted" in told
    monkeypatch.setattr(settings, "train_python", str(install(tmp_path, SUCCEEDS)))
    start(high)
    assert look(low.id).state == "queued"
    tick_until(lambda: look(high.id).state == "succeeded")
    monkeypatch.setattr(settings, "train_python", str(install(tmp_path, TRAINS)))
    start(low)
    tick_until(lambda: look(low.id).state == "succeeded")
    with transaction() as own:
        log = history.log_after(own, low.id, 0, 0, final=True)
    assert log.text.count("from 0") == 1
    assert "from " + str(left.step) in log.text


def ask_again(db: Session, job_id: str, *, priority: int) -> object:
    """Its request as training of that priority has it."""
    request = cluster.waiting(db, "job", job_id)
    assert request is not None
    request.priority, request.preemptible, request.seconds = priority, True, 3600.0
    db.commit()
    return request.created_at


def reason(job_id: str) -> str:
    with transaction() as own:
        request = cluster.waiting(own, "job", job_id)
        assert request is not None
        return request.reason


def test_who_pauses_it_meanwhile_keeps_it_paused(db: Session, team: tuple[Workspace, User]) -> None:
    low = make_job(db, *team)
    ask_again(db, low.id, priority=cluster.LOW)
    start(low)
    high = make_job(db, *team)
    ask_again(db, high.id, priority=cluster.URGENT)
    sweep.run(sweep.decide)
    assert look(low.id).reason == "preempted"
    with transaction() as own:
        service.pause(own, team[0].id, low.id)
    tick_until(lambda: look(low.id).state == "paused")
    with transaction() as own:
        assert cluster.waiting(own, "job", low.id) is None
        service.cancel(own, team[0].id, high.id)
    runs.tick(settings.node)
