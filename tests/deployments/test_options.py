"""The allowlist of engine arguments, and how models may be quantised."""

import re
from typing import Any

import pytest

from app.config import ROOT
from app.deployments import options
from app.errors import Invalid

VLLM = ROOT / ".venv-serve/lib/python3.11/site-packages/vllm"


def test_values_get_their_types() -> None:
    given = {
        "max_num_seqs": "16", "enable_prefix_caching": "false", "dtype": "bfloat16", "seed": 7,
        "enforce_eager": True, "max_logprobs": "", "reasoning_parser": None,
    }  # fmt: skip
    found = options.check(given, engine="vllm", kind="cpu")
    assert found == {
        "max_num_seqs": 16, "enable_prefix_caching": False, "dtype": "bfloat16", "seed": 7,
        "enforce_eager": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trust_remote_code", True),
        ("host", "0.0.0.0"),
        ("api_key", "x"),
        ("allowed_local_media_path", "/"),
        ("chat_template", "/etc/passwd"),
        ("middleware", "os.system"),
        ("download_dir", "/"),
        ("max-num-seqs", 1),
        ("max_num_seqs", 0),
        ("max_num_seqs", 4096),
        ("max_num_seqs", "1 --trust-remote-code"),
        ("max_num_seqs", True),
        ("max_num_seqs", 1.5),
        ("max_num_seqs", "９"),
        ("enable_prefix_caching", "maybe"),
        ("dtype", "--host"),
        ("tool_call_parser", "../../x"),
        ("x" * 500, 1),
    ],
)
def test_all_else_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Invalid) as refusal:
        options.check({name: value}, engine="vllm", kind="cpu")
    assert refusal.value.field == f"arguments.{name[:60]}"
    assert name[:60] in str(refusal.value)


def test_only_what_engine_and_device_can() -> None:
    for given, engine, kind in (
        ({"kv_cache_dtype": "fp8"}, "vllm", "cpu"),
        ({"max_num_seqs": 1}, "transformers", "cuda"),
    ):
        with pytest.raises(Invalid):
            options.check(given, engine=engine, kind=kind)
    assert options.check({"kv_cache_dtype": "fp8"}, engine="vllm", kind="cuda")
    assert options.kind_for("", {"kv_cache_dtype": "fp8"}) == "cuda"
    assert options.kind_for("", {"max_num_seqs": 1}) is None


def test_quantising() -> None:
    gpu = options.offered(engine="vllm", kind="cuda", config={})
    assert gpu[0] == "fp8_per_tensor"
    assert options.offered(engine="vllm", kind="cpu", config={}) == []
    assert options.offered(engine="transformers", kind="cuda", config={}) == []
    made = {"quantization_config": {"quant_method": "awq"}}
    assert options.offered(engine="vllm", kind="cuda", config=made) == []
    options.check_quantization("fp8_per_tensor", gpu, {})
    options.check_quantization("", [], {})
    for name, can, config in (
        ("bitsandbytes", gpu, {}),
        ("fp8_per_tensor", [], {}),
        ("x", [], made),
    ):
        with pytest.raises(Invalid) as refusal:
            options.check_quantization(name, can, config)
        assert refusal.value.field == "quantization"


def test_flags() -> None:
    found = options.argv(
        {"max_num_seqs": 4, "enable_prefix_caching": False, "enforce_eager": True,
         "enable_chunked_prefill": True, "tool_call_parser": "hermes"}
    )  # fmt: skip
    assert found == [
        "--max-num-seqs", "4", "--no-enable-prefix-caching", "--enforce-eager",
        "--enable-chunked-prefill", "--tool-call-parser", "hermes", "--enable-auto-tool-choice",
    ]  # fmt: skip
    assert options.argv({"enforce_eager": False}) == []
    with pytest.raises(KeyError):
        options.argv({"trust_remote_code": True})


def test_the_vllm_we_ship_knows_them_all() -> None:
    flags = (VLLM / "engine/arg_utils.py").read_text()
    front = (VLLM / "entrypoints/launchers/cli_args.py").read_text()
    for argument in options.ARGUMENTS.values():
        known = f'"{argument.flag}"' in flags or f"    {argument.name}: " in front
        assert known, argument.name
    for names, where in (
        (options.TOOL_PARSERS, "tool_parsers"),
        (options.REASONING_PARSERS, "reasoning"),
    ):
        known = re.findall(
            r'^    "([\w.-]+)": \(', (VLLM / where / "__init__.py").read_text(), re.MULTILINE
        )
        assert set(names) <= set(known)
    methods = (VLLM / "model_executor/layers/quantization/__init__.py").read_text()
    assert all(f'"{name}"' in methods for name in options.QUANTIZATIONS)
    assert "bitsandbytes" not in methods  # offer it when vLLM takes it again
