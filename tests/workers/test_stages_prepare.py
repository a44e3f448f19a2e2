"""Rows to tokens and masks, and rows to steps: what the training stage decides before it trains."""

import random
from datetime import datetime
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from app.jobs.spec import Hyperparameters
from app.models.chat_template import ChatTemplate
from tests.models.chat_templates import CHATML, HEADERS, INSTRUCTIONS, REASONING
from tests.models.test_chat_template import CALL, RESULT, SYSTEM, TOOLS, answer, user
from tests.workers.stage_runs import Ran
from workers.stages.batches import WINDOW, Plan, passes
from workers.stages.prepare import Prepare
from workers.stages.run import Run, StageError

SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>"]


@pytest.fixture
def tokenizer():
    """Bytes, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made: Any = Tokenizer(models.BPE({letter: i + 3 for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(SPECIAL)
    ids = {name: made.token_to_id(name) for name in SPECIAL}
    made.im_end = ids["<|im_end|>"]
    made.special = set(ids.values())
    return made


class Words:
    """A prepared run, read back as text: what is trained stands in brackets."""

    def __init__(self, tokenizer, directory, template=CHATML, stops=("<|im_end|>",), **options):
        self.tokenizer = tokenizer
        self.ran = Ran(directory, 0)
        self.work = Prepare(
            run=Run(directory),
            tokenizer=tokenizer,
            template=ChatTemplate(template, None, {"bos_token": "<s>", "eos_token": "<|im_end|>"}),
            special=tokenizer.special,
            stops={tokenizer.token_to_id(stop) for stop in stops},
            around=([], [tokenizer.im_end]),
            now=datetime(2026, 11, 21),
            **{"max_length": 4096, "kind": "sft"} | options,
        )

    def __call__(self, *rows):
        examples = self.work.read({"id": f"r{i}"} | row for i, row in enumerate(rows))
        return [self.text(*examples[i]) for i in range(len(examples))]

    def text(self, ids, trained):
        pieces, inside = [], False
        for token, flag in [*zip(ids, trained, strict=True), (None, 0)]:
            if bool(flag) != inside:
                pieces.append("⟦" if flag else "⟧")
                inside = bool(flag)
            if token is not None:
                pieces.append(self.tokenizer.id_to_token(token))
        text = "".join(pieces)
        for written, meant in (("Ċ", "\n"), ("Ġ", " "), ("<|im_start|>", "<"), ("<|im_end|>", ">")):
            text = text.replace(written, meant)
        return text


@pytest.fixture
def words(tokenizer, tmp_path):
    return lambda *args, **options: Words(tokenizer, tmp_path, *args, **options)


def conversation(*messages, **more):
    return {"messages": list(messages)} | more


# -- masks ---------------------------------------------------------------------------------


def test_every_assistant_turn_is_trained_with_the_token_that_ends_it(words):
    row = conversation(SYSTEM, user("a"), answer("b"), user("c"), answer("d e"))
    (text,) = words()(row)
    assert text == (
        "<system\n Be 'kind' & \"brief\". >\n<user\na>\n<assistant\n⟦b>⟧\n"
        "<user\nc>\n<assistant\n⟦d e>⟧\n"
    )


def test_what_follows_the_last_answer_is_left_out(words):
    row = conversation(user("a"), answer("b"), user("c"))
    assert words()(row) == ["<user\na>\n<assistant\n⟦b>⟧\n"]


def test_the_mask_goes_by_position_not_by_text_or_id(words):
    """The same words in a question carry no loss; nor does a stop token that a user typed."""
    row = conversation(user("b<|im_end|>assistant\nb"), answer("b"))
    assert words()(row) == ["<user\nb>assistant\nb>\n<assistant\n⟦b>⟧\n"]
    empty = conversation(user("a"), answer(""))
    assert words()(empty) == ["<user\na>\n<assistant\n⟦>⟧\n"]


def test_an_answer_that_contains_a_stop_token_is_trained_to_its_end(words):
    row = conversation(user("a"), answer("b<|im_end|>c"))
    assert words()(row) == ["<user\na>\n<assistant\n⟦b>c>⟧\n"]


def test_a_greeting_is_context(words):
    template = REASONING  # its prompt needs a first message
    row = conversation(answer("hello"), user("a"), answer("b"))
    (text,) = words(template)(row)
    assert text.endswith("<user\na>\n<assistant\n⟦<think>\n\n</think>\n\nb>⟧\n")
    assert "⟦hello" not in text


def test_tools_present(words):
    row = conversation(
        user("a"), answer("", tool_calls=[CALL]), RESULT, answer("warm"), tools=TOOLS
    )
    whole, early = words(REASONING)(row)
    # without reasoning in the row the call is rendered as history in the whole conversation,
    # and as an answer only at the end of a text of its own
    assert "<tools>" in whole
    assert '"weather"' in whole
    assert whole.count("⟦") == 1
    assert whole.endswith("<assistant\n⟦<think>\n\n</think>\n\nwarm>⟧\n")
    assert early.count("⟦") == 1
    assert early.endswith("\n</tool_call>>⟧\n")
    assert "⟦<think>\n\n</think>\n\n<tool_call>" in early


def test_tools_absent(words):
    (text,) = words(REASONING)(conversation(user("a"), answer("b")))
    assert text == "<user\na>\n<assistant\n⟦<think>\n\n</think>\n\nb>⟧\n"


def test_a_turn_that_history_shows_differently_is_trained_in_a_text_of_its_own(words):
    row = conversation(
        user("a"),
        answer("b", reasoning_content="why"),
        user("c"),
        answer("d", reasoning_content="because"),
    )
    assert sorted(words(REASONING)(row), key=len) == [
        "<user\na>\n<assistant\n⟦<think>\nwhy\n</think>\n\nb>⟧\n",
        "<user\na>\n<assistant\nb>\n<user\nc>\n<assistant\n⟦<think>\nbecause\n</think>\n\nd>⟧\n",
    ]


def test_other_templates(words):
    (text,) = words(HEADERS)(conversation(user("a"), answer(" b ")))
    assert text.endswith("<|start|>assistant<|end|>\n\n⟦b>⟧")
    assert "Today: 21 Nov 2026" in text
    (text,) = words(INSTRUCTIONS)(conversation(user("a"), answer("b"), user("c"), answer("d")))
    assert text == "<s>[INST] a [/INST]⟦ b>⟧[INST] c [/INST]⟦ d>⟧"


@pytest.mark.parametrize(
    ("stops", "trained"),
    [(["<|im_end|>"], "⟦b>⟧\n<s>"), (["<s>"], "⟦b>\n<s>⟧"), ([], "⟦b>\n<s>⟧")],
)
def test_of_several_tokens_at_the_end_the_one_where_engines_stop(words, stops, trained):
    template = CHATML.replace("'<|im_end|>\\n'", "'<|im_end|>\\n<s>'")
    work = words(template, stops=stops)
    (text,) = work(conversation(user("a"), answer("b")))
    assert text.endswith("assistant\n" + trained)
    assert len(work.work.examples.stops) == 1


def test_training_ids_are_serving_ids(words, tokenizer):
    work = words(HEADERS)
    rows = [conversation(SYSTEM, user("你好"), answer("好"), user("\n a"), answer("\nb"))]
    work(*rows)
    assert not work.work.misaligned
    ids, trained = work.work.examples[0]
    for turn in (2, 4):
        prompt = work.work.marker.render(rows[0]["messages"][:turn], rows[0], prompt=True)
        served = tokenizer.encode(prompt, add_special_tokens=False).ids
        assert list(ids[: len(served)]) == served
        assert trained[len(served)]
        assert not trained[len(served) - 1]


# -- rows that cannot be used --------------------------------------------------------------


def test_an_answer_without_a_stop_token_refuses_the_run(words):
    template = CHATML.replace("'<|im_end|>\\n'", "'\\n'")
    with pytest.raises(StageError) as caught:
        words(template)(conversation(user("a"), answer("b")))
    assert caught.value.code == "stop_token_untrained"
    assert caught.value.params == {"row": "r0"}


def test_rows_are_dropped_with_a_reason(words):
    work = words(INSTRUCTIONS, max_length=30)
    kept = work(
        conversation(user("a"), answer("b")),
        conversation(user("a")),
        conversation(user("a"), user("b"), answer("c")),
        conversation(user("a" * 40), answer("b")),
        conversation(user("a"), answer("b" * 40)),
    )
    assert len(kept) == 2
    assert [len(ids) for ids, _ in (work.work.examples[i] for i in range(2))][1] == 30
    counts = work.work.report("train")
    assert counts["rows"] == 5
    assert counts["dropped"] == 3
    assert counts["truncated"] == 1
    events = work.ran.lines("events.jsonl")
    named = {line["params"].get("rows") and tuple(line["params"]["rows"]) for line in events[:-1]}
    assert named == {("r1",), ("r2",), ("r3",), ("r4",)}
    for line in events:
        assert line["message"] % line["params"]
    assert events[-1]["kind"] == "prepared"
    assert events[-1]["params"]["trained"] == counts["trained_tokens"]


@pytest.mark.parametrize(
    ("template", "rows", "code"),
    [
        (CHATML, [conversation(user("a"))], "nothing_to_train"),
        (CHATML, [], "nothing_to_train"),
        (CHATML, [conversation(user("a" * 5000), answer("b"))], "nothing_to_train"),
        (INSTRUCTIONS, [conversation(user("a"), user("b"), answer("c"))], "template_refused"),
    ],
)
def test_nothing_to_train_is_refused_by_the_main_reason(words, template, rows, code):
    work = words(template)
    work(*rows)
    with pytest.raises(StageError) as caught:
        work.work.report("train")
    assert caught.value.code == code
    assert str(caught.value)


def test_a_first_token_that_runs_into_the_prompt_is_reported(tmp_path, tokenizer):
    merged: Any = Tokenizer.from_str(tokenizer.to_str())
    vocabulary = merged.get_vocab(with_added_tokens=False)
    vocabulary["ĊĊ"] = len(vocabulary) + 3
    merged.model = models.BPE(vocabulary, [("Ċ", "Ċ")])
    merged.im_end, merged.special = tokenizer.im_end, tokenizer.special
    work = Words(merged, tmp_path)
    work(conversation(user("a"), answer("\n\nb")), conversation(user("a"), answer("b")))
    assert work.work.misaligned == ["r0"]


# -- plain text ----------------------------------------------------------------------------


def test_plain_text_is_trained_whole_and_in_pieces(words):
    work = words(kind="pretrain", max_length=4)
    assert work({"text": "abcdef"}, {"text": "x"}) == ["a⟦bcd⟧", "d⟦ef>⟧", "x⟦>⟧"]
    work = words(kind="pretrain")
    assert work(conversation(user("a"), answer("b")), {"text": ""}) == [
        "<⟦user\na>\n<assistant\nb>\n⟧"
    ]
    assert work.work.report("train")["dropped"] == 1


# -- steps ---------------------------------------------------------------------------------


def settings(**options):
    return Hyperparameters.model_validate({"batch_size": 4, "epochs": 2} | options)


def test_each_epoch_takes_every_example_once():
    chance = random.Random(1)
    lengths = [chance.randint(1, 200) for _ in range(1001)]
    plan = Plan(lengths, settings(gradient_accumulation=2))
    assert plan.per_epoch == 126
    assert plan.total == 252
    first = [plan.step(step) for step in range(1, 127)]
    second = [plan.step(step) for step in range(127, 253)]
    for epoch in (first, second):
        assert sorted(row for step in epoch for row in step) == list(range(1001))
        assert all(len(step) <= 8 for step in epoch)
    assert first != second
    assert Plan(lengths, settings(gradient_accumulation=2)).step(200) == plan.step(200)
    other = Plan(lengths, settings(gradient_accumulation=2, seed=1))
    assert [other.step(step) for step in range(1, 127)] != first


def test_rows_of_a_step_have_similar_lengths():
    chance = random.Random(2)
    lengths = [chance.randint(1, 1000) for _ in range(4 * WINDOW * 4)]
    plan = Plan(lengths, settings())
    steps = [[lengths[row] for row in plan.step(step)] for step in range(1, plan.per_epoch + 1)]
    padded = sum(max(step) * len(step) for step in steps)
    assert padded < 1.05 * sum(lengths)
    means = [sum(step) / len(step) for step in steps]
    assert means != sorted(means)


def test_how_many_steps_a_run_has():
    assert Plan([1] * 10, settings(epochs=0.01)).total == 1
    assert Plan([1] * 10, settings(epochs=1.5)).total == 5
    assert Plan([1] * 10, settings(max_steps=100)).total == 100
    assert len(Plan([1] * 10, settings(max_steps=100)).step(100)) in {2, 4}


def test_forward_passes_keep_to_their_budget():
    lengths = [5, 100, 30, 30, 7, 64]
    cut = list(passes(range(6), lengths, most_rows=3, most_tokens=64))
    assert cut == [[1], [5], [2, 3], [4, 0]]
    assert list(passes(range(6), [1] * 6, most_rows=4, most_tokens=64)) == [[0, 1, 2, 3], [4, 5]]
    assert list(passes([], lengths, most_rows=1, most_tokens=1)) == []
