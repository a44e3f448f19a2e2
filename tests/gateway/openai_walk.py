"""Upload, tune, look: with the stock `openai` package, whichever version is installed.

    python openai_walk.py BASE_URL API_KEY ROWS.jsonl MODEL

Prints what it saw as JSON.
"""

import json
import sys
import time
from pathlib import Path

import openai


def main() -> None:
    base_url, api_key, path, model = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key=api_key)
    rows = Path(path).read_bytes()
    whole = client.uploads.upload_file_chunked(
        file=rows,
        filename="rows.jsonl",
        bytes=len(rows),
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=1000,
    )
    assert whole.file
    job = client.fine_tuning.jobs.create(
        model=model, training_file=whole.file.id, hyperparameters={"n_epochs": 1}, suffix="old"
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.3)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job
    told = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=3)]
    assert told[-1] == f"Created fine-tuning job: {job.id}"
    curve = client.files.content(job.result_files[0]).text
    assert curve.startswith("step,train_loss")
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert job.fine_tuned_model in [one.id for one in client.models.list()]
    assert client.models.delete(job.fine_tuned_model).deleted
    print(json.dumps({"version": openai.__version__, "tuned": job.fine_tuned_model}))  # noqa: T201


if __name__ == "__main__":
    main()
