"""The pages of evaluations. The app of `client` works on them by itself."""

import asyncio

import pytest
from bs4 import BeautifulSoup

from tests.evaluations.judges import Wise
from tests.evaluations.people import BAD, GOOD, Mood, create, ended, published, reviews
from tests.factories import make_principal
from tests.gateway.engines import deploy


@pytest.fixture
def who(client):
    return make_principal(client.user, client.workspace)


def soup(got) -> BeautifulSoup:
    assert got.status_code == 200, got.text
    return BeautifulSoup(got.text, "html.parser")


def finished(db, client, who, count=24):
    """One that is over: the second candidate is better."""
    version = published(who, reviews(count))

    async def test():
        async with Mood(set(range(0, count, 2))) as base, Mood() as other:
            deploy(db, client.workspace, base, name="before")
            deploy(db, client.workspace, other, name="after")
            return await ended(create(who, version, "deployment:before", "deployment:after"))

    return asyncio.run(test())


def test_the_answer_leads_the_page(db, client, who):
    done = finished(db, client, who)
    page = soup(client.get(f"/evaluations/{done.id}"))
    verdict = page.select_one("[data-testid=verdict]")
    assert verdict["data-verdict"] == "better"
    assert "after differs from before by +50.0 points" in " ".join(verdict.text.split())
    assert len(page.select("[data-testid=confusion]")) == 2
    assert page.select_one("[data-testid=where]")
    assert "after" in page.select_one("[data-testid=leaderboard] tbody tr").text
    first = page.select_one("[data-testid=evaluation-answer-row]")
    assert first["data-number"] == "0"
    assert [one.text for one in page.select("[data-figure=accuracy]")] == ["50.0%", "100.0%"]
    few = soup(client.get(f"/evaluations/{done.id}/rows?order=loss&label={GOOD}&said={GOOD}"))
    assert len(few.select("[data-testid=evaluation-answer-row]")) == 12
    assert "1–12 of 12" in few.text
    zh = client.get(f"/evaluations/{done.id}", headers={"accept-language": "zh"})
    assert "混淆" in zh.text
    listed = soup(client.get("/evaluations"))
    assert "Better" in listed.select_one("[data-testid=evaluation-row]").text
    got = client.post(f"/evaluations/{done.id}/dataset", data={"rows": ["0", "2"]})
    assert got.status_code == 303
    assert BAD in client.get(got.headers["location"]).text
    assert client.post(f"/evaluations/{done.id}/dataset").status_code == 422
    assert client.get(f"/evaluations/{done.id}/state").status_code in (200, 303)
    assert client.post(f"/evaluations/{done.id}/delete").headers["location"] == "/evaluations"


def test_what_judges_said(db, client, who):
    version = published(who, reviews(12))
    scorers = [
        {"kind": "judge", "model": "wise", "language": "zh"},
        {"kind": "pairwise", "model": "wise"},
    ]

    async def test():
        async with Mood({1, 2}) as base, Mood() as other, Wise({4}, always=True) as wise:
            for engine, name in ((base, "before"), (other, "after"), (wise, "wise")):
                deploy(db, client.workspace, engine, name=name)
            said = ("deployment:before", "deployment:after")
            return await ended(create(who, version, *said, scorers=scorers))

    done = asyncio.run(test())
    page = soup(client.get(f"/evaluations/{done.id}?order=number"))
    table = page.select_one("[data-testid=dimensions]")
    heads = [one.text for one in table.select("th")]
    assert heads[1:3] == ["Understanding", "Generation"]
    assert table.select_one("[data-figure='judge/understanding']").text == "3.00"
    assert "2" in page.select_one("[data-testid=pairs] tbody tr").text
    assert "1 not judged" in page.select_one("[data-testid=unscored]").text
    reasons = [" ".join(one.text.split()) for one in page.select("[data-testid=reason]")]
    assert any("Logic 5/5" in one and "因为" in one for one in reasons)
    assert any("Not judged: No verdict could be read" in one for one in reasons)
    assert any("Better than the baseline" in one for one in reasons)
    got = client.get(f"/api/v1/evaluations/{done.id}/rows").json()["data"][0]["answers"][0]
    assert got["judgements"][0]["scores"]["logic"] == 5
    text = client.get(f"/api/v1/evaluations/{done.id}/export?format=csv").text
    assert "after · judge · reason" in text
    assert "因为" in text
    client.post(f"/evaluations/{done.id}/delete")
    assert client.get(f"/evaluations/{done.id}").status_code == 404


def test_the_form_of_a_judge(db, client, who):
    version = published(who, reviews(6))

    async def test():
        async with Mood() as engine:
            deploy(db, client.workspace, engine, name="wise")
            await asyncio.to_thread(look)

    def look():
        form = {
            "dataset": version.id,
            "candidate.0": "answers:last",
            "scorers": ["judge"],
            "first": "judge",
            "judge_model": "wise",
            "judge_scale": "10",
            "judge_language": "zh",
            "judge_prompt": "Mark {answer} by {dimensions}.",
            "dimensions": "logic",
            "own_dimensions": "tone: is it polite\n\nwit",
        }
        told = soup(client.post("/evaluations/estimate", data=form))
        assert "6 requests" in told.select_one("[data-testid=judge-estimate]").text
        wrong = client.post("/evaluations", data=form | {"judge_prompt": "No place."})
        assert wrong.status_code == 422
        page = BeautifulSoup(wrong.text, "html.parser")
        assert "{answer}" in page.find(id="e-judge_prompt").text
        assert page.find(id="f-judge_prompt").text == "No place."
        nobody = client.post("/evaluations", data=form | {"judge_model": "nobody"})
        assert BeautifulSoup(nobody.text, "html.parser").find(id="e-judge_model")
        made = client.post("/evaluations", data=form)
        assert made.status_code == 303, made.text
        (one,) = client.get(f"/api/v1{made.headers['location']}").json()["scorers"]
        assert one["dimensions"] == ["logic", "tone: is it polite", "wit"]
        assert (one["scale"], one["language"]) == (10, "zh")

    asyncio.run(test())


def test_the_form(db, client, who):
    version = published(who, reviews(24))
    page = soup(client.get(f"/evaluations/new?dataset={version.dataset_id}&model=answers:last"))
    chosen = page.select_one("#f-dataset option[selected]")
    assert chosen["value"] == version.id
    form = {
        "dataset": version.id,
        "candidate.0": "answers:last",
        "scorers": ["f1", "accuracy", "numeric"],
        "first": "f1",
        "absolute": "0.5",
        "max_tokens": "64",
        "limit": "10",
    }
    told = client.post("/evaluations/estimate", data=form)
    assert "10" in soup(told).select_one("[data-testid=evaluation-estimate]").text
    made = client.post("/evaluations", data=form)
    assert made.status_code == 303, made.text
    found = client.get(f"/api/v1{made.headers['location']}").json()
    assert [one["kind"] for one in found["scorers"]] == ["f1", "numeric", "accuracy"]
    assert found["scorers"][1]["absolute"] == 0.5
    assert (found["rows"], found["settings"]["max_tokens"]) == (10, 64)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"candidate.0": ""}, "candidate.0"),
        ({"candidate.0": "deployment:nobody"}, "candidate.0"),
        ({"scorers": ["regex"], "pattern": "("}, "pattern"),
        ({"scorers": ["regex"]}, "pattern"),
        ({"scorers": ["json"], "json_schema": "{"}, "json_schema"),
        ({"max_tokens": "0"}, "max_tokens"),
        ({"dataset": "ds_x"}, "dataset"),
        ({"scorers": []}, "scorers"),
        ({"first": "bleu"}, "first"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(client, who, change, field):
    version = published(who, reviews(6))
    form = {"dataset": version.id, "candidate.0": "answers:last", "scorers": ["accuracy"]}
    got = client.post("/evaluations", data=form | change)
    assert got.status_code == 422
    page = BeautifulSoup(got.text, "html.parser")
    assert page.find(id=f"e-{field}"), [one["id"] for one in page.select("[id^=e-]")]
    assert "List should" not in got.text


def test_an_empty_list_says_what_belongs_there(client):
    assert "No evaluations yet" in client.get("/evaluations").text
    assert "No evaluation matches" in client.get("/evaluations?q=zzz").text
