"""The exporting stage, held to what transformers, peft and llama.cpp compute."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ROOT
from tests.workers.stage_runs import Ran, Stages

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine
STARTER = ROOT / "workers/starter/model"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": {"kind": "llama"},
    "llama3": {"kind": "llama", "tied": False, "config": {"rope_parameters": LLAMA3}},
    "mistral": {"kind": "mistral", "tied": False, "config": {"sliding_window": None}},
    "qwen2": {"kind": "qwen2", "dtype": "bfloat16"},
    "qwen3": {"kind": "qwen3"},
}


@pytest.fixture(scope="module")
def model(stages: Stages):
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = stages.model(**MODELS[name])
        return made[name]

    return get


def export(stages: Stages, base: Path, form: str = "f16", adapter: Path | None = None) -> Ran:
    run = stages.run(stage="export", method="", base=base, adapter=adapter, format=form)
    assert run.code == 0, run.log
    return run


def call(stages: Stages, module: str, *arguments: object) -> None:
    log = stages.home / "oracle.log"
    code = stages.ask(stages.ask([module, [str(argument) for argument in arguments], str(log)]))
    assert code == 0, log.read_text()[-3000:]


@pytest.mark.parametrize(
    ("name", "form"),
    [("llama3", "f16"), ("mistral", "q8_0"), ("qwen2", "q8_0"), ("qwen3", "f16")],
)
def test_every_tensor_is_there_in_llama_cpps_form(stages, model, name, form):
    run = export(stages, model(name), form)
    gguf = run.directory / "export/model.gguf"
    call(stages, "tests.workers.export_oracle", "tensors", model(name), "-", gguf, form)
    assert run.result["bytes"] == gguf.stat().st_size
    assert run.status["step"] == run.status["total"]
    assert not (run.directory / "export.partial").exists()


def test_an_adapter_is_exported_with_its_base(stages, model):
    base, made = model("llama"), stages.new("dora")
    call(stages, "tests.workers.merge_oracle", base, "dora", made)
    run = export(stages, base, "f16", made / "adapter")
    gguf = run.directory / "export/model.gguf"
    call(stages, "tests.workers.export_oracle", "tensors", base, made / "adapter", gguf, "f16")


def test_a_modelfile_says_what_ollama_needs(stages):
    run = export(stages, STARTER, "q8_0")
    text = (run.directory / "export/Modelfile").read_text()
    assert text.startswith("FROM ./model.gguf\n")
    assert 'eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n' in text
    assert '{{ if and $last (ne .Role "assistant") }}<|im_start|>assistant\n{{ end }}' in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "PARAMETER temperature 0.3" in text
    assert "PARAMETER num_ctx 2048" in text
    assert run.events["warning"]["params"]["name"] == "qwen2"  # its way to split text has no name


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"kind": "gpt2"}, "GPT2LMHeadModel"),
        ({"kind": "mistral", "config": {"sliding_window": 64}}, "sliding_window = 64"),
        (
            {"config": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}},
            "rope_type = 'dynamic'",
        ),
    ],
)
def test_what_llama_cpp_has_no_match_for_is_refused_by_name(stages, options, found):
    base = stages.model(**options)
    run = stages.run(stage="export", method="", base=base, format="f16")
    assert run.code == 1
    assert run.status["error"]["code"] == "unsupported_export"
    assert found in run.status["error"]["params"]["found"]
    assert not (run.directory / "export").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llama", "llama3", "mistral", "qwen2", "qwen3", "starter", "lora"]
)
def test_llama_cpp_answers_as_transformers_does(stages, model, name):
    base = STARTER if name == "starter" else model("qwen3" if name == "lora" else name)
    adapter = None
    if name == "lora":
        made = stages.new("lora")
        call(stages, "tests.workers.merge_oracle", base, "rslora", made)
        adapter = made / "adapter"
    run = export(stages, base, "f16", adapter)
    prompt = "<|im_start|>user\n面条很好吃，服务也不错。Is it good? 12<|im_end|>\n<|im_start|>assistant\n"
    said = run.directory / "said.json"
    script = ROOT / "tests/workers/llama_cpp.py"
    gguf = run.directory / "export/model.gguf"
    subprocess.run([sys.executable, script, gguf, prompt, said], check=True, timeout=100)
    assert len(json.loads(said.read_text())["tokens"]) == 24
    call(stages, "tests.workers.export_oracle", "greedy", base, adapter or "-", said)
