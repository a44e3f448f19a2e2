"""Upload, tune, look, call: with the stock `openai` package, whichever version is installed.

    python openai_walk.py sync|async BASE_URL API_KEY ROWS.jsonl MODEL

Prints what it saw as JSON. Both clients walk the same way: what the one answers, the other awaits.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

HELLO: Any = [{"role": "user", "content": "你好"}]
OVER = ("succeeded", "failed", "cancelled")


async def told(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


async def all_of(pages: Any) -> list[Any]:
    found = pages if hasattr(pages, "__aiter__") else await told(pages)
    if hasattr(found, "__aiter__"):
        return [one async for one in found]
    return list(found)


async def upload(client: Any, rows: bytes) -> str:
    """In parts, by hand; what it has become is read back."""
    about = {"filename": "rows.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    begun = await told(client.uploads.create(bytes=len(rows), **about))
    parts = [
        (await told(client.uploads.parts.create(begun.id, data=rows[at : at + 1000]))).id
        for at in range(0, len(rows), 1000)
    ]
    whole = await told(client.uploads.complete(begun.id, part_ids=parts))
    assert (whole.status, whole.file.bytes) == ("completed", len(rows))
    assert (await told(client.files.content(whole.file.id))).read() == rows
    assert whole.file.id in [one.id for one in await all_of(client.files.list())]
    return str(whole.file.id)


async def tune(client: Any, file: str, model: str) -> Any:
    job = await told(
        client.fine_tuning.jobs.create(
            model=model, training_file=file, hyperparameters={"n_epochs": 1}, suffix="walk"
        )
    )
    while job.status not in OVER:
        await asyncio.sleep(0.3)
        job = await told(client.fine_tuning.jobs.retrieve(job.id))
    assert job.status == "succeeded", job
    assert job.id in [one.id for one in await all_of(client.fine_tuning.jobs.list(limit=2))]
    events = await all_of(client.fine_tuning.jobs.list_events(job.id, limit=3))  # all pages
    assert events[0].message == "The job has successfully completed"
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    curve = (await told(client.files.content(job.result_files[0]))).text
    assert curve.startswith("step,train_loss")
    (last,) = await all_of(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert last.fine_tuned_model_checkpoint == job.fine_tuned_model
    return job


async def call(client: Any, name: str) -> None:
    """Nobody has deployed it: the first call loads it onto its base."""
    asked: Any = {"model": name, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    whole = await told(client.chat.completions.create(**asked))
    chunks = await all_of(client.chat.completions.create(**asked, stream=True))
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0
    plain = await told(client.completions.create(model=name, prompt="你好", max_tokens=2))
    assert plain.usage.completion_tokens == 2


async def refused(ask: Callable[[], Any]) -> openai.APIStatusError:
    try:
        answer = await told(ask())
    except openai.APIStatusError as error:
        return error
    raise AssertionError(answer)


async def main() -> None:
    way, base_url, api_key, path, model = sys.argv[1:]
    kind: Any = openai.AsyncOpenAI if way == "async" else openai.OpenAI
    client = kind(base_url=base_url, api_key=api_key)
    rows = await asyncio.to_thread(Path(path).read_bytes)
    job = await tune(client, await upload(client, rows), model)
    name = job.fine_tuned_model
    assert name in [one.id for one in await all_of(client.models.list())]
    await call(client, name)
    used = await refused(lambda: client.models.delete(name))  # by what the call has deployed
    assert (used.status_code, used.code) == (400, "model_in_use")
    nothing = {"model": "ft:nothing", "messages": HELLO}
    missing = await refused(lambda: client.chat.completions.create(**nothing))
    assert (missing.status_code, missing.code) == (404, "model_not_found")
    print(json.dumps({"version": openai.__version__, "tuned": job.fine_tuned_model}))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
