"""Upload, tune, look, call: with the stock `dashscope` package, whichever version is installed.

    python dashscope_walk.py ROWS.jsonl BASE_MODEL DEPLOYED_MODEL

DASHSCOPE_HTTP_BASE_URL and DASHSCOPE_API_KEY say where and who. Prints what it saw as JSON.
"""

import json
import sys
import time
from itertools import pairwise
from typing import Any

import dashscope
from dashscope import Deployments, Files, FineTunes, Generation, Models

HELLO = [{"role": "user", "content": "你好"}]


def good(answer: Any) -> Any:
    assert answer.status_code == 200, answer
    assert not answer.code, answer
    return answer.output


def files(path: str) -> str:
    uploaded = good(Files.upload(path, purpose="fine-tune", description="reviews"))
    assert uploaded["failed_uploads"] == []
    file_id: str = uploaded["uploaded_files"][0]["file_id"]
    about = good(Files.get(file_id))
    assert (about["purpose"], about["description"]) == ("fine-tune", "reviews")
    listed = good(Files.list(page=1, page_size=50))
    assert file_id in [one["file_id"] for one in listed["files"]]
    assert listed["total"] >= 1
    missing = Files.get("file-unknown")
    assert (missing.status_code, missing.code) == (400, "InvalidParameter")
    assert missing.message == "File not found."
    return file_id


def tuning(file_id: str, model: str) -> str:
    made = good(
        FineTunes.call(
            model=model,
            training_file_ids=file_id,
            mode="efficient_sft",
            hyper_parameters={"n_epochs": 1, "batch_size": 8, "learning_rate": "1e-4"},
        )
    )
    assert made.status == "PENDING"
    assert made.training_file_ids == [file_id]
    job_id: str = made.job_id
    assert job_id in [one.job_id for one in good(FineTunes.list(page_size=50)).jobs]
    said = [json.loads(event.output) for event in FineTunes.stream_events(job_id)]
    assert said[-1] == {"type": "status", "status": "SUCCEEDED"}, said[-1]
    assert {one["type"] for one in said} == {"log", "metrics", "status"}
    done = good(FineTunes.get(job_id))
    assert (done.status, done.base_model, done.training_type) == (
        "SUCCEEDED", model, "efficient_sft",
    )  # fmt: skip
    assert done.usage > 0
    logs = good(FineTunes.logs(job_id, offset=2, line=3))
    whole = good(FineTunes.logs(job_id))
    assert logs["logs"] == whole["logs"][1:4]
    assert logs["total"] == len(whole["logs"]) > 3
    over = FineTunes.cancel(job_id)
    assert (over.status_code, over.code) == (400, "Conflict")
    assert good(FineTunes.delete(job_id)).status == "success"
    assert FineTunes.get(job_id).code == "NotFound"
    return str(done.finetuned_output)


def cancelling(file_id: str, model: str) -> None:
    job_id = good(FineTunes.call(model=model, training_file_ids=[file_id])).job_id
    assert good(FineTunes.cancel(job_id)).status == "success"
    end = time.monotonic() + 60
    while (status := good(FineTunes.get(job_id)).status) != "CANCELED":
        assert status == "CANCELING"
        assert time.monotonic() < end
        time.sleep(0.2)


def calling(name: str) -> None:
    by_prompt = Generation.call(name, prompt="你好", max_tokens=8, temperature=0.01, seed=1)
    text = good(by_prompt).text
    assert text
    assert by_prompt.usage.output_tokens <= 8
    by_messages = good(
        Generation.call(name, messages=HELLO, result_format="message", max_tokens=8, seed=1)
    )
    assert by_messages.choices[0].message.role == "assistant"
    assert by_messages.choices[0].finish_reason in ("stop", "length")
    asked = {"messages": HELLO, "result_format": "message", "max_tokens": 8, "stream": True}
    pieces = [good(one) for one in Generation.call(name, **asked, incremental_output=True)]
    grown = list(Generation.call(name, **asked, incremental_output=False))
    assert pieces[-1].choices[0].finish_reason in ("stop", "length")
    assert all(one.choices[0].finish_reason == "null" for one in pieces[:-1])
    texts = [good(one).choices[0].message.content for one in grown]
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert grown[-1].usage.input_tokens > 0
    missing = Generation.call("nothing", prompt="x")
    assert (missing.status_code, missing.code) == (404, "Model.NotExist")
    refused = Generation.call(name, prompt="x", enable_search=True, max_tokens=10**9)
    assert (refused.status_code, refused.code) == (400, "InvalidParameter")


def main() -> None:
    path, model, deployed = sys.argv[1:]
    file_id = files(path)
    calling(deployed)
    assert deployed in [one.deployed_model for one in good_list(Deployments.list(page_size=50))]
    assert good(Deployments.get(deployed)).status == "RUNNING"
    cancelling(file_id, model)
    tuned = tuning(file_id, model)
    assert good(Models.get(tuned))["model"] == tuned
    assert good(Files.delete(file_id)) is not None
    dashscope.api_key = "dk-wrong"
    wrong = Files.list()
    assert (wrong.status_code, wrong.code) == (401, "InvalidApiKey")
    print(json.dumps({"version": dashscope.__version__, "tuned": tuned}))  # noqa: T201


def good_list(answer: Any) -> Any:
    assert answer.status_code == 200, answer
    return answer.output.deployments


if __name__ == "__main__":
    main()
