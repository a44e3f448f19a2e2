"""The data of a run: mixed of several datasets, some rows held back, leaks found."""

import os
import signal
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from app import storage
from app.datasets import splits
from app.datasets.rows import segments
from app.jobs import runs
from app.jobs.spec import RunSpec
from tests import factories
from tests.workers.stage_runs import chat, reviews, slow
from workers import starting
from workers.stages.mixing import Data
from workers.stages.prepare import Examples
from workers.stages.run import Run, StageError

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine


@pytest.fixture
def write(tmp_path):
    """Segments of numbered rows, each with a question of its own unless `rows` says otherwise."""

    def make(name, rows):
        if isinstance(rows, int):
            rows = [chat(f"{name} {number}?", f"answer {number % 7}") for number in range(rows)]
        directory = tmp_path / name
        directory.mkdir()
        segments.write(({"id": f"{name}.{i}"} | row for i, row in enumerate(rows)), directory)
        return str(directory)

    return make


def open_data(tmp_path: Path, **spec) -> Data:
    run = Run(tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}")
    run.directory.mkdir()
    filled = {"job_id": "j", "fence": 1, "stage": "sft", "method": "lora", "base": "/none"}
    return Data(run, RunSpec.model_validate(filled | spec))


def part(dataset, *rows, **amount):
    return {"dataset": dataset, "rows": list(rows)} | (amount or {"multiplier": 1})


def epoch(data: Data) -> Counter[str]:
    """How often each row is in an epoch."""
    ids = [row["id"] for row in data.training()]
    assert len(ids) == len(set(ids)), "a row is read once"
    return Counter(dict(zip(ids, data.times, strict=True)))


def events(data: Data) -> list[dict]:
    path = data.run.directory / "events.jsonl"
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


# -- mixes -------------------------------------------------------------------------------


def test_a_dataset_alone_is_read_as_it_is(tmp_path, write):
    one, two = write("a", 5), write("b", 3)
    data = open_data(tmp_path, train=[one, two])
    assert [row["id"] for row in data.training()] == [
        *(f"a.{i}" for i in range(5)),
        *(f"b.{i}" for i in range(3)),
    ]
    assert not data.validates
    assert events(data) == []


def test_counts_are_exact(tmp_path, write):
    mix = [
        part("dv_a", write("a", 100), multiplier=2.5),
        part("dv_b", write("b", 1000), multiplier=0.1),
        part("dv_c", write("c", 90), share=30),
    ]
    data = open_data(tmp_path, mix=mix)
    found = epoch(data)
    by_set = Counter()
    for row, times in found.items():
        by_set[row[0]] += times
    assert by_set == {"a": 250, "b": 100, "c": 150}  # 150 of 500 are 30 %
    assert Counter(times for row, times in found.items() if row[0] == "a") == {2: 50, 3: 50}
    assert Counter(times for row, times in found.items() if row[0] == "c") == {1: 30, 2: 60}
    told = {each["dataset"]: each["effective"] for each in data.report_mix()}
    assert told == {"dv_a": 250, "dv_b": 100, "dv_c": 150}


def test_a_mix_follows_from_the_seed_and_not_from_the_order_of_listing(tmp_path, write):
    mix = [
        part("dv_b", write("b", 200), multiplier=0.3),
        part("dv_a", write("a", 100), multiplier=1.5),
        part("dv_c", write("c", 100), share=20),
    ]
    data = open_data(tmp_path, mix=mix)
    first, order = epoch(data), data.times.tobytes()
    again = open_data(tmp_path, mix=mix[::-1])
    assert epoch(again) == first
    assert again.times.tobytes() == order
    other = epoch(open_data(tmp_path, mix=mix, hyperparameters={"seed": 7}))
    assert other != first
    assert other.total() == first.total()


def test_examples_are_repeated_without_their_tokens():
    examples = Examples()
    for row, length in ((0, 3), (1, 2), (1, 4), (2, 1)):  # row 1 trains two texts
        examples.add([10 * row + length] * length, bytearray(length), row)
    data = object.__new__(Data)
    data.times = array("B", [1, 3, 2])
    data.spread(examples)
    assert len(examples.ids) == 10
    assert Counter(examples.rows) == {0: 1, 1: 6, 2: 2}
    seen = Counter(tuple(examples[number][0]) for number in range(len(examples)))
    assert seen == {(3, 3, 3): 1, (12, 12): 3, (14,) * 4: 3, (21,): 2}
    assert sum(examples.lengths) == 3 + 3 * 6 + 2


# -- holding back ------------------------------------------------------------------------


def test_no_row_is_on_both_sides(tmp_path, write):
    rows = [chat(f"question {i % 150}", "answer") for i in range(400)]  # most of them repeated
    mix = [part("dv_a", write("a", rows), multiplier=2), part("dv_b", write("b", 100))]
    data = open_data(tmp_path, mix=mix, split={"split": 0.1})
    trained = epoch(data)
    held = [row["id"] for row in data.validating()]
    assert 0 < len(held) <= 40
    assert data.held_rows == len(held)
    assert set(trained) | set(held) == {f"a.{i}" for i in range(400)} | {
        f"b.{i}" for i in range(100)
    }
    said = [{rows[int(each[2:])]["messages"][0]["content"] for each in side if each[0] == "a"}
            for side in (trained, held)]  # fmt: skip
    assert not said[0] & said[1]
    assert trained.total() == 2 * (400 - len(held)) + 100
    (told,) = [event for event in events(data) if event["kind"] == "held_back"]
    assert told["params"] == {"count": len(held), "rows": 400, "seed": 42}


def test_a_split_follows_from_its_seed(tmp_path, write):
    place = write("a", 500)
    turned = [chat(f"a {number}?", f"answer {number % 7}") for number in reversed(range(500))]

    def held(where, **more):
        data = open_data(tmp_path, train=[where], split={"split": 0.1} | more)
        list(data.training())
        return {row["messages"][0]["content"] for row in data.validating()}

    first = held(place)
    assert len(first) == 50
    assert held(place) == first
    assert held(write("turned", turned)) == first  # by what rows say, not where they stand
    assert held(place, seed=1) != first
    assert held(place, most=20) < first


def test_what_cannot_be_split_says_so(tmp_path, write):
    same = write("same", [chat("again", "and again")] * 30)
    with pytest.raises(StageError, match="too few different rows"):
        open_data(tmp_path, train=[same], split={})


def test_a_row_that_is_everywhere_is_passed_over():
    holding = splits.Holding(10, 1)
    for number in range(200):
        row = chat("again" if number % 2 else f"q {number}", "a")
        holding.add(orjson.dumps({"id": f"r.{number}"} | row))
    held = holding.held()
    assert 8 <= len(held) <= 10
    assert {one.count for one in held.values()} == {1}


# -- leaks -------------------------------------------------------------------------------


def test_leaks_are_told_and_kept(tmp_path, write):
    train = write("t", 50)
    own = write("v", [
        chat("t 3?", "answer 3"),  # the whole row
        chat(" t 4? ", "another answer"),  # its prompt
        {"messages": [{"role": "system", "content": "s"}, *chat("t 5?", "x")["messages"]]},
        chat("new", "answer 3"),
    ])  # fmt: skip
    data = open_data(tmp_path, train=[train], validation=[own])
    list(data.training())
    assert [row["id"] for row in data.validating()] == ["v.0", "v.1", "v.2", "v.3"]
    assert data.report_leaks() == {"leaks": 3}
    (told,) = events(data)
    assert told["params"]["leaks"] == ["v.0", "v.1", "v.2"]
    assert (told["params"]["count"], told["params"]["rows"], told["params"]["whole"]) == (3, 4, 1)
    dropping = open_data(tmp_path, train=[train], validation=[own], drop_leaks=True)
    list(dropping.training())
    assert [row["id"] for row in dropping.validating()] == ["v.3"]
    assert dropping.report_leaks() == {"leaks": 3}
    nothing = open_data(tmp_path, train=[train], validation=[train], drop_leaks=True)
    list(nothing.training())
    assert list(nothing.validating()) == []
    with pytest.raises(StageError, match="Every validation row"):
        nothing.report_leaks()


def test_rows_that_no_epoch_has_do_not_leak(tmp_path, write):
    mix = [part("dv_a", write("a", 10)), part("dv_b", write("b", 100), multiplier=0.01)]
    data = open_data(tmp_path, mix=mix, validation=[str(tmp_path / "b")])
    drawn = [row["id"] for row in data.training() if row["id"][0] == "b"]
    list(data.validating())
    assert data.leaking["row"] == drawn
    assert len(drawn) == 1


def test_a_row_held_back_may_stand_in_another_dataset(tmp_path, write):
    rows = [chat(f"q {i}", "a") for i in range(100)]
    mix = [part("dv_a", write("a", rows)), part("dv_b", write("b", rows))]
    data = open_data(tmp_path, mix=mix, split={"split": 0.2}, drop_leaks=False)
    list(data.training())
    assert len(list(data.validating())) == 20
    assert data.report_leaks() == {"leaks": 20}


def test_marks_in_order_whatever_the_pieces(monkeypatch):
    monkeypatch.setattr(splits, "PIECE", 3)
    marks = array("Q", [5, 2**64 - 1, 1, 4, 4, 2, 9])
    assert list(splits.ascending(marks, array("Q", [3, 7]))) == sorted([*marks, 3, 7])


def test_the_node_writes_the_mix_down(db, tmp_path, write):
    """From what the console says of a job to what its run reads."""

    def version(name, rows):
        directory = Path(write(name, rows))
        artefact = storage.put(directory, f"segments/{name}")
        parts = [{"artefact": artefact, "rows": rows}]
        return factories.make_dataset(db, workspace, name=name, rows=rows, segments=parts)

    workspace = factories.make_workspace(db)
    main, more = version("main", 60), version("more", 100)
    model = factories.make_model(db)
    storage.put(tmp_path / "more", model.artefact)
    user = factories.make_user(db)
    mix = [{"version": main.id, "multiplier": 2.0}, {"version": more.id, "share": 10.0}]
    job = factories.make_job(
        db, workspace, user, model_id=model.id, dataset_version_id=main.id, state="scheduled",
        mix={"datasets": mix, "split": {"split": 0.1, "seed": 1, "most": 5}}, fence=1,
        spec={"epochs": 2.0},
    )  # fmt: skip
    db.commit()
    facts = runs.start_facts(db, job.id, 1)
    directory = tmp_path / "run"
    directory.mkdir()
    starting.prepare(replace(facts, devices=["cpu:0"]), directory)
    spec = RunSpec.model_validate_json((directory / "spec.json").read_bytes())
    data = Data(Run(directory), spec)
    found = epoch(data)
    assert data.held_rows == 5
    assert sum(n for row, n in found.items() if row.startswith("main")) == 110
    assert sum(n for row, n in found.items() if row.startswith("more")) == 12
    assert [part["name"] for part in map(dict, spec.mix)] == ["main v1", "more v1"]


# -- for real ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(stages, base):
    """Two datasets and an automatic split, trained without a break."""
    questions = [chat(f"第{n}题：天空是什么颜色？", "蓝色") for n in range(40)]
    spec = {
        "base": base,
        "mix": [
            part("dv_main", stages.data(reviews(96)), multiplier=1.5),
            part("dv_more", stages.data(questions), share=20),
        ],
        "split": {"split": 0.1},
        "hyperparameters": slow(30, eval_steps=10, keep_checkpoints=1),
    }
    run = stages.run(**spec)
    assert run.code == 0, run.log
    return spec, run


def test_a_mix_is_trained_and_validated(mixed):
    _, run = mixed
    told = [event for event in run.lines("events.jsonl") if event["kind"] == "mixed"]
    effective = {event["params"]["name"]: event["params"]["effective"] for event in told}
    held = run.events["held_back"]["params"]["count"]
    assert effective["dv_main"] == int(1.5 * (96 - held) + 0.5)
    assert effective["dv_more"] == int(effective["dv_main"] / 0.8 * 0.2 + 0.5)
    assert run.result["mix"][0]["effective"] == effective["dv_main"]
    assert run.result["validation"]["rows"] == held
    per_epoch = -(-sum(effective.values()) // 4)
    assert run.metrics[9]["epoch"] == pytest.approx(10 / per_epoch, abs=1e-3)
    assert [line["step"] for line in run.evaluations] == [10, 20, 30]
    assert run.evaluations[-1]["eval_loss"] < run.evaluations[0]["eval_loss"]


def test_a_killed_mix_goes_on_in_the_same_order(stages, mixed):
    spec, whole = mixed
    run = stages.start(stages.write(spec))
    run.until(lambda run: len(run.metrics) >= 15)
    os.kill(run.pid, signal.SIGKILL)
    stages.wait(run)
    last = run.checkpoints()[-1]
    other = spec | {"fence": 2, "resume_from": last, "split": None}
    refused = stages.wait(stages.start(stages.write(other)))
    assert refused.status["error"]["code"] == "resume_mismatch"  # without the split: other data
    resumed = stages.wait(stages.start(stages.write(spec | {"fence": 2, "resume_from": last})))
    assert resumed.code == 0, resumed.log
    done = int(last.name[11:])
    assert [line["step"] for line in resumed.metrics] == list(range(done + 1, 31))
    assert [m["tokens"] for m in resumed.metrics] == [m["tokens"] for m in whole.metrics[done:]]
    assert resumed.losses == pytest.approx(whole.losses[done:], abs=1e-4)
