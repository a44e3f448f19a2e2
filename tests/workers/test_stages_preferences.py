"""Learning from preferences, against TRL's own trainers and against itself."""

import json
import random
import shutil

import pytest

from tests.workers.stage_runs import Ran

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine

# Without a word of the template's after the stop token: TRL would train on it, and we do not.
BARE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}"
)
STEADY = {"lr_scheduler": "constant", "warmup_ratio": 0.0, "max_length": 512}


def preferences(count, seed=3):
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        good = chance.random() < 0.5
        word = chance.choice(["很好吃", "不错"] if good else ["难吃", "太差"])
        right, wrong = ("正面", "负面的") if good else ("负面", "正面的")
        question = {"role": "user", "content": f"面条{word}{'，' * chance.randint(0, 9)}"}
        answers = [{"role": "assistant", "content": text} for text in (right, wrong)]
        rows.append({"messages": [question], "chosen": answers[0], "rejected": answers[1]})
    return rows


def judged(rows):
    return [
        {"messages": [*row["messages"], row[part]], "label": part == "chosen"}
        for row in rows
        for part in ("chosen", "rejected")
    ]


@pytest.fixture(scope="module")
def bare(stages, base):
    directory = stages.new("bare")
    shutil.copytree(base, directory, dirs_exist_ok=True)
    (directory / "chat_template.jinja").write_text(BARE)
    return directory


@pytest.fixture(scope="module")
def pairs(stages):
    return stages.data(preferences(48))


def test_losses_and_gradients_are_those_of_trl(stages, bare):
    """From messages on: TRL tokenises, masks and batches for itself."""
    some = preferences(8)
    cases = [
        {"stage": "dpo", "method": "lora", "settings": {"beta": 0.2}},
        {"stage": "dpo", "method": "full", "settings": {"dpo_loss": "ipo"}},
        {"stage": "dpo", "method": "lora", "settings": {"dpo_loss": "simpo", "beta": 2.0}},
        {"stage": "kto", "method": "lora", "settings": {"beta": 0.3}},
        {"stage": "orpo", "method": "full", "settings": {}},
        {"stage": "reward", "method": "lora", "settings": {}},
    ]
    for case in cases:
        case["base"] = str(bare)
        case["rows"] = judged(some) if case["stage"] == "kto" else some
        rate = 1e-3 if case["method"] == "lora" else 1e-4
        case["settings"] |= {"max_steps": 3, "learning_rate": rate}
    asked, answer, log = (stages.home / f"oracle.{name}" for name in ("in", "out", "log"))
    asked.write_text(json.dumps(cases))
    pid = stages.ask(["tests.workers.trl_oracle", [str(asked), str(answer)], str(log)])
    assert stages.ask(pid) == 0, log.read_text()
    for case, theirs in zip(cases, json.loads(answer.read_text()), strict=True):
        run = stages.run(
            base=bare,
            train=[stages.data(case["rows"])],
            stage=case["stage"],
            method=case["method"],
            hyperparameters=STEADY | case["settings"] | {"batch_size": 16},
        )
        assert run.code == 0, run.log
        what = (case["stage"], case["settings"])
        assert len(theirs) == 3, what
        assert run.losses == pytest.approx([one["loss"] for one in theirs], rel=1e-4), what
        norms = [line["grad_norm"] for line in run.metrics]
        assert norms == pytest.approx([one["grad_norm"] for one in theirs], rel=1e-3), what


@pytest.fixture(scope="module")
def whole(stages, base, pairs) -> Ran:
    """DPO without a break, for two epochs."""
    run = stages.run(
        base=base, train=[pairs], validation=[pairs], stage="dpo", hyperparameters=dpo()
    )
    assert run.code == 0, run.log
    return run


def dpo(**more):
    rates = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "save_steps": 5,
        "keep_best": False,
    }
    return rates | {"warmup_ratio": 0.0} | more


def test_dpo_learns_to_prefer(whole: Ran):
    first, last = whole.metrics[0], whole.metrics[-1]
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert (first["rewards_chosen"], first["rewards_rejected"]) == (0, 0)
    assert last["loss"] < 0.5
    assert last["rewards_chosen"] > 0 > last["rewards_rejected"]
    assert last["margin"] == pytest.approx(last["rewards_chosen"] - last["rewards_rejected"])
    assert last["reward_accuracy"] == 1
    assert whole.evaluations[-1]["eval_reward_accuracy"] == 1
    assert whole.result["kind"] == "adapter"
    assert whole.result["data"]["rows"] == 48
    assert (whole.directory / "adapter/adapter_model.safetensors").is_file()
    assert not (whole.directory / "adapter/ref").exists()


def test_a_resumed_dpo_run_is_the_uninterrupted_one(stages, base, pairs, whole: Ran):
    resumed = stages.run(
        base=base,
        train=[pairs],
        validation=[pairs],
        stage="dpo",
        fence=2,
        resume_from=whole.checkpoints()[0],
        hyperparameters=dpo(),
    )
    assert resumed.code == 0, resumed.log
    assert [line["step"] for line in resumed.metrics] == list(range(6, 13))
    assert resumed.losses == pytest.approx(whole.losses[5:], abs=1e-6)
    for name in ("margin", "lr", "tokens", "grad_norm"):
        expected = [line[name] for line in whole.metrics[5:]]
        assert [line[name] for line in resumed.metrics] == pytest.approx(expected, abs=1e-5)
    weights = [run.directory / "adapter/adapter_model.safetensors" for run in (resumed, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_passes_of_a_step_change_nothing(stages, base, pairs, whole: Ran):
    few = stages.run(
        base=base,
        train=[pairs],
        stage="dpo",
        hyperparameters=dpo(max_steps=3, batch_size=1, gradient_accumulation=8),
    )
    settings = dpo(max_steps=3, epochs=1)
    once = stages.run(base=base, train=[pairs], stage="dpo", hyperparameters=settings)
    assert few.losses == pytest.approx(once.losses, abs=1e-5)
    assert few.metrics[2]["margin"] == pytest.approx(once.metrics[2]["margin"], abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_dpo_from_an_adapter_begins_at_the_adapter(stages, base, pairs, uninterrupted: Ran, method):
    """The reference is what the job started from, not the base below it."""
    run = stages.run(
        base=base,
        adapter=uninterrupted.directory / "adapter",
        train=[pairs],
        stage="dpo",
        method=method,
        hyperparameters=dpo(max_steps=3),
    )
    assert run.code == 0, run.log
    assert run.metrics[0]["rewards_chosen"] == pytest.approx(0, abs=1e-5)
    assert run.losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert abs(run.metrics[-1]["margin"]) > 1e-4


def test_a_reward_model_is_a_whole_model_with_a_head(stages, base, pairs):
    run = stages.run(
        base=base,
        train=[pairs],
        validation=[pairs],
        stage="reward",
        hyperparameters=dpo(learning_rate=3e-3),
    )
    assert run.code == 0, run.log
    assert run.losses[-1] < run.losses[0] / 3
    assert run.evaluations[-1]["eval_reward_accuracy"] == 1
    assert run.result["kind"] == "model"
    config = json.loads((run.directory / "model/config.json").read_text())
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]
    assert not (run.directory / "model/adapter_config.json").exists()
    again = stages.run(
        base=run.directory / "model",
        train=[pairs],
        validation=[pairs],
        stage="reward",
        method="full",
        hyperparameters=dpo(max_steps=1, learning_rate=1e-9),
    )
    assert again.evaluations[-1]["eval_loss"] == pytest.approx(
        run.evaluations[-1]["eval_loss"], rel=1e-3
    )


def test_rows_without_both_answers_are_left_out_and_named(stages, base):
    rows = preferences(6)
    rows[2]["rejected"] = {"role": "user", "content": "?"}
    rows[4]["messages"] = [{"role": "user", "content": "天" * 200}]
    run = stages.run(
        base=base,
        train=[stages.data(rows)],
        stage="dpo",
        hyperparameters=dpo(max_steps=1, max_length=64),
    )
    assert run.code == 0, run.log
    dropped = [line["params"] for line in run.lines("events.jsonl") if line["kind"] == "dropped"]
    assert sorted((one["count"], *one["rows"]) for one in dropped) == [(1, "row-2"), (1, "row-4")]
    assert run.metrics[0]["epoch"] == 1  # of the four that are left


@pytest.mark.parametrize(
    ("stage", "method"),
    [
        ("dpo", "lora"),
        pytest.param("dpo", "full", marks=pytest.mark.slow),
        pytest.param("kto", "lora", marks=pytest.mark.slow),
        pytest.param("orpo", "lora", marks=pytest.mark.slow),
        pytest.param("reward", "lora", marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one(stages, base, stage, method):
    """Of steps that end with a pass of fewer rows, and one pass too few for the second process."""
    some = preferences(18)
    data = stages.data(judged(some)[:18] if stage == "kto" else some)
    settings = dpo(max_steps=6, epochs=1, batch_size=2, gradient_accumulation=3)
    settings |= {"save_steps": 4, "eval_steps": 3, "keep_best": False}
    spec = {"base": base, "train": [data], "validation": [data], "stage": stage, "method": method}
    one = stages.run(**spec, hyperparameters=settings)
    two = stages.several(spec | {"devices": 2, "hyperparameters": settings})
    assert (one.code, two.code) == (0, 0), two.log
    for before, after in ((one.metrics, two.metrics), (one.evaluations, two.evaluations)):
        assert [line["step"] for line in after] == [line["step"] for line in before]
        for mine, theirs in zip(after, before, strict=True):
            for name, value in theirs.items():
                if name != "t":
                    assert mine[name] == pytest.approx(value, abs=2e-4, rel=2e-3), name
    drift = [a - b for a, b in zip(two.losses, one.losses, strict=True)]
    assert abs(sum(drift)) / len(drift) < 2e-5
    assert two.status == one.status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "method", "more"),
    [
        ("dpo", "qlora", {}),
        ("dpo", "freeze", {"dpo_loss": "hinge"}),
        ("dpo", "lora", {"lora_init": "pissa", "label_smoothing": 0.1}),
        ("kto", "full", {}),
        ("kto", "qlora", {"quantization_bits": 8}),
        ("orpo", "lora", {"use_dora": True}),
        ("reward", "freeze", {}),
    ],
)
def test_every_other_way(stages, base, stage, method, more):
    some = preferences(48)
    data = stages.data(judged(some) if stage == "kto" else some)
    rate = 3e-3 if method.endswith("lora") else 5e-4
    run = stages.run(
        base=base,
        train=[data],
        validation=[data],
        stage=stage,
        method=method,
        hyperparameters=dpo(epochs=3, learning_rate=rate) | more,
    )
    assert run.code == 0, run.log
    assert run.evaluations[-1]["eval_loss"] < 0.85 * run.losses[0]
    if stage == "dpo":
        assert run.metrics[0]["rewards_chosen"] == pytest.approx(0, abs=1e-4)
