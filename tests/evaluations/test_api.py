"""`/api/v1/evaluations`, and what it leaves as files. The app of `api` works on them by itself."""

import asyncio
import csv
import io

import pytest

from app.datasets import service as datasets
from tests.evaluations.people import GOOD, Mood, published, reviews
from tests.factories import make_principal
from tests.gateway.engines import deploy

BASE = "/api/v1/evaluations"


@pytest.fixture
def who(api):
    return make_principal(api.user, api.workspace)


def body(version, *candidates, **fields):
    several = [dict(zip(("kind", "target"), one.split(":"), strict=True)) for one in candidates]
    scorers = [{"kind": "accuracy"}, {"kind": "token_f1", "key": "words"}]
    return {"dataset": version.id, "candidates": several, "scorers": scorers} | fields


def over(api, found):
    """The evaluation, once it is over."""
    while (got := api.get(f"{BASE}/{found['id']}").json())["state"] in ("queued", "running"):
        assert got["error"] is None
    return got


def test_from_creation_to_the_files(db, api, who):
    version = published(who, reviews(24))

    async def test() -> None:
        async with Mood({1, 2, 3}) as base, Mood() as other:
            deploy(db, api.workspace, base, name="before")
            deploy(db, api.workspace, other, name="after")
            said = body(version, "deployment:before", "deployment:after", name="moods")

            def ask() -> None:
                preview = api.post(f"{BASE}/preview", json=said)
                assert preview.status_code == 200, preview.text
                assert preview.json()["rows"] == 24
                made = api.post(BASE, json=said)
                assert made.status_code == 201, made.text
                found.update(made.json())

            found: dict = {}
            await asyncio.to_thread(ask)
            await asyncio.to_thread(over, api, found)
            await asyncio.to_thread(look, api, found)

    asyncio.run(test())


def look(api, made) -> None:
    got = api.get(f"{BASE}/{made['id']}").json()
    assert (got["state"], got["name"], got["rows"]) == ("succeeded", "moods", 24)
    before, after = got["candidates"]
    assert got["verdicts"][after["id"]]["accuracy"]["difference"] == pytest.approx(3 / 24)
    assert set(after["figures"]) == {"accuracy", "words"}
    board = api.get(f"{BASE}/{made['id']}/leaderboard").json()
    assert [one["label"] for one in board["data"]] == ["after", "before"]
    assert [one["label"] for one in board["history"]] == ["before", "after"]
    page = api.get(f"{BASE}/{made['id']}/rows", params={"order": "gain", "limit": 2}).json()
    assert page["has_more"]
    assert [one["number"] for one in page["data"]] == [1, 2]
    first = page["data"][0]
    assert (first["gap"], first["label"], first["reference"]) == (1, GOOD, GOOD)
    assert [one["candidate"] for one in first["answers"]] == [before["id"], after["id"]]
    listed = api.get(BASE, params={"state": "succeeded"}).json()
    assert [one["id"] for one in listed["data"]] == [made["id"]]
    assert api.get(BASE, params={"after": made["id"]}).json() == {"data": [], "has_more": False}
    text = api.get(f"{BASE}/{made['id']}/export", params={"format": "csv"})
    lines = list(csv.reader(io.StringIO(text.text.removeprefix("\ufeff"))))
    assert lines[0][:6] == ["row", "prompt", "reference", "label", "before", "before · accuracy"]
    assert len(lines) == 25
    whole = api.get(f"{BASE}/{made['id']}/export").json()
    assert len(whole["rows"]) == 24
    assert whole["verdicts"] == got["verdicts"]
    draft = api.post(f"{BASE}/{made['id']}/dataset", json={"rows": [1, 2, 99]})
    assert (draft.status_code, draft.json()["rows"]) == (201, 2)
    assert api.post(f"{BASE}/{made['id']}/cancel").status_code == 409
    assert api.delete(f"{BASE}/{made['id']}").status_code == 204
    assert api.get(f"{BASE}/{made['id']}").status_code == 404


def test_what_a_spreadsheet_would_compute_is_text(db, api, who):
    rows = reviews(6)
    rows[0]["messages"][1]["content"] = "=1+1"
    version = published(who, rows)
    made = api.post(BASE, json=body(version, "answers:last", scorers=[{"kind": "exact"}])).json()
    over(api, made)
    assert "'=1+1" in api.get(f"{BASE}/{made['id']}/export?format=csv").text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scorers": []}, "scorers"),
        ({"scorers": [{"kind": "regex", "pattern": "("}]}, "pattern"),
        ({"scorers": [{"kind": "none"}]}, "scorers.0"),
        ({"settings": {"temperature": 9}}, "settings.temperature"),
        ({"candidates": [{"kind": "deployment", "target": "nobody"}]}, "candidates.0.target"),
        ({"candidates": []}, "candidates"),
    ],
)
def test_what_is_wrong_stands_at_its_field(api, who, change, field):
    version = published(who, reviews(6))
    got = api.post(BASE, json=body(version, "answers:last") | change)
    assert got.status_code in (404, 422), got.text
    assert field in got.text


def test_a_dataset_stays_while_it_is_evaluated(db, api, who):
    version = published(who, reviews(6))
    made = api.post(BASE, json=body(version, "answers:last")).json()
    assert api.delete(f"/api/v1/datasets/{version.dataset_id}").status_code == 409
    assert api.post(f"{BASE}/{made['id']}/pause").json()["state"] in ("paused", "pausing")
    assert api.post(f"{BASE}/{made['id']}/cancel").status_code == 200
    assert [one.owner_id for one in datasets.pins(db, version.dataset_id)] in ([], [made["id"]])
