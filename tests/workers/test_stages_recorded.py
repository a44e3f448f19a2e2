"""What happens at evaluations, and prepared data that is kept: see workers.stages.records, tokens."""

import json
import os
import struct
import time
from pathlib import Path

import pytest

from app.jobs.tfevents import masked
from tests.workers.stage_runs import Ran, reviews
from workers.stages import tokens

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def unlike(stages):
    """Validation data that training makes worse: the same questions with the wrong answers."""
    rows = reviews(24, seed=5)
    for row in rows:
        answer = row["messages"][1]
        answer["content"] = {"正面": "负面", "负面": "正面"}[answer["content"]]
    return stages.data(rows)


@pytest.fixture(scope="module")
def overfitting(stages, base, data, unlike) -> Ran:
    settings = {
        "max_steps": 60,
        "learning_rate": 5e-3,
        "batch_size": 16,
        "warmup_ratio": 0.0,
        "eval_steps": 3,
        "early_stopping_patience": 3,
        "keep_checkpoints": 1,
        "save_steps": 4,
        "sample_prompts": ["面条很好吃", "太差"],
        "sample_tokens": 6,
    }
    run = stages.run(base=base, train=[data], validation=[unlike], hyperparameters=settings)
    assert run.code == 0, run.log
    return run


def test_it_stops_early_and_the_best_is_the_result(overfitting: Ran):
    losses = {line["step"]: line["eval_loss"] for line in overfitting.evaluations}
    best = min(losses, key=losses.__getitem__)
    last = max(losses)
    assert last == best + 3 * 3
    assert last < 60
    assert overfitting.status["state"] == "succeeded"
    assert (overfitting.status["step"], overfitting.status["total"]) == (last, last)
    assert overfitting.events["early_stop"]["params"] == {"step": last, "best": best, "count": 3}
    assert overfitting.events["best"]["params"]["step"] == best
    assert overfitting.result["best_step"] == best
    assert f"checkpoint-{best}" in [path.name for path in overfitting.checkpoints()]
    kept = overfitting.directory / f"checkpoints/checkpoint-{best}/adapter_model.safetensors"
    made = overfitting.directory / "adapter/adapter_model.safetensors"
    assert made.read_bytes() == kept.read_bytes()


def test_samples_show_the_base_beside_the_tuned(overfitting: Ran):
    samples = [line for line in overfitting.lines("events.jsonl") if line["kind"] == "sample"]
    assert len(samples) == 2 * len(overfitting.evaluations)
    found = [one["params"] for one in samples]
    assert {one["prompt"] for one in found} == {"面条很好吃", "太差"}
    assert len({one["base"] for one in found if one["prompt"] == "太差"}) == 1
    last = [one for one in found if one["step"] == overfitting.status["step"]]
    assert {one["tuned"] for one in last} <= {"正面", "负面"}
    for one in samples:
        assert one["message"] % one["params"]


def test_tensorboard_files_hold_the_curve(overfitting: Ran):
    (path,) = (overfitting.directory / "tensorboard").iterdir()
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert data[8:12] == masked(data[:8])
        assert data[12 + length : 16 + length] == masked(body)
        events.append(body)
        data = data[16 + length :]
    assert events[0].endswith(b"brain.Event:2")
    assert len(events) == 1 + len(overfitting.metrics) + len(overfitting.evaluations)
    first = overfitting.metrics[0]
    assert b"train/loss\x15" + struct.pack("<f", first["loss"]) in events[1]
    assert b"train/token_accuracy" in events[1]
    assert any(b"eval/loss" in event for event in events)


def test_a_resumed_run_remembers_what_was_best(stages, base, data, unlike, overfitting: Ran):
    written = json.loads((overfitting.directory / "spec.json").read_text())
    best, last = overfitting.checkpoints()
    assert best.name == f"checkpoint-{overfitting.result['best_step']}"
    resumed = stages.run(
        base=base,
        train=[data],
        validation=[unlike],
        resume_from=last,
        hyperparameters=written["hyperparameters"],
    )
    assert resumed.code == 0, resumed.log
    assert resumed.status == overfitting.status
    for name in ("best_step", "best_loss", "steps"):
        assert resumed.result[name] == overfitting.result[name]
    made, kept = (
        run.directory / "adapter/adapter_model.safetensors" for run in (resumed, overfitting)
    )
    assert made.read_bytes() == kept.read_bytes()


# -- prepared data -------------------------------------------------------------------------


def test_the_second_run_on_the_same_data_starts_at_once(stages, base, tmp_path):
    rows = [*reviews(40), {"messages": [{"role": "user", "content": "a"}]}]
    settings = {"max_steps": 2}
    spec = {"base": base, "train": [stages.data(rows)], "cache": str(tmp_path)}
    first = stages.run(**spec, hyperparameters=settings)
    (entry,) = tmp_path.iterdir()
    again = stages.run(**spec, hyperparameters=settings | {"learning_rate": 1e-3})
    assert "prepared before" in again.log
    assert "prepared before" not in first.log
    assert again.losses[0] == first.losses[0]
    assert again.result["data"] == first.result["data"]
    for kind in ("dropped", "prepared"):  # what was left out is said again
        assert again.events[kind]["params"] == first.events[kind]["params"]
    assert "  dropped: row-40" in again.log
    for other in ({"train_on": "last"}, {"max_length": 100}):
        stages.run(**spec, hyperparameters=settings | other)
    assert len(list(tmp_path.iterdir())) == 3
    whole = entry.read_bytes()
    for torn in (whole[:-7], whole[: len(whole) // 2], b"", whole[:-1] + b"\1"):
        entry.write_bytes(torn)
        repaired = stages.run(**spec, hyperparameters=settings)
        assert repaired.losses == first.losses, repaired.log
        assert entry.read_bytes() == whole


def test_what_was_not_used_for_longest_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "MOST_BYTES", 250)
    now = time.time()
    for age, name in enumerate("abcd"):
        path: Path = tmp_path / f"{name}.tokens"
        path.write_bytes(b"x" * 100)
        os.utime(path, (now - age, now - age))
    left = tmp_path / ".e.tokens.12"
    left.write_bytes(b"")
    os.utime(left, (now - 90_000, now - 90_000))
    tokens.clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tokens", "b.tokens"]
