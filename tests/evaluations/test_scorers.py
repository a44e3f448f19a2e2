"""Scorers beside the libraries that others compute the same figures with."""

import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from app.errors import Invalid
from app.evaluations.scorers import labels, overlap, rules, scoring, texts
from app.evaluations.scorers.schemas import Scorer

WORDS = "the a cat dog sat on mat in house red blue , . not good bad 12 3.5 it's".split()
CHINESE = "这 家 店 的 服务 态度 非常 好 质量 很 差 ， 不 会 再来 。 物流 快 丹炉".split()
english = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join)
chinese = st.lists(st.sampled_from(CHINESE), min_size=1, max_size=20).map("".join)
text = english | chinese
adapter = TypeAdapter(Scorer)


def made(kind: str, **options: object):
    return adapter.validate_python({"kind": kind} | options)


def value(kind: str, answer: str, reference: str, **options: object) -> float | None:
    return scoring.score(made(kind, **options), answer, reference).value


class Cut:
    """What rouge-score is given for a text with Chinese in it."""

    def tokenize(self, one: str) -> list[str]:
        return texts.words(one, chinese=True)


@settings(max_examples=150, deadline=None)
@given(text, text)
def test_rouge_is_that_of_rouge_score(answer, reference):
    kinds = ["rouge1", "rouge2", "rougeL"]
    mixed = texts.is_chinese(answer) or texts.is_chinese(reference)
    library = RougeScorer(kinds, tokenizer=Cut() if mixed else None)
    expected = library.score(reference, answer)
    for kind in kinds:
        assert value(kind, answer, reference) == pytest.approx(expected[kind].fmeasure, abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=6))
def test_bleu_and_chrf_are_those_of_sacrebleu(pairs):
    parts = []
    for answer, reference in pairs:
        mixed = texts.is_chinese(answer) or texts.is_chinese(reference)
        said, wanted = answer, reference
        if mixed:
            said, wanted = (" ".join(texts.segments(one)) for one in (answer, reference))
        library = BLEU(tokenize="none" if mixed else "13a", effective_order=True)
        found = scoring.score(made("bleu"), answer, reference)
        assert found.value == pytest.approx(
            library.sentence_score(said, [wanted]).score / 100, abs=1e-6
        )
        parts.append(found.parts)
        assert value("chrf", answer, reference) == pytest.approx(
            CHRF().sentence_score(answer, [reference]).score / 100, abs=1e-6
        )
    same = [one for one in pairs if texts.is_chinese("".join(one)) == texts.is_chinese(pairs[0][0])]
    if len(same) == len(pairs):
        cut = texts.is_chinese(pairs[0][0])
        both = [
            [" ".join(texts.segments(one)) if cut else one for one in side]
            for side in zip(*pairs, strict=True)
        ]
        library = BLEU(tokenize="none" if cut else "13a")
        corpus = library.corpus_score(both[0], [both[1]]).score / 100
        sums = scoring.summed("bleu", [], parts).sum(axis=0)
        assert float(scoring.figure("bleu", sums)) == pytest.approx(corpus, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1))
def test_labels_are_counted_as_scikit_learn_counts_them(pairs):
    wanted, said = (list(side) for side in zip(*pairs, strict=True))
    names = ["a", "b", "c"]
    known = [one if one in names else "" for one in said]
    table = labels.confusion(wanted, known, names)
    assert (table == confusion_matrix(wanted, known, labels=[*names, ""])).all()
    precision, recall, f1 = labels.rates(table)
    expected = precision_recall_fscore_support(wanted, known, labels=names, zero_division=0)
    for ours, theirs in zip((precision, recall, f1), expected, strict=False):
        assert ours == pytest.approx(theirs, abs=1e-9)
    there = sorted({*wanted, *known} - {""})
    expected_macro = f1_score(wanted, known, labels=there, average="macro", zero_division=0)
    cells = scoring.one_hot(wanted, known, names).sum(axis=0)
    assert float(scoring.figure("f1", cells)) == pytest.approx(expected_macro, abs=1e-9)


def squad(answer: str, reference: str) -> float:
    """The official script's way, word by word."""
    one, other = (texts.answer_words(each, chinese=False) for each in (answer, reference))
    same = 0
    left = list(other)
    for word in one:
        if word in left:
            left.remove(word)
            same += 1
    if not one or not other:
        return float(one == other)
    if not same:
        return 0.0
    precision, recall = same / len(one), same / len(other)
    return 2 * precision * recall / (precision + recall)


@settings(max_examples=100, deadline=None)
@given(english, english)
def test_token_f1_is_that_of_squad(answer, reference):
    assert value("token_f1", answer, reference) == pytest.approx(squad(answer, reference), abs=1e-9)


def test_token_f1_cuts_chinese_into_words():
    assert value("token_f1", "服务态度非常好。", "服务态度很好") == pytest.approx(2 / 3, abs=0.2)
    assert value("token_f1", "The cat!", "cat") == 1


@pytest.mark.parametrize(
    ("answer", "reference", "options", "expected"),
    [
        ("正面。", "正面", {}, 1),
        (" Ｙes ", "yes", {}, 1),
        ("Yes", "yes", {"case": True}, 0),
        ("yes!", "yes", {"punctuation": True}, 0),
        ("no", "yes", {}, 0),
    ],
)
def test_exact(answer, reference, options, expected):
    assert value("exact", answer, reference, **options) == expected


def test_contains():
    assert value("contains", "我认为是正面的", "正面") == 1
    assert value("contains", "Paris, France", "x", texts=["paris", "rome"]) == 1
    assert value("contains", "Paris, France", "x", texts=["paris", "rome"], every=True) == 0
    assert value("contains", "PARIS", "Paris", case=True) == 0


def test_a_pattern_cannot_run_for_ever():
    began = time.monotonic()
    assert value("regex", "a" * 5000 + "!", "", pattern=r"(a+)+$") == 0
    assert time.monotonic() - began < 2
    assert value("regex", "Answer: (B)", "B", pattern=r"\(([A-D])\)", compare=True) == 1
    assert value("regex", "Answer: (B)", "C", pattern=r"\(([A-D])\)", compare=True) == 0
    for wrong in (r"(?=x)", "("):
        with pytest.raises(Invalid):
            made("regex", pattern=wrong)


@pytest.mark.parametrize(
    ("answer", "reference", "options", "expected"),
    [
        ("That makes 1,234.50 yuan", "1234.5", {}, 1),
        ("先 3 后 5，共 8 个", "8", {}, 1),
        ("先 3 后 5，共 8 个", "3", {"which": "first"}, 1),
        ("约 12.5%", "0.125", {}, 1),
        ("-2e-3", "-0.002", {}, 1),
        ("3.13", "3.14", {"absolute": 0.02}, 1),
        ("101", "100", {"relative": 0.02}, 1),
        ("103", "100", {"relative": 0.02}, 0),
        ("none", "4", {}, 0),
        ("4", "none", {}, None),
        ("#### 72", "He sold 24 + 48. #### 72", {}, 1),
    ],
)
def test_numbers(answer, reference, options, expected):
    assert value("numeric", answer, reference, **options) == expected


def test_json_is_matched_by_schema_and_field():
    schema = {"type": "object", "required": ["name"], "properties": {"age": {"type": "integer"}}}
    right = '{"name": "Lin", "age": 30, "at": {"city": "上海"}}'
    assert value("json", f"Sure:\n```json\n{right}\n```", right) == 1
    assert value("json", '{"name": "Lin", "age": 31, "at": {"city": "上海"}}', right) == 2 / 3
    assert value("json", '{"age": 30}', right, schema=schema) == 0
    assert value("json", '{"name": "x"}', "anything", schema=schema) == 1
    assert value("json", '{"name": "x", "age": 30}', right, fields=["age"]) == 1
    assert value("json", '{"at": {"city": "上海"}}', right, fields=["at.city", "name"]) == 0.5
    assert value("json", "no", right) == 0
    assert value("json", "true", "1") == 0


def test_a_schema_fetches_nothing():
    with pytest.raises(Invalid):
        made("json", schema={"$ref": "http://127.0.0.1:1/x.json"})
    with pytest.raises(ValidationError):
        made("json", fields=[""])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("正面", "正面"),
        ("这条评论是负面的。", "负面"),
        ("不是正面，是负面", ""),
        ("", ""),
        ("好", ""),
    ],
)
def test_the_label_that_an_answer_names(answer, expected):
    assert labels.label_of(answer, ["正面", "负面"]) == expected


def test_a_label_inside_another_is_not_taken_for_it():
    assert labels.label_of("It is not good at all", ["good", "not good"]) == "not good"
    assert labels.label_of("good? no: bad", ["good", "bad"], last=True) == "bad"


def test_the_longest_common_subsequence():
    rng = random.Random(3)
    for _ in range(200):
        one, other = ([rng.randrange(5) for _ in range(rng.randrange(40))] for _ in range(2))
        table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
        for a, x in enumerate(one):
            for b, y in enumerate(other):
                table[a + 1, b + 1] = (
                    table[a, b] + 1 if x == y else max(table[a, b + 1], table[a + 1, b])
                )
        assert overlap.common(one, other) == table[-1, -1]


def test_perplexity_is_of_all_tokens():
    parts = [[math.log(2) * 3, 3], [math.log(8) * 1, 1]]
    sums = scoring.summed("perplexity", [], parts).sum(axis=0)
    assert float(scoring.figure("perplexity", sums)) == pytest.approx(math.exp(math.log(64) / 4))


def test_numbers_are_found_where_they_begin():
    assert rules.number("v1.5-2024") == pytest.approx(2024)
    assert rules.number("a-3") == pytest.approx(3)
    assert rules.number("（１２）") == 12
