"""Usage by the month: sums agree with the ledger, and files are safe to open."""

import csv
import io
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.dashboard import statements
from app.db import new_id, now
from app.errors import Invalid
from app.quotas import prices, service
from app.quotas.charging import FINE, money
from app.quotas.kinds import HOUR
from app.quotas.money_tables import Charge
from tests.conftest import Client
from tests.factories import (
    make_deployment,
    make_job,
    make_key,
    make_membership,
    make_model,
    make_replica,
    make_user,
)


@pytest.fixture
def spent(db: Session, api: Client) -> dict[str, str]:
    """A job, a deployment with a replica, calls by two people."""
    prices.put(db, "", Decimal("1.07"), "CNY")
    for kind in ("input", "output", "trained"):
        prices.change(db, kind, "", Decimal("0.003"), "CNY")
    space, model = api.workspace, make_model(db)
    job = make_job(db, space, api.user, name="=1+1", model_id=model.id)
    deployment = make_deployment(db, space, api.user, name="bot")
    replica = make_replica(db, deployment)
    other = make_user(db, name="Wang")
    make_membership(db, space, other, "member")
    base = {"workspace_id": space.id, "user_id": api.user.id}

    def row(kind: str, owner: str, owner_id: str, **more: Any) -> dict[str, Any]:
        values = {"id": new_id("rq"), "kind": kind, "owner_kind": owner, "owner_id": owner_id}
        return base | values | {"model_id": model.id} | more

    calls = {"prompt_tokens": 333, "completion_tokens": 777}
    service.record(
        db,
        [
            row("device", "job", job.id, device_ms=HOUR // 7),
            row("train", "job", job.id, trained_tokens=1001),
            row("device", "replica", replica.id, device_ms=HOUR // 3),
            *(row("tokens", "deployment", deployment.id, **calls) for _ in range(7)),
            row("tokens", "deployment", deployment.id, user_id=other.id, **calls),
            row("tokens", "deployment", deployment.id, at=now() - timedelta(days=40), **calls),
        ],
    )
    key = make_key(db, space, other)
    db.commit()
    return {"job": job.id, "deployment": deployment.id, "other": other.id, "key": key}


def test_a_month_adds_up_to_the_ledger(db: Session, api: Client, spent: dict[str, str]) -> None:
    exact = db.scalar(select(func.sum(Charge.parts)))
    for by in statements.BYS:
        found = statements.of(db, api.workspace, "", by)
        assert sum(line.parts["CNY"] for line in found.lines) == found.total.parts["CNY"] == exact
        assert found.sum("CNY") == money(exact)
    found = statements.of(db, api.workspace)
    assert {line.key: line.name for line in found.lines} == {
        spent["job"]: "=1+1", spent["deployment"]: "bot",
    }  # fmt: skip
    (job,) = [line for line in found.lines if line.kind == "job"]
    assert job.cost("CNY") == Decimal("0.155860")  # 1.07 / 7 + 1001 x 0.003 / 1000, once rounded
    assert job.device_hours == Decimal("0.1429")
    assert found.total.requests == 8
    assert found.before < found.month
    assert statements.of(db, api.workspace, found.before).total.requests in (0, 1)
    with pytest.raises(Invalid, match="2026-11"):
        statements.of(db, api.workspace, "2026-13")


def test_members_see_their_own_and_files_are_safe(
    db: Session, api: Client, spent: dict[str, str]
) -> None:
    all_of_it = api.get("/api/v1/usage?by=member").json()
    assert sorted(line["name"] for line in all_of_it["data"]) == ["Lin", "Wang"]
    hers = {"authorization": f"Bearer {spent['key']}", "accept-language": "zh"}
    own = api.get("/api/v1/usage?by=member", headers=hers).json()
    assert [(line["name"], line["requests"]) for line in own["data"]] == [("Wang", 1)]
    assert Decimal(own["total"]["CNY"]) == Decimal("0.00")
    answer = api.get("/api/v1/usage/statement.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(answer.text.removeprefix("\ufeff"))))
    assert rows[0][-1] == "Cost (CNY)"
    assert "'=1+1" in {row[4] for row in rows}
    assert rows[-1][4] == "Total"
    assert abs(sum(Decimal(row[-1]) for row in rows[1:-1]) - Decimal(rows[-1][-1])) < Decimal(
        "0.01"
    )
    chinese = api.get("/api/v1/usage/statement.csv", headers=hers).text
    assert chinese.startswith("\ufeff月份,")
    assert api.get("/api/v1/usage?workspace=none").status_code == 404
    assert FINE < 1


def test_what_is_left_of_each_limit(db: Session, api: Client, spent: dict[str, str]) -> None:
    service.put(db, api.workspace.id, 4)
    db.commit()
    found = {one["name"]: one for one in api.get("/api/v1/usage/limits").json()["data"]}
    assert (found["devices"]["limit"], found["devices"]["source"]) == (4, "workspace")
    assert found["tokens_month"]["used"] in (8 * 1110, 9 * 1110)
    assert found["device_hours_month"]["used"] == pytest.approx(1 / 3 + 1 / 7, abs=0.001)
    assert found["deployments"]["used"] == 1
    assert found["storage_bytes"]["used"] > 0
    own = {one["name"]: one for one in api.get("/api/v1/usage/limits?own=true").json()["data"]}
    assert own["tokens_month"]["used"] in (7 * 1110, 8 * 1110)


def test_asking_for_more(db: Session, api: Client, spent: dict[str, str]) -> None:
    hers = {"authorization": f"Bearer {spent['key']}"}
    path = "/api/v1/quota-requests"
    asked = {"limit": "device_hours_month", "amount": 12.5, "why": "A demo"}
    first = api.post(path, json=asked, headers=hers).json()
    mine = api.post(path, json=asked | {"own": True}, headers=hers).json()
    assert api.post(f"{path}/{first['id']}/approve", json={}).status_code == 403
    approved = api.post(f"{path}/{mine['id']}/approve", json={"amount": 10}).json()
    assert (approved["state"], approved["granted"], approved["limit"]) == (
        "approved", 10, "device_hours_month",
    )  # fmt: skip
    assert api.post(f"{path}/{mine['id']}/approve", json={}).status_code == 409
    quota = f"/api/v1/quotas/{api.workspace.id}"
    assert api.get(f"{quota}/members/{spent['other']}").json()["device_hours_month"] == 10
    api.user.is_platform_admin = True
    db.commit()
    assert api.post(f"{path}/{first['id']}/refuse", json={"answer": ""}).status_code == 422
    refused = api.post(f"{path}/{first['id']}/refuse", json={"answer": "Next month"}).json()
    assert (refused["state"], refused["answer"]) == ("refused", "Next month")
    seen = api.get(path, headers=hers).json()["data"]
    assert {(one["state"], one["answer"]) for one in seen} == {
        ("approved", ""), ("refused", "Next month"),
    }  # fmt: skip


def test_money_by_the_api(db: Session, api: Client) -> None:
    model = make_model(db)
    path = f"/api/v1/balances/{api.workspace.id}/top-ups"
    assert api.post(path, json={"amount": "5"}).status_code == 403
    api.user.is_platform_admin = True
    db.commit()
    assert api.post(path, json={"amount": "100.10", "note": "PO 7"}).status_code == 201
    assert api.post(path, json={"amount": "0"}).status_code == 422
    (balance,) = api.get("/api/v1/balance").json()["data"]
    assert (balance["amount"], balance["prepaid"]) == ("100.10", True)
    assert api.get(path).json()["data"][0]["note"] == "PO 7"
    body = {"input": "0.002", "output": "0.006", "model": model.name, "first_day": "2999-01-01"}
    planned = api.put("/api/v1/prices/tokens", json=body).json()["data"]
    assert [(one["kind"], one["model"]) for one in planned] == [
        ("input", model.name), ("output", model.name),
    ]  # fmt: skip
    free = {"model": model.id, "amount": 10**6, "last_day": f"{now():%Y-%m-%d}"}
    made = api.post("/api/v1/free-quotas", json=free).json()
    stop = {"model": model.name, "stop": True}
    (shown,) = api.put("/api/v1/free-quotas/stop", json=stop).json()["data"]
    assert (shown["left"], shown["stops"], shown["model"]) == (10**6, True, model.name)
    assert api.delete(f"/api/v1/free-quotas/{made['id']}").status_code == 204
    assert api.get("/api/v1/free-quotas").json()["data"] == []
    past = free | {"last_day": "2020-01-01"}
    assert api.post("/api/v1/free-quotas", json=past).status_code == 422
