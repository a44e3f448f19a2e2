"""Perplexity on a real vLLM beside transformers. The rest of it for real: test_walkthrough.py."""

import json
import math
import subprocess

import pytest

from app.config import ROOT
from tests.stack import SAMPLES

NEAR = 0.01  # the engine computes in bfloat16, the reference in float32
pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]  # Danlu and vLLM may have to start


# The reference, without anything of ours: the prompt by the model's own template, then the answer
# and the token that ends it.
ORACLE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
place = sys.argv[1]
words = AutoTokenizer.from_pretrained(place)
model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
found = []
for messages in json.load(sys.stdin):
    prompt = words.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    before = words(prompt, add_special_tokens=False)["input_ids"]
    text = prompt + messages[-1]["content"] + "<|im_end|>"
    ids = words(text, add_special_tokens=False)["input_ids"]
    assert ids[: len(before)] == before
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    each = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    found.append([-float(each[len(before) - 1 :].double().sum()), len(ids) - len(before)])
json.dump(found, sys.stdout)
"""


def test_perplexity_is_what_transformers_computes(stack):
    """Of a model, for which the evaluation starts an engine that can say it, and stops it."""
    lines = (SAMPLES / "reviews-heldout.jsonl").read_text().splitlines()[:8]
    rows = [json.loads(line)["messages"] for line in lines]
    with stack.api() as api:
        made = api.post(
            "/api/v1/datasets",
            data={"name": "few"},
            files={"file": ("few.jsonl", "\n".join(lines).encode())},
        ).json()
        api.post(f"/api/v1/datasets/{made['id']}/publish").raise_for_status()
        body = {
            "dataset": made["id"],
            "candidates": [{"kind": "model", "target": "danlu-starter"}],
            "scorers": [{"kind": "perplexity"}],
        }
        one = api.post("/api/v1/evaluations", json=body)
        assert one.status_code == 201, one.text
        done = stack.wait(f"/evaluations/{one.json()['id']}", seconds=500)
        assert done["state"] == "succeeded", f"{done}\n{stack.tail()}"
        (candidate,) = done["candidates"]
        assert (candidate["done"], candidate["completion_tokens"]) == (8, 0)
        names = [each["name"] for each in api.get("/api/v1/deployments").json()["data"]]
        assert not any(name.startswith("eval-") for name in names), names
        found = api.get(f"/api/v1/evaluations/{done['id']}/rows").json()["data"]
        api.delete(f"/api/v1/evaluations/{done['id']}").raise_for_status()
    oracle = subprocess.run(
        [ROOT / ".venv-train/bin/python", "-c", ORACLE, ROOT / "workers/starter/model"],
        input=json.dumps(rows), capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(oracle.stdout)
    for row, (nll, count) in zip(found, told, strict=True):
        assert row["answers"][0]["scores"]["perplexity"] == pytest.approx(nll / count, rel=NEAR)
    whole = math.exp(sum(nll for nll, _ in told) / sum(count for _, count in told))
    assert candidate["figures"]["perplexity"]["value"] == pytest.approx(whole, rel=NEAR)
