"""A candidate behind an OpenAI-compatible endpoint elsewhere."""

import asyncio

import pytest
from aiohttp import web
from bs4 import BeautifulSoup

from app.accounts import user_secrets
from app.addresses import Interrupted
from app.config import settings
from app.errors import Invalid, NotFound
from app.evaluations import outside, trying
from app.evaluations.schemas import CandidateIn
from tests.evaluations.people import Mood, candidates, create, ended, published, reviews, working
from tests.factories import make_principal

KEY = "sk-not-a-real-one"


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    monkeypatch.setattr(settings, "fetch_allow", "127.0.0.1")


@pytest.fixture
def who(client):
    return make_principal(client.user, client.workspace)


class Outside(Mood):
    """As strict as others are: a key, a model, and now and then too much."""

    def __init__(self, trouble: list[int] | None = None, lost: set[int] | None = None) -> None:
        super().__init__()
        self.trouble = list(trouble or [])
        self.lost = lost or set()

    async def whole(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "Who are you?"}}, status=401)
        assert asked["model"] == "gpt-x"
        number = int(asked["messages"][-1]["content"].split("条")[0][1:])
        if number in self.lost:
            return web.json_response({"error": {"message": "Broken."}}, status=500)
        if self.trouble:
            return web.json_response(
                {"error": {"message": "Slow down."}}, status=self.trouble.pop()
            )
        return await super().whole(request)


def there(engine, **more):
    return {"kind": "endpoint", "target": f"{engine.address}/v1/", "model": "gpt-x"} | more


def secret(db, who, value=KEY):
    made = user_secrets.create(db, who, kind="openai", name="", value=value)
    db.commit()
    return made


def test_asked_with_the_key_and_again_where_it_is_too_much(db, client, who):
    version = published(who, reviews(20))
    key = secret(db, who)

    async def test():
        async with Outside([429, 503, 500, 429], lost={3}) as engine, working():
            several = [there(engine, secret=key.id, per_minute=6000)]
            done = await ended(create(who, version, candidates=several))
            (one,) = candidates(done)
            assert (done.state, one.error) == ("succeeded", None)
            assert (one.done, one.failed) == (20, 1)
            assert one.figures["accuracy"]["value"] == 1
            assert one.label == "gpt-x · 127.0.0.1"
            assert one.completion_tokens == 19 * 2
            assert KEY not in str(vars(one))
            return done

    done = asyncio.run(test())
    shown = client.get(f"/api/v1/evaluations/{done.id}").text
    assert KEY not in shown
    rows = client.get(f"/api/v1/evaluations/{done.id}/rows?limit=4").json()["data"]
    assert rows[3]["answers"][0]["error"]["message"] == "Broken."


def test_a_key_that_is_not_known_fails_the_candidate_at_once(db, client, who):
    version = published(who, reviews(20))
    key = secret(db, who, "sk-of-somebody-else")

    async def test():
        async with Outside() as engine, working():
            done = await ended(create(who, version, candidates=[there(engine, secret=key.id)]))
            (one,) = candidates(done)
            assert (done.state, one.state) == ("failed", "failed")
            assert one.error["code"] == "endpoint_refuses"
            assert "Who are you?" in one.error["params"]["why"]
            assert len(engine.said) == 0

    asyncio.run(test())


def test_an_address_inside_is_not_asked(db, client, who, monkeypatch):
    monkeypatch.setattr(settings, "fetch_allow", "")
    version = published(who, reviews(6))

    async def test():
        async with Outside() as engine, working():
            done = await ended(create(who, version, candidates=[there(engine)]))
            assert candidates(done)[0].error["code"] == "address.private"

    asyncio.run(test())


def test_what_breaks_off_time_and_again_is_the_rows_own_fault(db, client, who, monkeypatch):
    version = published(who, reviews(6))

    def post(self, body):
        raise Interrupted("%(host)s did not answer in time.", code="address.timeout", host="x")

    monkeypatch.setattr(outside.EndpointAsking, "post", post)

    async def test():
        async with Outside() as engine, working():
            done = await ended(create(who, version, candidates=[there(engine)]))
            (one,) = candidates(done)
            assert (one.done, one.failed, done.error["code"]) == (6, 6, "no_answers")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"model": ""}, Invalid, "candidates.0.model"),
        ({"target": "ftp://example.com"}, Invalid, "candidates.0.target"),
        ({"target": "https://a:b@example.com/v1"}, Invalid, "candidates.0.target"),
        ({"secret": "sec_x"}, NotFound, "candidates.0.secret"),
        ({"kind": "answers", "target": "last"}, Invalid, "candidates.0.kind"),
    ],
)
def test_what_is_wrong_stands_at_its_field(db, client, who, change, error, field):
    version = published(who, reviews(6))
    one = {"kind": "endpoint", "target": "https://example.com/v1", "model": "gpt-x"} | change
    with pytest.raises(error) as caught:
        create(who, version, candidates=[one])
    assert caught.value.field == field


def test_an_endpoint_is_tried_before(db, client, who, monkeypatch):
    key = secret(db, who)
    wrong = user_secrets.create(db, who, kind="openai", name="old", value="sk-of-somebody-else")
    db.commit()
    monkeypatch.setattr(trying, "SECONDS", 3.0)

    class There(Outside):
        async def whole(self, request):
            asked = await request.json()
            if asked["model"] == "slow":
                await asyncio.sleep(5)
            if asked["model"] not in ("gpt-x", "slow"):
                return web.json_response({"error": {"message": "No such model."}}, status=404)
            if request.headers.get("authorization") != f"Bearer {KEY}":
                told = {"error": {"message": "Who is sk-of-somebody-else?"}}
                return web.json_response(told, status=401)
            message = {"role": "assistant", "content": "OK."}
            return web.json_response({"choices": [{"index": 0, "message": message}]})

    def tried(**body):
        got = client.post("/api/v1/evaluations/endpoint", json=body)
        assert got.status_code == 200, got.text
        return got.json()

    def look(address):
        good = {"target": address, "model": "gpt-x", "secret": key.id}
        found = tried(**good)
        assert (found["works"], found["answer"], found["code"]) == (True, "OK.", "")
        found = tried(**good | {"secret": wrong.id})
        assert (found["works"], found["code"]) == (False, "endpoint_refuses")
        assert "does not accept the key: Who is …?" in found["message"]
        assert "no such model: No such model." in tried(**good | {"model": "gpt-y"})["message"]
        assert tried(**good | {"model": "slow"})["code"] == "address.timeout"
        refused = client.post("/api/v1/evaluations/endpoint", json=good | {"secret": "sec_x"})
        assert refused.status_code == 404
        form = {"endpoint_url": address, "endpoint_model": "gpt-x", "endpoint_secret": key.id}
        page = BeautifulSoup(client.post("/evaluations/endpoint", data=form).text, "html.parser")
        assert "it answered after" in page.select_one("[data-testid=endpoint-works]").text
        page = client.post("/evaluations/endpoint", data=form | {"endpoint_model": ""})
        assert "endpoint-fails" in page.text
        monkeypatch.setattr(settings, "fetch_allow", "")
        assert tried(**good)["code"] == "address.private"

    async def test():
        async with There() as engine:
            await asyncio.to_thread(look, f"{engine.address}/v1")

    asyncio.run(test())


def test_the_address_as_it_is_kept():
    one = CandidateIn(
        kind="endpoint", target="https://Example.com/v1/chat/completions", model="gpt-x"
    )
    assert outside.choose(one) == ("https://example.com/v1", "gpt-x · example.com", None)


def test_the_form(db, client, who):
    version = published(who, reviews(6))
    key = secret(db, who)
    page = BeautifulSoup(client.get("/evaluations/new").text, "html.parser")
    assert page.select_one("#f-endpoint_secret option:last-child")["value"] == key.id
    form = {
        "dataset": version.id,
        "candidate.0": "answers:last",
        "candidate.1": "endpoint:outside",
        "endpoint_url": "https://example.com/v1",
        "endpoint_model": "gpt-x",
        "endpoint_secret": key.id,
        "endpoint_per_minute": "60",
        "scorers": "exact",
    }
    wrong = client.post("/evaluations", data=form | {"endpoint_model": ""})
    assert wrong.status_code == 422
    page = BeautifulSoup(wrong.text, "html.parser")
    assert "Name the model" in page.select_one("#outside").text
    assert page.select_one("#outside").has_attr("open")
    made = client.post("/evaluations", data=form)
    assert made.status_code == 303, made.text
    found = client.get(f"/api/v1{made.headers['location']}").json()
    assert found["candidates"][1]["target"] == "https://example.com/v1"
    assert client.post(f"/api/v1{made.headers['location']}/cancel").status_code == 200
