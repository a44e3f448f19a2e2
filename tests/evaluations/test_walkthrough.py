"""Is it better than before? The walkthrough of docs/walkthrough.md on a real vLLM, told in order.

Each test goes on where the one before it stopped. With `-s` and `DANLU_TEST_DEEP=2` it prints the
figures that stand there.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # Danlu and vLLM may have to start
NAME = "review-tone"  # at /v1, whatever serves there
# 60 steps, in which it learns to answer with a label; which label takes three epochs
LONG = os.environ.get("DANLU_TEST_DEEP", "1") != "1"
HYPERPARAMETERS = {"batch_size": 16, "learning_rate": 2e-3} | (
    {"epochs": 3} if LONG else {"max_steps": 60}
)
LABELS = ["正面", "负面"]
ROWS = 100  # of the 300 held-out reviews, drawn at random, always the same
SETTINGS = {"max_tokens": 16, "limit": ROWS}
HERE: dict[str, Any] = {}  # what later steps need


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    """Leaves no deployments behind: other tests share this Danlu."""
    with stack.api() as client:
        yield client
        client.delete(f"/api/v1/aliases/{NAME}")
        for one in client.get("/api/v1/deployments").json()["data"]:
            if one["model"] == HERE.get("tuned"):
                client.delete(f"/api/v1/deployments/{one['id']}").raise_for_status()


def call(api: httpx.Client, method: str, path: str, **kwargs: Any) -> Any:
    answer = api.request(method, f"/api/v1{path}", **kwargs)
    assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


def tell(text: str) -> None:
    print(text)  # noqa: T201 - for the documentation


def evaluated(api: httpx.Client, stack: Stack, candidates: list[str], **body: Any) -> Any:
    """An evaluation of the held-out reviews that has come to its end; candidates as `kind:target`."""
    asked = [dict(zip(("kind", "target"), one.split(":"), strict=True)) for one in candidates]
    body = {"dataset": HERE["heldout"], "candidates": asked} | body
    made = call(api, "POST", "/evaluations", json=body)
    done = stack.wait(f"/evaluations/{made['id']}", seconds=600)
    assert done["state"] == "succeeded", f"{done}\n{stack.tail()}"
    for one in done["candidates"]:
        assert (one["done"], one["failed"]) == (done["rows"], 0), one
    return done


def right(figure: dict[str, Any]) -> int:
    """Of a confusion matrix: rows are what was right, columns what was said, last: neither."""
    assert figure["labels"] == LABELS
    assert sum(map(sum, figure["table"])) == figure["rows"]
    return sum(figure["table"][at][at] for at in range(len(LABELS)))


def told(name: str, one: dict[str, Any]) -> None:
    accuracy, f1 = (one["figures"][key]["value"] for key in ("accuracy", "f1"))
    tell(f"{name}: accuracy {accuracy:.4f}, F1 {f1:.4f}, {one['figures']['accuracy']['table']}")


# -- before ------------------------------------------------------------------------------


def test_before_tuning(stack: Stack, served: str, api: httpx.Client) -> None:
    samples = {one["name"]: one["id"] for one in call(api, "GET", "/datasets")["data"]}
    HERE.update(train=samples["reviews-train"], heldout=samples["reviews-heldout"])
    scorers = [{"kind": kind} for kind in ("accuracy", "f1", "chrf")]
    done = evaluated(
        api, stack, [f"deployment:{served}", "answers:last"], scorers=scorers,
        settings=SETTINGS,
    )  # fmt: skip
    before, wanted = done["candidates"]
    told("before", before)
    assert before["completion_tokens"] > 0
    figure = before["figures"]["accuracy"]
    assert right(figure) == round(figure["value"] * ROWS)
    assert wanted["figures"]["accuracy"]["value"] == 1
    assert right(wanted["figures"]["accuracy"]) == ROWS
    HERE["before"] = figure["value"]


# -- tuning, with an evaluation and a gate at its end ------------------------------------


def test_tune_and_serve_only_what_is_better(stack: Stack, served: str, api: httpx.Client) -> None:
    call(
        api,
        "PUT",
        "/aliases",
        json={"name": NAME, "targets": [{"deployment": served, "weight": 1}]},
    )
    evaluation = {
        "dataset": HERE["heldout"],
        "scorers": ["accuracy", "f1"],
        **SETTINGS,
        "checkpoints": [20],  # a step that would not be saved by itself
        "gate": {"name": NAME, "needs": "better"},
    }
    job = call(
        api, "POST", "/jobs",
        json={
            "name": NAME, "model": "danlu-starter", "dataset": HERE["train"], "stage": "sft",
            "method": "lora", "hyperparameters": HYPERPARAMETERS, "evaluation": evaluation,
        },
    )  # fmt: skip
    done = stack.wait(f"/jobs/{job['id']}", seconds=900)
    assert done["state"] == "succeeded", f"{done}\n{stack.tail()}"
    HERE["tuned"] = done["result_model"]
    ended = promotion_of(api, job["id"])
    assert ended["promotion"]["state"] == "promoted", f"{ended}\n{stack.tail()}"
    one, (base, early, tuned) = ended["evaluation"], ended["evaluation"]["candidates"]
    assert (early["kind"], early["done"]) == ("checkpoint", ROWS)
    best = max(tuned, early, key=lambda each: each["figures"]["accuracy"]["value"])
    assert (base["label"], ended["best"]) == ("danlu-starter", best["id"])
    assert one["verdicts"][tuned["id"]]["accuracy"]["verdict"] == "better"
    assert ended["promotion"]["rival_id"] == base["id"]
    assert ended["promotion"]["verdict"]["low"] > 0
    tell(f"promotion: {ended['promotion']['message']}")
    alias = call(api, "GET", f"/aliases/{NAME}")
    weights = {target["name"]: target["weight"] for target in alias["targets"]}
    assert weights.pop(served) == 0
    assert list(weights.values()) == [1]
    result = call(api, "GET", f"/deployments/{ended['promotion']['deployment_id']}")
    assert result["host"] is not None  # an adapter, loaded into the engine that runs


def promotion_of(api: httpx.Client, job_id: str, seconds: float = 600) -> Any:
    """The evaluation at the job's end, once it is known whether its result serves."""
    end = time.monotonic() + seconds
    while True:
        found = call(api, "GET", f"/jobs/{job_id}/evaluation")
        if found["promotion"] and found["promotion"]["ended_at"]:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.3)


# -- after -------------------------------------------------------------------------------


def test_better_by_how_much_and_where(stack: Stack, served: str, api: httpx.Client) -> None:
    scorers = [{"kind": kind} for kind in ("accuracy", "f1", "chrf")]
    done = evaluated(
        api, stack, [f"deployment:{served}", f"deployment:{NAME}"], scorers=scorers,
        settings=SETTINGS,
    )  # fmt: skip
    HERE["after"], (before, after) = done, done["candidates"]
    told("after", after)
    assert before["figures"]["accuracy"]["value"] == HERE["before"]
    for key in ("accuracy", "f1", "chrf"):
        found = done["verdicts"][after["id"]][key]
        tell(f"{key}: {found}")
        assert found["verdict"] == "better"
        assert 0 < found["low"] <= found["difference"] <= found["high"]
    assert right(after["figures"]["accuracy"]) > right(before["figures"]["accuracy"])
    assert {one["name"] for one in after["figures"]["accuracy"]["where"]["label"]} == set(LABELS)
    rows = call(api, "GET", f"/evaluations/{done['id']}/rows", params={"order": "gain"})["data"]
    gaps = [row["gap"] for row in rows]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] == 1
    assert rows[0]["reference"] == rows[0]["label"]
    worst = call(api, "GET", f"/evaluations/{done['id']}/rows", params={"order": "loss"})["data"]
    assert worst[0]["gap"] <= 0


# -- the gate refuses ---------------------------------------------------------------------


def test_what_is_worse_does_not_serve(stack: Stack, api: httpx.Client) -> None:
    """One step teaches nothing: beside what serves by then the result is worse."""
    before = deployed(api)
    evaluation = {
        "dataset": HERE["heldout"], "scorers": ["accuracy"], "max_tokens": 16, "limit": 20,
        "gate": {"name": NAME, "needs": "not_worse"},
    }  # fmt: skip
    job = call(
        api, "POST", "/jobs",
        json={
            "name": "hasty", "model": "danlu-starter", "dataset": HERE["train"], "stage": "sft",
            "method": "lora", "hyperparameters": {"max_steps": 1, "batch_size": 4},
            "evaluation": evaluation,
        },
    )  # fmt: skip
    done = stack.wait(f"/jobs/{job['id']}", seconds=300)
    assert done["state"] == "succeeded", f"{done}\n{stack.tail()}"
    ended = promotion_of(api, job["id"])
    told = ended["promotion"]
    assert (told["state"], told["verdict"]["verdict"]) == ("refused", "worse"), told
    assert told["verdict"]["high"] < 0
    tell(f"refused: {told['message']}")
    assert f"{100 * told['verdict']['difference']:+.1f} points" in told["message"]
    assert deployed(api) == before


def deployed(api: httpx.Client) -> Any:
    """What runs, and who serves under the name by what share."""
    there = [one["id"] for one in call(api, "GET", "/deployments")["data"]]
    alias = call(api, "GET", f"/aliases/{NAME}")
    return there, {target["name"]: target["weight"] for target in alias["targets"]}


# -- judged ------------------------------------------------------------------------------


def test_a_judged_sample(stack: Stack, served: str, api: httpx.Client) -> None:
    """The starter model is too small to judge well: what is looked at is that each of its replies is
    a verdict with a reason, in the form that vLLM holds it to.
    """
    asked = {"model": served, "dimensions": ["factuality"], "language": "zh", "max_tokens": 96}
    done = evaluated(
        api, stack, [f"deployment:{served}", f"deployment:{NAME}"],
        scorers=[{"kind": "judge", **asked}, {"kind": "pairwise", **asked}],
        settings={"max_tokens": 16, "limit": 3},
    )  # fmt: skip
    rows = call(api, "GET", f"/evaluations/{done['id']}/rows")["data"]
    assert len(rows) == 3
    for row in rows:
        for place, answer in enumerate(row["answers"]):
            marks = [one for one in answer["judgements"] if one["scorer"] == "judge"]
            pairs = [one for one in answer["judgements"] if one["scorer"] == "pairwise"]
            assert [one["swapped"] for one in pairs] == ([False, True] if place else [])
            (mark,) = marks
            for one in answer["judgements"]:
                tell(f"{one['scorer']}: {one['scores'] or one['winner']} {one['reason']}")
                assert one["error"] is None, one
            assert set(mark["scores"]) == {"factuality"}
            assert mark["scores"]["factuality"] in range(1, 6)
            assert mark["reason"]
            assert answer["scores"]["judge"] == (mark["scores"]["factuality"] - 1) / 4
            assert all(one["winner"] in ("ours", "theirs", "tie") for one in pairs)
            same = row["answers"][0]["text"].strip() == answer["text"].strip()
            assert all(one["reason"] or same for one in pairs)  # equal ones are not asked about
    told = done["judging"]
    tell(f"judging: {told}")
    assert (told["done"], told["failed"]) == (12, 0)
    assert 0 < told["completion_tokens"] <= 12 * 96
    for one in done["candidates"]:
        tell(f"{one['label']}: {one['figures']}")
        assert one["figures"]["judge"]["rows"] == one["figures"]["pairwise"]["rows"] == 3


# -- rated by people ---------------------------------------------------------------------


def test_a_sample_rated_by_two_people(stack: Stack, served: str, api: httpx.Client) -> None:
    made = call(api, "POST", f"/evaluations/{HERE['after']['id']}/ratings", json={"rows": 10})
    base = f"/ratings/{made['id']}"
    with closing(colleague(stack, api)) as other:
        for person, mild in ((api, 0), (other, 1)):
            for at in range(made["items"]):
                item = call(person, "GET", f"{base}/items/{at}")
                assert not re.search(f"{served}|{NAME}|danlu", json.dumps(item))
                good = item["answers"][0].strip() == item["reference"]
                mark = (5, 4)[mild * (at % 4 == 0)] if good else (1, 2)[mild * (at % 4 == 0)]
                call(person, "PUT", f"{base}/items/{at}", json={"value": mark})
    assert [one["done"] for one in call(api, "GET", base)["raters"]] == [20, 20]
    closed = call(api, "POST", f"{base}/close")["results"]
    before, after = (one["id"] for one in HERE["after"]["candidates"])
    assert closed["agreement"]["items"] == 20
    assert closed["agreement"]["raters"] == 2
    assert 0 < closed["agreement"]["alpha"] < 1
    assert closed["verdicts"][after]["verdict"] == "better"
    assert closed["scorers"]["accuracy"]["spearman"] > 0.7
    tell(f"agreement: {closed['agreement']}, beside accuracy: {closed['scorers']['accuracy']}")
    for name, one in (("before", before), ("after", after)):
        tell(f"people, {name}: {closed['candidates'][one]}")


def colleague(stack: Stack, api: httpx.Client) -> httpx.Client:
    """Somebody invited, who has joined and signed in as browsers do."""
    email = f"rater-{secrets.token_hex(3)}@example.com"
    password = "a long walk in the hills"
    workspace = call(api, "GET", "/me")["workspace"]["id"]
    body = {"email": email, "role": "member"}
    link = call(api, "POST", f"/workspaces/{workspace}/invitations", json=body)["url"]
    person = httpx.Client(base_url=stack.url, headers={"origin": stack.url}, timeout=60)
    token = link.rsplit("/", 1)[1]
    call(person, "POST", f"/links/{token}/join", json={"name": "Ann", "password": password})
    signed = person.post("/login", data={"email": email, "password": password})
    assert signed.status_code == 303, signed.text
    return person
