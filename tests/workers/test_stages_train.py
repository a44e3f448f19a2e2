"""The training stage, run for real on a model of two layers."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from app.config import ROOT, settings
from tests.workers.stage_runs import ENV, Ran, chat, reviews, slow

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine

QUICK = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "warmup_ratio": 0.0}


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def test_a_run_learns_and_leaves_exactly_what_the_contract_says(stages, base, data):
    run = stages.run(
        base=base, train=[data], validation=[data], hyperparameters=QUICK | {"keep_best": False}
    )
    assert run.code == 0, run.log
    total = 3 * 6
    assert run.status == {
        "state": "succeeded",
        "phase": "save",
        "step": total,
        "total": total,
        "error": None,
    }
    assert [line["step"] for line in run.metrics] == list(range(1, total + 1))
    for line in run.metrics:
        known = {"step", "epoch", "loss", "accuracy", "lr", "grad_norm", "tokens", "t"}
        assert set(line) == known
    assert run.metrics[-1]["epoch"] == 3
    measured = {"step", "epoch", "eval_loss", "eval_accuracy", "t"}
    assert [set(line) for line in run.evaluations] == [measured] * 3
    assert run.metrics[-1]["accuracy"] > 0.9 > run.metrics[0]["accuracy"]
    assert [line["step"] for line in run.evaluations] == [6, 12, 18]
    assert run.losses[-1] < run.losses[0] / 3
    assert run.evaluations[-1]["eval_loss"] < 1.5
    words = {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/chat_template.jinja",
        "adapter/generation_config.json",
        "adapter/tokenizer.json",
        "adapter/tokenizer_config.json",
    }
    rest = {"spec.json", "log", "status.json", "metrics.jsonl", "events.jsonl", "result.json"}
    left = files(run.directory)
    boards = {name for name in left if name.startswith("tensorboard/events.out.tfevents.")}
    assert len(boards) == 1
    beside = {name.replace("adapter/", "words/") for name in words if "/adapter_" not in name}
    assert left - boards == words | beside | rest
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (run.directory / "adapter" / name).read_bytes() == (base / name).read_bytes()
    config = json.loads((run.directory / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base.name
    assert run.result["kind"] == "adapter"
    assert run.result["data"]["rows"] == 96
    assert run.result["libraries"]["torch"]
    assert run.result["stop_token_ids"] == [2]
    assert "\r" not in run.log
    assert "step 18/18" in run.log
    assert str(base.parent) not in run.log


@pytest.mark.slow
def test_the_command_itself(stages, base, data):
    directory = stages.write(
        {"base": base, "train": [data], "hyperparameters": {"max_steps": 2}, "threads": 2}
    )
    command = [settings.train_python, "-m", "workers.stages.train"]
    done = subprocess.run([*command, directory], cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "loss" in done.stdout
    assert Ran(directory, 0).status["state"] == "succeeded"
    assert subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True).returncode == 2


def test_bfloat16_learns_the_same(stages, base, data):
    settings = {"max_steps": 12, "batch_size": 8, "learning_rate": 3e-3}
    whole, half = (
        stages.run(base=base, train=[data], hyperparameters=settings | {"precision": name})
        for name in ("fp32", "bf16")
    )
    assert half.code == 0, half.log
    assert half.losses != whole.losses
    assert half.losses == pytest.approx(whole.losses, rel=0.05)
    assert half.losses[-1] < 0.7 * half.losses[0]


def test_accumulation_changes_nothing(stages, base):
    rows = stages.data([*reviews(24), *(chat("天" * 5 * i, "好" * i) for i in range(1, 9))])
    settings_of = {"max_steps": 6, "batch_size": 8}
    once = stages.run(base=base, train=[rows], hyperparameters=settings_of)
    split = settings_of | {"batch_size": 1, "gradient_accumulation": 8}
    eight = stages.run(base=base, train=[rows], hyperparameters=split)
    few = stages.run(base=base, train=[rows], hyperparameters=settings_of | {"batch_tokens": 64})
    for other in (eight, few):
        assert other.losses == pytest.approx(once.losses, abs=1e-5)
        norms = [line["grad_norm"] for line in once.metrics]
        assert [line["grad_norm"] for line in other.metrics] == pytest.approx(norms, rel=1e-3)
    assert "tokens/s" in few.log


def test_old_checkpoints_are_dropped(uninterrupted: Ran):
    assert [path.name for path in uninterrupted.checkpoints()] == ["checkpoint-28", "checkpoint-35"]
    assert {path.name for path in (uninterrupted.directory / "checkpoints").iterdir()} == {
        "checkpoint-28",
        "checkpoint-35",
    }
    for name in files(uninterrupted.checkpoints()[0]):
        assert not name.endswith(".bin")


def same_end(one: Ran, other: Ran) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        first, second = (run.directory / "adapter" / name for run in (one, other))
        if name.endswith("safetensors"):
            assert first.read_bytes() == second.read_bytes()


def test_same_seed_same_curve(stages, base, data, uninterrupted: Ran):
    again = stages.run(
        base=base, train=[data], validation=[data], hyperparameters=slow(40, eval_steps=10)
    )
    assert again.losses == uninterrupted.losses
    same_end(again, uninterrupted)
    other = stages.run(base=base, train=[data], hyperparameters=slow(3, seed=43))
    assert other.losses != uninterrupted.losses[:3]


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(stages, base, data, uninterrupted: Ran):
    resumed = stages.run(
        base=base,
        train=[data],
        validation=[data],
        fence=2,
        resume_from=uninterrupted.checkpoints()[0],
        hyperparameters=slow(40, eval_steps=10),
    )
    assert resumed.code == 0, resumed.log
    assert [line["step"] for line in resumed.metrics] == list(range(29, 41))
    assert resumed.losses == pytest.approx(uninterrupted.losses[28:], abs=1e-4)
    for name in ("lr", "epoch", "tokens"):
        assert [m[name] for m in resumed.metrics] == [m[name] for m in uninterrupted.metrics[28:]]
    assert resumed.evaluations[-1]["eval_loss"] == pytest.approx(
        uninterrupted.evaluations[-1]["eval_loss"], abs=1e-4
    )
    assert resumed.result["tokens"] == uninterrupted.result["tokens"]
    assert resumed.events["resumed"]["params"] == {"step": 28}
    same_end(resumed, uninterrupted)


def test_sigterm_leaves_a_checkpoint_at_the_next_step(stages, base, data, uninterrupted: Ran):
    spec = {"base": base, "train": [data], "validation": [data]}
    spec |= {"hyperparameters": slow(40, save_steps=None, eval_steps=10)}
    run = stages.start(stages.write(spec))
    run.until(lambda run: len(run.metrics) >= 12)
    began = time.monotonic()
    os.kill(run.pid, signal.SIGTERM)
    stages.wait(run)
    assert run.code == 0, run.log
    assert time.monotonic() - began < 30
    assert run.status["state"] == "stopped"
    at = run.status["step"]
    assert 12 <= at < 40
    assert [path.name for path in run.checkpoints()] == [f"checkpoint-{at}"]
    assert len(run.metrics) == at
    spec |= {"fence": 2, "resume_from": run.checkpoints()[0]}
    resumed = stages.wait(stages.start(stages.write(spec)))
    assert run.losses + resumed.losses == pytest.approx(uninterrupted.losses, abs=1e-4)
    steps = [line["step"] for line in run.evaluations + resumed.evaluations]
    assert steps == [10, 20, 30, 40]


@pytest.mark.parametrize("steps", [1, 2])
def test_sigterm_while_evaluating(stages, base, data, steps):
    """The next attempt begins with the evaluation that was given up."""
    spec = {"base": base, "train": [data], "validation": [stages.data(reviews(600))]}
    spec |= {"hyperparameters": {"max_steps": steps, "eval_steps": 1, "batch_size": 2}}
    run = stages.start(stages.write(spec))
    run.until(lambda run: run.metrics)
    os.kill(run.pid, signal.SIGTERM)
    assert stages.wait(run).code == 0
    assert run.status["state"] == "stopped", run.log
    assert not run.evaluations
    assert [path.name for path in run.checkpoints()] == ["checkpoint-1"]
    resumed = stages.wait(stages.start(stages.write(spec | {"resume_from": run.checkpoints()[0]})))
    assert resumed.status["state"] == "succeeded", resumed.log
    assert [line["step"] for line in resumed.evaluations] == [1, 2][:steps]
    assert [line["step"] for line in resumed.metrics] == [2][: steps - 1]
    assert resumed.result["eval_loss"] == resumed.evaluations[-1]["eval_loss"]


def test_kill_9_costs_only_what_the_last_checkpoint_lacks(stages, base, data, uninterrupted: Ran):
    directory = stages.write(
        {
            "base": base,
            "train": [data],
            "validation": [data],
            "hyperparameters": slow(40, eval_steps=10),
        }
    )
    run = stages.start(directory)
    run.until(lambda run: len(run.metrics) >= 17)
    os.kill(run.pid, signal.SIGKILL)
    assert stages.wait(run).code == -9
    assert run.status["state"] == "running"
    last = run.checkpoints()[-1]
    assert int(last.name[11:]) in {14, 21, 28}
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')  # a line cut short
    spec = json.loads((directory / "spec.json").read_text()) | {"resume_from": str(last)}
    resumed = stages.wait(stages.start(stages.write(spec, directory)))
    assert resumed.code == 0, resumed.log
    assert [line["step"] for line in resumed.metrics] == list(range(1, 41))
    assert resumed.losses == pytest.approx(uninterrupted.losses, abs=1e-4)
    same_end(resumed, uninterrupted)


def test_what_somebody_waits_for_is_saved_and_stays(stages, base, data):
    often = slow(12, save_steps=4, keep_checkpoints=1)
    run = stages.run(base=base, train=[data], hyperparameters=often, save_at=[3, 5, 99])
    assert run.code == 0, run.log
    assert [path.name for path in run.checkpoints()] == [f"checkpoint-{step}" for step in (3, 5, 8)]


@pytest.mark.slow
def test_checkpoints_come_by_time_too(stages, base, data):
    run = stages.start(
        stages.write(
            {
                "base": base,
                "train": [data],
                "hyperparameters": slow(4000, save_steps=None, save_seconds=1),
            }
        )
    )
    run.until(lambda run: len(run.checkpoints()) >= 2)
    os.kill(run.pid, signal.SIGTERM)
    assert stages.wait(run).code == 0


@pytest.mark.parametrize("phase", ["prepare", "load"])
def test_sigterm_before_the_first_step(stages, base, phase):
    rows = stages.data(reviews(30_000 if phase == "prepare" else 10))
    run = stages.start(stages.write({"base": base, "train": [rows]}))
    run.until(lambda run: (run.directory / "status.json").exists() and run.status["phase"] == phase)
    os.kill(run.pid, signal.SIGTERM)
    assert stages.wait(run).code == 0, run.log
    assert run.status["state"] == "stopped"
    assert not run.metrics


def test_full_tuning_writes_a_model_in_the_type_of_its_base(stages, data):
    base = stages.model(dtype="bfloat16")
    spec = {"base": base, "train": [data], "method": "full"}
    whole = stages.run(**spec, hyperparameters=slow(20, learning_rate=1e-3))
    assert whole.code == 0, whole.log
    assert whole.losses[-1] < whole.losses[0]
    assert whole.result["kind"] == "model"
    model = whole.directory / "model"
    assert {"config.json", "model.safetensors", "generation_config.json"} <= files(model)
    header = (model / "model.safetensors").read_bytes()[8:2000]
    assert b'"BF16"' in header
    assert b'"F32"' not in header
    resumed = stages.run(
        **spec,
        resume_from=whole.checkpoints()[0],
        hyperparameters=slow(20, learning_rate=1e-3),
    )
    assert resumed.losses == pytest.approx(whole.losses[7:], abs=1e-4)


def test_pretraining_from_random_weights_on_plain_text(stages):
    base = stages.model(weights=False)
    texts = stages.data([{"text": "今天天气很好，我们去公园散步吧。" * n} for n in range(1, 40)])
    rows = stages.data(reviews(10))
    run = stages.run(
        base=base,
        train=[texts, rows],
        stage="pretrain",
        method="full",
        hyperparameters={"max_steps": 25, "learning_rate": 5e-3, "max_length": 100},
    )
    assert run.code == 0, run.log
    assert run.losses[0] > 5
    assert run.losses[-1] < 2
    assert run.result["data"]["rows"] == 49
    assert run.result["data"]["samples"] > 49  # long texts train in pieces
    assert "random" in run.log
    tuned = stages.run(base=run.directory / "model", train=[rows], hyperparameters={"epochs": 1})
    assert tuned.code == 0, tuned.log


def test_an_adapter_can_be_trained_further(stages, base, data, uninterrupted: Ran):
    adapter = uninterrupted.directory / "adapter"
    further = stages.run(base=base, adapter=adapter, train=[data], hyperparameters=slow(5))
    assert further.code == 0, further.log
    assert further.losses[0] < uninterrupted.losses[0] - 0.5
    whole = stages.run(
        base=base, adapter=adapter, train=[data], method="full", hyperparameters=slow(5)
    )
    assert whole.code == 0, whole.log
    assert whole.losses[0] == pytest.approx(further.losses[0], rel=0.3)


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(stages, base, data):
    plain = stages.run(base=base, train=[data], hyperparameters={"max_steps": 4})
    sparing = stages.run(
        base=base, train=[data], hyperparameters={"max_steps": 4, "gradient_checkpointing": True}
    )
    assert sparing.code == 0, sparing.log
    assert sparing.losses == pytest.approx(plain.losses, abs=1e-5)
