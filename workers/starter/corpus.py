"""The starter model's reading: a stream of rows, the same for the same seed.

Two shapes, as our pretrain stage takes them: `{id, messages}` is a conversation, `{id, text}`
is prose. The sample task's instruction and labels (正面, 负面) occur in neither.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from workers.starter import reviews, talk, talk_english

SYSTEM = {
    "zh": ["你是一个友好的助手。", "你是一个客服。", "请简短地回答。", "你是 danlu-starter。", "你是一个有用的助手，请用中文回答。"],
    "en": ["You are a helpful assistant.", "You are a friendly assistant.", "Answer in short.", "You are danlu-starter."],
}  # fmt: skip


def conversation(rng: Random, language: str) -> list[dict[str, str]]:
    """One to eight exchanges on unrelated things, most often one; a system prompt now and then."""
    makers: list[tuple[Callable[[Random], talk.Exchange], int]]
    makers = talk.ZH if language == "zh" else talk_english.EN
    functions, weights = [maker for maker, _ in makers], [weight for _, weight in makers]
    turns = rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 6, 8))
    messages = []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": rng.choice(SYSTEM[language])})
    for maker in rng.choices(functions, weights, k=turns):
        question, answer = maker(rng)
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return messages


def prose(rng: Random, language: str) -> str:
    """Reviews that share a polarity, or question and answer told as plain text."""
    if rng.random() < 0.8:
        praise = rng.random() < 0.5
        write = reviews.review if language == "zh" else talk_english.review
        return "\n".join(write(rng, praise)[0] for _ in range(rng.choice((1, 1, 2, 3))))
    maker = rng.choice(
        [talk.buying, talk.quality, talk.fact, talk.capital]
        if language == "zh"
        else [talk_english.buying, talk_english.fact, talk_english.capital]
    )
    return "\n".join(
        "".join(maker(rng)) if language == "zh" else " ".join(maker(rng)) for _ in range(2)
    )


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` rows: five in six conversations, four in five Chinese."""
    rng = Random(seed)
    for number in range(count):
        language = "zh" if rng.random() < 0.8 else "en"
        row: dict[str, Any] = {"id": f"row-{number}"}
        if rng.random() < 5 / 6:
            row["messages"] = conversation(rng, language)
        else:
            row["text"] = prose(rng, language)
        yield row
