"""Curves of a deployment: what engines say of themselves, and what the ledger says of requests."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.db import new_id, now
from app.deployments import metrics
from app.deployments.metrics import Reading, quantile
from app.deployments.tables import Deployment, Replica, ReplicaMetric
from app.quotas import service as quotas
from tests.conftest import Client
from tests.factories import added, make_deployment, make_replica, make_user

GAPS = [[0.01, 0], [0.1, 0], [None, 0]]


@pytest.fixture
def deployment(db: Session, workspace: Workspace) -> Deployment:
    return make_deployment(
        db, workspace, make_user(db), created_at=now() - timedelta(days=40), state="ready"
    )


def reading(db: Session, replica: Replica, at: datetime, **values: Any) -> ReplicaMetric:
    row = {
        "replica_id": replica.id,
        "at": at,
        "deployment_id": replica.deployment_id,
        "fence": replica.fence,
        "kept": True,
        "gaps": GAPS,
        "devices": {},
    }
    return added(db, ReplicaMetric(**row | values))


def asked(db: Session, deployment: Deployment, at: datetime, **values: Any) -> None:
    row = {
        "id": new_id("rq"), "at": at.isoformat(), "kind": "tokens",
        "workspace_id": deployment.workspace_id, "user_id": None, "api_key_id": None,
        "owner_kind": "deployment", "owner_id": deployment.id, "model": deployment.name,
        "prompt_tokens": 1, "completion_tokens": 1, "first_token_ms": 100, "duration_ms": 200,
        "status": 200, "completed": True,
    }  # fmt: skip
    quotas.record(db, [row | values])


def known(curve: list[float | None]) -> list[float]:
    return [value for value in curve if value is not None]


# -- the ledger --------------------------------------------------------------------------


def test_requests_errors_and_first_tokens_come_from_the_ledger(db, deployment, workspace):
    at = now() - timedelta(minutes=5)
    for number in range(20):
        asked(db, deployment, at, first_token_ms=100 * (number + 1))
    asked(db, deployment, at, status=500, first_token_ms=None)
    asked(db, deployment, at, status=499, first_token_ms=None)  # the client left: no error
    other = make_deployment(db, workspace, make_user(db))
    asked(db, other, at)
    found = metrics.curves(db, deployment, "1h")
    assert len(found.t) == 3600 / found.step
    assert {after - before for before, after in pairwise(found.t)} == {found.step}
    minutes = found.step / 60
    assert sum(known(found.requests)) * minutes == pytest.approx(22)
    assert sum(known(found.errors)) * minutes == pytest.approx(1)
    assert len(known(found.requests)) == len(found.t)  # a minute without requests has 0 of them
    assert known(found.first_token["p50"]) == [1.05]
    assert known(found.first_token["p95"]) == [1.905]
    assert not found.empty


def test_before_there_was_a_deployment_there_is_no_curve(db, workspace):
    young = make_deployment(db, workspace, make_user(db), created_at=now() - timedelta(minutes=2))
    found = metrics.curves(db, young, "15m")
    assert found.requests[0] is None
    assert found.requests[-1] == 0
    assert found.empty


# -- engines -----------------------------------------------------------------------------


def test_rates_are_differences_and_a_start_begins_anew(db, deployment):
    replica = make_replica(db, deployment, fence=1)
    end = now().replace(microsecond=0)
    for number in range(10, 0, -1):  # 100 tokens a second, read every 10 s, until 100 s ago
        at = end - timedelta(seconds=100 + 10 * number)
        reading(
            db, replica, at, generated=50_000 + 1000 * (10 - number), prompted=10, running=2,
            waiting=number, cache=0.5, gaps=[[0.01, 100 * (10 - number)], [0.1, 100], [None, 1000]],
        )  # fmt: skip
    replica.fence = 2
    for number in range(3, 0, -1):  # started anew: its counts begin at 0
        at = end - timedelta(seconds=10 * number)
        reading(db, replica, at, generated=10 * (3 - number), running=1, waiting=0, cache=0.25)
    found = metrics.curves(db, deployment, "15m")
    rates = known(found.generated)
    assert rates, "no rate at all"
    assert min(rates) >= 0
    assert max(rates) == pytest.approx(100)
    assert rates[-1] == pytest.approx(1)
    assert {round(rate) for rate in rates} == {1, 100}
    assert set(known(found.prompted)) == {0.0}
    assert set(known(found.running)) == {1.0, 2.0}
    assert max(known(found.waiting)) == 10
    assert set(known(found.cache)) == {25.0, 50.0}
    assert all(0 < gap < 0.01 for gap in known(found.between_tokens["p50"]))


def test_an_engine_in_its_first_hour_has_rates_in_the_view_of_a_week(db, deployment):
    replica = make_replica(db, deployment, fence=1)
    hour = now().replace(minute=0, second=0, microsecond=0)
    for seconds in (10, 20, 30):
        gaps = [[0.01, seconds], [0.1, 2 * seconds], [None, 2 * seconds]]
        reading(
            db, replica, hour - timedelta(seconds=3600 - seconds),
            prompted=100, generated=50 * seconds, gaps=gaps,
        )  # fmt: skip
    found = metrics.curves(db, deployment, "7d")
    assert known(found.generated) == [50]
    assert known(found.prompted) == [0]
    assert len(known(found.between_tokens["p50"])) == 1


def test_replicas_are_added_up_and_the_fullest_cache_counts(db, deployment):
    at = now().replace(microsecond=0) - timedelta(minutes=5)
    for index, cache in enumerate((0.2, 0.9)):
        replica = make_replica(db, deployment, index=index, fence=1)
        for seconds in (0, 30):
            reading(
                db, replica, at + timedelta(seconds=seconds), running=3, waiting=1, cache=cache,
                generated=60 * seconds, devices={"cpu:0": {"use": 50 + seconds, "memory": 7}},
            )  # fmt: skip
    found = metrics.curves(db, deployment, "1h")
    assert known(found.running) == [6.0, 6.0]
    assert known(found.waiting) == [2, 2]
    assert known(found.cache) == [90.0, 90.0]
    assert known(found.generated) == [120.0]
    assert known(found.devices["cpu:0"]["use"]) == [50.0, 80.0]
    assert known(found.devices["cpu:0"]["memory"]) == [7, 7]


def test_what_an_engine_does_not_say_stays_empty(db, deployment):
    replica = make_replica(db, deployment, fence=1)
    metrics.record(db, replica.id, 1, Reading(running=1, generated=5, prompted=2))
    found = metrics.curves(db, deployment, "15m")
    assert known(found.running) == [1.0]
    assert known(found.cache) == known(found.waiting) == known(found.between_tokens["p50"]) == []


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        ({}, 0.5, None),
        ({0.1: 0.0, None: 0.0}, 0.5, None),
        ({0.1: 100.0, 0.2: 100.0, None: 100.0}, 0.5, 0.05),
        ({0.1: 50.0, 0.3: 100.0, None: 100.0}, 0.75, 0.2),
        ({0.1: 0.0, None: 10.0}, 0.95, 0.1),  # beyond the last limit: at least that
    ],
)
def test_quantiles_of_buckets(counts, share, seconds):
    assert quantile(counts, share) == (seconds if seconds is None else pytest.approx(seconds))


# -- keeping -----------------------------------------------------------------------------


def test_readings_are_thinned_out_and_then_go(db, deployment):
    replica = make_replica(db, deployment, fence=3)
    for _ in range(3):  # within one second they are one
        metrics.record(db, replica.id, 3, Reading(running=1))
    metrics.record(db, replica.id, 2, Reading(running=7))  # a stale start says nothing
    rows = db.scalars(select(ReplicaMetric)).all()
    assert {row.running for row in rows} == {1}
    assert sum(row.kept for row in rows) == 1
    for days, kept in ((0.5, False), (2, False), (2, True), (31, True)):
        at = now() - timedelta(days=days, seconds=kept)
        reading(db, replica, at, kept=kept, running=9)
    metrics.clear(db)
    left = select(func.count()).where(ReplicaMetric.running == 9)
    assert db.scalar(left) == 2


def test_a_week_of_readings_is_read_at_once(db, deployment):
    """A row per 5 minutes for a week and per 10 s for the last day: a page takes no second."""
    replica = make_replica(db, deployment, fence=1)
    end = now().replace(microsecond=0)
    ages = {300 * number for number in range(1, 2016)} | {10 * number for number in range(1, 8640)}
    db.add_all(
        ReplicaMetric(
            replica_id=replica.id, at=end - timedelta(seconds=age), deployment_id=deployment.id,
            fence=1, kept=age % 300 == 0, running=1, waiting=0, cache=0.1, generated=10**7 - age,
            prompted=10**7 - age, gaps=GAPS, devices={"cpu:0": {"use": 1, "memory": 2}},
        )
        for age in ages
    )  # fmt: skip
    db.flush()
    for shown in metrics.RANGES:
        began = now()
        found = metrics.curves(db, deployment, shown)
        assert now() - began < timedelta(seconds=3)
        assert len(known(found.generated)) >= len(found.t) - 2
        assert {round(rate, 1) for rate in known(found.generated)} == {1.0}


# -- the page and the API ----------------------------------------------------------------


def test_the_page_asks_for_the_curves_and_the_api_has_them(db: Session, client: Client):
    made = make_deployment(db, client.workspace, client.user, created_at=now() - timedelta(hours=2))
    asked(db, made, now() - timedelta(minutes=1))
    db.commit()
    page = client.get(f"/deployments/{made.id}?tab=charts").text
    assert f"/deployments/{made.id}/charts" in page
    fragment = client.get(f"/deployments/{made.id}/charts", params={"range": "24h"}).text
    address = f"/api/v1/deployments/{made.id}/metrics"
    assert address in fragment
    assert 'value="24h" checked' in fragment
    found = client.get(address, params={"range": "15m"}).json()
    assert (found["range"], found["step"], found["empty"]) == ("15m", 15, False)
    assert sum(value or 0 for value in found["requests"]) == 4  # per minute, in one quarter of it
    assert client.get(address, params={"range": "2h"}).status_code == 422
