"""Batches, from a file to its answers, with engines that do as they are told."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import ApiKey, Workspace
from app.config import settings
from app.db import now
from app.deployments.states import replicas_of
from app.errors import Conflict, Invalid, NotFound
from app.gateway import ledger, loads, schemas, work
from app.gateway.batches import asking, holding, runner, service
from app.gateway.batches.lines import Check, Outcome
from app.gateway.batches.tables import Batch, BatchAnswer
from app.gateway.files import service as files
from app.gateway.work import Lost
from app.queue import transaction
from app.quotas.tables import Usage
from tests.factories import make_key, make_workspace
from tests.gateway.batch_files import (
    CHAT,
    Stops,
    blocked,
    ended,
    ids,
    jsonl,
    left,
    line,
    now_of,
    start,
    working,
)  # fmt: skip
from tests.gateway.engines import Engine, deploy, running, until
from tests.gateway.rows import chats
from tests.gateway.test_waking import asleep, desired
from tests.gateway.test_waking import start as wake_up
from tests.jobs.people import owner, principal


@pytest.fixture
def workspace(db: Session) -> Workspace:
    made = make_workspace(db)
    db.commit()
    return made


@pytest.fixture
def who(db: Session, workspace: Workspace) -> Principal:
    return principal(db, workspace)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for module, name in [(work, "LOOK_SECONDS"), (work, "BEAT_SECONDS")]:
        monkeypatch.setattr(module, name, 0.05)
    for name in ("LOOK_SECONDS", "FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(asking, name, 0.05)


# -- to the end --------------------------------------------------------------------------


def test_answers_and_errors_stand_in_their_files(db, workspace, who):
    lines: list[Any] = [line(number) for number in range(1, 31)]
    lines[4]["body"]["chat_template"] = "x"
    lines[9]["body"]["stream"] = True

    async def test() -> None:
        async with Engine() as engine, working():
            deploy(db, workspace, engine)
            batch = start(db, who, jsonl([*lines[:7], b"", *lines[7:]]))
            done = await ended(batch)
            assert (done.status, done.model) == ("completed", "mood")
            assert (done.total, done.completed, done.failed) == (30, 28, 2)
            assert (done.prompt_tokens, done.completion_tokens) == (28 * 5, 28 * 3)
            for at in (done.in_progress_at, done.finalizing_at, done.completed_at):
                assert at
                assert at >= done.created_at
            answers = left(done, done.output_file_id)
            assert ids(answers) == [f"c{n}" for n in range(1, 31) if n not in (5, 10)]
            assert answers[0]["error"] is None
            response = answers[0]["response"]
            assert response["status_code"] == 200
            assert response["body"]["choices"][0]["message"]["content"] == "one two three "
            assert answers[0]["id"].startswith("batch_req_")
            wrong = left(done, done.error_file_id)
            assert ids(wrong) == ["c5", "c10"]
            said = wrong[0]["response"]
            assert said["status_code"] == 400
            assert said["body"]["error"] == {
                "message": "Unrecognised field chat_template.",
                "type": "invalid_request_error",
                "param": "chat_template",
                "code": "invalid_value",
            }
            assert len(engine.asked) == 28
            ledger.flush()
            of = select(func.count(), func.sum(Usage.completion_tokens))
            assert db.execute(of.where(Usage.user_id == who.user_id)).one() == (28, 28 * 3)
            assert response["request_id"] in db.scalars(select(Usage.id))
            assert db.scalar(select(func.count()).select_from(BatchAnswer)) == 0

    running(test)


@pytest.mark.skipif("embeddings" not in schemas.FIELDS, reason="no /v1/embeddings here")
def test_embeddings_go_the_same_way(db, workspace, who):
    """The stand-in has no such path, which is an answer as well: the batch leads there."""
    asked = {"model": "mood", "input": "x"}
    one = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": asked}

    async def test() -> None:
        async with Engine() as engine, working():
            deploy(db, workspace, engine)
            done = await ended(start(db, who, jsonl([one]), "/v1/embeddings"))
            assert (done.status, done.completed, done.failed) == ("completed", 0, 1)
            assert done.output_file_id is None

    running(test)


def test_a_sleeping_deployment_wakes_for_it(db, workspace, who):
    deployment = asleep(db, workspace)

    async def test() -> None:
        async with Engine() as engine, working():
            batch = start(db, who, jsonl([line(1), line(2)]))
            await until(lambda: desired(deployment) == "running")
            wake_up(deployment, engine)
            assert (await ended(batch)).completed == 2

    running(test)


def test_an_engine_that_has_too_much_to_do_is_asked_again(db, workspace, who):
    async def test() -> None:
        async with Engine(503) as engine, working():
            deploy(db, workspace, engine)
            batch = start(db, who, jsonl([line(n) for n in range(10)]))
            await until(lambda: bool(now_of(batch).waits))
            assert now_of(batch).completed == 0
            engine.how = "fine"
            done = await ended(batch)
            assert (done.completed, done.failed, done.waits) == (10, 0, None)

    running(test)


def test_a_line_on_which_engines_break_does_not_hold_up_the_others(db, workspace, who):
    class Fragile(Engine):
        async def answer(self, request: Any) -> Any:
            seed = (await request.json()).get("seed")
            self.how = 500 if seed == 7 else "fine"
            return web.Response(text="oops") if seed == 8 else await super().answer(request)

    async def test() -> None:
        async with Fragile() as engine, working():
            deploy(db, workspace, engine)
            batch = start(db, who, jsonl([line(1, seed=7), line(2), line(3, seed=8)]))
            done = await ended(batch)
            assert (done.completed, done.failed) == (1, 2)
            wrong = [one["response"]["status_code"] for one in left(done, done.error_file_id)]
            assert wrong == [500, 502]
            assert sum(one.get("seed") == 7 for one in engine.asked) <= asking.ATTEMPTS * 2

    running(test)


# -- not to the end ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancelled", "expired", "key"])
def test_what_is_answered_by_then_is_kept(db, workspace, who, monkeypatch, how):
    monkeypatch.setattr(settings, "batch_concurrency", 1)
    make_key(db, workspace, owner(db, workspace))
    key = db.scalar(select(ApiKey).where(ApiKey.workspace_id == workspace.id))
    by_key = replace(who, api_key_id=key.id)

    async def test() -> None:
        async with Stops(after=3) as engine, working():
            deploy(db, workspace, engine)
            batch = start(db, by_key, jsonl([line(n) for n in range(1, 6)]))
            await blocked(engine)
            await until(lambda: now_of(batch).completed == 3)
            with transaction() as own:
                if how == "cancelled":
                    assert service.cancel(own, workspace.id, batch.id).status == "cancelling"
                elif how == "expired":
                    own.get_one(Batch, batch.id).expires_at = now() - timedelta(seconds=1)
                else:
                    own.get_one(ApiKey, key.id).revoked_at = now()
            done = await ended(batch)
            assert done.status == ("expired" if how == "expired" else "cancelled")
            assert ids(left(done, done.output_file_id)) == ["c1", "c2", "c3"]
            rest = left(done, done.error_file_id)
            assert ids(rest) == ["c4", "c5"]
            code = "batch_expired" if how == "expired" else "batch_cancelled"
            assert [(one["error"]["code"], one["response"]) for one in rest] == [(code, None)] * 2
            assert [one["code"] for one in done.errors] == ["key_not_valid"] * (how == "key")
            await until(lambda: engine.open == 0)  # what was under way is not asked for any more
            with transaction() as own:
                if how != "expired":
                    assert service.cancel(own, workspace.id, batch.id).status == "cancelled"
                else:
                    with pytest.raises(Conflict):
                        service.cancel(own, workspace.id, batch.id)

    running(test)


def test_a_model_that_is_not_there_fails_the_batch(db, workspace, who):
    async def test() -> None:
        async with working():
            done = await ended(start(db, who, jsonl([line(1, "nothing"), line(2, "nothing")])))
            assert (done.status, done.completed, done.failed) == ("failed", 0, 0)
            assert [one["code"] for one in done.errors] == ["model_not_found"]
            assert done.output_file_id is None
            assert done.error_file_id is None

    running(test)


def test_an_input_file_that_is_gone_fails_the_batch(db, workspace, who):
    async def test() -> None:
        batch = start(db, who, jsonl([line(1)]))
        with transaction() as own:
            files.remove(own, workspace.id, batch.input_file_id)
        async with working():
            done = await ended(batch)
            assert (done.status, done.errors[0]["code"]) == ("failed", "file_not_found")

    running(test)


# -- who works on it ---------------------------------------------------------------------


def test_a_restart_goes_on_with_what_has_no_answer(db, workspace, who, monkeypatch):
    monkeypatch.setattr(settings, "batch_concurrency", 2)

    async def test() -> None:
        async with Stops(after=6) as engine:
            deploy(db, workspace, engine)
            batch = start(db, who, jsonl([line(n) for n in range(20)]))
            async with working():
                await blocked(engine)
                await until(lambda: now_of(batch).completed >= 5)
            held = now_of(batch)
            assert (held.status, held.beat_at) == ("in_progress", None)
            asked, engine.after = len(engine.asked), 1000
            engine.go_on.set()
            async with working():
                done = await ended(batch)
            assert (done.completed, done.failed, done.fence) == (20, 0, 2)
            assert sorted(ids(left(done, done.output_file_id))) == sorted(
                f"c{n}" for n in range(20)
            )
            assert len(engine.asked) - asked == 20 - held.completed

    running(test)


def test_of_a_process_that_is_silent_another_takes_it_up(db, workspace, who):
    start(db, who, jsonl([line(n) for n in range(3)]))
    first = holding.claim("first")
    assert first
    assert holding.claim("second") is None
    with transaction() as own:
        own.get_one(Batch, first.id).beat_at = now() - holding.SILENT
    second = holding.claim("second")
    assert second
    assert (second.id, second.fence) == (first.id, first.fence + 1)
    outcome = Outcome(1, ok=True, answer="{}", usage={"prompt_tokens": 5})
    for lost in (
        lambda: holding.store(first.id, first.fence, [outcome]),
        lambda: holding.beat(first.id, first.fence, None),
        lambda: holding.end(first.id, first.fence, "completed", {}, []),
    ):
        with pytest.raises(Lost):
            lost()
    holding.store(second.id, second.fence, [outcome])
    holding.store(second.id, second.fence, [outcome])  # as after a commit nobody heard of
    assert (now_of(second).completed, now_of(second).prompt_tokens) == (1, 5)
    assert holding.done(second.id) == {1}


def test_what_was_let_go_is_taken_up_at_once_though_a_beat_came_late(db, workspace, who):
    start(db, who, jsonl([line(1)]))
    first = holding.claim("first")
    assert first
    holding.let_go(first.id, first.fence)
    with pytest.raises(Lost):
        holding.beat(first.id, first.fence, None)
    second = holding.claim("second")
    assert second
    assert second.id == first.id


def test_a_workspace_with_fewer_batches_in_work_comes_first(db, workspace, who):
    other = make_workspace(db)
    db.commit()
    mine = [start(db, who, jsonl([line(1)])) for _ in range(3)]
    theirs = start(db, principal(db, other), jsonl([line(1)]))
    taken = [holding.claim("x") for _ in range(4)]
    assert [one.id for one in taken if one] == [mine[0].id, theirs.id, mine[1].id, mine[2].id]


def test_it_fills_what_others_leave(db, workspace, who, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "batch_concurrency", 4)
    batch = start(db, who, jsonl([line(1)]))
    batch.model = "mood"
    path = tmp_path / "x"
    path.write_bytes(b"")

    async def test() -> None:
        async with Engine() as one, Engine() as two:
            deployment = deploy(db, workspace, one, two)
            replicas = [each.id for each in replicas_of(db, deployment.id)]
            hold = runner.Hold(batch)
            hold.caller = holding.caller(db, batch)
            ask = asking.BatchAsking(hold, path, set())
            assert await ask.allowed() == 8
            loads.begin(replicas[0])
            loads.begin(replicas[1])
            assert await ask.allowed() == 6
            for _ in range(20):
                loads.begin(replicas[0])
            assert await ask.allowed() == 1
            loads.in_flight.clear()

    running(test)


# -- what is refused ---------------------------------------------------------------------


def test_what_cannot_be_a_batch_is_refused_at_once(db, workspace, who):
    batch = start(db, who, jsonl([line(1)]))
    for wanted, field in [
        (service.Wanted("file-nothing", CHAT), "input_file_id"),
        (service.Wanted(batch.input_file_id, "/v1/moderations"), "endpoint"),
        (service.Wanted(batch.input_file_id, CHAT, "1h"), "completion_window"),
        (service.Wanted(batch.input_file_id, CHAT, keep_seconds=5), "output_expires_after"),
    ]:
        with pytest.raises((Invalid, NotFound)) as caught:
            service.create(db, who, wanted)
        assert caught.value.field == field
    tuning = files.made(workspace.id, "a.jsonl", "fine-tune", chats(3))
    with pytest.raises(Invalid, match="'fine-tune'"):
        service.create(db, who, service.Wanted(tuning.id, CHAT))


def test_each_wrong_line_is_told():
    good = line(1)
    wrong = [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (good, "duplicate_custom_id"),
        (line(3) | {"custom_id": ""}, "missing_required_parameter"),
        (line(4) | {"custom_id": 4}, "invalid_value"),
        (line(5) | {"method": "GET"}, "invalid_method"),
        (line(6) | {"url": "/v1/completions"}, "url_mismatch"),
        (line(7, "other"), "model_mismatch"),
        (line(8) | {"body": {"messages": []}}, "missing_required_parameter"),
        (line(9) | {"body": None}, "missing_required_parameter"),
    ]
    check = Check(CHAT)
    for number, data in enumerate(jsonl([good, *(data for data, _ in wrong)]).splitlines(), 1):
        check.take(number, data)
    check.end()
    found = [(one["line"], one["code"]) for one in check.errors]
    assert found == [(number, code) for number, (_, code) in enumerate(wrong, 2)]


def test_too_many_lines_and_none_are_told():
    empty = Check(CHAT)
    empty.end()
    assert [one["code"] for one in empty.errors] == ["empty_file"]
    full = Check(CHAT)
    full.total = 50_000
    full.take(50_001, jsonl([line(1)]))
    full.end()
    assert full.over
    assert [one["code"] for one in full.errors] == ["too_many_tasks"]
