"""The measure stage against training's own preparation."""

import json
import random
import subprocess
import sys
from collections import Counter
from datetime import datetime
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, processors

from app.config import ROOT, settings
from app.datasets.measures import histograms
from app.datasets.rows import segments
from app.datasets.rows.languages import language
from app.models import marking, vocabulary
from tests.models.chat_templates import CHATML, HEADERS, INSTRUCTIONS, REASONING
from tests.workers.stage_runs import chat, reviews
from workers.stages import measure
from workers.stages.prepare import Prepare
from workers.stages.run import Run, StageError

STARTER = ROOT / "workers" / "starter" / "model"


def model(tmp_path, template=None):
    """The starter's tokenizer, with a chat template of one's own."""
    directory = tmp_path / "model"
    directory.mkdir(exist_ok=True)
    for name in vocabulary.FILES:
        if (STARTER / name).exists():
            (directory / name).write_bytes((STARTER / name).read_bytes())
    if template:
        (directory / "chat_template.jinja").write_text(template)
    return directory


def stored(tmp_path, rows, name="data"):
    directory = tmp_path / name
    directory.mkdir()
    segments.write(({"id": f"dv_x.{at}"} | row for at, row in enumerate(rows)), directory)
    return directory


def measured(tmp_path, rows, *, kind="sft", template=None, **more):
    directory = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
    directory.mkdir()
    spec = measure.MeasureSpec(
        measure_id="me_1",
        fence=1,
        model=str(model(tmp_path, template)),
        kind=kind,
        rows=len(rows),
        segments=[str(stored(tmp_path, rows, f"{directory.name}-data"))],
        **more,
    )
    measure.measure(Run(directory), spec)
    return json.loads((directory / "measure.json").read_text())


def prepared(tmp_path, rows, *, template=None, max_length=10**6, kind="sft"):
    """The same rows as training takes them."""
    words = vocabulary.load(model(tmp_path, template))
    directory = tmp_path / f"prepare-{len(list(tmp_path.iterdir()))}"
    directory.mkdir()
    work = Prepare(
        run=Run(directory),
        tokenizer=words.tokenizer,
        template=words.template,
        special=words.special,
        stops=set(words.stops),
        around=words.around,
        max_length=max_length,
        kind=kind,
        now=datetime(2026, 11, 21),
    )
    work.read({"id": f"dv_x.{at}"} | row for at, row in enumerate(rows))
    return work


def conversations(count=60, seed=3):
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        words = "请问 this 是 what？" * chance.randint(1, 40)
        row = chat(words, "好的。" * chance.randint(1, 60))
        if chance.random() < 0.4:
            row["messages"] += chat("那么 then?", "可以 yes" * chance.randint(1, 20))["messages"]
        rows.append(row)
    return rows


# -- the same tokens and the same mask as training -----------------------------------------


@pytest.mark.parametrize("template", [None, CHATML, REASONING, HEADERS, INSTRUCTIONS])
def test_it_counts_what_training_prepares(tmp_path, template):
    rows = conversations()
    found = measured(tmp_path, rows, template=template)
    work = prepared(tmp_path, rows, template=template)
    assert found["tokens"] == len(work.examples.ids)
    assert found["trained"] == work.examples.carrying
    assert Counter(dict(histograms.unpack(found["texts"]))) == Counter(work.examples.lengths)
    assert found["untrained"]["count"] == sum(map(len, work.dropped.values()))


@pytest.mark.parametrize("max_length", [8, 20, 64, 65, 200, 1024])
def test_any_maximum_length_is_answered_as_training_would_cut(tmp_path, max_length):
    rows = conversations()
    cut = histograms.cut(measured(tmp_path, rows), max_length)
    work = prepared(tmp_path, rows, max_length=max_length)
    whole = prepared(tmp_path, rows)
    kept = work.examples
    late = len(work.dropped["too_long", ""])
    assert cut.truncated == len(work.truncated)
    assert cut.late == cut.untrained == late
    lost = sum(max(0, length - max_length) for length in whole.examples.lengths)
    assert cut.lost == lost
    assert cut.trained_lost == whole.examples.carrying - kept.carrying


def test_plain_text_is_cut_into_pieces_and_not_lost(tmp_path):
    rows = [{"text": "今天天气很好。" * count} for count in (1, 3, 50)] + [{"text": ""}]
    found = measured(tmp_path, rows, kind="pretrain")
    for most in (8, 33, 4096):
        work = prepared(tmp_path, rows, kind="pretrain", max_length=most)
        cut = histograms.cut(found, most)
        assert (cut.pieces, cut.lost, cut.truncated) == (len(work.examples), 0, 0)
    assert found["untrained"]["kinds"] == [{"kind": "empty", "count": 1, "rows": [3]}]
    assert (found["turns"], found["roles"], found["languages"]) == ([], {}, {"zh": 3, "other": 1})


def test_very_long_documents_are_tokenised_in_parts(tmp_path, monkeypatch):
    document = "今天天气很好。\n" * 40 + "没有换行" * 60 + "\n尾"
    monkeypatch.setattr(marking, "BATCH_CHARS", 100)
    parts = list(marking.parts(document))
    assert "".join(parts) == document
    assert max(map(len, parts)) == 100
    assert parts[0].endswith("\n")
    found = measured(tmp_path, [{"text": document}], kind="pretrain")
    assert found["tokens"] == len(
        prepared(tmp_path, [{"text": document}], kind="pretrain").examples.ids
    )
    monkeypatch.undo()
    whole = measured(tmp_path, [{"text": document}], kind="pretrain")
    assert whole["tokens"] <= found["tokens"] <= whole["tokens"] + len(parts)


def test_the_answers_of_a_preference_are_both_measured(tmp_path):
    question = [{"role": "user", "content": "你好"}]
    good, bad = ({"role": "assistant", "content": text} for text in ("你好！很高兴", "嗯"))
    found = measured(
        tmp_path, [{"messages": question, "chosen": good, "rejected": bad}], kind="preference"
    )
    both = [prepared(tmp_path, [{"messages": [*question, one]}]).examples for one in (good, bad)]
    assert found["tokens"] == sum(len(one.ids) for one in both)
    assert found["trained"] == sum(one.carrying for one in both)
    assert histograms.unpack(found["lengths"]) == [(max(len(one.ids) for one in both), 1)]


def test_of_a_judged_conversation_the_last_answer_is_trained(tmp_path):
    rows = [row | {"label": at == 0} for at, row in enumerate(conversations(3))]
    found = measured(tmp_path, rows, kind="kto")
    single = [
        {"messages": [{**one, "weight": 0} for one in row["messages"][:-1]] + row["messages"][-1:]}
        for row in rows
    ]
    work = prepared(tmp_path, single)
    assert (found["tokens"], found["trained"]) == (
        len(work.examples.ids),
        work.examples.carrying,
    )
    assert found["labels"] == [{"value": "false", "rows": 2}, {"value": "true", "rows": 1}]


def test_an_answer_of_weight_0_is_context(tmp_path):
    row = chat("一", "二")["messages"] + chat("三", "四")["messages"]
    light = [dict(one) for one in row]
    light[1]["weight"] = 0
    both, one = (measured(tmp_path, [{"messages": messages}]) for messages in (row, light))
    assert both["tokens"] == one["tokens"]
    assert both["trained"] > one["trained"] > 0
    light[3]["weight"] = 0
    found = measured(tmp_path, [{"messages": light}])
    assert found["untrained"]["kinds"] == [{"kind": "unweighted", "count": 1, "rows": [0]}]


def test_the_vocabulary_is_that_of_transformers(tmp_path):
    """Ids that can end a turn, stop tokens, what goes around a text, and a row's ids."""
    program = """
import json, sys
from pathlib import Path
from transformers import AutoTokenizer
from app.models.vocabulary import stop_tokens
base = Path(sys.argv[1])
words = AutoTokenizer.from_pretrained(base, local_files_only=True)
closing = [words.eos_token_id]
stops = stop_tokens(base) or closing
special = {at for at, token in words.added_tokens_decoder.items() if token.special}
special |= set(words.all_special_ids) | set(stops)
opening = words.encode("a")[: -len(words.encode("a", add_special_tokens=False))]
around = [token for token in opening if token == words.bos_token_id], closing
backend = words.backend_tokenizer
backend.no_truncation()
ids = [backend.encode(text, add_special_tokens=False).ids for text in json.loads(sys.argv[2])]
print(json.dumps([sorted(special), stops, around, ids]))
"""
    texts = ["<|im_start|>user\n你好 hello<|im_end|>\n", "😀 a\tb", "<extra> 1234"]
    other = model(tmp_path)
    config = json.loads((other / "tokenizer_config.json").read_text())
    added = {"6000": {"content": "<extra>", "special": True}}
    config |= {"bos_token": "<|im_start|>", "add_bos_token": True, "added_tokens_decoder": added}
    (other / "tokenizer_config.json").write_text(json.dumps(config))
    backend = Tokenizer.from_file(str(other / "tokenizer.json"))
    opens = {"single": "<|im_start|> $A", "special_tokens": [("<|im_start|>", 1)]}
    backend.post_processor = processors.TemplateProcessing(**opens)
    backend.enable_truncation(4)
    backend.save(str(other / "tokenizer.json"))
    (other / "generation_config.json").unlink()
    for directory in (STARTER, other):
        done = subprocess.run(
            [settings.train_python, "-c", program, directory, json.dumps(texts)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        words = vocabulary.load(directory)
        ids = [words.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        ours = json.loads(json.dumps([sorted(words.special), words.stops, words.around, ids]))
        assert ours == json.loads(done.stdout.splitlines()[-1])


# -- what else is counted --------------------------------------------------------------------


def test_rows_that_train_nothing_are_named_with_their_reason(tmp_path):
    rows = [
        chat("a", "b"),
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}, *chat("b", "c")["messages"]]},
        chat("c", "d"),
    ]
    found = measured(tmp_path, rows, template=INSTRUCTIONS)["untrained"]
    assert {one["kind"]: one["rows"] for one in found["kinds"]} == {
        "no_answer": [1],
        "refused": [2],
    }
    assert found["refusals"][0]["count"] == 1
    assert found["refusals"][0]["reason"]
    endless = CHATML.replace("'<|im_end|>\\n'", "'\\n'")
    found = measured(tmp_path, rows[:1], template=endless)["untrained"]
    assert found["kinds"] == [{"kind": "no_stop", "count": 1, "rows": [0]}]


def test_turns_roles_labels_languages_duplicates_and_the_longest(tmp_path):
    rows = [*reviews(40), *reviews(40), chat("what is this?", "正面", id="other")]
    rows[0]["messages"] = [{"role": "system", "content": "判断"}, *rows[0]["messages"]]
    found = measured(tmp_path, rows)
    same = len(rows) - len({json.dumps(row["messages"], ensure_ascii=False) for row in rows})
    assert found["duplicates"] == same > 0
    assert found["roles"] == {"user": 81, "assistant": 81, "system": 1}
    assert found["turns"] == [{"turns": 1, "rows": 81}]
    labels = Counter(row["messages"][-1]["content"] for row in rows)
    assert {one["value"]: one["rows"] for one in found["labels"]} == labels
    assert set(found["languages"]) == {"zh", "mixed"}
    lengths = prepared(tmp_path, rows).examples.lengths
    longest = found["longest"][0]
    assert longest == {"row": lengths.index(max(lengths)), "tokens": max(lengths)}
    ordered = sorted(lengths)
    assert found["percentiles"]["p50"] == ordered[(len(ordered) + 1) // 2 - 1]
    assert found["max"] == ordered[-1]
    assert measured(tmp_path, conversations(30))["labels"] == []


def test_languages():
    assert language("今天天气很好，我们去公园。") == "zh"
    assert language("The weather is fine today.") == "en"
    assert language("请把 the weather is fine 翻译成中文") == "mixed"
    assert {language(text) for text in ("", "123 ！", "これはペンです", "Погода хорошая")} == {
        "other"
    }


def test_histograms_keep_every_length():
    counts = Counter({1: 2, 7: 1, 130: 5, 70_000: 1})
    pairs = histograms.unpack(histograms.pack(counts))
    assert pairs == sorted(counts.items())
    assert [histograms.percentile(pairs, share) for share in (0.1, 0.5, 1)] == [1, 130, 70_000]
    bins = histograms.bins(pairs)
    assert sum(one["rows"] for one in bins) == 9
    assert all(a["last"] + 1 == b["first"] for a, b in pairwise(bins))
    assert (bins[0]["first"], bins[-1]["last"] >= 70_000) == (1, True)
    assert histograms.bins(histograms.unpack(histograms.pack({}))) == []


def test_edits_are_laid_over_the_rows(tmp_path):
    base = stored(tmp_path, [chat(str(at), "x") for at in range(4)])
    lines = [
        [0, "", None],
        [0, "h", chat("after 0", "x")],
        [2, "", chat("two", "x")],
        [3, "h", chat("after 3", "x")],
        [4, "", chat("at the end", "x")],
    ]
    edits = tmp_path / "edits.jsonl"
    edits.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = measure.MeasureSpec(
        measure_id="me_1",
        fence=1,
        model="",
        kind="sft",
        rows=5,
        segments=[str(base)],
        edits=str(edits),
    )
    said = [json.loads(line)["messages"][0]["content"] for line in measure.rows(spec)]
    assert said == ["after 0", "1", "two", "3", "after 3", "at the end"]


def test_a_template_that_eats_time_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("app.models.chat_template.SECONDS", 0.05)
    monkeypatch.setattr(measure, "SECONDS", 0.05)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(StageError) as caught:
        measured(tmp_path, [chat(str(at), "b") for at in range(12)], template=loops)
    assert caught.value.code == "chat_template"


def test_the_stage_as_a_command(tmp_path):
    rows = conversations(10)
    directory = tmp_path / "run"
    directory.mkdir()
    spec = {
        "measure_id": "me_1",
        "fence": 1,
        "model": str(model(tmp_path)),
        "kind": "sft",
        "rows": 10,
        "segments": [str(stored(tmp_path, rows))],
    }
    (directory / "spec.json").write_text(json.dumps(spec))
    for python in (sys.executable, settings.train_python):
        argv = [python, "-m", "workers.stages.measure", directory]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        status = json.loads((directory / "status.json").read_text())
        assert (status["state"], status["step"], status["total"]) == ("succeeded", 10, 10)
    (directory / "spec.json").write_text(json.dumps(spec | {"segments": ["/nowhere"]}))
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error = json.loads((directory / "status.json").read_text())["error"]
    assert error["code"] == "data_missing"
