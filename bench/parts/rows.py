"""Chat rows to measure with: Chinese and English, of many lengths, the same for the same seed."""

import json
import random
from pathlib import Path

WORDS = (
    "the model answers a question about data training with care and every row is checked before "
    "it goes into tuning because nothing may be lost on the way while people read what happened"
).split()
SIGNS = "数据集里的每一行都会被检查然后才能进入训练因为没有任何东西可以丢失模型回答问题时应当小心谨慎地说明原因"


def phrase(pick: random.Random, size: int) -> str:
    """About `size` bytes of text."""
    parts = []
    while size > 0:
        if pick.random() < 0.3:
            part = "".join(pick.choices(SIGNS, k=pick.randint(4, 20)))
        else:
            part = " ".join(pick.choices(WORDS, k=pick.randint(3, 12)))
        parts.append(part)
        size -= len(part.encode())
    return ", ".join(parts)


def write(path: Path, rows: int, size: int = 580, seed: int = 1) -> None:
    """JSONL of `rows` chat rows of about `size` bytes; one in a hundred repeats one before it."""
    pick = random.Random(seed)
    texts = [phrase(pick, pick.randint(size // 20, size // 2)) for _ in range(20_000)]
    before = b""
    with path.open("wb") as file:
        for number in range(rows):
            if number % 100 == 99:
                file.write(before)
                continue
            messages = [{"role": "system", "content": "Be careful."}] if number % 3 == 0 else []
            question = f"{pick.choice(texts)} #{number}"
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": pick.choice(texts)})
            row = json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n"
            before = row if number % 7 == 0 else before or row
            file.write(row)
