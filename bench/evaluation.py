"""An evaluation beside the bare engine, and its scorers beside the libraries of the field.

Starts a stack of its own with vLLM and the starter model. The rows of the shipped reviews are asked
once straight at the engine, by a client that keeps as many requests open as evaluations do, and once
by an evaluation; three times each, in turns.

    python bench/evaluation.py [rows]

The last line is one JSON object: `throughput_vs_engine` (rows a second of the evaluation for each
of the engine's), `max_score_error` (the largest difference of any scorer to its reference library).
"""

import asyncio
import json
import os
import random
import re
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app import embedded
from app.cli.stack import own_stack
from app.config import settings
from bench.parts.adapters import wait_for

NAME, TOKENS, ROUNDS = "starter", 16, 3
OVER = {"succeeded", "failed", "cancelled"}


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# -- throughput --------------------------------------------------------------------------


def prompts(rows: int) -> list[list[dict[str, str]]]:
    """Of the shipped reviews, again and again, each a little different."""
    path = Path(__file__).parent.parent / "app/datasets/samples/reviews-train.jsonl"
    found = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    return [
        [
            *found[number % len(found)][:-2],
            {"role": "user", "content": f"{found[number % len(found)][-2]['content']} {number}"},
            found[number % len(found)][-1],
        ]
        for number in range(rows)
    ]


def engine_of(home: Path) -> tuple[str, str]:
    """The address and the secret of the one engine that runs."""
    with create_engine(embedded.place(home).database_url).connect() as db:
        query = text("SELECT address, secret FROM replicas WHERE state = 'ready'")
        address, secret = db.execute(query).one()
    return str(address), str(secret)


async def straight(home: Path, asked: list[list[dict[str, str]]]) -> float:
    """Rows a second, straight at the engine."""
    address, secret = engine_of(home)
    left = iter(asked)
    async with httpx.AsyncClient(
        base_url=address, headers={"authorization": f"Bearer {secret}"}, timeout=120
    ) as client:

        async def ask() -> None:
            for messages in left:
                body = {
                    "model": NAME,
                    "messages": messages[:-1],
                    "max_tokens": TOKENS,
                    "temperature": 0,
                    "seed": 0,
                }
                (await client.post("/v1/chat/completions", json=body)).raise_for_status()

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(settings.batch_concurrency)))
        return len(asked) / (time.perf_counter() - began)


def evaluated(api: httpx.Client, dataset: str, rows: int) -> float:
    """Rows a second, from when the evaluation was taken up to its verdict."""
    body = {
        "dataset": dataset,
        "candidates": [{"kind": "deployment", "target": NAME}],
        "scorers": [{"kind": one} for one in ("accuracy", "f1", "token_f1", "rougeL", "chrf")],
        "settings": {"max_tokens": TOKENS},
    }
    made = api.post("/api/v1/evaluations", json=body)
    made.raise_for_status()
    path = f"/api/v1/evaluations/{made.json()['id']}"
    wait_for(api, path, OVER, 600, every=2)  # as its page does
    found = api.get(path).json()
    if found["state"] != "succeeded" or found["candidates"][0]["failed"]:
        raise RuntimeError(found)
    began, ended = (datetime.fromisoformat(found[at]) for at in ("started_at", "finished_at"))
    return rows / (ended - began).total_seconds()


def throughput(rows: int) -> float:
    homes: list[Path] = []

    def note(line: str) -> None:
        tell(line)
        if match := re.search(r"in (/\S+)", line):
            homes.append(Path(match[1]))

    asked = prompts(rows)
    lines = "".join(json.dumps({"messages": one}, ensure_ascii=False) + "\n" for one in asked)
    with own_stack(note) as (url, key):
        api = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=200)
        body = {"name": NAME, "model": "danlu-starter", "engine": "vllm", "max_model_len": 512}
        made = api.post("/api/v1/deployments", json=body).raise_for_status().json()
        files = {"file": ("reviews.jsonl", lines.encode())}
        dataset = api.post("/api/v1/datasets", data={"name": "reviews"}, files=files)
        dataset_id = dataset.raise_for_status().json()["id"]
        api.post(f"/api/v1/datasets/{dataset_id}/publish").raise_for_status()
        wait_for(api, f"/api/v1/deployments/{made['id']}", {"ready"}, 300)
        asyncio.run(straight(homes[0], asked[:32]))  # what is compiled with the first ones
        shares = []
        for number in range(ROUNDS):
            bare = asyncio.run(straight(homes[0], asked))
            ours = evaluated(api, dataset_id, rows)
            shares.append(ours / bare)
            tell(f"round {number + 1}: engine {bare:.1f} rows/s, evaluation {ours:.1f} rows/s")
    return statistics.median(shares)


# -- scorers -----------------------------------------------------------------------------


def score_error(cases: int = 2_000) -> float:
    """The largest difference to rouge-score, sacrebleu and scikit-learn, over drawn texts."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sklearn.metrics import f1_score

    from app.evaluations.scorers import overlap, scoring, texts

    english = "the a cat dog sat on mat in house red blue , . not good bad 12 3.5 it's".split()
    chinese = "这 家 店 的 服务 态度 非常 好 质量 很 差 ， 不 会 再来 。 物流 快".split()
    rng = random.Random(7)
    worst = 0.0

    class Cut:
        def tokenize(self, one: str) -> list[str]:
            return texts.words(one, chinese=True)

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorers = {True: RougeScorer(kinds, tokenizer=Cut()), False: RougeScorer(kinds)}
    for number in range(cases):
        cut = number % 2 == 1
        words, join = (chinese, "") if cut else (english, " ")
        said, wanted = (join.join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(2))
        cut = texts.is_chinese(said) or texts.is_chinese(wanted)
        for kind, found in scorers[cut].score(wanted, said).items():
            worst = max(worst, abs(found.fmeasure - overlap.rouge(said, wanted, kind)))
        one, other = (" ".join(texts.segments(each)) if cut else each for each in (said, wanted))
        bleu = BLEU(tokenize="none" if cut else "13a", effective_order=True)
        found = bleu.sentence_score(one, [other]).score / 100
        worst = max(worst, abs(found - overlap.bleu(said, wanted)[0]))
        found = CHRF().sentence_score(said, [wanted]).score / 100
        worst = max(worst, abs(found - overlap.chrf(said, wanted)))
    for _ in range(200):
        size = rng.randint(2, 60)
        wanted, said = (rng.choices("abc", k=size) for _ in range(2))
        found = f1_score(wanted, said, average="macro", zero_division=0)
        cells = scoring.one_hot(wanted, said, ["a", "b", "c"]).sum(axis=0)
        worst = max(worst, abs(found - float(scoring.figure("f1", cells))))
    return worst


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    error = score_error()
    tell(f"largest difference of a score to its reference: {error:.2e}")
    facts: dict[str, Any] = {
        "throughput_vs_engine": round(throughput(rows), 3),
        "max_score_error": error,
    }
    tell(json.dumps(facts))


if __name__ == "__main__":
    os.environ.pop("DANLU_URL", None)
    main()
