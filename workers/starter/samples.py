"""The sample datasets: `python -m workers.starter.samples` writes app/datasets/samples/.

Product-review sentiment in Chinese, a training part and a held-out part, as OpenAI messages;
and a small mixed chat set as alpaca JSON, to try an upload with. The same seed writes the same bytes.
"""

import json
from pathlib import Path
from random import Random

from workers.starter import reviews, talk, talk_english

SAMPLES = Path(__file__).resolve().parents[2] / "app" / "datasets" / "samples"
TRAIN_ROWS, HELDOUT_ROWS, CHAT_ROWS = 3000, 300, 200


def chat_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Questions and answers of the starter model's own world, no question twice."""
    rng, seen = Random(seed), dict[str, str]()
    while len(seen) < count:
        makers = talk.ZH if len(seen) % 2 == 0 else talk_english.EN
        functions, weights = zip(*makers, strict=True)
        question, answer = rng.choices(functions, weights)[0](rng)
        seen.setdefault(question, answer)
    return [{"instruction": q, "input": "", "output": a} for q, a in seen.items()]


def main() -> None:
    SAMPLES.mkdir(parents=True, exist_ok=True)
    train = reviews.sample_rows("train", TRAIN_ROWS, seed=11)
    heldout = reviews.sample_rows("heldout", HELDOUT_ROWS, seed=12)
    for name, rows in (("reviews-train", train), ("reviews-heldout", heldout)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (SAMPLES / f"{name}.jsonl").write_text(lines)
    text = json.dumps(chat_rows(CHAT_ROWS, seed=13), ensure_ascii=False, indent=1)
    (SAMPLES / "chat-alpaca.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
