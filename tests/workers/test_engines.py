"""The engines themselves: how they are started, what their logs mean, and both run for real."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy.orm import Session

from app import storage
from app.accounts.tables import Workspace
from app.config import ROOT, settings
from app.deployments import service
from app.deployments.replicas import ReplicaFacts
from app.deployments.tables import Deployment, Replica
from app.models.service import STARTER_FILES, ensure_starter
from app.models.tables import Model
from app.queue import transaction
from tests.factories import make_model, make_node, make_workspace
from tests.workers import engine_loop
from tests.workers.engine_loop import ask, deploy, held, look, state, until
from workers import process
from workers.engines import transformers, vllm
from workers.engines.common import Start, cores

FACTS = ReplicaFacts(
    replica_id="rep_x", fence=1, name="mood", engine="auto", model="models/m", adapter=None, rank=0,
    parameters=500_000_000, max_model_len=2048, cache_bytes=2**28, devices=["cpu:1"], share=0.25,
)  # fmt: skip


def start(**more: Any) -> Start:
    values: dict[str, Any] = {
        "facts": FACTS, "model": Path("/store/m"), "adapter": None, "host": "127.0.0.1",
        "port": 4000, "secret": "s3cret", "directory": Path("/runs/rep_x-1"),
    }  # fmt: skip
    facts = {name: more.pop(name) for name in list(more) if name not in values}
    return Start(**values | {"facts": ReplicaFacts(**vars(FACTS) | facts)} | more)


def flags(argv: list[str]) -> dict[str, str]:
    """--name value, or "" for one that stands alone."""
    found = {}
    for index, word in enumerate(argv):
        if word.startswith("--"):
            after = argv[index + 1] if index + 1 < len(argv) else "--"
            found[word] = "" if after.startswith("--") else after
    return found


# -- vLLM's command line -----------------------------------------------------------------


def test_vllm_on_a_processor() -> None:
    command = vllm.command(start())
    found = flags(command.argv)
    assert command.argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    told = {"--served-model-name": "mood", "--host": "127.0.0.1", "--port": "4000"}
    assert found.items() >= (told | {"--kv-cache-memory-bytes": str(2**28)}).items()
    assert "--enforce-eager" in found
    assert not {"--enable-lora", "--gpu-memory-utilization", "--trust-remote-code"} & set(found)
    assert "s3cret" not in " ".join(command.argv)
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(len(cores(["cpu:1"])))}
    others = {"VLLM_RPC_BASE_PATH": "/runs/rep_x-1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    own = {"VLLM_API_KEY": "s3cret", "HF_HUB_OFFLINE": "1"}
    assert command.env.items() >= (threads | others | own).items()
    deep = vllm.command(start(directory=Path("/runs", "x" * 90)))
    assert "VLLM_RPC_BASE_PATH" not in deep.env  # a socket's path would be too long there
    assert "--enforce-eager" not in flags(vllm.command(start(parameters=7 * 10**9)).argv)


def test_vllm_with_an_adapter(tmp_path: Path) -> None:
    found = flags(vllm.command(start(adapter=Path("/store/a"), rank=16)).argv)
    assert found["--served-model-name"] == "mood:base"
    assert found["--lora-modules"] == "mood=/store/a"
    assert (found["--max-loras"], found["--max-lora-rank"]) == ("1", "16")
    assert "--generation-config" not in found
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    found = flags(vllm.command(start(adapter=tmp_path, rank=16)).argv)
    assert found["--generation-config"] == str(tmp_path)


def test_vllm_on_gpus() -> None:
    command = vllm.command(start(devices=["cuda:2", "cuda:3"], parameters=7 * 10**9, share=0.4))
    found = flags(command.argv)
    assert found["--gpu-memory-utilization"] == "0.400"
    assert found["--tensor-parallel-size"] == "2"
    assert "--kv-cache-memory-bytes" not in found
    assert command.env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert not {"VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING"} & set(command.env)


def test_every_device_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "cpu_devices", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5})
    assert cores(["cpu:0"]) == [0, 1]
    assert cores(["cpu:1"]) == [2, 3, 5]
    assert cores(["cpu:0", "cpu:1"]) == [0, 1, 2, 3, 5]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4})
    assert cores(["cpu:0"]) == cores(["cpu:1"]) == [4]


def test_transformers_command() -> None:
    command = transformers.command(start())
    found = flags(command.argv)
    assert (found["--name"], found["--max-model-len"], found["--device"]) == ("mood", "2048", "cpu")
    assert int(found["--blocks"]) * int(found["--page"]) == 8 * 2048
    assert "s3cret" not in " ".join(command.argv)
    with pytest.raises(ValueError, match="merge"):
        transformers.command(start(adapter=Path("/store/a")))


# -- what logs mean ----------------------------------------------------------------------

WORKER = "(Worker pid=12) INFO 11-21 01:54:52 "


def test_phases_go_forward_only() -> None:
    phase = vllm.phase("Triton is installed", "start")
    assert phase == "start"
    phase = vllm.phase(WORKER + "[cpu_model_runner.py:68] Starting to load model /m...", phase)
    assert phase == "load"
    phase = vllm.phase("torch.compile takes 21.5 s", phase)
    assert phase == "compile"
    assert vllm.phase("Starting to load model", phase) == "compile"
    phase = vllm.phase("GPU KV cache size: 5 tokens\nApplication startup complete.", phase)
    assert (phase, vllm.phase("Warming up", "check")) == ("warm", "check")
    assert transformers.phase("danlu: loading /m", "start") == "load"


CORE = "(EngineCore pid=9) ERROR 11-21 01:54:52 [core.py:900] "


@pytest.mark.parametrize(
    ("log", "code", "params", "permanent"),
    [
        (
            CORE + "ValueError: To serve at least one request with the model's max seq len (32768),"
            " (3.50 GiB KV cache is needed, which is larger than the available KV cache memory "
            "(1.2 GiB). Based on the available memory, the estimated maximum model length is 11216."
            " Try increasing",
            "context_too_long",
            {"asked": "32768", "need": "3.50", "suggested": "11216"},
            True,
        ),
        (
            CORE
            + "ValueError: Free memory on device cuda:0 (3.9/139.8 GiB) on startup is less than"
            " desired GPU memory utilization (0.4, 55.9 GiB).",
            "device_busy",
            {"free": "3.9", "total": "139.8"},
            False,
        ),
        (CORE + "ValueError: No available memory for the cache blocks. Try", "no_cache", {}, True),
        (
            CORE
            + "ValueError: Available memory on node 0 (2.1/24.0 GiB) on kv cache allocation is",
            "memory_busy",
            {"free": "2.1", "total": "24.0"},
            False,
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to", "out_of_memory", {}, False),
        (
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy",
            "sampler_memory",
            {},
            False,
        ),
        (
            "ValueError: Model architectures ['OddForCausalLM'] are not supported for now. Supp",
            "architecture",
            {"names": "'OddForCausalLM'"},
            True,
        ),
        (
            "  raise KeyError(name)\nKeyError: 'layers.9'\n\nRuntimeError: Engine core failed.",
            "engine_failed",
            {"error": "KeyError: 'layers.9'"},
            False,
        ),
        (WORKER + "all is well\n(Worker) WARNING x [a.py:1] Exception: odd", "died", {}, False),
        ("", "died", {}, False),
    ],
)
def test_errors_become_sentences(
    log: str, code: str, params: dict[str, str], permanent: bool
) -> None:
    found = vllm.explain("some line before\n" + log)
    assert (found["code"], found["params"]) == (code, params)
    assert found["permanent"] is permanent
    assert found["message"] % found["params"]
    assert found["advice"] % found["params"]


# -- for real ----------------------------------------------------------------------------


@pytest.fixture
def adapter_files(tmp_path: Path) -> Path:
    served = ROOT / "tests/workers/served.py"
    subprocess.run([settings.train_python, served, STARTER_FILES, tmp_path / "a"], check=True)
    return tmp_path / "a"


@pytest.fixture
def workspace(db: Session) -> Iterator[Workspace]:
    make_node(db, id=settings.node)
    made = make_workspace(db)
    end = engine_loop.clean()
    next(end)
    yield made
    next(end, None)


@pytest.fixture
def starter(db: Session, workspace: Workspace) -> Model:
    if not settings.train_python.exists():
        pytest.skip("the training environment is not built here")
    return ensure_starter(db)


def client(replica: Replica) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{replica.address}/v1", api_key=replica.secret, max_retries=0)


def chat(replica: Replica, text: str = "hello", **more: Any) -> Any:
    return client(replica).chat.completions.create(
        model="mood", messages=[{"role": "user", "content": text}], **{"max_tokens": 12} | more
    )


def streamed(replica: Replica, **more: Any) -> tuple[str, Any]:
    """The text of a stream, and its usage."""
    chunks = list(chat(replica, stream=True, stream_options={"include_usage": True}, **more))
    finished = [
        choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason
    ]
    assert len(finished) == 1
    assert chunks[-1].choices == []
    assert {chunk.model for chunk in chunks} == {"mood"}
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return text, chunks[-1].usage


@pytest.mark.timeout(600)
def test_transformers_for_real(db: Session, workspace: Workspace, starter: Model) -> None:
    deployment = deploy(db, workspace, starter, engine="transformers", max_model_len=512)
    until(lambda: state(deployment) == "ready", 400)
    replica = look(deployment)[1]

    whole = chat(replica, temperature=0)
    assert whole.model == "mood"
    text, usage = streamed(replica, temperature=0)
    assert len(text) > 3
    assert text == whole.choices[0].message.content
    assert usage.total_tokens == whole.usage.total_tokens
    assert [model.id for model in client(replica).models.list()] == ["mood"]

    # each request keeps its own temperature, also side by side
    with ThreadPoolExecutor(8) as together:
        cold = [together.submit(chat, replica, temperature=0) for _ in range(4)]
        warm = [together.submit(chat, replica, temperature=2, max_tokens=40) for _ in range(4)]
    assert {one.result().choices[0].message.content for one in cold} == {
        whole.choices[0].message.content
    }
    assert len({one.result().choices[0].message.content for one in warm}) == 4

    refuses(replica)
    assert replica.pid is not None
    assert len(process.members(replica.pid, replica.pid_started or 0.0)) == 1
    with transaction() as own:
        service.delete(own, workspace.id, deployment.id)
    until(lambda: state(deployment) == "stopped", 60)


def refuses(replica: Replica) -> None:
    """What it cannot do is refused in OpenAI's shape, and harmless fields are taken."""
    for field, value in {
        "logprobs": True, "n": 2, "stop": ["x"], "response_format": {"type": "json_object"},
    }.items():  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refusal:
            chat(replica, **{field: value})
        assert refusal.value.body["type"] == "invalid_request_error"
        assert refusal.value.param == field
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512"):
        chat(replica, max_tokens=600)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512"):
        chat(replica, text="long " * 600)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{replica.address}/v1", api_key="x").models.list()
    injected = {"chat_template": "{{ 1/0 }}", "generation_config": "{}", "reasoning_effort": "low"}
    assert chat(replica, n=1, user="me", extra_body=injected).choices
    assert (
        chat(replica, extra_body={"ignore_eos": True}, max_tokens=60).usage.completion_tokens == 60
    )


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_an_adapter_on_its_base_with_vllm(
    db: Session, workspace: Workspace, starter: Model, adapter_files: Path
) -> None:
    """The adapter's name answers otherwise than the base; killing the server leaves no engine."""
    if not settings.serve_python.exists():
        pytest.skip("the serving environment is not built here")
    storage.put(adapter_files, "models/tiny-adapter")
    adapter = make_model(
        db, workspace, kind="adapter", base_id=starter.id, parent_id=starter.id,
        artefact="models/tiny-adapter", size=300_000,
    )  # fmt: skip
    deployment = deploy(db, workspace, adapter, max_model_len=512)
    assert deployment.mode == "adapter"
    phases = set()

    def is_ready() -> bool:
        if now := engine_loop.replica_of(deployment):
            phases.add(now.phase)
        return state(deployment) == "ready"

    until(is_ready, 800)
    replica = look(deployment)[1]
    assert replica.engine == "vllm"
    assert {"start", "load"} <= phases
    tuned = ask(replica, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    plain = ask(replica, model="mood:base", logprobs=True).json()["choices"][0]["logprobs"]
    assert tuned[0] != plain["content"][0]
    text, usage = streamed(replica, temperature=0)
    whole = chat(replica, temperature=0)
    assert text == whole.choices[0].message.content
    assert usage.total_tokens == whole.usage.total_tokens
    with pytest.raises(openai.BadRequestError, match="512"):
        chat(replica, max_tokens=100_000)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{replica.address}/v1", api_key="x").models.list()

    assert replica.pid is not None
    assert len(process.members(replica.pid, replica.pid_started or 0.0)) > 2
    os.kill(replica.pid, signal.SIGKILL)
    until(lambda: state(deployment) == "error", 120)
    assert process.attempts() == {}  # no VLLM::EngineCore is left over
    assert held(db) == 0
    with transaction() as own:
        service.delete(own, workspace.id, deployment.id)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_an_adapter_stops_where_it_learned_to(
    db: Session, workspace: Workspace, starter: Model, adapter_files: Path
) -> None:
    """Its own generation config counts, not its base's: here, every token ends the turn."""
    if not settings.serve_python.exists():
        pytest.skip("the serving environment is not built here")
    ends = json.dumps({"eos_token_id": list(range(4096))})
    (adapter_files / "generation_config.json").write_text(ends)
    storage.put(adapter_files, "models/short-adapter")
    adapter = make_model(
        db, workspace, kind="adapter", base_id=starter.id, parent_id=starter.id,
        artefact="models/short-adapter", size=300_000,
    )  # fmt: skip
    deployment = deploy(db, workspace, adapter, max_model_len=512)
    until(lambda: state(deployment) == "ready", 800)
    whole = chat(look(deployment)[1], temperature=0)
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("stop", 1)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_vllm_says_how_long_a_context_fits(
    db: Session, workspace: Workspace, tmp_path: Path
) -> None:
    """A cache too small for the context: told with the length that does fit, and not repeated."""
    if not settings.serve_python.exists():
        pytest.skip("the serving environment is not built here")
    shutil.copytree(STARTER_FILES, tmp_path / "long")
    config = json.loads((tmp_path / "long" / "config.json").read_text())
    config["max_position_embeddings"] = 2**20
    (tmp_path / "long" / "config.json").write_text(json.dumps(config))
    storage.put(tmp_path / "long", "models/long")
    model = make_model(
        db, artefact="models/long", parameters=500_000, size=2_000_000, context_length=2**20
    )
    deployment = deploy(db, workspace, model, engine="vllm")
    with transaction() as own:  # as if the estimate had been wrong
        mine = own.get_one(Deployment, deployment.id)
        mine.max_model_len = 2**20
    until(lambda: state(deployment) == "error", 800)
    error = look(deployment)[1].error
    assert error is not None
    assert error["code"] == "context_too_long"
    assert 1000 < int(error["params"]["suggested"]) < 2**20
    assert look(deployment)[1].state == "error"
    assert process.attempts() == {}
