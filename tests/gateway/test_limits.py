"""What an API key may use: reserved before an engine is asked, settled with what was used."""

import asyncio
import contextlib
import time

import pytest
from redis.exceptions import RedisError
from sqlalchemy import func, select

from app import queue
from app.accounts.limits import NO_LIMITS, Limits
from app.errors import Forbidden, TooMany
from app.gateway import alone, ledger, limits, metering, scopes, service
from app.quotas.tables import Usage
from tests.factories import make_workspace
from tests.gateway.engines import HELLO, USAGE, Engine, caller, deploy, running, until

KEY = "key_limited"
TOKENS = USAGE["total_tokens"]


@pytest.fixture
def workspace(db):
    made = make_workspace(db)
    db.commit()
    yield made
    forget()


def forget() -> None:
    """What this process knows of limits."""
    for memory in (limits.held, limits.ended, alone.buckets, metering.speeds):
        memory.clear()
    limits.behind.clear()
    limits.away_until = 0.0


async def call(workspace, allowed, **more):
    asked = {"model": "mood", "messages": HELLO, "max_tokens": 3} | more
    return await service.whole(caller(workspace, KEY, allowed), "chat/completions", asked)


async def refusal(workspace, allowed, **more) -> TooMany:
    with pytest.raises(TooMany) as caught:
        await call(workspace, allowed, **more)
    return caught.value


def used(db) -> int:
    ledger.flush()
    tokens = Usage.prompt_tokens + Usage.completion_tokens
    return int(db.scalar(select(func.coalesce(func.sum(tokens), 0))) or 0)


def counted() -> dict[str, str]:
    found = queue.redis().hgetall(ledger.COUNTERS + KEY)
    return {name.decode(): value.decode() for name, value in found.items()}


async def told() -> None:
    """Valkey has heard of all that ended."""
    while limits.telling:
        await asyncio.wait(limits.telling)


# -- each limit --------------------------------------------------------------------------


def test_requests_a_minute(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allowed = Limits(rpm=3)
            left = [(await call(workspace, allowed)).reservation.headers() for _ in range(3)]
            assert [one["x-ratelimit-remaining-requests"] for one in left] == ["2", "1", "0"]
            assert left[0]["x-ratelimit-limit-requests"] == "3"
            assert left[0]["x-ratelimit-reset-requests"] == "20s"
            error = await refusal(workspace, allowed)
            assert (error.code, error.status) == ("rate_limit_exceeded", 429)
            assert 18 <= error.retry_after <= 20
            assert error.headers["x-ratelimit-remaining-requests"] == "0"
            assert len(engine.asked) == 3

    running(test)


def test_tokens_a_minute_are_reserved_then_settled(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allowed = Limits(tpm=400)
            engine.go_on.clear()
            first = asyncio.create_task(call(workspace, allowed, max_tokens=300))
            await until(lambda: engine.open == 1)
            error = await refusal(workspace, allowed, max_tokens=300)
            assert error.code == "rate_limit_exceeded"
            engine.go_on.set()
            await first
            again = await call(workspace, allowed, max_tokens=300)  # for the first used but 8
            left = int(again.reservation.headers()["x-ratelimit-remaining-tokens"])
            assert 400 - 320 - TOKENS - 10 < left < 400 - 300 - TOKENS

    running(test)


def test_more_than_a_minutes_tokens_wait_for_a_full_bucket(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            await call(workspace, Limits(tpm=100), max_tokens=5000)
            assert (await refusal(workspace, Limits(tpm=100), max_tokens=5000)).retry_after >= 1

    running(test)


def test_fifty_at_once_where_three_may_run(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            engine.go_on.clear()
            allowed = Limits(parallel=3)
            tasks = [asyncio.create_task(call(workspace, allowed)) for _ in range(50)]
            await until(lambda: sum(task.done() for task in tasks) == 47)
            engine.go_on.set()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            errors = [one for one in done if isinstance(one, TooMany)]
            assert (len(errors), len(engine.asked)) == (47, 3)
            assert {one.code for one in errors} == {"rate_limit_exceeded"}
            for _ in range(5):  # each slot is free again at once
                await call(workspace, allowed)
            await told()
            assert queue.redis().zcard(limits.HELD + KEY) == 0

    running(test)


@pytest.mark.parametrize(
    ("limit", "code"),
    [("daily_tokens", "rate_limit_exceeded"), ("total_tokens", "insufficient_quota")],
)
def test_tokens_of_the_day_and_in_all(db, workspace, limit, code):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allowed = Limits(**{limit: 60})
            done = 0
            with contextlib.suppress(TooMany):
                for _ in range(20):
                    await call(workspace, allowed)
                    done += 1
            error = await refusal(workspace, allowed)
            assert error.code == code
            assert 2 <= done == len(engine.asked)
            assert 60 - 2 * TOKENS - 12 < used(db) <= 60
            if limit == "daily_tokens":
                assert 1 <= error.retry_after <= 86400

    running(test)


def test_a_request_that_fails_costs_no_tokens(db, workspace):
    async def test() -> None:
        async with Engine(400) as engine:
            deploy(db, workspace, engine)
            assert (await call(workspace, Limits(total_tokens=1000))).status == 400
            await told()
            assert counted()["total"] == "0"

    running(test)


def test_models_that_a_key_may_call(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            await call(workspace, Limits(models=("other", "mo*")))
            with pytest.raises(Forbidden) as caught:
                await call(workspace, Limits(models=("moo", "x*")))
            assert caught.value.code == "model_not_allowed"
            assert len(engine.asked) == 1

    running(test)


def test_a_key_without_limits_does_not_ask_valkey(db, workspace, monkeypatch):
    async def test() -> None:
        monkeypatch.setattr(limits, "valkey", None)  # whoever calls it fails
        async with Engine() as engine:
            deploy(db, workspace, engine)
            assert (await call(workspace, NO_LIMITS)).reservation is None
            assert (await call(workspace, Limits(models=("mood",)))).status == 200

    running(test)


# -- Valkey, away ------------------------------------------------------------


def test_slots_of_a_killed_gateway_come_free(db, workspace, monkeypatch):
    monkeypatch.setattr(limits, "LEASE", 0.5)
    queue.redis().zadd(limits.HELD + KEY, {"rq_of_another 50": (time.time() + 0.5) * 1000})

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allowed = Limits(parallel=1)
            assert (await refusal(workspace, allowed)).retry_after == 1
            await asyncio.sleep(0.6)
            assert (await call(workspace, allowed)).status == 200

    running(test)


def test_while_valkey_is_away_each_process_counts_alone(db, workspace, monkeypatch):
    class Away:
        async def ask(self, *_: object) -> None:
            raise RedisError("gone")

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allowed = Limits(rpm=5, tpm=10_000, parallel=2, total_tokens=10_000)
            await call(workspace, allowed)
            there = limits.valkey
            monkeypatch.setattr(limits, "valkey", Away())
            for _ in range(5):
                await call(workspace, allowed)
            assert "requests a minute" in str(await refusal(workspace, allowed))
            low = Limits(total_tokens=6 * TOKENS)
            assert (await refusal(workspace, low)).code == "insufficient_quota"
            monkeypatch.setattr(limits, "valkey", there)
            monkeypatch.setattr(limits, "away_until", 0.0)
            await call(workspace, allowed)
            await told()
            assert counted()["total"] == str(7 * TOKENS) == str(used(db))

    running(test)


def test_the_script_and_the_process_agree(db, workspace):
    """limits.lua and `alone` on the same sequence of requests."""

    async def test() -> None:
        allowed = Limits(rpm=6, tpm=500, parallel=4, daily_tokens=10**6, total_tokens=700)
        scope = scopes.of_key(KEY, allowed)
        found: dict[str, list[tuple[str, int]]] = {"valkey": [], "alone": []}
        asked = [(10, 100), (50, 50), (300, 340), (90, 90), (80, 80)]
        for number, (least, most) in enumerate(asked):
            one = await limits.ask((scope,), (KEY,), f"rq_{number}", least, most)
            found["valkey"].append((one.verdict, one.tokens))
        held: dict[str, limits.Reservation] = {}
        for number, (least, most) in enumerate(asked):
            one = await alone.reserve((scope,), {KEY: held}, least, most)
            found["alone"].append((one.verdict, one.tokens))
            if one.verdict == "ok":
                made = limits.Reservation((scope,), (KEY,), "", one.tokens, one.left)
                held[str(number)] = made
        assert found["valkey"] == found["alone"]
        assert found["alone"] == [("ok", 100), ("ok", 50), ("ok", 340), ("tpm", 0), ("tpm", 0)]

    running(test)


def test_durations_read_as_openais():
    said = [limits.duration(seconds) for seconds in (0, 0.0123, 1, 6.5, 59.9, 90)]
    assert said == ["0ms", "13ms", "1s", "6.5s", "59.9s", "1m30s"]
