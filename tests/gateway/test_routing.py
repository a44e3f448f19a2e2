"""From a name to deployments: aliases by weight, and what of it a client sees."""

import asyncio
from collections import Counter

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.deployments.service import Route, RouteReplica
from app.deployments.tables import Alias, Deployment
from app.errors import Invalid, NotFound, Unavailable
from app.gateway import ledger, loads, routing, service
from app.queue import transaction
from app.quotas.tables import Usage
from tests.conftest import Client
from tests.factories import added, make_workspace
from tests.gateway.engines import (
    HELLO,
    Engine,
    caller,
    deploy,
    running,
    streamed,
    until,
    whole,
)
from tests.gateway.test_waking import asleep, desired

ENGINE = RouteReplica("rep_x", "http://127.0.0.1:1", "s", "x", "vllm")


@pytest.fixture
def workspace(db: Session) -> Workspace:
    made = make_workspace(db)
    db.commit()
    return made


def route(name: str, ready: bool = True) -> Route:
    return Route(f"dep_{name}", name, "ready", "", (ENGINE,) if ready else ())


def alias(db: Session, workspace: Workspace, name: str, *targets: tuple[Deployment, int]) -> Alias:
    led = [{"deployment": one.id, "weight": weight} for one, weight in targets]
    made = added(db, Alias(workspace_id=workspace.id, name=name, targets=led))
    db.commit()
    return made


def firsts(found: routing.Found, sticky: bool, count: int = 4000) -> list[str]:
    names = [f"user {number}" if sticky else "" for number in range(count)]
    return [routing.preferred(found, name)[0].name for name in names]


# -- weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("sticky", [False, True])
def test_weights_decide_who_is_first(sticky):
    count = Counter(firsts(((route("old"), 90), (route("new"), 10)), sticky))
    assert 0.07 < count["new"] / 4000 < 0.13
    three = Counter(firsts(((route("a"), 1), (route("b"), 2), (route("c"), 1)), sticky))
    assert [round(three[name] / 400) for name in "abc"] == pytest.approx([2, 5, 2], abs=1)


def test_who_sticks_moves_only_towards_what_gained():
    before = firsts(((route("old"), 90), (route("new"), 10)), True)
    assert before == firsts(((route("new"), 10), (route("old"), 90)), True)
    after = firsts(((route("old"), 70), (route("new"), 30)), True)
    moved = Counter(pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])
    assert list(moved) == [("old", "new")]
    assert 0.15 < moved["old", "new"] / 4000 < 0.25
    gone = firsts(((route("old"), 70), (route("new"), 30), (route("third"), 50)), True)
    moved = Counter(pair for pair in zip(after, gone, strict=True) if pair[0] != pair[1])
    assert {to for _, to in moved} == {"third"}


def test_everything_behind_a_name_is_in_the_order(db):
    found = tuple((route(name), 1) for name in "abc")
    assert {one.name for one in routing.preferred(found, "")} == {"a", "b", "c"}


# -- real deployments behind an alias ----------------------------------------------------


def test_an_alias_comes_before_a_deployment_and_both_engines_answer(db, workspace):
    async def test() -> None:
        async with Engine() as old, Engine() as new:
            first = deploy(db, workspace, old, name="mood")
            second = deploy(db, workspace, new, name="mood-2")
            alias(db, workspace, "mood", (first, 50), (second, 50))
            for _ in range(40):
                exchange = await whole(workspace, "mood")
                assert exchange.route
            assert len(old.asked) + len(new.asked) == 40
            assert min(len(old.asked), len(new.asked)) > 5
            assert {one["model"] for one in old.asked} == {"mood"}
            assert {one["model"] for one in new.asked} == {"mood-2"}
            answered = {(await whole(workspace, "mood", "Lin")).route.name for _ in range(10)}
            assert len(answered) == 1
            ledger.flush()
            rows = db.scalars(select(Usage)).all()
            assert {one.model for one in rows} == {"mood"}
            assert {one.owner_id for one in rows} == {first.id, second.id}

    running(test)


def test_a_target_that_is_not_ready_is_left_out_and_one_that_sleeps_is_woken(db, workspace):
    async def test() -> None:
        async with Engine() as fine:
            first = deploy(db, workspace, fine, name="mood")
            second = asleep(db, workspace, name="mood-2")
            third = deploy(db, workspace, name="mood-3")
            alias(db, workspace, "best", (first, 1), (second, 500), (third, 500))
            for _ in range(20):
                assert (await whole(workspace, "best")).status == 200
            assert len(fine.asked) == 20
            await until(lambda: desired(second) == "running")

    running(test)


def test_the_other_target_answers_where_one_breaks(db, workspace):
    async def test() -> None:
        async with Engine("drop") as broken, Engine() as fine:
            first = deploy(db, workspace, broken, name="mood")
            second = deploy(db, workspace, fine, name="mood-2")
            alias(db, workspace, "best", (first, 1000), (second, 1))
            _, exchange = await streamed(workspace, "best")
            assert exchange.route
            assert exchange.route.name == "mood-2"

    running(test)


def test_one_without_weight_gets_nothing(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            unready = deploy(db, workspace, name="mood")
            resting = deploy(db, workspace, engine, name="mood-2")
            alias(db, workspace, "best", (unready, 1), (resting, 0))
            with pytest.raises(Unavailable):
                await whole(workspace, "best")
            assert engine.asked == []

    running(test)


def test_aliases_stay_in_their_workspace(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            alias(db, workspace, "best", (deploy(db, workspace, engine), 1))
            elsewhere = make_workspace(db)
            db.commit()
            with pytest.raises(NotFound):
                await whole(elsewhere, "best")

    running(test)


# -- the way in costs little -------------------------------------------------------------


def test_a_busy_name_is_looked_up_once_a_second(db, workspace, monkeypatch):
    looked: list[tuple[str, str]] = []
    look = routing.look

    def counted(workspace_id: str, name: str) -> routing.Found:
        looked.append((workspace_id, name))
        return look(workspace_id, name)

    monkeypatch.setattr(routing, "look", counted)

    async def test() -> None:
        async with Engine() as engine:
            deploy(db, workspace, engine)
            await asyncio.gather(*(whole(workspace) for _ in range(50)))
            assert looked == [(workspace.id, "mood")]

    running(test)


def test_use_is_written_while_answers_are_under_way(db, workspace):
    async def test() -> None:
        async with Engine() as engine:
            deployment = deploy(db, workspace, engine)
            engine.go_on.clear()
            asking = asyncio.create_task(whole(workspace))
            await until(lambda: bool(engine.open))
            forget_use(deployment)
            await loads.note_use()
            assert used(deployment)
            forget_use(deployment)
            engine.go_on.set()
            await asking
            await loads.note_use()  # it has ended since
            assert used(deployment)
            forget_use(deployment)
            await loads.note_use()
            assert not used(deployment)

    running(test)


def forget_use(deployment: Deployment) -> None:
    with transaction() as db:
        db.get_one(Deployment, deployment.id).last_used_at = None


def used(deployment: Deployment) -> bool:
    with transaction() as db:
        return db.get_one(Deployment, deployment.id).last_used_at is not None


# -- over HTTP ---------------------------------------------------------------------------


def test_what_a_client_sees(db: Session, api: Client) -> None:
    """The header names the deployment; aliases are models; errors say when to try again."""

    async def serve(started: asyncio.Event, done: asyncio.Event) -> None:
        async with Engine() as engine:
            first = deploy(db, api.workspace, engine, ready_at=api.workspace.created_at)
            alias(db, api.workspace, "best", (first, 1))
            started.set()
            await done.wait()

    async def test() -> None:
        started, done = asyncio.Event(), asyncio.Event()
        serving = asyncio.create_task(serve(started, done))
        await started.wait()
        body = {"model": "best", "messages": HELLO, "user": "Lin"}
        answer = await asyncio.to_thread(api.post, "/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-danlu-deployment"] == "mood"
        body["stream"] = True
        answer = await asyncio.to_thread(api.post, "/v1/chat/completions", json=body)
        assert answer.headers["x-danlu-deployment"] == "mood"
        assert answer.text.endswith("data: [DONE]\n\n")
        listed = (await asyncio.to_thread(api.get, "/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["best", "mood"]
        done.set()
        await serving

    asyncio.run(test())


def test_a_sleeper_that_cannot_wake_answers_with_the_reason(db: Session, api: Client) -> None:
    sleeper = asleep(db, api.workspace, desired="running")
    sleeper.state, sleeper.reason = "pending", "devices"
    db.commit()
    body = {"model": "mood", "messages": HELLO}
    answer = api.post("/v1/chat/completions", json=body, headers={"accept-language": "en"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("deployment_waits", "server_error")
    assert "asleep" in error["message"]
    assert "free device" in error["message"]


def test_a_prompt_is_not_scored_where_there_is_room_for_adapters(db, workspace):
    """vLLM's engine ends on it, with all that it does."""
    scored = {"model": "mood", "prompt": "x", "echo": True, "logprobs": 0}

    async def test() -> None:
        async with Engine() as roomy, Engine() as plain:
            first = deploy(db, workspace, roomy, adapters=2)
            host = deploy(db, workspace, plain, name="mood-2")
            asked = caller(workspace)
            with pytest.raises(Invalid) as caught:
                await service.whole(asked, "completions", scored)
            assert (caught.value.status, caught.value.code) == (400, "endpoint_not_supported")
            alias(db, workspace, "best", (first, 1000), (host, 1))
            found = await routing.routes(workspace.id, "best", path="completions")
            assert len(found) == 2
            found = await routing.routes(
                workspace.id, "best", path="completions", scores_prompt=True
            )
            assert [one.name for one in found] == ["mood-2"]
            assert roomy.asked == []

    running(test)
