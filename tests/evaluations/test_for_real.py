"""An evaluation on a real vLLM with the starter model, from the API to the verdict."""

import json

import pytest

from tests.stack import SAMPLES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]  # Danlu and vLLM may have to start


def test_the_starter_model_beside_what_was_right(stack, served):
    lines = (SAMPLES / "reviews-heldout.jsonl").read_text().splitlines()[:40]
    with stack.api() as api:
        made = api.post(
            "/api/v1/datasets",
            data={"name": "heldout"},
            files={"file": ("heldout.jsonl", "\n".join(lines).encode())},
        ).json()
        published = api.post(f"/api/v1/datasets/{made['id']}/publish")
        assert published.status_code == 200, published.text
        body = {
            "dataset": made["id"],
            "candidates": [
                {"kind": "deployment", "target": served},
                {"kind": "answers", "target": "last"},
            ],
            "scorers": [{"kind": "accuracy"}, {"kind": "f1"}, {"kind": "chrf"}],
            "settings": {"max_tokens": 16},
        }
        one = api.post("/api/v1/evaluations", json=body)
        assert one.status_code == 201, one.text
        done = stack.wait(f"/evaluations/{one.json()['id']}")
        assert done["state"] == "succeeded", done
        model, right = done["candidates"]
        assert (model["done"], model["failed"]) == (40, 0)
        assert model["completion_tokens"] > 0
        assert 0 <= model["figures"]["accuracy"]["value"] <= 1
        assert right["figures"]["accuracy"]["value"] == 1
        assert done["verdicts"][right["id"]]["accuracy"]["verdict"] in ("better", "same")
        rows = api.get(f"/api/v1/evaluations/{done['id']}/rows", params={"order": "gain"}).json()
        assert (
            rows["data"][0]["reference"]
            == json.loads(lines[rows["data"][0]["number"]])["messages"][-1]["content"]
        )
        assert api.delete(f"/api/v1/evaluations/{done['id']}").status_code == 204
