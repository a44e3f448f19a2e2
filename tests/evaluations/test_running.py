"""Evaluations, from rows to the verdict, with engines that do as they are told."""

import asyncio

import pytest
from sqlalchemy import func, select

from app.accounts.tables import Workspace
from app.datasets.tables import DatasetPin
from app.deployments import service as deployments
from app.deployments.tables import Deployment
from app.errors import Conflict, Invalid, NotFound
from app.evaluations import engines, holding, rows, runner, service
from app.evaluations.schemas import EvaluationCreate
from app.evaluations.tables import Evaluation, EvaluationAnswer, EvaluationEvent
from app.gateway import ledger
from app.gateway.work import Lost
from app.queue import transaction
from app.quotas.tables import Usage
from tests.evaluations.people import (
    BAD,
    GOOD,
    Mood,
    candidates,
    create,
    ended,
    mood,
    now_of,
    published,
    reviews,
    working,
)
from tests.factories import make_deployment, make_model, make_node, make_workspace
from tests.gateway.engines import deploy, until
from tests.jobs.people import owner, principal


def answers(one) -> int:
    ids = [each.id for each in candidates(one)]
    query = select(func.count()).where(EvaluationAnswer.candidate_id.in_(ids))
    with transaction() as db:
        return db.scalar(query) or 0


def test_two_deployments_and_the_verdict(db, workspace, who):
    version = published(who, reviews(60))

    async def test() -> None:
        async with Mood(wrong=set(range(0, 60, 3))) as base, Mood({7}) as better, working():
            deploy(db, workspace, base, name="before")
            deploy(db, workspace, better, name="after")
            made = create(who, version, "deployment:before", "deployment:after")
            assert made.estimate["rows"] == 60
            done = await ended(made)
            assert (done.state, done.error) == ("succeeded", None)
            before, after = candidates(done)
            assert (before.done, before.failed, after.done) == (60, 0, 60)
            assert before.figures["accuracy"]["value"] == pytest.approx(40 / 60)
            assert after.figures["accuracy"]["value"] == pytest.approx(59 / 60)
            assert after.figures["f1"]["labels"] == sorted([GOOD, BAD])
            assert sum(map(sum, after.figures["f1"]["table"])) == 60
            told = done.verdicts[after.id]["accuracy"]
            assert (told["verdict"], told["rows"]) == ("better", 60)
            assert told["low"] > 0
            assert told["difference"] == pytest.approx(19 / 60)
            where = after.figures["accuracy"]["where"]
            assert {part["name"] for part in where["label"]} == {GOOD, BAD}
            assert sum(part["rows"] for part in where["length"]) == 60
            assert after.prompt_tokens == 60 * 9
            assert not db.scalar(select(DatasetPin.owner_id))
            ledger.flush()
            spent = select(func.count()).where(Usage.user_id == who.user_id, Usage.kind == "tokens")
            assert db.scalar(spent) == 120

    asyncio.run(test())


def test_rows_are_sorted_by_the_gap(db, workspace, who):
    version = published(who, reviews(20))

    async def test() -> None:
        async with Mood({3, 4}) as base, Mood({5}) as other, working():
            deploy(db, workspace, base, name="before")
            deploy(db, workspace, other, name="after")
            done = await ended(create(who, version, "deployment:before", "deployment:after"))
            several = candidates(done)
            found, more, total = rows.page(db, done, several, order="gain", limit=2)
            assert ([one.number for one in found], more, total) == ([3, 4], True, 20)
            assert found[0].gap == 1
            assert found[0].reference == mood(3)
            assert [one.text for one in found[0].answers] == [f"{mood(4)}。", f"{mood(3)}。"]
            found, _, _ = rows.page(db, done, several, order="loss", limit=1)
            assert [one.number for one in found] == [5]
            _, _, total = rows.page(db, done, several, label=GOOD)
            assert total == 10
            _, _, total = rows.page(db, done, several, label=GOOD, said=BAD)
            assert total == 1
            with pytest.raises(Invalid):
                rows.page(db, done, several, scorer="rouge1")

    asyncio.run(test())


def test_what_was_answered_before_a_kill_is_not_asked_again(db, workspace, who, monkeypatch):
    version = published(who, reviews(40))
    monkeypatch.setattr(holding, "SILENT", holding.SILENT / 60)

    async def test() -> None:
        async with Mood() as engine, working():
            deploy(db, workspace, engine)
            engine.go_on.clear()
            made = create(who, version, "deployment:mood")
            await until(lambda: bool(engine.open))
            work = next(iter(runner.running))
            engine.go_on.set()
            await until(lambda: answers(made) > 0)
            work.cancel()  # and its hold is let go
            done = await ended(made)
            assert done.state == "succeeded"
            assert answers(made) == 40
            assert done.fence >= 1
            with pytest.raises(Lost):
                holding.store(made.id, 0, candidates(made)[0].id, [])

    asyncio.run(test())


def test_pause_resume_and_cancel(db, workspace, who):
    version = published(who, reviews(30))

    async def test() -> None:
        async with Mood() as engine, working():
            deploy(db, workspace, engine)
            engine.go_on.clear()
            made = create(who, version, "deployment:mood")
            await until(lambda: bool(engine.open))
            with transaction() as session:
                service.pause(session, workspace.id, made.id)
            assert (await ended(made)).state == "paused"
            engine.go_on.set()
            with transaction() as session:
                service.resume(session, workspace.id, made.id)
            done = await ended(made)
            while done.state == "paused":
                done = now_of(made)
            assert (done.state, answers(made)) == ("succeeded", 30)
            with pytest.raises(Conflict):
                service.cancel(db, workspace.id, made.id)
            engine.go_on.clear()
            other = create(who, version, "deployment:mood")
            await until(lambda: bool(engine.open))
            with transaction() as session:
                service.cancel(session, workspace.id, other.id)
            assert (await ended(other)).state == "cancelled"
            with transaction() as session:
                service.delete(session, workspace.id, other.id)
            assert not db.scalar(
                select(EvaluationEvent.id).where(EvaluationEvent.evaluation_id == other.id)
            )

    asyncio.run(test())


def test_answers_computed_elsewhere(db, workspace, who):
    version = published(who, reviews(30))
    wrong = [mood(number + (number < 15)) for number in range(30)]
    other = published(who, reviews(30, wrong)[:28], "answers")

    async def test() -> None:
        async with working():
            made = create(who, version, "answers:last", f"answers:{other.dataset_id}")
            done = await ended(made)
            own, given = candidates(done)
            assert own.figures["accuracy"]["value"] == 1
            assert given.figures["accuracy"] | {"low": 0, "high": 0} == given.figures[
                "accuracy"
            ] | {"low": 0, "high": 0, "value": pytest.approx(13 / 28), "rows": 28}
            assert (given.done, given.failed) == (30, 2)
            assert done.verdicts[given.id]["accuracy"]["verdict"] == "worse"

    asyncio.run(test())


def test_an_engine_is_started_and_removed(db, workspace, who):
    version = published(who, reviews(10))
    make_node(db)
    model = make_model(db, workspace)
    db.commit()

    def own() -> list[Deployment]:
        with transaction() as session:
            query = select(Deployment).where(Deployment.name.startswith("eval-"))
            return list(session.scalars(query))

    async def test() -> None:
        async with Mood() as engine, working():
            made = create(who, version, f"model:{model.id}")
            assert made.estimate["device_hours"] > 0
            await until(lambda: bool(own()))
            (started,) = own()
            assert started.model_id == model.id
            await until(lambda: bool(now_of(made).waits))
            with transaction() as session:
                stand_in(session, started.id, engine)
            done = await ended(made)
            assert (done.state, done.error) == ("succeeded", None)
            (one,) = candidates(done)
            assert (one.deployment_id, one.figures["accuracy"]["value"]) == (None, 1)
            assert own()[0].deleted_at is not None

    asyncio.run(test())


def stand_in(db, deployment_id, engine) -> None:
    """Its replica is this engine."""
    deployment = db.get_one(Deployment, deployment_id)
    deployment.state = "ready"
    for one in deployments.replicas(db, [deployment])[deployment.id]:
        one.state, one.address, one.secret, one.engine = "ready", engine.address, "s", "vllm"
        one.fence = 1


def test_an_engine_that_does_not_start_fails_its_candidate_only(db, workspace, who):
    version = published(who, reviews(10))
    make_node(db)
    model = make_model(db, workspace)
    db.commit()

    async def test() -> None:
        async with Mood() as engine, working():
            deploy(db, workspace, engine)
            made = create(who, version, f"model:{model.id}", "deployment:mood")
            await until(lambda: candidates(made)[0].deployment_id is not None)
            with transaction() as session:
                one = session.get_one(Deployment, candidates(made)[0].deployment_id)
                one.state, one.error = (
                    "error",
                    {"code": "oom", "message": "No memory.", "params": {}},
                )
            done = await ended(made)
            failed, fine = candidates(done)
            assert done.state == "succeeded"
            assert (failed.state, failed.error["code"], fine.state) == ("failed", "oom", "done")
            assert done.verdicts[fine.id]["accuracy"]["verdict"] == "few"

    asyncio.run(test())


def test_a_name_that_is_gone_by_then(db, workspace, who):
    version = published(who, reviews(6))
    made_for = make_deployment(db, workspace, owner(db, workspace), name="mood")
    db.commit()
    made = create(who, version, "deployment:mood")
    made_for.deleted_at = made.created_at
    db.commit()

    async def test() -> None:
        async with working():
            done = await ended(made)
            assert (done.state, done.error["code"]) == ("failed", "no_answers")
            assert candidates(done)[0].error["code"] == "model_not_found"

    asyncio.run(test())


def test_a_running_deployment_of_the_model_is_used(db, workspace):
    model = make_model(db, workspace)
    values = {"model_id": model.id, "state": "ready", "adapters": 4}
    found = make_deployment(db, workspace, owner(db, workspace), **values)
    one = Evaluation(workspace_id=workspace.id, scorers=[{"kind": "exact"}])
    assert engines.running(db, one, model.id) == found.name
    assert not engines.running(db, one, make_model(db, workspace).id)
    one.scorers = [{"kind": "perplexity"}]  # which no engine with room for adapters can say
    assert not engines.running(db, one, model.id)


# -- what is refused ---------------------------------------------------------------------


def refused(who, version, error, field, *candidates, **fields):
    with pytest.raises(error) as caught:
        create(who, version, *candidates, **fields)
    assert caught.value.field == field


def test_what_cannot_be_evaluated(db, workspace: Workspace, who):
    version = published(who, reviews(10))
    refused(who, version, NotFound, "candidates.0.target", "deployment:nobody")
    refused(who, version, NotFound, "candidates.1.target", "answers:last", "model:nobody")
    refused(who, version, NotFound, "dataset", "answers:last", dataset="ds_x")
    free = published(
        who,
        [
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": f"{n}"},
                ]
            }
            for n in range(60)
        ],
        "free",
    )
    refused(who, free, Invalid, "scorers", "answers:last")
    refused(
        who,
        version,
        Invalid,
        "scorers",
        "answers:last",
        scorers=[
            {"kind": "accuracy", "labels": ["a"]},
            {"kind": "f1", "labels": ["b"]},
        ],
    )
    with pytest.raises(Invalid):
        EvaluationCreate.model_validate(
            {
                "dataset": version.id,
                "candidates": [{"kind": "answers", "target": "last"}],
                "scorers": [{"kind": "exact"}, {"kind": "exact"}],
            }
        )
    other = principal(db, make_workspace(db))
    db.commit()
    refused(other, version, NotFound, "dataset", "answers:last")
