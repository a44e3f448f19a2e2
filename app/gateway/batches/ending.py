"""The end of a batch: its answers become files."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from app.datasets.files import room
from app.db import now
from app.errors import NotFound
from app.gateway.batches import holding, lines
from app.gateway.batches.tables import Batch
from app.gateway.files import service as files
from app.gateway.work import Lost
from app.queue import transaction

KEPT = timedelta(days=30)  # unless the client said otherwise
# OpenAI's words, in a file that programs read
LEFT = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request executed."),
}


def late(batch: Batch) -> bool:
    return batch.expires_at <= now()


def write(batch: Batch, errors: Sequence[dict[str, Any]] = ()) -> None:
    """Files of what was answered and of what was not, then the last status. Raises Lost."""
    done = holding.done(batch.id)
    status = status_of(batch, done, errors)
    with room() as directory:
        output, failed = directory / "output", directory / "errors"
        with output.open("w", encoding="utf-8", newline="\n") as out:
            copy(batch, out, ok=True)
        with failed.open("w", encoding="utf-8", newline="\n") as out:
            copy(batch, out, ok=False)
            if status in LEFT:
                leave(batch, out, done, *LEFT[status])
        made = {
            "output_file_id": kept(batch, output, "output"),
            "error_file_id": kept(batch, failed, "errors"),
        }
    try:
        holding.end(batch.id, batch.fence, status, made, list(errors))
    except Lost:  # somebody else writes them
        with transaction() as db:
            for file_id in filter(None, made.values()):
                files.remove(db, batch.workspace_id, file_id)
        raise


def status_of(batch: Batch, done: set[int], errors: Sequence[dict[str, Any]]) -> str:
    if batch.status == "cancelling":
        return "cancelled"
    if errors:
        return "failed"
    return "completed" if batch.total and len(done) >= batch.total else "expired"


def copy(batch: Batch, out: TextIO, *, ok: bool) -> None:
    after = 0
    while found := holding.answers(batch.id, ok, after):
        out.writelines(f"{one.answer}\n" for one in found)
        after = found[-1].line


def leave(batch: Batch, out: TextIO, done: set[int], code: str, message: str) -> None:
    """Name the lines that nobody executed, if their file is still there."""
    if not batch.total:  # it was never read
        return
    try:
        with transaction() as db:
            file = files.get(db, batch.workspace_id, batch.input_file_id)
        path = files.path(file)
    except NotFound:
        return
    out.writelines(
        f"{lines.unanswered(line.custom_id, code, message)}\n" for line in lines.asked(path, done)
    )


def kept(batch: Batch, path: Path, what: str) -> str | None:
    """The id of the file; None for an empty one."""
    if not path.stat().st_size:
        return None
    seconds = batch.keep_seconds
    made = files.keep(
        path,
        workspace_id=batch.workspace_id,
        user_id=batch.user_id,
        file_name=f"{batch.id}_{what}.jsonl",
        purpose="batch_output",
        expires=timedelta(seconds=seconds) if seconds else KEPT,
    )
    return made.id
