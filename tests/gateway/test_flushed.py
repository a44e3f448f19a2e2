"""Valkey flushed: counters come back from the ledger, whatever ends meanwhile."""

import asyncio

import pytest

from app import queue
from app.accounts.limits import Limits
from app.db import now
from app.gateway import ledger, limits, scopes
from tests.factories import make_workspace
from tests.gateway.engines import Engine, deploy, running, until
from tests.gateway.test_limits import KEY, TOKENS, call, counted, forget, refusal, told, used

SCOPE = scopes.of_key(KEY, Limits(total_tokens=1000))


@pytest.fixture
def workspace(db):
    made = make_workspace(db)
    db.commit()
    yield made
    forget()


def reserved(number: int) -> limits.Reservation:
    return limits.Reservation((SCOPE,), (KEY,), f"rq_{number} 50", 50, ((0, 0),))


def row(workspace, number: int) -> dict[str, object]:
    return {
        "id": f"rq_{number}",
        "at": now().isoformat(),
        "kind": "tokens",
        "workspace_id": workspace.id,
        "user_id": "usr_x",
        "api_key_id": KEY,
        "owner_kind": "deployment",
        "owner_id": "dep_x",
        "model": "mood",
        "prompt_tokens": TOKENS,
        "completion_tokens": 0,
        "first_token_ms": 5,
        "duration_ms": 5,
        "status": 200,
        "completed": True,
    }


async def ended(workspace, *numbers: int, told: bool = True) -> None:
    for number in numbers:
        ledger.append(row(workspace, number))
    if told:
        await limits.call((SCOPE,), [(reserved(number), TOKENS) for number in numbers], [])


def test_flushing_valkey_loses_nothing(db, workspace):
    """Settled tokens come back from the ledger and the spool, what runs is told again."""

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allowed = Limits(total_tokens=200, parallel=1)
            for number in range(4):
                await call(workspace, allowed)
                if number == 1:
                    ledger.flush()
            await told()
            assert counted()["total"] == str(4 * TOKENS)
            queue.redis().flushdb()
            await call(workspace, allowed)
            await told()
            assert counted()["total"] == str(5 * TOKENS) == str(used(db))
            engine.go_on.clear()
            task = asyncio.create_task(call(workspace, allowed))
            await until(lambda: engine.open == 1)
            queue.redis().flushdb()
            await until(lambda: queue.redis().zcard(limits.HELD + KEY) == 1)  # within a second
            assert (await refusal(workspace, allowed)).code == "rate_limit_exceeded"
            engine.go_on.set()
            await task
            await told()
            assert counted()["total"] == str(6 * TOKENS) == str(used(db))

    running(test)


def test_flushed_in_the_middle_of_many(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allowed = Limits(daily_tokens=10**6, total_tokens=10**6)

            async def some() -> None:
                for _ in range(8):
                    await call(workspace, allowed)

            async def flush() -> None:
                for _ in range(3):
                    await asyncio.sleep(0.03)
                    queue.redis().flushdb()

            await asyncio.gather(*(some() for _ in range(8)), flush())
            await told()
            queue.redis().hdel(ledger.COUNTERS + KEY, "total")
            await call(workspace, allowed)
            await told()
            assert counted()["total"] == str(65 * TOKENS) == str(used(db))

    running(test)


@pytest.mark.parametrize("flushed", [False, True], ids=["in the spool", "in Postgres"])
def test_what_ends_while_the_ledger_is_counted_counts_once(db, workspace, flushed):
    """Told before or after the count holds, in the count or too late for it."""

    async def test() -> None:
        await ended(workspace, 1)  # told of to a Valkey that knows nothing of the key
        await ended(workspace, 2, told=False)  # to one that was flushed since
        wanted = await limits.call((SCOPE,), [], ["rq_a", 10, 10])
        assert wanted.verdict == limits.UNKNOWN
        await ended(workspace, 3)
        await ended(workspace, 4, told=False)
        if flushed:
            ledger.flush()
        counted_now = await limits.count(SCOPE, wanted.tokens)
        await ended(workspace, 5)
        assert (await limits.call((SCOPE,), [], ["rq_a", 10, 10, *counted_now])).verdict == "ok"
        assert counted()["total"] == str(5 * TOKENS)
        await limits.call((SCOPE,), [(reserved(4), TOKENS)], [])
        await ended(workspace, 6)
        assert counted()["total"] == str(6 * TOKENS) == str(used(db))

    running(test)


def test_a_count_begun_before_a_flush_does_not_hold(db, workspace):
    async def test() -> None:
        wanted = await limits.call((SCOPE,), [], ["rq_a", 10, 10])
        early = await limits.count(SCOPE, wanted.tokens)
        await ended(workspace, 1, told=False)
        queue.redis().flushdb()
        for _ in range(2):
            again = await limits.call((SCOPE,), [], ["rq_a", 10, 10, *early])
            assert again.verdict == limits.UNKNOWN
            assert again.tokens > wanted.tokens
        late = await limits.count(SCOPE, again.tokens)
        assert (await limits.call((SCOPE,), [], ["rq_a", 10, 10, *late])).verdict == "ok"
        await limits.call((SCOPE,), [], ["rq_b", 10, 10, *early])  # nor later
        assert counted()["total"] == str(TOKENS)

    running(test)


def test_what_runs_holds_its_tokens_as_soon_as_the_ledger_is_counted(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allowed = Limits(total_tokens=100)
            engine.go_on.clear()
            task = asyncio.create_task(call(workspace, allowed, max_tokens=60))
            await until(lambda: engine.open == 1)
            queue.redis().flushdb()
            assert (await refusal(workspace, allowed, max_tokens=60)).code == "insufficient_quota"
            engine.go_on.set()
            await task
            assert (await call(workspace, allowed, max_tokens=60)).status == 200

    running(test)
