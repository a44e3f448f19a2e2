"""The starter model's text, tokenizer and samples, and the model that ships. No torch."""

import json
from collections import Counter
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer

from app.models.weights import inspect
from workers.starter import build, corpus, reviews, samples, tokenizer


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (samples.SAMPLES / name).read_text().splitlines()]


def question(row: dict[str, Any]) -> str:
    return str(row["messages"][0]["content"])


def answer(row: dict[str, Any]) -> str:
    return str(row["messages"][-1]["content"])


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return Tokenizer.from_file(str(build.MODEL / "tokenizer.json"))


def test_the_same_seed_gives_the_same_corpus() -> None:
    assert list(corpus.rows(200, 5)) == list(corpus.rows(200, 5))
    assert list(corpus.rows(200, 5)) != list(corpus.rows(200, 6))


def test_the_corpus_is_conversations_and_prose_in_both_languages() -> None:
    rows = list(corpus.rows(2000, build.SEED))
    shapes = Counter("messages" in row for row in rows)
    assert 0.75 < shapes[True] / len(rows) < 0.9
    for row in rows:
        for message in row.get("messages", []):
            assert message["content"].strip(), row
            assert message["role"] in {"system", "user", "assistant"}
        assert row.get("messages") or row["text"].strip()


def test_the_corpus_never_shows_the_sample_task() -> None:
    for row in corpus.rows(20_000, build.SEED):
        text = json.dumps(row, ensure_ascii=False)
        assert not any(word in text for word in ("正面", "负面", "情感", "判断")), text


def test_the_samples_are_those_the_command_writes() -> None:
    for name, part, count, seed in (
        ("reviews-train.jsonl", "train", samples.TRAIN_ROWS, 11),
        ("reviews-heldout.jsonl", "heldout", samples.HELDOUT_ROWS, 12),
    ):
        assert lines(name) == reviews.sample_rows(part, count, seed)
    chat = json.loads((samples.SAMPLES / "chat-alpaca.json").read_text())
    assert chat == samples.chat_rows(samples.CHAT_ROWS, 13)
    for language, count in samples.GENERAL.items():
        assert lines(f"chat-{language}-general.jsonl") == samples.general_rows(language, count, 14)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_general_chat_is_for_any_model(language: str) -> None:
    rows = lines(f"chat-{language}-general.jsonl")
    assert len(rows) == samples.GENERAL[language]
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    assert len(set(texts)) == len(texts)
    assert not [text for text in texts if any(word in text for word in samples.ITSELF)]
    assert 0.3 < sum(len(row["messages"]) > 3 for row in rows) / len(rows) < 0.7
    chinese = sum(any("一" <= char <= "鿿" for char in text) for text in texts) / len(texts)
    assert chinese > 0.95 if language == "zh" else chinese == 0


def test_the_sentiment_sample_is_balanced_and_its_parts_do_not_meet() -> None:
    train, heldout = lines("reviews-train.jsonl"), lines("reviews-heldout.jsonl")
    for rows in (train, heldout):
        assert set(Counter(map(answer, rows)).values()) == {len(rows) // 2}
        assert len(set(map(question, rows))) == len(rows)
    assert not set(map(question, train)) & set(map(question, heldout))


def test_memorising_does_not_help() -> None:
    """A held-out review shares no whole remark with training more often than half the time."""

    def remarks(row: dict[str, Any]) -> set[str]:
        text = question(row).partition("评价：")[2]
        for mark in "。！；，～…":
            text = text.replace(mark, "\n")
        return {remark for remark in text.split("\n") if len(remark) > 4}

    known = set().union(*map(remarks, lines("reviews-train.jsonl")))
    heldout = [remark for row in lines("reviews-heldout.jsonl") for remark in remarks(row)]
    assert sum(remark in known for remark in heldout) / len(heldout) < 0.5


def test_reserved_words_are_only_in_the_heldout_part() -> None:
    text = (samples.SAMPLES / "reviews-train.jsonl").read_text()
    held = (samples.SAMPLES / "reviews-heldout.jsonl").read_text()
    words = {word for word in reviews.RESERVED if len(word) > 5}  # short ones stand inside others
    assert len(words) > 30
    assert not [word for word in words if word in text]
    assert any(word in held for word in words)


def test_reviews_keep_their_polarity_in_every_structure() -> None:
    """The verdict, where there is one, agrees with the label."""
    rng = Random(3)
    for number in range(2000):
        praise = number % 2 == 0
        text, _ = reviews.review(rng, praise)
        verdicts = dict.fromkeys(reviews.words.PRAISE_VERDICTS, True)
        verdicts |= dict.fromkeys(reviews.words.BLAME_VERDICTS, False)
        ending = max(
            (v for v in verdicts if text.rstrip("。！～…").endswith(v)), key=len, default=""
        )
        assert verdicts.get(ending, praise) == praise, text


@pytest.mark.parametrize(
    "text",
    [
        "屏幕很清晰，值得买！",
        "Hello, I am danlu-starter.",
        "乒乓球 🏓 żółć \n\t 12345",
        " leading",
        "a  b",
        "正面",
        "",
    ],
)
def test_the_tokenizer_gives_every_text_back(shipped: Tokenizer, text: str) -> None:
    assert shipped.decode(shipped.encode(text).ids) == text


def test_the_tokenizer_knows_its_words_and_marks(shipped: Tokenizer) -> None:
    assert [shipped.token_to_id(token) for token in tokenizer.SPECIAL] == [0, 1, 2]
    assert shipped.get_vocab_size() == tokenizer.VOCABULARY
    assert len(shipped.encode("屏幕").ids) == 1
    assert len(shipped.encode("正面").ids) == 2
    assert len(shipped.encode("123").ids) == 3


def test_the_shipped_model_is_the_one_the_builder_describes() -> None:
    facts = inspect(build.MODEL)
    config = json.loads((build.MODEL / "config.json").read_text())
    wanted = build.config() | {"dtype": "bfloat16"}
    assert {name: config[name] for name in wanted} == wanted
    assert facts["size"] <= 20_000_000
    assert (build.MODEL / "chat_template.jinja").read_text() == tokenizer.CHAT_TEMPLATE
    names = {path.name for path in build.MODEL.iterdir()}
    assert names == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
