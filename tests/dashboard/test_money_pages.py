"""The pages of quotas and money."""

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy.orm import Session

from app.db import now
from app.quotas import accounts, free, limits, prices, service
from app.quotas.money_tables import Account, QuotaRequest
from tests.conftest import Client
from tests.factories import (
    make_deployment,
    make_membership,
    make_model,
    make_user,
    make_workspace,
)
from workers import spending as running_out


@pytest.fixture
def admin(db: Session, client: Client) -> Client:
    client.user.is_platform_admin = True
    db.commit()
    return client


def own(db: Session, workspace_id: str | None) -> dict[str, int | None]:
    found = limits.effective(db, workspace_id)
    return {name: limit.amount for (name, _), limit in found.items()}


def test_quotas_are_edited_in_place_and_many_at_once(db: Session, admin: Client) -> None:
    teams = [make_workspace(db, name=f"Team <b>{number}") for number in range(3)]
    service.put(db, teams[0].id, 3)
    db.commit()
    page = admin.get("/admin/quotas").text
    assert "Team &lt;b&gt;0" in page
    assert "<b>0" not in page
    first = f"{teams[0].id}:devices"
    typed = {"act": "save", first: "5", f"{teams[1].id}:device_hours_day": "1.5"}
    assert admin.post("/admin/quotas", data=typed).status_code == 303
    assert own(db, teams[0].id)["devices"] == 5
    assert own(db, teams[1].id)["device_hours_day"] == 5_400_000
    wrong = admin.post("/admin/quotas", data=typed | {first: "many"})
    assert wrong.status_code == 422
    assert 'value="many"' in wrong.text
    assert own(db, teams[0].id)["devices"] == 5
    bulk = {"act": "set", "row": [team.id for team in teams], "name": "queued_jobs"}
    assert admin.post("/admin/quotas", data=bulk | {"amount": "7"}).status_code == 303
    assert [own(db, team.id)["queued_jobs"] for team in teams] == [7, 7, 7]
    until = f"{now() + timedelta(days=2):%Y-%m-%d}"
    raised = bulk | {"amount": "∞", "until": until}
    assert admin.post("/admin/quotas", data=raised).status_code == 303
    assert own(db, teams[2].id)["queued_jobs"] is None
    assert until in admin.get("/admin/quotas").text
    assert admin.post("/admin/quotas", data={"act": "set", "amount": "1"}).status_code == 422
    default = {"act": "set", "row": "default", "name": "deployments", "amount": "9"}
    assert admin.post("/admin/quotas", data=default).status_code == 303
    assert own(db, make_workspace(db).id)["deployments"] == 9


def test_members_quotas_and_requests(db: Session, client: Client) -> None:
    user = make_user(db, name="Wang")
    make_membership(db, client.workspace, user, "member")
    db.commit()
    assert "Wang" in client.get("/usage/members").text
    cell = {"act": "save", f"{user.id}:running_jobs": "2"}
    assert client.post("/usage/members", data=cell).status_code == 303
    assert limits.of_member(db, client.workspace.id, user.id)["running_jobs", ""].amount == 2
    path = "/usage/requests"
    asked = {"limit": "storage_bytes", "amount": "2.5", "why": "More <data>"}
    assert client.post(path, data=asked).status_code == 303
    empty = client.post(path, data=asked | {"why": ""})
    assert (empty.status_code, "2.5" in empty.text) == (422, True)
    (row,) = db.query(QuotaRequest).all()
    assert row.amount == 2.5 * 2**30
    page = client.get(path).text
    assert "More &lt;data&gt;" in page
    assert "approve" not in page
    client.user.is_platform_admin = True
    db.commit()
    nothing = client.post(f"{path}/{row.id}/refuse", data={})
    assert (nothing.status_code, "Say why" in nothing.text) == (422, True)
    given = {"amount": "3", "answer": "A little more"}
    assert client.post(f"{path}/{row.id}/approve", data=given).status_code == 303
    assert own(db, client.workspace.id)["storage_bytes"] == 3 * 2**30
    assert "A little more" in client.get(path).text


def test_usage_and_money(db: Session, admin: Client) -> None:
    model = make_model(db, name="qwen")
    prices.put(db, "", 2, "CNY")
    db.commit()
    space = admin.workspace.id
    top = {"workspace": space, "amount": "12.50", "currency": "CNY", "note": "PO <7>"}
    assert admin.post("/admin/money/top-ups", data=top).status_code == 303
    assert admin.post("/admin/money/top-ups", data=top | {"amount": "x"}).status_code == 422
    price = {"model": model.name, "input": "0.002", "output": "0.006"}
    assert admin.post("/admin/money/prices", data=price).status_code == 303
    assert admin.post("/admin/money/prices", data=price | {"model": "none"}).status_code == 422
    free = {"model": "qwen", "kind": "tokens", "amount": "1000000", "last_day": f"{now():%Y-%m-%d}"}
    assert admin.post("/admin/money/free", data=free).status_code == 303
    assert "0.006" in admin.get("/admin/money").text
    hour = {"id": "lse_1", "kind": "device", "workspace_id": space, "device_ms": 3_600_000}
    service.record(db, [hour | {"owner_kind": "job", "owner_id": "job_1"}])
    db.commit()
    page = admin.get("/usage").text
    for part in ("10.50 CNY", "2.000000", "PO &lt;7&gt;", "1,000,000 / 1,000,000"):
        assert part in page
    assert admin.get(f"/usage?by=day&workspace={space}").status_code == 200
    assert admin.post("/usage/free", data={"model": "qwen", "stop": "true"}).status_code == 303
    assert "checked" in admin.get("/usage").text
    assert admin.get("/usage/statement.csv").text.startswith("\ufeff")
    assert admin.get("/usage?month=x").status_code == 422


def test_what_is_nearly_used_up_stands_on_every_page_until_it_is_closed(
    db: Session, client: Client
) -> None:
    assert 'id="quota-banner"' in client.get("/datasets").text
    limits.change(db, client.workspace.id, None, {"tokens_month": 100})

    def use(tokens: int) -> None:
        row = {"id": f"rq_{tokens}", "kind": "tokens", "workspace_id": client.workspace.id}
        owner = {"owner_kind": "deployment", "owner_id": "dep_1", "prompt_tokens": tokens}
        service.record(db, [row | owner])
        running_out.watch(db)
        db.commit()

    use(79)
    assert "Tokens a month" not in client.get("/meter").text
    use(2)
    banner = client.get("/meter").text
    assert "over 80 % used" in banner
    assert "/usage/requests?limit=tokens_month" in banner
    (seen,) = re.findall('data-seen="([^"]+)"', banner)
    client.cookies.set("danlu_quota_seen", seen)
    assert "Tokens a month" not in client.get("/meter").text
    use(30)
    assert "used up" in client.get("/meter").text
    form = client.get("/usage/requests?limit=tokens_month&own=true").text
    assert re.search('value="tokens_month" selected', form)
    assert re.search('name="own" value="true" checked', form)


def test_a_refusal_leads_to_where_one_asks_for_more(db: Session, client: Client) -> None:
    model = make_model(db, workspace_id=None)
    limits.change(db, client.workspace.id, None, {"deployments": 0})
    db.commit()
    refused = client.post("/deployments", data={"model": model.id, "name": "bot"})
    assert refused.status_code == 422
    assert "may have 0 deployments" in refused.text
    assert 'href="/usage/requests?limit=deployments"' in refused.text


def test_cards_tell_token_prices_and_what_is_free(db: Session, client: Client) -> None:
    base = make_model(db, name="Base")
    make_model(db, client.workspace, name="Mine", base_id=base.id, kind="adapter")
    prices.change(db, "input", base.id, Decimal("0.0020"), "CNY")
    prices.change(db, "trained", base.id, Decimal(10), "CNY")
    free.give(db, base.id, None, free.TOKENS, 1_000_000, now().date())
    db.commit()
    cards = client.get("/models").text
    assert cards.count("in 0.002 · trained 10 CNY") == 2
    assert "1M of 1M tokens" in cards
    assert "trained 10 CNY" in client.get(f"/models/{base.id}").text


def test_a_balance_that_is_used_up_is_asked_for(db: Session, client: Client) -> None:
    """Where it refuses stands the way to ask; approving tops it up."""
    model = make_model(db, client.workspace)
    stopped = make_deployment(
        db, client.workspace, client.user, served_model_id=model.id, model_id=model.id,
        desired="stopped", state="stopped",
    )  # fmt: skip
    db.add(Account(workspace_id=client.workspace.id, currency="EUR", prepaid=True))
    db.commit()
    link = 'href="/usage/requests?limit=balance"'
    start = f"/deployments/{stopped.id}/start"
    for headers in ({}, {"hx-request": "true"}):
        refused = client.post(start, headers=headers)
        assert refused.status_code == 402
        assert link in refused.text
    assert '<option value="balance" selected>' in client.get("/usage/requests?limit=balance").text
    asked = {"limit": "balance", "amount": "12.50", "why": "A demo", "own": "true"}
    assert client.post("/usage/requests", data=asked | {"amount": "0"}).status_code == 422
    assert client.post("/usage/requests", data=asked).status_code == 303
    (row,) = db.query(QuotaRequest)
    assert (row.own, row.device) == (False, "EUR")
    approve = f"/usage/requests/{row.id}/approve"
    assert client.post(approve).status_code == 422  # the platform's money
    client.user.is_platform_admin = True
    db.commit()
    assert client.post(approve, data={"amount": "20.25"}).status_code == 303
    (balance,) = accounts.of(db, client.workspace.id)
    assert (balance.amount, balance.currency) == (Decimal("20.25"), "EUR")
    assert client.post(start).status_code == 303
