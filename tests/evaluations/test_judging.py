"""A judge as a scorer, from creation to the verdict, by the gateway's own path."""

import asyncio
import json
import re

import numpy as np
import pytest
from aiohttp import web
from sqlalchemy import select

from app.db import now
from app.errors import Invalid, NotFound
from app.evaluations import rows, runner
from app.evaluations.judging.asking import cosine
from app.evaluations.tables import EvaluationJudgement
from app.gateway import ledger
from app.quotas.tables import Usage
from tests.evaluations.judges import Embedder, Wise, vector
from tests.evaluations.people import (
    Mood,
    candidates,
    create,
    ended,
    published,
    reviews,
    working,
)
from tests.gateway.engines import deploy, until

FORMS = {"structured_outputs", "response_format"}


def judged(db, one) -> list[EvaluationJudgement]:
    db.rollback()
    ids = [each.id for each in candidates(one)]
    query = select(EvaluationJudgement).where(EvaluationJudgement.candidate_id.in_(ids))
    return list(db.scalars(query.order_by(EvaluationJudgement.number)))


def test_marks_with_reasons(db, workspace, who):
    version = published(who, reviews(24))
    judge = {"kind": "judge", "model": "wise", "language": "zh"}

    async def test() -> None:
        async with Mood(set(range(0, 24, 2))) as base, Mood() as better, Wise({3}) as wise:
            for engine, name in ((base, "before"), (better, "after"), (wise, "wise")):
                deploy(db, workspace, engine, name=name)
            async with working():
                made = create(
                    who, version, "deployment:before", "deployment:after", scorers=[judge]
                )
                assert made.estimate["judge"]["calls"] == 48
                assert made.estimate["tokens"] > made.estimate["judge"]["tokens"] > 48 * 100
                done = await ended(made)
            assert (done.state, done.error) == ("succeeded", None)
            before, after = candidates(done)
            # the first of five is always 3 of 5, the others are 5 where it is right
            assert after.figures["judge"]["value"] == pytest.approx((0.5 + 4) / 5)
            assert after.figures["judge/understanding"]["value"] == 0.5
            assert before.figures["judge/logic"]["value"] == 0.5
            assert done.verdicts[after.id]["judge"]["verdict"] == "better"
            assert done.verdicts[after.id]["judge/understanding"]["verdict"] == "same"
            assert (done.judging["done"], done.judging["failed"]) == (48, 0)
            assert done.judging["prompt_tokens"] == 100 * 50  # row 3 was asked twice, of both
            assert len(wise.seen) == 50
            assert "理解" in wise.seen[0]["messages"][0]["content"]
            assert not any("response_format" in body for body in wise.seen)
            held = re.compile(wise.seen[0]["structured_outputs"]["regex"])
            names = ("理解", "生成", "事实", "逻辑", "指令遵循")
            said = {"reason": "因为", "scores": dict.fromkeys(names, 5)}
            assert held.fullmatch(json.dumps(said, ensure_ascii=False))
            found, _, _ = rows.page(db, done, [before, after], limit=1)
            (told,) = found[0].judgements[1]
            assert (told.reason, told.scores["logic"]) == ("因为", 5.0)
            ledger.flush()
            spent = db.scalars(select(Usage).where(Usage.model == "wise", Usage.kind == "tokens"))
            assert {(one.user_id, one.prompt_tokens) for one in spent} == {(who.user_id, 100)}

    asyncio.run(test())


def test_pairs_are_asked_both_ways(db, workspace, who):
    version = published(who, reviews(24))
    pairs = {"kind": "pairwise", "model": "wise", "dimensions": []}

    async def test() -> None:
        async with Mood({0, 2, 4, 6, 8, 10, 12}) as base, Mood({1}) as better, Wise() as wise:
            for engine, name in ((base, "before"), (better, "after"), (wise, "wise")):
                deploy(db, workspace, engine, name=name)
            async with working():
                made = create(
                    who, version, "deployment:before", "deployment:after", scorers=[pairs]
                )
                done = await ended(made)
            assert (done.state, done.error) == ("succeeded", None)
            before, after = candidates(done)
            figure = after.figures["pairwise"]
            assert (figure["win"], figure["loss"], figure["tie"], figure["split"]) == (7, 1, 16, 0)
            assert figure["value"] == pytest.approx((7 + 8) / 24)
            assert before.figures["pairwise"]["value"] == 0.5
            told = done.verdicts[after.id]["pairwise"]
            assert told["difference"] == pytest.approx(15 / 24 - 0.5)
            assert told["low"] <= told["difference"] <= told["high"]
            # equal answers are a tie without asking; the others are asked both ways
            assert len(wise.seen) == 2 * 8
            assert done.judging["done"] == 48
            said = [one for one in judged(db, done) if one.number == 1]
            assert [(one.swapped, one.winner) for one in said] == [
                (False, "theirs"),
                (True, "theirs"),
            ]

    asyncio.run(test())


def test_a_judge_that_goes_by_the_order_says_nothing(db, workspace, who):
    version = published(who, reviews(12))
    pairs = {"kind": "pairwise", "model": "wise"}

    async def test() -> None:
        async with Mood(set(range(12))) as base, Mood() as better, Wise(favours="A") as wise:
            for engine, name in ((base, "before"), (better, "after"), (wise, "wise")):
                deploy(db, workspace, engine, name=name)
            async with working():
                done = await ended(
                    create(who, version, "deployment:before", "deployment:after", scorers=[pairs])
                )
            _, after = candidates(done)
            assert after.figures["pairwise"]["split"] == 12
            assert done.verdicts[after.id]["pairwise"]["verdict"] == "same"

    asyncio.run(test())


def test_rows_that_cannot_be_judged_are_told(db, workspace, who):
    version = published(who, reviews(12))
    judge = {"kind": "judge", "model": "wise", "dimensions": ["logic"], "scale": 10}

    async def test() -> None:
        async with Mood() as base, Wise({3, 4}, always=True, refuses=FORMS) as wise:
            deploy(db, workspace, base)
            deploy(db, workspace, wise, name="wise")
            async with working():
                done = await ended(create(who, version, "deployment:mood", scorers=[judge]))
            (one,) = candidates(done)
            assert one.figures["judge"]["rows"] == 10
            assert one.figures["judge"]["unscored"] == 2
            failed = [each for each in judged(db, done) if each.error]
            assert [(each.number, each.error["code"]) for each in failed] == [
                (3, "judge_unreadable"),
                (4, "judge_unreadable"),
            ]
            assert "excellent" in failed[0].error["params"]["said"]
            assert failed[0].prompt_tokens == 300  # three tries
            assert not any(body.keys() & FORMS for body in wise.seen[-3:])

    asyncio.run(test())


def test_an_engine_is_asked_for_the_form_as_it_knows_it(db, workspace, who):
    version = published(who, reviews(30))
    judge = {"kind": "judge", "model": "wise"}

    class Narrow(Wise):
        """One row is too long for it, whatever else is asked."""

        async def whole(self, request):
            body = await request.json()
            if "第7条" in body["messages"][-1]["content"]:
                self.seen.append(body)
                return web.json_response({"error": {"message": "too long"}}, status=400)
            return await super().whole(request)

    async def test() -> None:
        other = Narrow(refuses={"structured_outputs"}, status=422)  # as transformers says it
        async with Mood() as base, other as wise:
            deploy(db, workspace, base)
            deploy(db, workspace, wise, name="wise")
            async with working():
                done = await ended(create(who, version, "deployment:mood", scorers=[judge]))
            assert (done.judging["done"], done.judging["failed"]) == (30, 1)
            (failed,) = [one for one in judged(db, done) if one.error]
            assert (failed.number, failed.error["message"]) == (7, "too long")
            last = [one for one in wise.seen if "第7条" not in one["messages"][-1]["content"]][-1]
            assert last.keys() & FORMS == {"response_format"}  # one long row changed nothing
            assert last["response_format"]["json_schema"]["strict"]

    asyncio.run(test())


def test_what_was_judged_before_a_pause_is_not_asked_again(db, workspace, who):
    version = published(who, reviews(30))
    judge = {"kind": "judge", "model": "wise"}

    async def test() -> None:
        async with Mood() as base, Wise() as wise:
            deploy(db, workspace, base)
            deploy(db, workspace, wise, name="wise")
            wise.go_on.clear()
            async with working():
                made = create(who, version, "deployment:mood", scorers=[judge])
                await until(lambda: bool(wise.open))
                work = next(iter(runner.running))
                wise.go_on.set()
                await until(lambda: len(judged(db, made)) > 0)
                work.cancel()  # as if the process were killed: its hold is let go
                done = await ended(made)
            assert done.state == "succeeded"
            assert (len(judged(db, made)), done.judging["done"]) == (30, 30)
            assert len(base.said) == 30

    asyncio.run(test())


def test_a_judge_that_is_gone_says_why(db, workspace, who):
    version = published(who, reviews(6))

    async def test() -> None:
        async with Mood() as base, Wise() as wise:
            deploy(db, workspace, base)
            gone = deploy(db, workspace, wise, name="wise")
            made = create(
                who,
                version,
                "deployment:mood",
                scorers=[{"kind": "accuracy"}, {"kind": "judge", "model": "wise"}],
            )
            gone.deleted_at = made.created_at
            db.commit()
            async with working():
                done = await ended(made)
            (one,) = candidates(done)
            assert (done.state, one.figures["accuracy"]["value"]) == ("succeeded", 1)
            assert done.judging["errors"]["judge"]["code"] == "model_not_found"
            assert one.figures["judge"]["value"] is None

    asyncio.run(test())


def test_closeness_of_meaning(db, workspace, who):
    version = published(who, reviews(12))
    near = {"kind": "embedding", "model": "vectors"}

    async def test() -> None:
        async with Mood({1, 2, 3}) as base, Embedder() as vectors:
            deploy(db, workspace, base)
            deploy(db, workspace, vectors, name="vectors", arguments={"runner": "pooling"})
            async with working():
                done = await ended(create(who, version, "deployment:mood", scorers=[near]))
            assert (done.state, done.error) == ("succeeded", None)
            (one,) = candidates(done)
            expected = [
                np.dot(vector(ours), vector(theirs))
                / (np.linalg.norm(vector(ours)) * np.linalg.norm(vector(theirs)))
                for ours, theirs in vectors.pairs
            ]
            assert one.figures["embedding"]["value"] == pytest.approx(np.mean(expected), abs=1e-6)
            assert (len(vectors.pairs), done.judging["prompt_tokens"]) == (12, 72)
            found, _, _ = rows.page(db, done, [one], order="worst", limit=3)
            assert {each.number for each in found} == {1, 2, 3}

    asyncio.run(test())


def test_a_cosine():
    assert cosine([1, 0], [0, 2]) == 0
    assert cosine([3, 4], [6, 8]) == pytest.approx(1)
    assert cosine([1, 0], [-5, 0]) == -1
    assert cosine([0, 0], [1, 1]) == 0
    for wrong in ([1], [[1, 2]], [1, float("nan")], ["x", "y"]):
        with pytest.raises((ValueError, TypeError)):
            cosine([1, 2], wrong)


@pytest.mark.parametrize(
    ("scorer", "error", "field"),
    [
        ({"kind": "judge", "model": "nobody"}, NotFound, "scorers.0.model"),
        ({"kind": "pairwise", "model": "mood"}, Invalid, "scorers.0"),
        ({"kind": "embedding", "model": "mood"}, Invalid, "scorers.0.model"),
    ],
)
def test_judges_that_cannot_be(db, workspace, who, scorer, error, field):
    version = published(who, reviews(6))

    async def test() -> None:
        async with Mood() as engine:
            deploy(db, workspace, engine, ready_at=now())
            with pytest.raises(error) as caught:
                create(who, version, "answers:last", scorers=[scorer])
            assert caught.value.field == field

    asyncio.run(test())
