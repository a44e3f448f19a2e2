"""Tokens a minute and a month of workspaces and members, at the gateway."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from app import queue
from app.accounts.limits import NO_LIMITS, Limits
from app.db import now
from app.errors import TooMany
from app.gateway import alone, ledger, limits, scopes, service, work
from app.gateway.batches import asking
from app.quotas import limits as quotas
from app.quotas import service as usage
from app.quotas.tables import Usage
from tests.factories import make_membership, make_user, make_workspace
from tests.gateway.batch_files import ended, jsonl, line, now_of, start, working
from tests.gateway.engines import HELLO, USAGE, Engine, caller, deploy, running, until
from tests.jobs.people import principal

TOKENS = USAGE["total_tokens"]


@pytest.fixture
def workspace(db):
    made = make_workspace(db)
    db.commit()
    yield made
    for memory in (limits.held, limits.ended, alone.buckets, scopes.known):
        memory.clear()
    limits.behind.clear()
    limits.away_until = 0.0


@pytest.fixture
def user(db, workspace) -> str:
    made = make_user(db)
    make_membership(db, workspace, made, "member")
    db.commit()
    return made.id


def allow(db, workspace, user_id=None, until_then=None, **amounts) -> None:
    quotas.change(db, workspace and workspace.id, user_id, amounts, until_then)
    db.commit()
    scopes.known.clear()


async def call(workspace, user="usr_x", key=None, allowed=NO_LIMITS, **more: Any):
    asked = {"model": "mood", "messages": HELLO, "max_tokens": 3} | more
    who = caller(workspace, key, allowed, user)
    return await service.whole(who, "chat/completions", asked)


async def refusal(workspace, *who: Any, **more: Any) -> TooMany:
    with pytest.raises(TooMany) as caught:
        await call(workspace, *who, **more)
    return caught.value


async def told() -> None:
    while limits.telling:
        await asyncio.wait(limits.telling)


def counted(scope_id: str) -> int:
    return int(queue.redis().hget(ledger.COUNTERS + scope_id, "so_far") or -1)


def used(db, workspace) -> int:
    ledger.flush()
    tokens = Usage.prompt_tokens + Usage.completion_tokens
    query = select(func.coalesce(func.sum(tokens), 0)).where(Usage.workspace_id == workspace.id)
    return int(db.scalar(query) or 0)


def test_a_minute_of_a_workspace_and_of_a_member(db, workspace, user):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allow(db, workspace, tokens_minute=1000)
            allow(db, workspace, user, tokens_minute=400)
            first = await call(workspace, user, max_tokens=300)
            assert first.reservation.headers()["x-ratelimit-limit-tokens"] == "400"
            await told()
            engine.go_on.clear()
            task = asyncio.create_task(call(workspace, user, max_tokens=300))
            await until(lambda: engine.open == 1)
            error = await refusal(workspace, user, max_tokens=300)
            assert (error.code, error.status) == ("rate_limit_exceeded", 429)
            assert "You may use" in str(error)
            assert 1 <= error.retry_after <= 60
            assert int(error.headers["x-ratelimit-remaining-tokens"]) < 100
            other = await asyncio.wait_for(until_open(workspace, engine), 5)  # of another member
            error = await refusal(workspace, "usr_z", max_tokens=600)
            assert "This workspace may use" in str(error)
            engine.go_on.set()
            await asyncio.gather(task, other)

    running(test)


async def until_open(workspace, engine):
    task = asyncio.create_task(call(workspace, "usr_y", max_tokens=300))
    await until(lambda: engine.open == 2)
    return task


def test_a_month_is_the_ledgers(db, workspace, user):
    """What was used before the limit was set counts; last month's does not."""
    rows = [
        {
            "id": f"rq_{number}",
            "at": at,
            "kind": "tokens",
            "workspace_id": workspace.id,
            "user_id": user,
            "api_key_id": None,
            "owner_kind": "deployment",
            "owner_id": "dep_x",
            "prompt_tokens": 500,
        }
        for number, at in enumerate([now(), now().replace(day=1) - timedelta(days=2)])
    ]
    usage.record(db, rows)
    allow(db, None, tokens_month=500 + 5 * TOKENS)

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            done = 0
            error: TooMany | None = None
            while error is None:
                try:
                    await call(workspace, user)
                    done += 1
                except TooMany as caught:
                    error = caught
            assert 2 <= done <= 5
            assert (error.code, error.status) == ("insufficient_quota", 429)
            month_ends = (now().replace(day=28) + timedelta(days=4)).replace(day=1)
            assert error.retry_after <= (month_ends - now()).total_seconds() + 1
            allow(db, workspace, None, now() + timedelta(hours=1), tokens_month=None)
            await call(workspace, user)  # a raise that ends by itself
            allow(db, workspace, tokens_month=10**9)
            allow(db, workspace, user, tokens_month=0)
            assert "You may use" in str(await refusal(workspace, user))
            await call(workspace, "usr_y")
            assert len(engine.asked) == done + 2
        allow(db, None, tokens_month="inherit")

    running(test)


def test_a_raise_that_has_ended_forgets_nothing(db, workspace):
    """Nobody counted in Valkey while there was no limit: the ledger knows."""

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            allow(db, workspace, tokens_month=1000)
            await call(workspace)
            await told()
            allow(db, workspace, tokens_month=None)
            for _ in range(3):
                await call(workspace)
            before = now().timestamp() * 1000 - 400_000
            queue.redis().hset(ledger.COUNTERS + workspace.id, "at", f"{before:.0f}")
            allow(db, workspace, tokens_month=1000)
            await call(workspace)
            await told()
            assert counted(workspace.id) == 5 * TOKENS == used(db, workspace)

    running(test)


@pytest.mark.parametrize("whose", ["workspace", "member"])
def test_fifty_at_once_never_get_past_the_month(db, workspace, user, whose):
    """By several keys and with none, while Valkey is flushed."""
    most = 40 * TOKENS
    allow(db, workspace, user if whose == "member" else None, tokens_month=most)

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            keys = [None, "key_a", "key_b"]
            allowed = Limits(rpm=10_000)

            async def some(number: int) -> int:
                done = 0
                for _ in range(4):
                    try:
                        await call(workspace, user, keys[number % 3], allowed)
                        done += 1
                    except TooMany as error:
                        assert error.code == "insufficient_quota"  # noqa: PT017
                return done

            async def flush() -> None:
                for _ in range(2):
                    await asyncio.sleep(0.05)
                    queue.redis().flushdb()

            *done, _ = await asyncio.gather(*(some(number) for number in range(50)), flush())
            await told()
            assert 0 < sum(done) == len(engine.asked) <= 40
            assert used(db, workspace) == sum(done) * TOKENS <= most

    running(test)


def test_batches_wait_for_the_month(db, workspace, monkeypatch):
    for module, name in [(work, "LOOK_SECONDS"), (work, "BEAT_SECONDS")]:
        monkeypatch.setattr(module, name, 0.05)
    for name in ("LOOK_SECONDS", "FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(asking, name, 0.05)
    allow(db, workspace, tokens_month=10 * TOKENS)
    who = principal(db, workspace)
    db.commit()

    async def test() -> None:
        async with Engine() as engine, working():
            deploy(db, workspace, engine)
            batch = start(db, who, jsonl([line(n, max_tokens=3) for n in range(40)]))
            told: list[dict[str, str] | None] = []  # it looks again all the time
            await until(lambda: told.append(now_of(batch).waits) or bool(told[-1]))
            assert "tokens a month" in told[-1]["message"]
            assert 2 <= len(engine.asked) <= 10
            assert used(db, workspace) <= 10 * TOKENS
            allow(db, workspace, tokens_month=10**6)
            assert (await ended(batch)).completed == 40

    running(test)


def test_alone_counts_as_the_script_does(db, workspace):
    """Of two scopes, over the same sequence of requests."""

    async def test() -> None:
        mine = (
            scopes.Scope("key_q", scopes.KEY, 6, 460, 4, 10**6, None, 5000),
            scopes.Scope(
                workspace.id,
                scopes.WORKSPACE,
                tpm=460,
                monthly_tokens=450,
                workspace_id=workspace.id,
            ),
        )
        asked = [(10, 100), (50, 50), (300, 340), (90, 90), (90, 250)]
        found = []
        for number, (least, most) in enumerate(asked):
            one = await limits.ask(mine, ("key_q", workspace.id), f"rq_{number}", least, most)
            found.append((one.verdict, one.scope, one.tokens))
        held: dict[str, limits.Reservation] = {}
        by_itself = []
        for number, (least, most) in enumerate(asked):
            one = await alone.reserve(
                mine, dict.fromkeys(["key_q", workspace.id], held), least, most
            )
            by_itself.append((one.verdict, one.scope, one.tokens))
            if one.verdict == "ok":
                made = limits.Reservation(mine, (), "", one.tokens, one.left)
                held[str(number)] = made
        assert found == by_itself
        assert found[:3] == [("ok", 0, 100), ("ok", 0, 50), ("ok", 0, 300)]
        assert found[3] == ("tpm", 0, 0)

    running(test)
