"""OpenAI's fine-tuning with the stock client, through a real run."""

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.gateway.packages import OPENAI_1, place
from tests.gateway.rows import chats, jsonl, pairs
from tests.stack import Stack, let_go

pytestmark = pytest.mark.timeout(300)
MODEL = "danlu-starter"
WALK = Path(__file__).with_name("openai_walk.py")
OVER = ("succeeded", "failed", "cancelled")


@pytest.fixture
def client(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=2)


def upload(client: OpenAI, content: bytes, name: str = "reviews.jsonl") -> str:
    return client.files.create(file=(name, content), purpose="fine-tune").id


def wait(client: OpenAI, job_id: str, seconds: float = 200) -> Any:
    end = time.monotonic() + seconds
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in OVER:
            return job
        assert time.monotonic() < end, job
        time.sleep(0.3)


def delete(client: OpenAI, name: str, seconds: float = 30) -> bool:
    """Once its adapter is unloaded."""
    end = time.monotonic() + seconds
    while True:
        try:
            return client.models.delete(name).deleted
        except openai.BadRequestError as error:
            if error.code != "model_in_use" or time.monotonic() > end:
                raise
        time.sleep(0.3)


def test_upload_tune_look_and_call(client: OpenAI, stack: Stack, served: str) -> None:
    """The whole life: what the client is told is checked at each step."""
    training, validation = upload(client, chats(24)), upload(client, chats(4), "check.jsonl")
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=training,
        validation_file=validation,
        suffix="reviews",
        seed=7,
        metadata={"team": "a", "run": "1"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 6}},
        },
    )
    assert job.id.startswith("ftjob-")
    assert (job.object, job.status, job.model) == ("fine_tuning.job", "validating_files", MODEL)
    assert (job.training_file, job.validation_file, job.seed) == (training, validation, 7)
    assert job.hyperparameters.learning_rate_multiplier == "auto"
    assert job.fine_tuned_model is None

    done = wait(client, job.id)
    assert done.status == "succeeded", f"{done}\n{stack.tail()}"
    assert done.error is None
    assert done.finished_at >= done.created_at
    assert done.trained_tokens > 0
    chosen = done.method.supervised.hyperparameters
    assert (chosen.n_epochs, chosen.batch_size) == (2, 6)
    assert chosen.learning_rate_multiplier == 1.0
    prefix, base, _, suffix, identifier = done.fine_tuned_model.split(":")
    assert (prefix, base, suffix, len(identifier)) == ("ft", MODEL, "reviews", 20)

    rows = list(csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text)))
    names = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert list(rows[0]) == names.split(",")
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 9)]
    assert all(float(row["train_loss"]) > 0 for row in rows)
    assert float(rows[-1]["valid_loss"]) > 0
    assert rows[0]["valid_loss"] == ""
    assert client.files.retrieve(done.result_files[0]).purpose == "fine-tune-results"

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))  # all pages
    assert len({event.id for event in events}) == len(events)
    told = [event.message for event in reversed(events)]
    assert told[0] == f"Created fine-tuning job: {job.id}"
    assert told[1] == f"Validating training file: {training} and validation file: {validation}"
    assert told[2] == "Files validated, moving job to queued state"
    assert "Fine-tuning job started" in told
    assert told[-2:] == [
        f"New fine-tuned model created: {done.fine_tuned_model}",
        "The job has successfully completed",
    ]
    metrics = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in metrics] == list(range(8, 0, -1))
    assert metrics[0].data["total_steps"] == 8
    assert "validation loss" in metrics[0].message

    kept = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert kept[0].object == "fine_tuning.job.checkpoint"
    assert [one.step_number for one in kept] == [8, 4]
    assert all(one.metrics.train_loss > 0 for one in kept)
    assert kept[0].fine_tuned_model_checkpoint == done.fine_tuned_model
    assert kept[1].fine_tuned_model_checkpoint.endswith(":ckpt-step-4")

    listed = [one.id for one in client.fine_tuning.jobs.list(metadata={"team": "a"})]
    assert job.id in listed
    assert job.id not in [one.id for one in client.fine_tuning.jobs.list(metadata={"team": "b"})]
    assert done.fine_tuned_model in [one.id for one in client.models.list()]
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model

    hello: Any = [{"role": "user", "content": "质量很好。"}]
    answer = client.chat.completions.create(  # nobody has deployed it: it goes onto its base
        model=done.fine_tuned_model, messages=hello, max_tokens=4
    )
    assert answer.usage
    assert answer.usage.completion_tokens > 0
    assert answer.model != served
    let_go(stack, done.fine_tuned_model)

    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)
    again = client.fine_tuning.jobs.create(model=done.fine_tuned_model, training_file=training)
    client.fine_tuning.jobs.cancel(again.id)
    while (gone := wait(client, again.id)).finished_at is None:
        time.sleep(0.3)
    assert gone.status == "cancelled"
    assert delete(client, done.fine_tuned_model) is True
    with pytest.raises(openai.NotFoundError):
        client.models.delete(done.fine_tuned_model)


def test_a_bad_file_fails_the_job_with_its_lines(client: OpenAI) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}] * 2
    bad = upload(client, chats(10) + jsonl(rows))
    for _ in range(2):  # the second time the verdict is known
        job = wait(client, client.fine_tuning.jobs.create(model=MODEL, training_file=bad).id, 60)
        assert job.status == "failed"
        assert (job.error.code, job.error.param) == ("invalid_file_format", "training_file")
        assert "Line 11: messages[1].content" in job.error.message
        assert "line 12" in job.error.message
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert (events[0].level, events[0].message) == ("error", job.error.message)
    assert client.files.retrieve(bad).status == "error"


def test_too_few_rows_and_rows_of_another_kind(client: OpenAI) -> None:
    few = client.fine_tuning.jobs.create(model=MODEL, training_file=upload(client, chats(3)))
    kind = client.fine_tuning.jobs.create(
        model=MODEL, training_file=upload(client, chats(12)), method={"type": "dpo"}
    )
    failed = wait(client, few.id, 60)
    assert failed.error.code == "invalid_n_examples"
    assert "has 3 example(s), but must have at least 10" in failed.error.message
    failed = wait(client, kind.id, 60)
    assert (failed.error.code, failed.error.param) == ("wrong_kind", "training_file")


def test_what_cannot_be_asked_is_refused_at_once(client: OpenAI) -> None:
    file = upload(client, chats(12))
    other = client.files.create(file=("b.jsonl", chats(1)), purpose="batch").id
    refusals: list[tuple[dict[str, Any], int, str]] = [
        ({"model": "gpt-unknown"}, 404, "model"),
        ({"model": "ft:a:b::" + "a" * 20}, 404, "model"),
        ({"training_file": "file-unknown"}, 404, "training_file"),
        ({"validation_file": other}, 400, "validation_file"),
        ({"method": {"type": "reinforcement", "reinforcement": {}}}, 400, "method"),
        ({"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters"),
        ({"suffix": "x" * 65}, 400, "suffix"),
        ({"metadata": {"k" * 65: "v"}}, 400, "metadata"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, 400, "integrations"),
    ]
    for changed, status, param in refusals:
        with pytest.raises(openai.APIStatusError) as caught:
            client.fine_tuning.jobs.create(**({"model": MODEL, "training_file": file} | changed))
        assert caught.value.status_code == status, changed
        assert str(caught.value.param).startswith(param), caught.value.body
    for act in ("retrieve", "cancel", "pause", "resume", "list_events"):
        with pytest.raises(openai.NotFoundError) as missing:
            getattr(client.fine_tuning.jobs, act)("ftjob-unknown")
        assert missing.value.code == "fine_tune_not_found"


def test_the_asynchronous_client_pauses_goes_on_and_cancels(stack: Stack) -> None:
    """Preferences, so that the method dpo is walked too."""

    async def walk() -> None:
        async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key) as client:
            file = await client.files.create(file=("p.jsonl", pairs(12)), purpose="fine-tune")
            job = await client.fine_tuning.jobs.create(
                model=MODEL,
                training_file=file.id,
                method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 50, "beta": 0.2}}},
            )
            while job.status == "validating_files":
                await asyncio.sleep(0.2)
                job = await client.fine_tuning.jobs.retrieve(job.id)
            assert job.status in ("queued", "running"), job
            assert job.method.dpo.hyperparameters.beta == 0.2
            await client.fine_tuning.jobs.pause(job.id)
            job = await client.fine_tuning.jobs.retrieve(job.id)
            assert job.status == "running"  # OpenAI has no word for it
            job = await client.fine_tuning.jobs.cancel(job.id)
            assert job.status == "cancelled"
            assert job.id in [one.id async for one in client.fine_tuning.jobs.list()]

    asyncio.run(walk())


@pytest.mark.slow  # a run each
@pytest.mark.parametrize(
    ("pins", "way"), [(OPENAI_1, "sync"), (OPENAI_1, "async"), ((), "async")], ids=str
)
def test_every_client_walks(
    stack: Stack, served: str, tmp_path: Path, pins: tuple[str, ...], way: str
) -> None:
    """Upload, tune, call what was tuned."""
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(chats(20))
    done = subprocess.run(
        [sys.executable, WALK, way, f"{stack.url}/v1", stack.api_key, rows, MODEL],
        env=os.environ | ({"PYTHONPATH": str(place(*pins))} if pins else {}),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{stack.tail()}"
    version = pins[0].partition("==")[2] if pins else openai.__version__
    seen = json.loads(done.stdout)
    let_go(stack, seen["tuned"])
    assert seen["version"] == version
