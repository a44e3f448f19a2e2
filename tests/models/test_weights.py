"""Model files are hostile: what they say is checked before anything believes it."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.models.weights import inspect
from tests.models.files import write_adapter, write_model, write_safetensors


def test_facts_of_a_base_model(tmp_path: Path) -> None:
    facts = inspect(write_model(tmp_path))
    assert facts == {
        "architecture": "Qwen3ForCausalLM",
        "parameters": 6,
        "context_length": 2048,
        "size": sum(path.stat().st_size for path in tmp_path.iterdir()),
        "adapter": False,
        "templated": True,
    }


def test_facts_of_an_adapter(tmp_path: Path) -> None:
    facts = inspect(write_adapter(tmp_path))
    assert (facts["adapter"], facts["architecture"], facts["parameters"]) == (True, "", 6)


def test_context_length_of_a_model_with_an_inner_text_model(tmp_path: Path) -> None:
    write_model(tmp_path, max_position_embeddings=None, text_config={"max_position_embeddings": 77})
    assert inspect(tmp_path)["context_length"] == 77


def test_shards_are_summed(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        write_safetensors(tmp_path / name)
    index = {"weight_map": dict(zip(("a", "b"), names, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert inspect(tmp_path)["parameters"] == 12
    (tmp_path / names[1]).unlink()
    with pytest.raises(Invalid, match=r"model-00002-of-00002.safetensors” is missing"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "data", "why"),
    [
        ({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 20]}}, b"\0" * 20, "do not agree"),
        ({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 24]}}, None, "do not agree"),
        ({"w": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}, None, "do not agree"),
        ({"w": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}}, None, "do not agree"),
        ({"w": {"dtype": "F32", "shape": [True, 6], "data_offsets": [0, 24]}}, None, "do not agree"),
        ({"w": {"dtype": "OBJECT", "shape": [6], "data_offsets": [0, 24]}}, None, "do not agree"),
        ({"w": {"dtype": ["F32"], "shape": [6], "data_offsets": [0, 24]}}, None, "do not agree"),
        ({"w": {"dtype": "F32", "shape": [6]}}, None, "do not agree"),
        ({"w": "F32"}, None, "do not agree"),
        ({"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}, b"\0" * 30, "leave gaps"),
        ({"w": {"dtype": "F32", "shape": [6], "data_offsets": [8, 32]}}, b"\0" * 32, "leave gaps"),
        ({name: {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]} for name in "ab"}, None, "overlap"),
    ],
)  # fmt: skip
def test_a_lying_header_is_refused(
    tmp_path: Path, tensors: dict[str, Any], data: bytes | None, why: str
) -> None:
    write_model(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", tensors, data)
    with pytest.raises(Invalid, match=why) as caught:
        inspect(tmp_path)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 50_000_000) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xfe\0\0",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        b"\x80\x04\x95pickle",
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(Invalid, match="not a sound safetensors file"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "JSON object"),
        ("{}", "which architecture"),
        ('{"architectures": "x"}', "which architecture"),
        ('{"architectures": ["os.system(1)"]}', "which architecture"),
        ('{"architectures": ["A"], "max_position_embeddings": -1}', "positive number"),
        ('{"architectures": ["A"], "max_position_embeddings": 1e300}', "positive number"),
        ('{"architectures": ["A"], "max_position_embeddings": 99999999999}', "positive number"),
        ('{"architectures": ["A"], "auto_map": {"AutoModel": "x.py"}}', "bring code"),
        (" " * 4_000_001, "too large"),
    ],
)
def test_a_bad_config_is_refused(tmp_path: Path, text: str, why: str) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Invalid, match=why):
        inspect(tmp_path)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "x.pt", "a/b.PKL", "modeling_evil.py", "weights.ckpt"]
)
def test_formats_that_run_code_are_refused(tmp_path: Path, name: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(Invalid, match="can run code"):
        inspect(tmp_path)


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "passwd.json").symlink_to("/etc/passwd")
    with pytest.raises(Invalid, match="a link"):
        inspect(tmp_path)
    (tmp_path / "passwd.json").unlink()
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(Invalid, match="not a plain file"):
        inspect(tmp_path)


def test_an_index_that_leaves_the_directory_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    index = {"weight_map": {"w": "../../etc/passwd"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Invalid, match="is missing"):
        inspect(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Invalid, match="no weights"):
        inspect(tmp_path)
