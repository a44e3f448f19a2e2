"""The merging stage, held to what peft computes."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.workers.stage_runs import Ran, Stages

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine


@pytest.fixture(scope="module")
def bases(stages: Stages):
    return {
        "float32": stages.model(),
        "bfloat16": stages.model(dtype="bfloat16"),
        "untied": stages.model(tied=False),
        "untied-bfloat16": stages.model(tied=False, dtype="bfloat16"),
        "gpt2": stages.model(kind="gpt2"),
        "gpt2-bfloat16": stages.model(kind="gpt2", dtype="bfloat16"),
    }


def call(stages: Stages, module: str, *arguments) -> None:
    log = stages.home / "oracle.log"
    code = stages.ask(stages.ask([module, [str(argument) for argument in arguments], str(log)]))
    assert code == 0, log.read_text()


def make(stages: Stages, base: Path, kind: str) -> Path:
    """A directory with `adapter`, and peft's `merged`."""
    directory = stages.new(kind)
    call(stages, "tests.workers.merge_oracle", base, kind, directory)
    return directory


def merge(stages: Stages, base: Path, adapter: Path) -> Ran:
    return stages.run(stage="merge", method="", base=base, adapter=adapter)


def read(*paths: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Every tensor as (type, shape, bytes), without a library."""
    found = {}
    for path in paths:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        header.pop("__metadata__")
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            found[name] = (entry["dtype"], entry["shape"], data[end + start : end + stop])
    return found


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("float32", "plain"),
        ("bfloat16", "plain"),
        ("float32", "rslora"),
        ("bfloat16", "some"),
        ("float32", "patterns"),
        ("untied", "head"),
        ("untied", "embedding"),
        ("untied-bfloat16", "embedding"),
        ("float32", "dora"),
        ("bfloat16", "dora"),
        ("float32", "dora-rslora"),
        ("untied", "dora-embedding"),
        ("untied-bfloat16", "dora-embedding"),
        ("float32", "pissa"),
        ("bfloat16", "pissa"),
        ("float32", "pissa-converted"),
        ("bfloat16", "pissa-converted"),
        ("untied", "saved"),
        ("untied-bfloat16", "saved"),
        ("gpt2", "conv1d"),
        ("gpt2-bfloat16", "conv1d"),
        ("gpt2", "conv1d-dora"),
        ("gpt2-bfloat16", "conv1d-dora"),
        ("gpt2", "pissa-conv1d"),
    ],
)
def test_equals_peft_to_the_last_bit(stages, bases, base, kind):
    made = make(stages, bases[base], kind)
    run = merge(stages, bases[base], made / "adapter")
    assert run.code == 0, run.log
    ours = read(run.directory / "model/model.safetensors")
    assert ours == read(made / "merged/model.safetensors")
    assert ours != read(bases[base] / "model.safetensors")
    assert run.status["state"] == "succeeded"
    assert run.status["step"] == run.status["total"] == len(ours)
    assert run.result["kind"] == "merged"
    assert not (run.directory / "model.partial").exists()


def test_a_complete_model_comes_out(stages, bases):
    base = bases["float32"]
    made = make(stages, base, "plain")
    run = merge(stages, base, made / "adapter")
    model = run.directory / "model"
    words = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in model.iterdir()} == words | {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    assert json.loads((model / "config.json").read_text()) == json.loads(
        (base / "config.json").read_text()
    )
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == 2
    for name in words:
        assert (model / name).read_bytes() == (base / name).read_bytes()
    call(stages, "tests.workers.merge_oracle", "functions", base, made / "adapter", model)


def test_the_adapters_own_words_come_along(stages, bases):
    """What it was trained with: its template, its tokenizer, where it stops."""
    base = bases["float32"]
    adapter = make(stages, base, "some") / "adapter"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, adapter)
    (adapter / "chat_template.jinja").write_text("own")
    (adapter / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    model = merge(stages, base, adapter).directory / "model"
    assert (model / "chat_template.jinja").read_text() == "own"
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


@pytest.mark.parametrize("kind", ["head", "embedding"])
def test_tied_weights_part_where_the_adapter_changes_one_end(stages, bases, kind):
    base = bases["float32"]
    made = make(stages, base, kind)
    run = merge(stages, base, made / "adapter")
    assert run.code == 0, run.log
    tensors = read(run.directory / "model/model.safetensors")
    before = read(base / "model.safetensors")["model.embed_tokens.weight"]
    kept = {"head": "model.embed_tokens.weight", "embedding": "lm_head.weight"}[kind]
    assert tensors[kept] == before
    config = json.loads((run.directory / "model/config.json").read_text())
    assert config["tie_word_embeddings"] is False
    call(
        stages,
        "tests.workers.merge_oracle",
        "functions",
        base,
        made / "adapter",
        run.directory / "model",
    )


def test_large_models_come_in_shards(stages, bases):
    base = bases["float32"]
    made = make(stages, base, "plain")
    directory = stages.write(
        {"stage": "merge", "method": "", "base": base, "adapter": made / "adapter"}
    )
    call(stages, "tests.workers.small_shards", directory)
    model = directory / "model"
    index = json.loads((model / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert len(names) > 3
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    whole = read(made / "merged/model.safetensors")
    assert read(*(model / name for name in names)) == whole
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in whole.values())
    for name in names:
        for tensor in read(model / name):
            assert index["weight_map"][tensor] == name
    # and a base that comes in shards
    again = merge(stages, model, made / "adapter")
    assert again.code == 0, again.log
    call(
        stages,
        "tests.workers.merge_oracle",
        "functions",
        model,
        made / "adapter",
        again.directory / "model",
    )


@pytest.mark.parametrize(
    ("kind", "found"),
    [("olora", "init_lora_weights")],
)
def test_what_cannot_be_merged_is_refused_by_name(stages, bases, kind, found):
    made = make(stages, bases["untied"], kind)
    run = merge(stages, bases["untied"], made / "adapter")
    assert run.code == 1
    error = run.status["error"]
    assert error["code"] == "unsupported_adapter"
    assert found in error["params"]["found"]
    assert not (run.directory / "model").exists()
    assert "Traceback" not in run.log


def test_unusable_adapters(stages, bases):
    base = bases["float32"]
    good = make(stages, base, "plain") / "adapter"

    def code(change, model=base):
        directory = stages.new("adapter")
        shutil.copytree(good, directory, dirs_exist_ok=True)
        change(directory)
        run = merge(stages, model, directory)
        assert run.code == 1, run.log
        assert "Traceback" not in run.log
        return run.status["error"]["code"]

    def config(**changes):
        def change(directory):
            path = directory / "adapter_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))

        return change

    def renamed(directory):
        (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")

    def other_names(directory):
        path = directory / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes().replace(b"layers.1.", b"layers.9."))

    def not_numbers(directory):
        path = directory / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")

    assert code(lambda _: None, model=stages.home / "nowhere") == "bad_model"
    assert code(config(peft_type="IA3")) == "unsupported_adapter"
    assert code(config(peft_type="LORA", layer_replication=[[0, 2]])) == "unsupported_adapter"
    assert code(renamed) == "pickled_weights"
    assert code(lambda d: (d / "adapter_config.json").unlink()) == "bad_model"
    assert code(lambda d: (d / "adapter_model.safetensors").unlink()) == "no_weights"
    assert code(lambda d: (d / "adapter_model.safetensors").write_bytes(b"x")) == "bad_model"
    assert code(other_names) == "unsupported_adapter"
    assert code(not_numbers) == "bad_adapter"


def test_sigterm_ends_a_merge(stages, bases):
    adapter = make(stages, bases["float32"], "plain") / "adapter"
    directory = stages.write(
        {"stage": "merge", "method": "", "base": bases["float32"], "adapter": adapter}
    )
    run = stages.start(directory, "merge")
    run.until(lambda run: (directory / "status.json").exists())
    os.kill(run.pid, signal.SIGTERM)
    assert stages.wait(run).code == 0
    assert run.status["state"] in {"stopped", "succeeded"}
