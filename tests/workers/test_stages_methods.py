"""The methods of tuning, run for real on a model of two layers."""

import json
from pathlib import Path

import pytest

from tests.workers.stage_runs import Ran, Stages
from tests.workers.test_stages_refuse import failure
from tests.workers.test_stages_train import QUICK

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine

STILL = {"max_steps": 1, "learning_rate": 1e-12}  # to see what a model knows already


def adapter_config(run: Ran) -> dict[str, object]:
    return json.loads((run.directory / "adapter/adapter_config.json").read_text())


def tensors(directory: Path) -> dict[str, bytes]:
    data = (directory / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return {
        name: data[8 + length + one["data_offsets"][0] : 8 + length + one["data_offsets"][1]]
        for name, one in header.items()
    }


def loss_of(stages: Stages, data: str, **model: object) -> float:
    """The validation loss of a model, or of an adapter on its base, as a later job loads it."""
    run = stages.run(train=[data], validation=[data], hyperparameters=STILL, **model)
    assert run.code == 0, run.log
    return float(run.evaluations[-1]["eval_loss"])


def learn(stages: Stages, base: Path, data: str, method: str = "lora", **more: object) -> Ran:
    adapter = more.pop("adapter", None)
    run = stages.run(
        base=base,
        adapter=adapter,
        train=[data],
        validation=[data],
        method=method,
        hyperparameters=QUICK | more,
    )
    assert run.code == 0, run.log
    assert run.losses[-1] < 0.6 * run.losses[0]
    return run


def test_dora_learns(stages, base, data):
    run = learn(stages, base, data, use_dora=True)
    assert adapter_config(run)["use_dora"] is True
    known = loss_of(stages, data, base=base, adapter=run.directory / "adapter")
    assert known == pytest.approx(run.evaluations[-1]["eval_loss"], rel=1e-4)


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_qlora_leaves_an_adapter_of_the_base_as_it_was(stages, base, data, bits):
    run = learn(stages, base, data, "qlora", quantization_bits=bits)
    assert run.result["kind"] == "adapter"
    assert "quantization" not in (run.directory / "adapter/adapter_config.json").read_text()
    known = loss_of(stages, data, base=base, adapter=run.directory / "adapter")
    assert known == pytest.approx(run.evaluations[-1]["eval_loss"], rel=0.2)


def test_what_pissa_learnt_is_a_plain_adapter_of_the_base(stages, base, data):
    often = {"save_steps": 10, "eval_steps": 10, "keep_best": False}
    run = learn(stages, base, data, lora_init="pissa", lora_rank=8, use_rslora=True, **often)
    config = adapter_config(run)
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (16, 16, True)
    assert not config["use_rslora"]
    wanted = pytest.approx(run.evaluations[-1]["eval_loss"], rel=1e-4)
    assert loss_of(stages, data, base=base, adapter=run.directory / "adapter") == wanted
    merged = stages.run(stage="merge", method="", base=base, adapter=run.directory / "adapter")
    assert merged.code == 0, merged.log
    assert loss_of(stages, data, base=merged.directory / "model") == wanted
    checkpoint = run.checkpoints()[-1]  # and so is what a checkpoint has
    step = int(checkpoint.name.partition("-")[2])
    then = next(one["eval_loss"] for one in run.evaluations if one["step"] == step)
    known = loss_of(stages, data, base=base, adapter=checkpoint / "whole/adapter")
    assert known == pytest.approx(then, rel=1e-4)


def test_a_stacked_adapter_is_the_sum_of_both(stages, base, data, uninterrupted: Ran):
    first = uninterrupted.directory / "adapter"
    run = stages.run(
        base=base,
        adapter=first,
        train=[data],
        validation=[data],
        hyperparameters=QUICK | {"chain": "stack", "lora_rank": 4, "lora_target": "q_proj, v_proj"},
    )
    assert run.code == 0, run.log
    before = uninterrupted.evaluations[-1]["eval_loss"]
    assert loss_of(stages, data, base=base, adapter=first) == pytest.approx(before, rel=1e-4)
    assert run.evaluations[-1]["eval_loss"] < before
    assert adapter_config(run)["r"] == 20
    wanted = pytest.approx(run.evaluations[-1]["eval_loss"], rel=1e-4)
    assert loss_of(stages, data, base=base, adapter=run.directory / "adapter") == wanted


def test_freezing_trains_the_last_layers_alone(stages, data):
    base = stages.model(dtype="bfloat16")
    run = learn(stages, base, data, "freeze", freeze_layers=1)
    assert run.result["kind"] == "model"
    old, new = tensors(base), tensors(run.directory / "model")
    changed = {name for name in old if old[name] != new[name]}
    assert changed
    assert {name for name in old if ".layers.1." in name and "norm" not in name} <= changed
    assert all(".layers.1." in name for name in changed)
    assert "1 of 2 layers" in run.log


def test_lora_plus_gives_the_b_matrices_their_own_rate(stages, base):
    asked, answer, log = (stages.home / f"rates.{name}" for name in ("in", "out", "log"))
    asked.write_text(json.dumps([{"base": str(base), "ratio": 16}]))
    pid = stages.ask(["tests.workers.trl_oracle", [str(asked), str(answer)], str(log)])
    assert stages.ask(pid) == 0, log.read_text()
    rates = json.loads(answer.read_text())[0]["rates"]
    assert len(rates) == 3 * 7 * 2
    for name, rate in rates.items():
        assert rate == pytest.approx(1e-3 if "lora_A" in name else 16e-3), name


def test_lora_plus_runs_and_resumes(stages, base, data):
    settings = QUICK | {"loraplus_ratio": 8, "save_steps": 9, "neftune_alpha": 5}
    run = stages.run(base=base, train=[data], hyperparameters=settings)
    assert run.code == 0, run.log
    again = stages.run(
        base=base, train=[data], resume_from=run.checkpoints()[0], hyperparameters=settings
    )
    assert again.losses == pytest.approx(run.losses[9:], abs=1e-5)
    assert run.losses[-1] < run.losses[0] / 2


def test_pissa_resumes_from_a_checkpoint(stages, base, data):
    settings = QUICK | {"lora_init": "pissa", "save_steps": 9}
    run = stages.run(base=base, train=[data], hyperparameters=settings)
    again = stages.run(
        base=base, train=[data], resume_from=run.checkpoints()[0], hyperparameters=settings
    )
    assert again.code == 0, again.log
    assert again.losses == pytest.approx(run.losses[9:], abs=1e-5)
    weights = [one.directory / "adapter/adapter_model.safetensors" for one in (run, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_cannot_be_is_named(stages, base, data):
    def code(**spec):
        return failure(stages.run(base=base, train=[data], **spec))

    assert code(hyperparameters={"lora_target": "w_q"}) == "bad_lora_target"
    made = stages.run(base=base, train=[data], hyperparameters={"max_steps": 1, "use_dora": True})
    on_top = {"adapter": made.directory / "adapter", "hyperparameters": {"chain": "stack"}}
    assert code(**on_top) == "unsupported_adapter"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lora", {"use_rslora": True}),
        ("lora", {"optimizer": "adafactor"}),
        ("lora", {"neftune_alpha": 5}),
        ("full", {"optimizer": "adafactor", "learning_rate": 1e-3}),
        ("lora", {"optimizer": "sgd", "learning_rate": 0.5}),
        ("qlora", {"use_dora": True}),
        ("lora", {"lora_init": "pissa", "loraplus_ratio": 4}),
    ],
)
def test_every_other_way(stages, base, data, method, more):
    learn(stages, base, data, method, **more)
