"""An embedding model, from its files to `/v1/embeddings`: through vLLM, as transformers has it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from app.config import ROOT, settings
from app.deployments import runners
from tests.stack import Stack

BUILD = ROOT / "tests" / "gateway" / "embedder.py"
ORACLE = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer
words, model = (kind.from_pretrained(sys.argv[1]) for kind in (AutoTokenizer, AutoModel))
for text in sys.argv[2:]:
    with torch.no_grad():
        found = model(**words(text, return_tensors="pt")).last_hidden_state[0].mean(0)
    print(json.dumps((found / found.norm()).tolist()))
"""
TEXTS = ["你好", "质量很差!", "hello 123"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("embedder")
    subprocess.run([settings.train_python, BUILD, target], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def embedder(stack: Stack, files: Path) -> Iterator[str]:
    """Imported as a zip and deployed: its name at /v1."""
    archive = Path(shutil.make_archive(str(files), "zip", files)).read_bytes()
    with stack.api() as api:
        about = {"file_name": "embedder.zip", "size": len(archive)}
        upload = api.post("/api/v1/uploads", json=about).raise_for_status().json()["id"]
        piece = {"upload-offset": "0", "content-type": "application/offset+octet-stream"}
        api.patch(f"/api/v1/uploads/{upload}", content=archive, headers=piece).raise_for_status()
        asked = {"uploads": [upload], "name": "embedder"}
        begun = api.post("/api/v1/models", json=asked).raise_for_status().json()
        stack.wait(f"/models/imports/{begun['id']}", until=("succeeded", "failed"), seconds=60)
        made = api.post("/api/v1/deployments", json={"name": "vectors", "model": "embedder"})
        assert made.status_code == 201, made.text
        found = stack.wait(f"/deployments/{made.json()['id']}", until=("ready", "error"))
        assert found["state"] == "ready", f"{found}\n{stack.tail()}"
        assert found["arguments"] == {"runner": "pooling"}
        yield "vectors"
        api.delete(f"/api/v1/deployments/{found['id']}").raise_for_status()


@pytest.mark.slow  # an engine of its own
@pytest.mark.timeout(600)
def test_embeddings_are_those_of_transformers(stack: Stack, embedder: str, files: Path) -> None:
    client = OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0)
    answer = client.embeddings.create(model=embedder, input=TEXTS)  # base64, which it decodes
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    said = subprocess.run(
        [settings.train_python, "-c", ORACLE, files, *TEXTS], check=True, capture_output=True
    )
    wanted = [json.loads(line) for line in said.stdout.splitlines()]
    for one, other in zip(answer.data, wanted, strict=True):
        assert sum(a * b for a, b in zip(one.embedding, other, strict=True)) > 0.999
    plain = client.embeddings.create(model=embedder, input=TEXTS[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=0.02)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=embedder, messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "endpoint_not_supported"
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=embedder, input="x " * 500)  # too long


def test_how_vectors_become_one(files: Path) -> None:
    """Of the folder as it came, and as an import keeps it: without folders."""

    def read(name: str) -> bytes:
        kept = {runners.kept_as("1_Pooling"): "1_Pooling/config.json"}
        return (files / kept.get(name, name)).read_bytes()

    assert runners.pooler(read) == {"seq_pooling_type": "MEAN", "use_activation": True}
    newer = {"pooling_mode": "lasttoken"}
    said = {
        "modules.json": [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}],
        "1_Pooling.config.json": newer,
    }
    assert runners.pooler(lambda name: json.dumps(said[name]).encode()) == {
        "seq_pooling_type": "LAST", "use_activation": False,
    }  # fmt: skip
    for broken in ({}, {"modules.json": "x"}, {"modules.json": [1, {"type": 2}]}):

        def bad(name: str, broken: dict = broken) -> bytes:
            if name not in broken:
                raise FileNotFoundError
            return json.dumps(broken[name]).encode()

        assert runners.pooler(bad) == {}
