"""The curves and the log of a deployment in a real browser."""

from datetime import timedelta

import pytest
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.deployments import replicas
from app.deployments.tables import Deployment, Replica, ReplicaMetric
from app.queue import transaction
from app.quotas import service as quotas
from tests.dashboard.test_manners import (  # noqa: F401 - fixtures
    Admin,
    address,
    admin,
    browser,
    page,
)
from tests.factories import make_deployment, make_replica

pytestmark = pytest.mark.slow
LOG = b"\x1b[32mloading\x1b[0m <b>x</b>\nready\n"


@pytest.fixture
def deployment(db: Session, admin: Admin) -> Deployment:  # noqa: F811
    """One that has answered for half an hour."""
    made = make_deployment(
        db, admin.workspace, admin.user, name="mood", state="ready",
        created_at=now() - timedelta(hours=2),
    )  # fmt: skip
    replica = make_replica(db, made, fence=1, state="ready")
    for number in range(180):
        at = (now() - timedelta(seconds=10 * number)).replace(microsecond=0)
        db.add(
            ReplicaMetric(
                replica_id=replica.id, at=at, deployment_id=made.id, fence=1, kept=False, running=2,
                waiting=number % 3, cache=0.3, generated=10**6 - 500 * number, prompted=10**6,
                gaps=[[0.02, 10**6 - 400 * number], [None, 10**6 - 400 * number]],
                devices={"cpu:0": {"use": 40, "memory": 2**31}},
            )
        )  # fmt: skip
    asked = {
        "kind": "tokens", "workspace_id": admin.workspace.id, "user_id": None, "api_key_id": None,
        "owner_kind": "deployment", "owner_id": made.id, "model": "mood", "prompt_tokens": 1,
        "completion_tokens": 1, "duration_ms": 200, "status": 200, "completed": True,
    }  # fmt: skip
    rows = [
        asked | {"id": new_id("rq"), "at": (now() - timedelta(seconds=7 * number)).isoformat(),
        "first_token_ms": 50 + number}
        for number in range(200)
    ]  # fmt: skip
    quotas.record(db, rows)
    replicas.ship_log(db, replica.id, 1, 0, LOG)
    db.commit()
    return made


def test_the_curves_of_a_deployment(page, deployment):  # noqa: F811
    page.goto(f"/deployments/{deployment.id}?tab=charts")
    shown = page.locator("[data-figure]:visible canvas")
    expect(shown).to_have_count(8, timeout=20_000)
    for name in ("15m", "24h", "7d", "1h"):
        with page.expect_response(lambda answer, name=name: f"range={name}" in answer.url):
            page.locator(f'label[for="range-{name}"]').click()
        expect(shown).to_have_count(8, timeout=20_000)
    expect(page.get_by_test_id("deploy-charts-empty")).to_be_hidden()


def test_without_anything_it_says_so(page, db, admin):  # noqa: F811
    made = make_deployment(db, admin.workspace, admin.user)
    db.commit()
    page.goto(f"/deployments/{made.id}?tab=charts")
    expect(page.get_by_test_id("deploy-charts-empty")).to_be_visible()
    page.goto(f"/deployments/{made.id}?tab=log")
    expect(page.get_by_test_id("deploy-log")).to_contain_text("not written anything")


def test_the_log_follows_into_the_next_start(page, deployment):  # noqa: F811
    page.goto(f"/deployments/{deployment.id}?tab=log")
    log = page.get_by_test_id("deploy-log")
    expect(log).to_have_text("loading <b>x</b>\nready\n")

    def write(fence: int, offset: int, data: bytes) -> None:
        with transaction() as db:
            replica = db.query(Replica).filter_by(deployment_id=deployment.id).one()
            replica.fence = fence
            assert replicas.ship_log(db, replica.id, fence, offset, data)

    write(1, len(LOG), b"more\n")
    expect(log).to_contain_text("ready\nmore")
    write(2, 0, b"anew\n")
    expect(log).to_contain_text("Start 2 —\nanew")
    page.get_by_test_id("deploy-log-start").select_option("1")
    expect(log).to_have_text("loading <b>x</b>\nready\nmore\n")
    page.get_by_test_id("deploy-log-search").fill("READY")
    expect(page.locator("#log-found mark")).to_have_text("ready")
    with page.expect_download() as download:
        page.get_by_test_id("deploy-log-download").click()
    assert download.value.suggested_filename == "mood-1-1.log"
