"""Perplexity as a scorer: asked of the candidate's own engine, just as training reads the rows."""

import asyncio
import math

import pytest
from aiohttp import web

from app import storage
from app.errors import Invalid
from app.evaluations import rows
from app.evaluations.perplexity import tokens
from app.evaluations.prompts import reread
from app.models import vocabulary
from tests.datasets.measures.measured import starter
from tests.evaluations.people import Mood, candidates, create, ended, published, reviews, working
from tests.factories import make_deployment, make_principal, make_replica, make_user
from tests.gateway.engines import deploy

SCORERS = [{"kind": "perplexity"}]


class Sure(Mood):
    """Holds each token of a prompt to be as likely as `of` says of its place; says nothing of some."""

    def __init__(self, of, silent=()) -> None:
        super().__init__()
        self.of, self.silent = of, silent
        self.prompts: list[list[int]] = []

    async def whole(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/v1/completions":
            return await super().whole(request)
        body = await request.json()
        assert (body["echo"], body["logprobs"], body["max_tokens"]) == (True, 0, 1)
        ids = body["prompt"]
        self.prompts.append(ids)
        if len(self.prompts) in self.silent:
            return web.json_response({"choices": [{"index": 0, "text": "", "logprobs": None}]})
        likely = [None, *(-self.of(at) for at in range(1, len(ids))), -9.0]
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        choice = {"index": 0, "text": "", "logprobs": {"token_logprobs": likely}}
        return web.json_response({"choices": [choice], "usage": usage})


def test_the_lower_is_the_better(db, client):
    workspace, who = client.workspace, make_principal(client.user, client.workspace)
    version = published(who, reviews(20))
    model = starter(db)
    place = storage.fetch(model.artefact)
    words = vocabulary.load(place)

    async def test():
        base = Sure(lambda at: 0.3 + at / 100)
        async with base, Sure(lambda at: 0.1 + at / 100, silent={3}) as other:
            for engine, name in ((base, "before"), (other, "after")):
                deploy(db, workspace, engine, name=name, model_id=model.id)
            said = ("deployment:before", "deployment:after")
            done = await ended(create(who, version, *said, scorers=SCORERS))
        assert len(base.prompts) == 20
        assert base.said == []
        return done, base.prompts

    done, prompts = asyncio.run(test())
    assert done.state == "succeeded", done.error
    first, second = candidates(done)
    assert (first.done, first.failed, second.done) == (20, 0, 20)  # though no row was answered
    assert first.prompt_tokens == sum(map(len, prompts))
    assert (first.figures["perplexity"]["rows"], second.figures["perplexity"]["rows"]) == (20, 19)
    assert second.figures["perplexity"]["unscored"] == 1
    marked = tokens.of(place, [row_of(words, ids) for ids in prompts])
    nll = count = 0.0
    for ids, one in zip(prompts, marked, strict=True):
        assert one["ids"] == ids
        for at in range(*one["spans"][0]):
            nll, count = nll + 0.3 + at / 100, count + 1
    figure = first.figures["perplexity"]
    assert figure["value"] == pytest.approx(math.exp(nll / count))
    assert figure["low"] <= figure["value"] <= figure["high"]
    verdict = done.verdicts[second.id]["perplexity"]
    assert verdict["verdict"] == "better"
    assert verdict["difference"] < 0
    found, _, _ = rows.page(db, done, candidates(done), order="gain")
    assert found[0].gap < 0  # what is lower is a gain
    assert found[0].answers[0].scores["perplexity"] == pytest.approx(0.6, abs=0.3)
    assert [one.text for one in found[0].answers] == [None, None]
    assert done.judging["done"] == 40
    told = client.get(f"/evaluations/{done.id}").text
    assert "No answers were asked for" in told
    assert "None" not in told
    sheet = client.get(f"/api/v1/evaluations/{done.id}/export?format=csv").text
    assert [line.split(",")[0] for line in sheet.split("\r\n")[1:4]] == ["1", "2", "3"]
    assert len(sheet.splitlines()) == 21
    assert "None" not in sheet


def test_rows_are_answered_where_another_scorer_looks_at_it(db, workspace, who):
    version = published(who, reviews(12))
    model = starter(db)

    async def test():
        async with Sure(lambda at: 0.3) as engine, working():
            deploy(db, workspace, engine, model_id=model.id)
            alone = create(who, version, "deployment:mood", scorers=SCORERS).estimate
            made = create(who, version, "deployment:mood", scorers=[*SCORERS, {"kind": "accuracy"}])
            assert made.estimate["tokens"] > 2 * alone["tokens"] > 0
            return await ended(made), engine

    done, engine = asyncio.run(test())
    (one,) = candidates(done)
    assert sorted(set(engine.said)) == list(range(12))
    assert one.figures["perplexity"]["value"] == pytest.approx(math.exp(0.3))
    assert one.figures["accuracy"]["value"] == 1


def row_of(words, ids):
    """The row of a prompt: its number stands in it."""
    number = int(words.tokenizer.decode(ids).split("条")[0].rpartition("第")[2])
    return reread(reviews(number + 1)[number])


def test_what_counts_is_the_answer_and_its_stop_token(db):
    place = storage.fetch(starter(db).artefact)
    words = vocabulary.load(place)
    row = {
        "messages": [
            {"role": "user", "content": "好吗"},
            {"role": "assistant", "content": "不"},
            {"role": "user", "content": "真的？"},
            {"role": "assistant", "content": "很好", "weight": 0},
        ]
    }
    bare = {"messages": row["messages"][:3]}
    preferred = {"messages": row["messages"][:1], "chosen": {"role": "assistant", "content": "对"}}
    several = [reread(one, "Be brief.") for one in (row, bare, preferred)]
    answered, whole, chosen = tokens.of(place, several)
    ((first, end),) = answered["spans"]
    assert words.tokenizer.decode(answered["ids"][first:end], skip_special_tokens=False) == (
        "很好<|im_end|>"
    )
    assert whole["spans"] == [[1, len(whole["ids"])]]
    assert "Be brief." in words.tokenizer.decode(whole["ids"])
    ((first, end),) = chosen["spans"]
    assert words.tokenizer.decode(chosen["ids"][first:end]) == "对"


def test_a_template_that_refuses_a_row_is_told_at_the_row(db):
    place = storage.fetch(starter(db, "{{ raise_exception('no') }}").artefact)
    (told,) = tokens.of(place, [{"messages": [{"role": "user", "content": "x"}], "tools": None}])
    assert told["error"]["code"] == "refused"


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ({"kind": "answers", "target": "last"}, "computed elsewhere"),
        ({"kind": "endpoint", "target": "https://example.com/v1", "model": "x"}, "elsewhere"),
        ({"kind": "deployment", "target": "roomy"}, "room for adapters"),
        ({"kind": "deployment", "target": "other"}, "not vLLM"),
    ],
)
def test_who_cannot_say_it_is_told_beforehand(db, workspace, who, candidate, said):
    version = published(who, reviews(6))

    async def test():
        async with Mood() as engine:
            deploy(db, workspace, engine, name="roomy", adapters=4)
            other = make_deployment(db, workspace, make_user(db), name="other", state="ready")
            at = {"state": "ready", "address": engine.address, "secret": "s", "fence": 1}
            make_replica(db, other, engine="transformers", **at)
            db.commit()
            with pytest.raises(Invalid) as caught:
                create(who, version, candidates=[candidate], scorers=SCORERS)
            assert caught.value.field == "candidates.0.target"
            assert said in caught.value.message

    asyncio.run(test())
