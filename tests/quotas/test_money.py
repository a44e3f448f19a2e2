"""What usage costs: exact, once, by the prices of its time; free quotas first; balances."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.errors import Invalid
from app.queue import transaction
from app.quotas import accounts, charging, prices, service
from app.quotas.charging import FINE, money
from app.quotas.kinds import HOUR
from app.quotas.money_tables import Account, Charge, FreeQuota, FreeUse
from app.quotas.tables import Price
from tests.factories import make_principal, make_user, make_workspace


def row(kind: str, **more: Any) -> dict[str, Any]:
    values = {"id": new_id("rq"), "kind": kind, "workspace_id": "ws_1", "user_id": "usr_1"}
    return values | {"owner_kind": "job", "owner_id": "job_1"} | more


def cost(db: Session) -> Decimal:
    return db.scalar(select(func.coalesce(func.sum(Charge.parts), 0))) or Decimal(0)


def test_device_time_and_tokens_cost_exactly_what_they_cost(db: Session) -> None:
    prices.put(db, "", Decimal(1), "CNY")
    prices.put(db, "H200", Decimal("25.123456"), "CNY")
    for kind, amount in (("input", "0.002"), ("cached", "0.0005"), ("output", "0.006")):
        prices.change(db, kind, "", Decimal(amount), "CNY")
    prices.change(db, "output", "mdl_base", Decimal("0.01"), "CNY")
    prices.change(db, "trained", "", Decimal("0.5"), "CNY")
    service.record(db, [row("device", device="H200", device_ms=1)])
    assert cost(db) == Decimal("25.123456")  # 3,600,000ths: a millisecond of an hour
    service.record(db, [row("device", device="L40", device_ms=HOUR // 3)])
    assert money(cost(db), FINE) == Decimal("0.333340")
    calls = {"prompt_tokens": 1000, "cached_tokens": 400, "completion_tokens": 2000}
    made = [
        row("tokens", **calls),
        row("tokens", **calls, model_id="mdl_tuned", base_id="mdl_base"),
        row("train", trained_tokens=10),
    ]
    service.record(db, made)
    service.record(db, made)  # told twice, charged once
    found = dict(db.execute(select(Charge.usage_id, Charge.parts)).all())
    assert [money(found[one["id"]], FINE) for one in made] == [
        Decimal("0.0134"), Decimal("0.0214"), Decimal("0.005"),
    ]  # fmt: skip
    account = db.get_one(Account, ("ws_1", "CNY"))
    assert account.parts == -cost(db)


def test_a_new_price_leaves_what_was_before(db: Session) -> None:
    prices.put(db, "", Decimal(2), "CNY")
    before = row("device", device_ms=HOUR, at=now() - timedelta(days=1))
    service.record(db, [row("device", device_ms=HOUR)])
    service.record(db, [before])  # of a time without a price
    prices.put(db, "", Decimal(3), "CNY")
    service.record(db, [row("device", device_ms=HOUR)])
    tomorrow = (now() + timedelta(days=1)).date()
    prices.change(db, "device", "", Decimal(9), "CNY", tomorrow)
    assert money(cost(db)) == Decimal(5)
    current = prices.of(db, "H200")
    assert current is not None
    assert current.hour == 3
    with pytest.raises(Invalid, match="keeps the price it had"):
        prices.change(db, "device", "", Decimal(1), "CNY", (now() - timedelta(days=2)).date())
    prices.put(db, "", None, "CNY")
    assert prices.of(db, "H200") is None
    assert len(db.scalars(select(Price)).all()) == 4
    service.record(db, [row("device", device_ms=HOUR, at=now() + timedelta(days=2))])
    assert money(cost(db)) == Decimal(14)


def test_free_quotas_are_used_first_until_their_last_day(db: Session) -> None:
    team = make_workspace(db).id
    prices.change(db, "input", "", Decimal(1), "CNY")
    prices.change(db, "output", "", Decimal(2), "CNY")
    today = now().date()
    for kind, amount, day in (
        ("tokens", 1500, today),
        ("tokens", 10**6, today - timedelta(days=1)),
        ("device", HOUR, today),
    ):
        free = FreeQuota(model_id="mdl_1", kind=kind, amount=amount, last_day=day)
        db.add(free)
    db.flush()
    asked = {"workspace_id": team, "prompt_tokens": 1000, "completion_tokens": 1000}
    first = row("tokens", model_id="mdl_1", **asked)
    service.record(db, [first])
    charge = db.get_one(Charge, (first["id"], "CNY"))
    assert (charge.free, money(charge.parts)) == (1500, Decimal(1))
    service.record(db, [row("tokens", model_id="mdl_2", **asked)])
    assert money(cost(db)) == Decimal(4)
    prices.put(db, "", Decimal(5), "CNY")
    time = {"workspace_id": team, "device_ms": HOUR, "base_id": "mdl_1"}
    service.record(db, [row("device", **time), row("device", **time)])
    assert money(cost(db)) == Decimal(9)
    assert sorted(db.scalars(select(FreeUse.used))) == [1500, HOUR]
    assert sorted(used for _, used in charging.free_left(db, team, today)) == [1500, HOUR]


def test_the_balance_is_what_came_in_less_what_was_charged(db: Session) -> None:
    owner = make_user(db)
    team = make_workspace(db, owner=owner)
    who = make_principal(owner, team)
    prices.put(db, "", Decimal("0.1"), "CNY")
    service.record(db, [row("device", workspace_id=team.id, device_ms=HOUR)])
    assert accounts.out(db, team.id) is None  # nothing was ever paid in: it may owe
    accounts.top_up(db, who, team.id, Decimal("10.05"), "CNY", "for November")
    db.commit()

    def spend(_: int) -> None:
        with transaction() as session:
            service.record(session, [row("device", workspace_id=team.id, device_ms=HOUR // 3)] * 1)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(spend, range(60)))
    db.expire_all()
    (balance,) = accounts.of(db, team.id)
    assert (balance.amount, balance.full) == (Decimal("7.95"), Decimal("9.95"))
    assert balance.parts == charging.parts_of(Decimal("10.05")) - cost(db)
    assert balance.spent == pytest.approx(2 / 9.95)
    accounts.top_up(db, who, team.id, Decimal("-7.95"), "CNY")
    with pytest.raises(accounts.OutOfMoney, match="used up"):
        accounts.refuse_if_out(db, team.id)
    assert len(accounts.top_ups(db, team.id)[0]) == 2
