"""What the training stage refuses, and what it says then."""

import json
import shutil

import pytest

from tests.workers.stage_runs import Ran, chat, reviews, slow

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine


def failure(run: Ran) -> str:
    assert run.code == 1, run.log
    status = run.status
    assert status["state"] == "failed"
    error = status["error"]
    assert set(error) == {"code", "message", "params"}
    assert error["message"] % error["params"]
    assert "Traceback" not in run.log
    assert not (run.directory / "result.json").exists()
    return str(error["code"])


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"train": []},
        {"train": ["/x"], "surprise": 1},
        {"train": ["/x"], "hyperparameters": {"learning_rate": -1}},
        {"train": ["/x"], "hyperparameters": {"learning_speed": 1}},
        {"stage": "evaluate"},
        {"stage": "merge"},
    ],
)
def test_an_invalid_spec(stages, spec):
    assert failure(stages.run(base="/nowhere", **spec)) == "invalid_spec"


def test_unusable_data(stages, base):
    def code(rows, **hyperparameters):
        run = stages.run(base=base, train=[stages.data(rows)], hyperparameters=hyperparameters)
        return failure(run)

    assert code([{"messages": [{"role": "user", "content": "a"}]}]) == "nothing_to_train"
    assert code([chat("天" * 200, "好")], max_length=32) == "nothing_to_train"
    missing = stages.run(base=base, train=["/nowhere"])
    assert failure(missing) == "data_missing"


def test_unusable_templates(stages, base, data):
    def code(template):
        directory = stages.new("model")
        shutil.copytree(base, directory, dirs_exist_ok=True)
        (directory / "chat_template.jinja").unlink()
        if template is not None:
            (directory / "chat_template.jinja").write_text(template)
        return failure(stages.run(base=directory, train=[data]))

    turns = "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}"
    assert code(None) == "no_chat_template"
    assert code(turns + "{% if add_generation_prompt %}assistant:{% endif %}") == (
        "stop_token_untrained"
    )
    assert code(turns + "{% if add_generation_prompt %}model:{% endif %}") == "template_unstable"
    assert code("{{ raise_exception('no') }}") == "template_refused"
    assert code("{% if %}") == "chat_template"


def test_unusable_models(stages, base, data):
    def code(change):
        directory = stages.new("model")
        shutil.copytree(base, directory, dirs_exist_ok=True)
        change(directory)
        return failure(stages.run(base=directory, train=[data]))

    def config(**changes):
        def change(directory):
            path = directory / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))

        return change

    def pickled(directory):
        (directory / "model.safetensors").rename(directory / "pytorch_model.bin")

    def cut(directory):
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])

    assert code(pickled) == "pickled_weights"
    assert code(lambda d: (d / "model.safetensors").unlink()) == "no_weights"
    assert code(lambda d: (d / "config.json").write_text("{")) == "bad_model"
    assert code(lambda d: (d / "tokenizer.json").write_text("{")) == "bad_model"
    assert code(cut) == "bad_model"
    assert code(config(num_hidden_layers=3)) == "bad_model"
    assert code(config(hidden_size=128)) == "bad_model"
    assert code(config(model_type="unheard-of")) == "bad_model"
    assert code(config(auto_map={"AutoModelForCausalLM": "x.Y"})) == "remote_code"
    assert code(config(quantization_config={"quant_method": "gptq"})) == "quantized_base"


def test_divergence_is_named(stages, data):
    run = stages.run(base=stages.model(broken=True), train=[data])
    assert failure(run) == "diverged"
    assert run.status["error"]["params"] == {"step": "1"}
    assert not run.metrics


def test_a_full_disk_is_named(stages, base, data):
    directory = stages.write({"base": base, "train": [data]})
    (directory / "metrics.jsonl").symlink_to("/dev/full")
    run = stages.wait(stages.start(directory))
    assert run.code == 1
    assert run.status["error"]["code"] == "disk_full"


def test_resuming_from_something_else_is_refused(stages, base, data, uninterrupted: Ran):
    checkpoint = uninterrupted.checkpoints()[0]

    def code(rows, **changes):
        hyperparameters = slow(40, eval_steps=10) | changes
        spec = {"base": base, "train": [rows], "resume_from": checkpoint}
        return failure(stages.run(**spec, hyperparameters=hyperparameters))

    assert code(data, learning_rate=1e-3) == "resume_mismatch"
    assert code(stages.data(reviews(96, seed=2))) == "resume_mismatch"
    half = stages.new("checkpoint")
    shutil.copytree(checkpoint, half, dirs_exist_ok=True)
    (half / "complete").unlink()
    run = stages.run(base=base, train=[data], resume_from=half)
    assert failure(run) == "checkpoint_incomplete"


def test_rows_are_never_dropped_in_silence(stages, base):
    rows = [*reviews(4), chat("天" * 300, "好"), chat("好", "天" * 600)]
    rows += [{"messages": [{"role": "user", "content": "?"}]}]
    run = stages.run(
        base=base,
        train=[stages.data(rows)],
        hyperparameters={"max_steps": 1, "max_length": 64},
    )
    assert run.code == 0, run.log
    dropped = [line for line in run.lines("events.jsonl") if line["kind"] == "dropped"]
    assert sorted((line["params"]["count"], *line["params"]["rows"]) for line in dropped) == [
        (1, "row-4"),
        (1, "row-6"),
    ]
    assert run.events["truncated"]["params"]["rows"] == ["row-5"]
    for name in ("row-4", "row-5", "row-6"):
        assert name in run.log
    assert run.result["data"]["dropped"] == 2
