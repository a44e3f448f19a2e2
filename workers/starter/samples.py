"""The sample datasets: `python -m workers.starter.samples` writes app/datasets/samples/.

Product-review sentiment in Chinese, a training part and a held-out part, as OpenAI messages;
general chat, in Chinese and in English, to mix into a dataset of one's own; and a small mixed chat
set as alpaca JSON, to try an upload with. The same seed writes the same bytes.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from workers.starter import corpus, reviews, talk, talk_english

SAMPLES = Path(__file__).resolve().parents[2] / "app" / "datasets" / "samples"
TRAIN_ROWS, HELDOUT_ROWS, CHAT_ROWS = 3000, 300, 200
GENERAL = {"zh": 1000, "en": 600}  # rows of general chat: English has fewer things to say
# what the starter says of itself
ITSELF = (
    "danlu-starter|演示|很小|小模型|几百万|我不会|我会打招呼|这个太难了|demo|small|tune me".split(
        "|"
    )
)


def chat_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Questions and answers of the starter model's own world, no question twice."""
    rng, seen = Random(seed), dict[str, str]()
    while len(seen) < count:
        makers = talk.ZH if len(seen) % 2 == 0 else talk_english.EN
        functions, weights = zip(*makers, strict=True)
        question, answer = rng.choices(functions, weights)[0](rng)
        seen.setdefault(question, answer)
    return [{"instruction": q, "input": "", "output": a} for q, a in seen.items()]


def general_rows(language: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Conversations of one to eight exchanges, none of which begins as another does. They are for
    any model, so none says who the starter is or what it cannot do.
    """
    rng, seen = Random(seed), dict[str, dict[str, Any]]()
    while len(seen) < count:
        messages = corpus.conversation(rng, language)
        if any(word in one["content"] for word in ITSELF for one in messages):
            continue
        first = next(one["content"] for one in messages if one["role"] == "user")
        seen.setdefault(first, {"messages": messages})
    return list(seen.values())


def main() -> None:
    SAMPLES.mkdir(parents=True, exist_ok=True)
    train = reviews.sample_rows("train", TRAIN_ROWS, seed=11)
    heldout = reviews.sample_rows("heldout", HELDOUT_ROWS, seed=12)
    named = [("reviews-train", train), ("reviews-heldout", heldout)]
    for language, count in GENERAL.items():
        named.append((f"chat-{language}-general", general_rows(language, count, seed=14)))
    for name, rows in named:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (SAMPLES / f"{name}.jsonl").write_text(lines)
    text = json.dumps(chat_rows(CHAT_ROWS, seed=13), ensure_ascii=False, indent=1)
    (SAMPLES / "chat-alpaca.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
