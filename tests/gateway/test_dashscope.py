"""DashScope's API with the stock package, 1.x and 2.x, against a real run and a real engine."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import dashscope
import httpx
import pytest
from dashscope.v2.errors import BadRequestError, NotFoundError
from openai import OpenAI

from tests.gateway.packages import DASHSCOPE_1, place
from tests.gateway.rows import chats
from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)
MODEL = "danlu-starter"
HELLO = [{"role": "user", "content": "你好"}]
WALK = Path(__file__).with_name("dashscope_walk.py")


@pytest.fixture
def client(stack: Stack) -> dashscope.Client:
    return dashscope.Client(api_key=stack.api_key, base_url=f"{stack.url}/dashscope/api/v1")


def walk(stack: Stack, served: str, tmp_path: Path, **env: str) -> dict[str, str]:
    """The walk, in a process of its own."""
    rows = tmp_path / "reviews.jsonl"
    rows.write_bytes(chats(16))
    done = subprocess.run(
        [sys.executable, WALK, rows, MODEL, served],
        env=os.environ
        | env
        | {
            "DASHSCOPE_API_KEY": stack.api_key,
            "DASHSCOPE_HTTP_BASE_URL": f"{stack.url}/dashscope/api/v1",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{stack.tail()}"
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_version_1_walks(stack: Stack, served: str, tmp_path: Path) -> None:
    seen = walk(stack, served, tmp_path, PYTHONPATH=str(place(*DASHSCOPE_1)))
    assert seen["version"].startswith("1.")


@pytest.mark.slow  # the same once more
def test_version_2_walks_by_its_old_names(stack: Stack, served: str, tmp_path: Path) -> None:
    assert walk(stack, served, tmp_path)["version"].startswith("2.")


def test_version_2_answers(client: dashscope.Client, served: str) -> None:
    answer = client.chat.completions.create(model=served, messages=HELLO, max_tokens=8, seed=1)
    assert answer.output_text
    assert 0 < answer.usage.output_tokens <= 8
    asked = {"model": served, "messages": HELLO, "max_tokens": 8}
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].usage.total_tokens > 0
    with pytest.raises(NotFoundError) as caught:
        client.chat.completions.create(model="nothing", messages=HELLO)
    assert caught.value.code == "Model.NotExist"


def test_version_2_tunes(client: dashscope.Client, tmp_path: Path) -> None:
    rows = tmp_path / "reviews.jsonl"
    rows.write_bytes(chats(16))
    file = client.files.upload(file_path=str(rows), description="reviews")
    assert client.files.get(file.file_id).name == "reviews.jsonl"
    assert client.files.list(page_size=50).total_count >= 1
    job = client.fine_tunes.create(
        model=MODEL,
        training_file_ids=file.file_id,
        mode="efficient_sft",
        hyper_parameters={"n_epochs": 2, "batch_size": 4, "split": 0.75, "lora_rank": 4},
        finetuned_model="reviews-by-dashscope",
    )
    assert (job.status, job.is_error) == ("PENDING", False)
    done = client.fine_tunes.wait(job, poll_interval=0.3, max_interval=0.5, timeout=200)
    assert done.succeeded
    assert done.finetuned_model.startswith("reviews-by-dashscope")
    assert done.hyper_parameters["lora_rank"] == 4
    assert "step" in client.fine_tunes.logs(job.job_id).content
    events = list(client.fine_tunes.stream_events(job.job_id))
    assert events[-1].output == {"type": "status", "status": "SUCCEEDED"}
    assert client.models.get(done.finetuned_model).source == "custom"
    kept = raw(client, f"/fine-tunes/{job.job_id}/checkpoints")["output"]
    assert [one["checkpoint"] for one in kept][-1].startswith("checkpoint-")
    assert kept[-1]["status"] == "PENDING"
    exported = raw(
        client, f"/fine-tunes/{job.job_id}/export/{kept[-1]['checkpoint']}?model_name=exported"
    )
    assert exported["output"] is True
    assert client.files.delete(file.file_id).deleted
    with pytest.raises(NotFoundError):
        client.files.get(file.file_id)


def raw(client: dashscope.Client, path: str) -> dict:
    """What the package has no method for."""
    config = client._config
    headers = {"authorization": f"Bearer {config.api_key}"}
    return httpx.get(config.base_url + path, headers=headers).raise_for_status().json()


def test_what_cannot_be_asked_is_refused(client: dashscope.Client, tmp_path: Path) -> None:
    rows = tmp_path / "reviews.jsonl"
    rows.write_bytes(chats(16))
    file = client.files.upload(file_path=str(rows)).file_id
    for given, said in (
        ({"lora_dropout": 5}, "hyper_parameters.lora_dropout"),
        ({"lr_scheduler_type": "polynomial"}, "cosine"),
        ({"colour": "red"}, "n_epochs"),
        ({"augmentation_types": "nlp"}, "not available"),
        ({"split": 2}, "share of rows"),
    ):
        with pytest.raises(BadRequestError) as caught:
            client.fine_tunes.create(model=MODEL, training_file_ids=file, hyper_parameters=given)
        assert caught.value.code == "InvalidParameter"
        assert said in caught.value.message
    with pytest.raises(NotFoundError):
        client.fine_tunes.create(model="nothing", training_file_ids=file)
    with pytest.raises(NotFoundError):
        client.fine_tunes.get("ft-202511210000-unknown")
    client.files.delete(file)


def test_the_asynchronous_client(stack: Stack, served: str) -> None:
    async def ask() -> None:
        client = dashscope.AsyncClient(
            api_key=stack.api_key, base_url=f"{stack.url}/dashscope/api/v1"
        )
        answer = await client.chat.completions.create(model=served, messages=HELLO, max_tokens=4)
        assert answer.output_text
        listed = await client.deployments.list(page_size=50)
        assert served in [one.deployed_model for one in listed.deployments]
        models = await client.models.list(page_size=50)
        assert MODEL in [one.model for one in models.models]

    asyncio.run(ask())


def test_the_compatible_mode_is_v1(stack: Stack, served: str) -> None:
    client = OpenAI(
        base_url=f"{stack.url}/dashscope/compatible-mode/v1", api_key=stack.api_key, max_retries=0
    )
    assert served in [one.id for one in client.models.list()]
    answer = client.chat.completions.create(model=served, messages=HELLO, max_tokens=4)
    assert answer.choices[0].message.content
    file = client.files.create(file=("a.jsonl", chats(2)), purpose="fine-tune")
    assert client.files.content(file.id).read() == chats(2)
    client.files.delete(file.id)


@pytest.mark.slow  # an engine starts
def test_deploy_a_tuned_model_call_it_scale_it_and_delete_it(
    client: dashscope.Client, stack: Stack, tmp_path: Path
) -> None:
    rows = tmp_path / "reviews.jsonl"
    rows.write_bytes(chats(16))
    file = client.files.upload(file_path=str(rows)).file_id
    job = client.fine_tunes.create(
        model=MODEL,
        training_file_ids=file,
        mode="efficient_sft",
        hyper_parameters={"n_epochs": 1},
    )
    tuned = client.fine_tunes.wait(job, poll_interval=0.5, max_interval=1).finetuned_model
    made = client.deployments.create(model=tuned, capacity=1, plan="mu", suffix="a1")
    assert made.deployed_model.endswith("-a1")
    with pytest.raises(BadRequestError) as caught:
        client.deployments.create(model=tuned, capacity=1, plan="mu", suffix="a1")
    assert (caught.value.code, "specify a suffix" in caught.value.message) == ("Conflict", True)
    events = list(client.deployments.stream_events(made.deployed_model))
    assert events[-1].output["status"] == "RUNNING", f"{events[-1]}\n{stack.tail()}"
    answer = client.chat.completions.create(model=made.deployed_model, messages=HELLO, max_tokens=4)
    assert answer.output_text
    more = client.deployments.scale(made.deployed_model, capacity=2)
    assert (more.capacity, more.ready_capacity) == (2, 1)
    fewer = client.deployments.scale(made.deployed_model, capacity=1)
    assert (fewer.capacity, fewer.status) == (1, "RUNNING")
    shared = client.deployments.create(model=tuned, capacity=1, plan="lora", suffix="b1")
    *_, last = client.deployments.stream_events(shared.deployed_model)
    assert last.output["status"] == "RUNNING"
    with pytest.raises(BadRequestError):  # its base's engine carries it
        client.deployments.scale(shared.deployed_model, capacity=2)
    client.deployments.delete(shared.deployed_model)
    assert client.deployments.delete(made.deployed_model).status == "DELETING"
    with pytest.raises(NotFoundError):
        client.deployments.get(made.deployed_model)
