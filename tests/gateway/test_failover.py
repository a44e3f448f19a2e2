"""Several replicas: the least busy is asked, and one that breaks is made up for by another."""

import asyncio
import contextlib
import json

import pytest
from redis.asyncio import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.config import settings
from app.deployments.states import replicas_of
from app.errors import Unavailable
from app.gateway import ledger, loads, service
from app.quotas.tables import Usage
from tests.factories import make_workspace
from tests.gateway.engines import (
    WORDS,
    Engine,
    deploy,
    never,
    running,
    streamed,
    until,
    whole,
    words,
)


@pytest.fixture
def workspace(db: Session) -> Workspace:
    made = make_workspace(db)
    db.commit()
    return made


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that failed is left alone for longer than any test takes."""
    monkeypatch.setattr(loads, "COOLING_SECONDS", 60.0)


def row(db: Session) -> Usage:
    ledger.flush()
    db.expire_all()
    return db.scalars(select(Usage)).one()


# -- before the first byte ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "drop", "drop-body", 500, 502, 503])
def test_a_whole_answer_comes_from_the_next(db, workspace, how):
    async def test() -> None:
        async with Engine(how) as broken, Engine() as fine:
            deployment = deploy(db, workspace, broken, fine)
            if how == "stopped":
                await broken.runner.cleanup()
            for _ in range(8):  # chance decides who is asked first
                exchange = await whole(workspace)
                assert exchange.status == 200
                assert json.loads(exchange.answer)["choices"][0]["message"]["content"]
            assert len(broken.asked) <= 1  # then it is left alone
            assert len(fine.asked) == 8
            assert fine.asked[0]["model"] == "mood"
            assert loads.in_flight == {}
            ledger.flush()
            rows = db.scalars(select(Usage)).all()
            assert {(one.status, one.owner_id, one.completion_tokens) for one in rows} == {
                (200, deployment.id, 3)
            }
            assert len(rows) == 8

    running(test)


@pytest.mark.parametrize("how", ["stopped", "drop", "drop-first", "error-first", 500, 503])
def test_a_stream_begins_with_the_next(db, workspace, how):
    async def test() -> None:
        async with Engine(how) as broken, Engine() as fine:
            deploy(db, workspace, broken, fine)
            if how == "stopped":
                await broken.runner.cleanup()
            for _ in range(8):
                events, exchange = await streamed(workspace)
                assert words(events) == "".join(WORDS)
                assert b"error" not in b"".join(events)
                assert (exchange.status, exchange.completion_tokens) == (200, 3)
            assert len(broken.asked) <= 1
            assert len(fine.asked) == 8

    running(test)


def test_after_the_first_byte_the_stream_ends_with_an_error(db, workspace):
    async def test() -> None:
        async with Engine("drop-middle") as one, Engine("drop-middle") as other:
            deploy(db, workspace, one, other)
            events, _ = await streamed(workspace)
            assert words(events[:-1]) == "one two "
            error = json.loads(events[-1].removeprefix(b"data: "))["error"]
            assert error["code"] == "engine_lost"
            assert len(one.asked) + len(other.asked) == 1
            found = row(db)
            assert (found.status, found.completed, found.completion_tokens) == (502, False, 2)

    running(test)


def test_what_breaks_two_engines_is_given_to_no_third(db, workspace):
    async def test() -> None:
        async with Engine("drop") as a, Engine("drop") as b, Engine("drop") as c:
            deploy(db, workspace, a, b, c)
            with pytest.raises(Unavailable) as caught:
                await whole(workspace)
            assert caught.value.code == "engine_lost"
            assert sum(len(one.asked) for one in (a, b, c)) == 2
            assert row(db).status == 503

    running(test)


def test_all_that_have_too_much_to_do_are_asked(db, workspace):
    async def test() -> None:
        async with Engine(503) as a, Engine(503) as b, Engine(503) as c:
            deploy(db, workspace, a, b, c)
            with pytest.raises(Unavailable) as caught:
                await whole(workspace)
            assert (caught.value.code, caught.value.retry_after) == ("engine_busy", 5)
            assert [len(one.asked) for one in (a, b, c)] == [1, 1, 1]

    running(test)


def test_an_engines_own_words_reach_the_client(db, workspace):
    """The last engine's error as it is; what the request is to blame for is not tried again."""

    async def test() -> None:
        async with Engine(500) as one, Engine(500) as other:
            deploy(db, workspace, one, other)
            exchange = await whole(workspace)
            assert (exchange.status, json.loads(exchange.answer)["error"]["code"]) == (500, 500)
            one.how = other.how = 400
            exchange = await whole(workspace)
            assert exchange.status == 400
            assert len(one.asked) + len(other.asked) == 3

    running(test)


def test_an_engine_started_anew_is_found_at_once(db, workspace):
    """Its address is remembered for a second; one that refuses is looked up again."""

    async def test() -> None:
        async with Engine() as old, Engine() as new:
            deployment = deploy(db, workspace, old)
            await whole(workspace)
            await old.runner.cleanup()
            replicas_of(db, deployment.id)[0].address = new.address
            db.commit()
            await asyncio.sleep(0.11)
            assert (await whole(workspace)).status == 200
            assert len(new.asked) == 1

    running(test)


def test_an_engine_that_failed_is_asked_again_after_a_while(db, workspace, monkeypatch):
    monkeypatch.setattr(loads, "COOLING_SECONDS", 0.3)

    async def test() -> None:
        async with Engine("drop") as shaky, Engine() as fine:
            deploy(db, workspace, shaky, fine)
            while not shaky.asked:
                await whole(workspace)
            shaky.how = "fine"
            await asyncio.sleep(0.35)
            for _ in range(30):
                await whole(workspace)
            assert len(shaky.asked) > 5

    running(test)


# -- who is asked ------------------------------------------------------------------------


def test_the_least_busy_is_asked(db, workspace):
    async def test() -> None:
        async with Engine() as one, Engine() as other, Engine() as third:
            deploy(db, workspace, one, other, third)
            engines = (one, other, third)
            for engine in engines:
                engine.go_on.clear()
            asking = [asyncio.create_task(whole(workspace)) for _ in range(9)]
            await until(lambda: sum(engine.open for engine in engines) == 9)
            assert [engine.open for engine in engines] == [3, 3, 3]
            other.go_on.set()
            await until(lambda: other.open == 0)
            await until(lambda: sum(loads.in_flight.values()) == 12)  # by deployment and replica
            await asyncio.gather(*(whole(workspace) for _ in range(2)))
            assert len(other.asked) == 5
            one.go_on.set()
            third.go_on.set()
            await asyncio.gather(*asking)
            assert loads.in_flight == {}

    running(test)


def test_what_other_processes_have_open_counts(db, workspace):
    async def test() -> None:
        async with Engine() as busy, Engine() as free:
            deployment = deploy(db, workspace, busy, free)
            first, second = replicas_of(db, deployment.id)
            valkey = Redis.from_url(settings.redis_url)
            loads.begin(first.id)
            await loads.exchange(valkey, "another process")
            loads.end(first.id)
            assert loads.elsewhere == {}
            await loads.exchange(valkey)
            assert loads.elsewhere == {first.id: 1}
            for _ in range(6):
                await whole(workspace)
            assert (len(busy.asked), len(free.asked)) == (0, 6)
            await asyncio.sleep(0.3)  # the exchange that runs by itself has the same
            assert loads.elsewhere == {first.id: 1}
            # a process that died, or a flush, is forgotten in two seconds
            await valkey.hset(loads.KEY, "another process", f"1 {json.dumps({second.id: 9})}")
            await loads.exchange(valkey)
            assert loads.elsewhere == {}
            assert await valkey.hget(loads.KEY, "another process") is None
            await valkey.aclose()

    running(test)


# -- clients that leave ------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(db, workspace, stream):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            engine.go_on.clear()
            left = asyncio.Event()
            ask = streamed if stream else whole

            async def leaving() -> None:
                await left.wait()

            asking = asyncio.create_task(ask(workspace, gone=leaving))
            await until(lambda: bool(engine.open))
            left.set()
            with contextlib.suppress(service.ClientGone):
                await asking
            assert isinstance(asking.exception(), service.ClientGone)
            await until(lambda: not engine.open)
            assert loads.in_flight == {}
            assert row(db).status == 499

    running(test)


def test_who_stays_is_not_taken_for_gone(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            assert (await whole(workspace, gone=never)).status == 200

    running(test)
