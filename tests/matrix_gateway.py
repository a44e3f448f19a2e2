"""One of everything that the gateway keeps, for `tests/matrix.py`."""

from datetime import timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from app import storage
from app.accounts.tables import ApiKey, User, Workspace
from app.db import new_id, now
from app.gateway.batches.tables import Batch
from app.gateway.files.tables import File, FileUpload
from app.gateway.requests import entries
from app.gateway.requests.tables import LoggedRequest
from app.gateway.tuning.tables import TuningJob
from app.jobs.tables import Job
from tests import factories as make

UPLOAD = (
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
)


def tuned(
    db: Session, workspace: Workspace, owner: User, job: Job, tmp_path: Path
) -> tuple[File, FileUpload, TuningJob]:
    mine = {"workspace_id": workspace.id, "user_id": owner.id}
    directory = tmp_path / f"file-{workspace.id}"
    directory.mkdir()
    (directory / "body").write_bytes(UPLOAD)
    artefact = storage.put(directory, f"files/{workspace.id}")
    about = {"file_name": "rows.jsonl", "purpose": "fine-tune", "bytes": len(UPLOAD)}
    file = make.added(db, File(**mine, **about, md5="", artefact=artefact))
    upload = FileUpload(**mine, **about, mime_type="", expires_at=now() + timedelta(hours=1))
    tuning = TuningJob(
        **mine,
        api="openai",
        state="started",
        model="x",
        model_id=job.model_id,
        stage="sft",
        method="lora",
        training_files=[file.id],
        asked={},
        seed=1,
        job_id=job.id,
    )
    return file, make.added(db, upload), make.added(db, tuning)


def asked(
    db: Session, workspace: Workspace, owner: User, file: File, key: ApiKey
) -> tuple[Batch, LoggedRequest]:
    mine = {"workspace_id": workspace.id, "user_id": owner.id}
    about = {"file_name": "in.jsonl", "purpose": "batch", "bytes": file.bytes, "md5": ""}
    source = make.added(db, File(**mine, **about, artefact=file.artefact))
    batch = Batch(
        **mine,
        input_file_id=source.id,
        endpoint="/v1/completions",
        expires_at=now() + timedelta(hours=24),
        beat_at=now() + timedelta(hours=1),  # nobody takes it up
    )
    line = {
        "id": new_id("rq"), **mine, "api_key_id": key.id, "at": now().isoformat(),
        "endpoint": "completions", "model": "x", "deployment_id": "dep_x", "status": 200,
        "completed": True, "streamed": False, "prompt_tokens": 1, "completion_tokens": 1,
        "first_token_ms": None, "duration_ms": 1, "cut": False, "body": {"prompt": "x"},
        "answer": "{}", "events": [],
    }  # fmt: skip
    logged = LoggedRequest(**entries.row(line, full=True, days=1, redact=True))
    return make.added(db, batch), make.added(db, logged)
