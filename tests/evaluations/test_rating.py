"""People rate answers without knowing whose they are, from the first mark to the agreement."""

import asyncio
import csv
import io

import krippendorff
import numpy as np
import pytest
from bs4 import BeautifulSoup
from sklearn.metrics import cohen_kappa_score

from app.evaluations.rating import order, results
from app.evaluations.rating import service as rating
from app.evaluations.tables import Rating
from tests import factories as make
from tests.evaluations.people import Mood, create, ended, mood, published, reviews
from tests.gateway.engines import deploy


def finished(db, client, count=12):
    """One that is over: the second candidate is right, the first of every other row wrong."""
    who = make.make_principal(client.user, client.workspace)
    version = published(who, reviews(count))

    async def test():
        async with Mood(set(range(0, count, 2))) as base, Mood() as other:
            deploy(db, client.workspace, base, name="before")
            deploy(db, client.workspace, other, name="after")
            said = ("deployment:before", "deployment:after")
            return await ended(create(who, version, *said, scorers=[{"kind": "accuracy"}]))

    return asyncio.run(test())


def soup(got) -> BeautifulSoup:
    assert got.status_code == 200, got.text
    return BeautifulSoup(got.text, "html.parser")


def right(shown: dict, answer: str) -> bool:
    return answer.startswith(shown["reference"])


# -- orders and agreement ----------------------------------------------------------------


def test_each_rater_has_an_order_of_their_own():
    ids = ["cand_a", "cand_b"]
    first = order.items("rat_1", "usr_1", range(30), ids)
    assert first == order.items("rat_1", "usr_1", range(30), ids)
    others = [
        order.items("rat_1", "usr_2", range(30), ids),
        order.items("rat_2", "usr_1", range(30), ids),
    ]
    for other in others:
        assert first != other
        assert {(one.number, one.candidate_id) for one in first} == {
            (one.number, one.candidate_id) for one in other
        }
    assert 15 < sum(one.flipped for one in first) < 45
    assert [order.turned(value) for value in (1, 2, 3)] == [3, 2, 1]
    assert order.drawn(range(100), 10, 7) == order.drawn(range(99, -1, -1), 10, 7)


def given(table):
    """Ratings of a table: a row per rater, None where they said nothing."""
    return [
        Rating(user_id=f"u{rater}", candidate_id="c", number=number, value=value)
        for rater, row in enumerate(table)
        for number, value in enumerate(row)
        if value is not None
    ]


def test_agreement_is_krippendorffs():
    # the example of Krippendorff (2011), “Computing Krippendorff's Alpha-Reliability”, ordinal: 0.815
    none = None
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, none, none, none],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, none, 3],
        [none, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, none],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, none],
    ]
    found = results.agreement(given(table))
    assert found["alpha"] == pytest.approx(0.815, abs=5e-4)
    assert (found["raters"], found["items"]) == (4, 11)
    rows = np.array([[np.nan if one is None else one for one in row] for row in table])
    library = krippendorff.alpha(reliability_data=rows, level_of_measurement="ordinal")
    assert found["alpha"] == pytest.approx(library, abs=1e-6)


def test_agreement_of_two_is_near_cohens_kappa():
    """With many items, alpha for two raters comes close to the weighted kappa of scikit-learn."""
    rng = np.random.default_rng(3)
    one = rng.integers(1, 4, size=3000)
    other = np.where(rng.random(3000) < 0.7, one, rng.integers(1, 4, size=3000))
    found = results.agreement(given([one.tolist(), other.tolist()]))
    kappa = cohen_kappa_score(one, other, weights="quadratic")
    assert found["alpha"] == pytest.approx(kappa, abs=0.01)
    assert found["same"] == pytest.approx((one == other).mean(), abs=1e-6)


def test_agreement_where_there_is_nothing_to_compare():
    assert results.agreement(given([[1, 2, 3]])) == {
        "raters": 1, "items": 0, "alpha": None, "same": None,
    }  # fmt: skip
    assert results.agreement(given([[3, 3], [3, 3]]))["alpha"] is None
    assert results.agreement(given([[1, None], [None, 2]]))["items"] == 0


def test_ranks_share_their_places():
    assert results.ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]
    assert results.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert results.spearman([1, 2, 3], [5, 5, 5]) is None


# -- a round -----------------------------------------------------------------------------


def test_marks_from_the_first_to_the_results(db, api):
    done = finished(db, api)
    made = api.post(f"/api/v1/evaluations/{done.id}/ratings", json={"rows": 4, "name": "by us"})
    assert made.status_code == 201, made.text
    one = made.json()
    base = f"/api/v1/ratings/{one['id']}"
    assert (one["rows"], one["items"], one["state"], one["raters"]) == (4, 8, "open", [])
    assert api.post(f"{base}/close").status_code == 409
    assert api.get(f"{base}/export").status_code == 409
    for at in range(8):
        shown = api.get(f"{base}/items/{at}").json()
        assert set(shown) == {
            "at", "items", "done", "messages", "reference", "answers", "value",
        }  # fmt: skip
        said = api.put(
            f"{base}/items/{at}", json={"value": 5 if right(shown, shown["answers"][0]) else 2}
        )
        assert (said.status_code, said.json()["done"]) == (200, at + 1)
    assert api.get(f"{base}/items/8").status_code == 404
    assert api.put(f"{base}/items/0", json={"value": 6}).status_code == 422
    told = api.get(base).json()
    assert (told["raters"][0]["done"], told["results"]) == (8, {})
    other = make.make_user(db)
    make.make_membership(db, api.workspace, other, "member")
    db.commit()
    second = make.make_principal(other, api.workspace)
    row = rating.get(db, api.workspace.id, one["id"])
    for at in range(4):
        rating.rate(db, second, one["id"], at, 5)
    assert rating.next_of(db, row, other.id) == 4
    db.commit()
    closed = api.post(f"{base}/close").json()
    assert closed == api.post(f"{base}/close").json()
    assert closed["state"] == "closed"
    assert closed["results"]["agreement"]["items"] == 4
    assert closed["results"]["scorers"]["accuracy"]["items"] == 8
    assert closed["results"]["scorers"]["accuracy"]["spearman"] > 0.5
    (before, after) = api.get(f"/api/v1/evaluations/{done.id}").json()["candidates"]
    told = closed["results"]["candidates"]
    assert told[after["id"]]["value"] == 1
    assert told[before["id"]]["value"] < 1
    assert closed["results"]["verdicts"][after["id"]]["difference"] > 0
    assert api.put(f"{base}/items/0", json={"value": 1}).status_code == 409
    lines = list(csv.DictReader(io.StringIO(api.get(f"{base}/export?format=csv").text[1:])))
    assert len(lines) == 12
    assert {line["candidate"] for line in lines} == {"before", "after"}
    told = api.get(f"{base}/export").json()["ratings"]
    assert [int(line["row"]) for line in lines] == [each["row"] + 1 for each in told]
    listed = api.get("/api/v1/ratings", params={"evaluation": done.id}).json()
    assert [each["id"] for each in listed["data"]] == [one["id"]]
    assert api.get("/api/v1/ratings", params={"after": one["id"]}).json()["data"] == []
    assert api.delete(f"/api/v1/evaluations/{done.id}").status_code == 204
    assert api.get(base).status_code == 404


def test_pairs_on_the_pages(db, client):
    done = finished(db, client)
    part = soup(client.get(f"/evaluations/{done.id}/ratings"))
    assert part.select_one("[data-testid=rating-kind]")
    wrong = client.post(f"/evaluations/{done.id}/ratings", data={"rows": "0"})
    assert wrong.status_code == 422
    assert BeautifulSoup(wrong.text, "html.parser").find(id="e-rows")
    made = client.post(f"/evaluations/{done.id}/ratings", data={"kind": "pairs", "rows": "4"})
    assert made.status_code == 303, made.text
    address = made.headers["location"]
    firsts = []
    for at in range(4):
        page = soup(client.get(f"{address}/rate"))
        assert "before" not in page.main.text
        assert "after" not in page.main.text
        first, second = (
            one.text for one in page.select("[data-testid=rating-answer] .evaluation-text")
        )
        text = page.select_one("[data-testid=rating-item] .evaluation-text").text
        number = int(text.split("条")[0].split("第")[1])
        firsts.append(first.startswith(mood(number)))
        value = "2" if first == second else "1" if firsts[-1] else "3"
        form = page.select_one("[data-testid=rating-buttons]")["action"]
        got = client.post(form, data={"value": value})
        assert got.headers["location"] == (address if at == 3 else f"{address}/rate?at={at + 1}")
    assert any(firsts)
    assert client.get(f"{address}/rate").headers["location"] == address
    again = soup(client.get(f"{address}/rate?at=3"))
    assert len(again.select("[data-key].btn-primary")) == 1
    assert client.post(f"{address}/items/3").status_code == 422
    open_page = soup(client.get(address))
    assert not open_page.select("[data-testid=rating-results]")
    assert "4 / 4" in open_page.select_one("[data-testid=rater]").text
    assert client.post(f"{address}/close").status_code == 303
    page = soup(client.get(address))
    figures = [" ".join(one.text.split()) for one in page.select("[data-testid=human-figure]")]
    # three of the four rows are won, and one is a tie
    assert any("after 87.5%" in one for one in figures), figures
    assert "One rater alone" in page.select_one("[data-testid=agreement]").text
    beside = soup(client.get(f"/evaluations/{done.id}/ratings"))
    assert beside.select("[data-testid=human-figure]")
    listed = soup(client.get("/ratings"))
    assert listed.select_one("[data-testid=rating-round]")
    assert "人工评分" in client.get("/ratings", headers={"accept-language": "zh"}).text
    assert client.post(f"{address}/delete").headers["location"] == "/ratings"
    assert client.get(address).status_code == 404


def test_what_cannot_be_rated(db, client):
    who = make.make_principal(client.user, client.workspace)
    alone = published(who, reviews(6))
    made = create(who, alone, "answers:last", scorers=[{"kind": "exact"}])
    while (found := client.get(f"/api/v1/evaluations/{made.id}").json())["state"] != "succeeded":
        assert found["error"] is None
    got = client.post(f"/evaluations/{made.id}/ratings", data={"kind": "pairs"})
    assert got.status_code == 422
    assert BeautifulSoup(got.text, "html.parser").find(id="e-kind")
    assert client.get("/ratings").status_code == 200
