"""What must not change a curve: TRL's invariants, and what else a step may be made of.

Losses are compared step by step, with a tolerance for the largest difference and, for their mean,
one a hundredth of it: a difference that always goes one way is a fault, however small.
"""

import pytest

from app.config import ROOT
from app.jobs.spec import RunSpec
from tests.workers.stage_runs import ENV, Ran, chat, reviews
from workers import process, starting

pytestmark = pytest.mark.timeout(400)

LOSS, NORM = 2e-4, 2e-3  # of the largest difference: absolute, and relative
STEPS = {"max_steps": 12, "batch_size": 8, "learning_rate": 2e-3, "warmup_ratio": 0.0}


@pytest.fixture(scope="module")
def rows(stages):
    """Of very different lengths, several turns, weights of all kinds."""
    found = [*reviews(24), *(chat("天" * 5 * i, "好" * i) for i in range(1, 9))]
    for number in range(8):
        first = chat("一二三" * number, "四五" * (8 - number))["messages"]
        second = chat("六七", "八九十" * number)["messages"]
        first[1]["weight"], second[1]["weight"] = number / 10, 1 - number / 10
        found.append({"messages": [*first, *second]})
    return stages.data(found)


@pytest.fixture(scope="module")
def reference(stages, base, rows):
    run = stages.run(base=base, train=[rows], hyperparameters=STEPS)
    assert run.code == 0, run.log
    return run


def same(one: Ran, other: Ran, times: float = 1.0) -> None:
    assert one.code == 0, one.log
    assert len(one.losses) == len(other.losses)
    residuals = [a - b for a, b in zip(one.losses, other.losses, strict=True)]
    assert max(map(abs, residuals)) < LOSS * times
    assert abs(sum(residuals) / len(residuals)) < LOSS * times / 10
    norms = [line["grad_norm"] for line in other.metrics]
    assert [line["grad_norm"] for line in one.metrics] == pytest.approx(norms, rel=NORM * times)
    for name in ("tokens", "lr", "epoch"):
        assert [line[name] for line in one.metrics] == [line[name] for line in other.metrics]


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 1, "gradient_accumulation": 8},
        {"batch_tokens": 64},
        {"gradient_checkpointing": True},
        {"packing": "off"},
        {"packing": "off", "batch_tokens": 128, "gradient_checkpointing": True},
    ],
    ids=[
        "one row at a time",
        "few tokens",
        "checkpointing",
        "padded",
        "padded, cut, checkpointing",
    ],
)
def test_how_a_step_is_computed_changes_nothing(stages, base, rows, reference, changed):
    run = stages.run(base=base, train=[rows], hyperparameters=STEPS | changed)
    same(run, reference)
    packed = ["none sees another" in one.log for one in (reference, run)]
    assert packed == [True, "packing" not in changed]


def test_the_curve_is_that_of_transformers_own_loss(stages, base, tmp_path):
    """One step of plain rows against the loss that the model itself computes."""
    rows = stages.data(reviews(8))
    run = stages.run(base=base, train=[rows], hyperparameters=STEPS | {"max_steps": 1})
    out = tmp_path / "loss.json"
    arguments = [str(base), str(rows), str(out)]
    code = stages.ask(stages.ask(["tests.workers.plain_loss", arguments, str(tmp_path / "log")]))
    assert code == 0, (tmp_path / "log").read_text()
    assert run.losses[0] == pytest.approx(float(out.read_text()), abs=1e-5)


def test_the_loss_in_chunks_is_torchs(stages, tmp_path):
    log = tmp_path / "log"
    code = stages.ask(stages.ask(["tests.workers.chunked_loss", [], str(log)]))
    assert code == 0, log.read_text()


def test_weights_are_weights(stages, base):
    """Half of the weight on all answers is half of the gradient; weight 0 is context."""
    whole = reviews(8)
    runs = []
    for weight in (1, 0.5):
        for row in whole:
            row["messages"][1]["weight"] = weight
        data = stages.data(whole)
        runs.append(stages.run(base=base, train=[data], hyperparameters=STEPS | {"max_steps": 1}))
    full, half = (run.metrics[0] for run in runs)
    assert half["loss"] == pytest.approx(full["loss"] / 2, rel=1e-5)
    assert half["grad_norm"] == pytest.approx(full["grad_norm"] / 2, rel=1e-4)
    assert half["accuracy"] == full["accuracy"]


def test_what_is_trained_on(stages, base):
    turns = [*chat("一", "二")["messages"], *chat("三", "四")["messages"]]
    data = stages.data([{"messages": turns}] * 8)
    trained = {}
    for choice in ("answers", "last", "all"):
        settings = STEPS | {"max_steps": 1, "train_on": choice}
        run = stages.run(base=base, train=[data], hyperparameters=settings)
        assert run.code == 0, run.log
        trained[choice] = run.result["data"]["trained_tokens"]
        tokens = run.result["data"]["tokens"]
    assert trained["last"] * 2 == trained["answers"]
    assert trained["all"] == tokens - 8  # nothing predicts the first token of a row


@pytest.mark.parametrize(
    ("method", "strategy"),
    [
        ("lora", "ddp"),
        pytest.param("full", "ddp", marks=pytest.mark.slow),
        pytest.param("full", "fsdp", marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one(stages, base, rows, method, strategy):
    """Of unequal passes: a step's rows never divide evenly."""
    settings = STEPS | {"gradient_accumulation": 2, "batch_tokens": 200, "save_steps": 7}
    settings |= {"eval_steps": 6, "keep_best": False}
    settings |= {"sample_prompts": ["面条很好吃"], "sample_tokens": 4}
    spec = {"base": base, "train": [rows], "validation": [rows], "method": method}
    one = stages.run(**spec, hyperparameters=settings)
    spec |= {"devices": 2, "strategy": strategy}
    two = stages.several(spec | {"hyperparameters": settings})
    same(two, one)
    for mine, theirs in zip(two.evaluations, one.evaluations, strict=True):
        assert mine["eval_loss"] == pytest.approx(theirs["eval_loss"], abs=LOSS)
    assert two.status == one.status
    assert two.result["data"] == one.result["data"]
    said = [[line["params"] for line in run.lines("events.jsonl") if line["kind"] == "sample"]
            for run in (one, two)]  # fmt: skip
    assert said[0] == said[1]
    assert len(said[0]) == 2
    if strategy == "fsdp":
        assert "shared out" in two.log
    if method == "full":  # goes on where it was, on as many devices
        spec["resume_from"] = two.checkpoints()[0]
        resumed = stages.several(spec | {"hyperparameters": settings})
        assert resumed.code == 0, resumed.log
        assert resumed.losses == pytest.approx(two.losses[7:], abs=LOSS)
        names = {"model.safetensors", "config.json"}
        assert names <= {path.name for path in (resumed.directory / "model").iterdir()}


@pytest.mark.slow
def test_a_signal_to_several_processes_leaves_a_checkpoint(stages, base, rows, tmp_path):
    """As the node sends it: to torchrun alone. One process goes on from there."""
    settings = STEPS | {"max_steps": 120}
    spec = {"base": base, "train": [rows], "devices": 2, "hyperparameters": settings}
    directory = stages.write(spec)
    read = RunSpec.model_validate_json((directory / "spec.json").read_bytes())
    found = process.start(
        starting.command(read, directory), cwd=ROOT, env=ENV, log=directory / "log"
    )
    run = Ran(directory, found.pid)
    run.until(lambda run: len(run.metrics) >= 3, 120)
    assert process.stop(*found, 30)
    assert run.status["state"] == "stopped", run.log
    at = run.status["step"]
    assert [path.name for path in run.checkpoints()] == [f"checkpoint-{at}"]
    assert [line["step"] for line in run.metrics] == list(range(1, at + 1))
    alone = spec | {"devices": 1}
    rest = stages.run(**alone | {"resume_from": run.checkpoints()[0]})
    whole = stages.run(**alone)
    assert rest.code == 0, rest.log
    assert run.losses + rest.losses == pytest.approx(whole.losses, abs=10 * LOSS)
