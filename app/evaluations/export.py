"""An evaluation as a file: CSV, a line a row, or JSON with the figures."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from fastapi.responses import StreamingResponse

from app.evaluations import rows
from app.evaluations.judging import keeping
from app.evaluations.rows import Shown
from app.evaluations.tables import Candidate, Evaluation
from app.queue import transaction

STEP = 200  # rows read at a time
RISKY = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute what begins so


def response(
    evaluation: Evaluation, candidates: Sequence[Candidate], form: str
) -> StreamingResponse:
    """As a download. The rows are read some at a time, with no session held in between."""
    make, media = (as_csv, "text/csv") if form == "csv" else (as_json, "application/json")
    name = f"{evaluation.id}.{form}"
    return StreamingResponse(
        make(evaluation, candidates),
        media_type=f"{media}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def every(evaluation: Evaluation, candidates: Sequence[Candidate]) -> Iterator[Shown]:
    for offset in range(0, evaluation.rows, STEP):
        with transaction() as db:
            some, _, _ = rows.page(db, evaluation, candidates, offset=offset, limit=STEP)
        yield from some


def as_csv(evaluation: Evaluation, candidates: Sequence[Candidate]) -> Iterator[bytes]:
    keys = [one["key"] for one in keeping.widened(evaluation.scorers)]
    judges = [one["key"] for one in evaluation.scorers if one["kind"] in ("judge", "pairwise")]
    columns = ["row", "prompt", "reference", "label"]
    for one in candidates:
        columns += [one.label, *(f"{one.label} · {key}" for key in keys)]
        columns += [f"{one.label} · {key} · reason" for key in judges]
    yield "\ufeff".encode() + line(columns)  # so that spreadsheets read UTF-8
    for row in every(evaluation, candidates):
        prompt = "\n".join(f"{one['role']}: {one.get('content') or ''}" for one in row.messages)
        cells: list[Any] = [row.number + 1, prompt, row.reference, row.label]  # as on the page
        for given, judged in zip(row.answers, row.judgements, strict=True):
            text = (given.text or "") if given else ""
            cells += [text, *((given.scores.get(key, "") if given else "") for key in keys)]
            cells += [
                "\n".join(one.reason for one in judged if one.scorer == key) for key in judges
            ]
        yield line(cells)


def line(cells: Sequence[Any]) -> bytes:
    made = io.StringIO()
    csv.writer(made).writerow([harmless(cell) for cell in cells])
    return made.getvalue().encode()


def harmless(cell: Any) -> Any:
    """A text that a spreadsheet would take for a formula is led in by an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(RISKY) else cell


def as_json(evaluation: Evaluation, candidates: Sequence[Candidate]) -> Iterator[bytes]:
    head = {
        "id": evaluation.id,
        "name": evaluation.name,
        "dataset_version_id": evaluation.dataset_version_id,
        "scorers": evaluation.scorers,
        "settings": evaluation.settings,
        "candidates": [
            {"id": one.id, "label": one.label, "target": one.target, "figures": one.figures}
            for one in candidates
        ],
        "verdicts": evaluation.verdicts,
    }
    yield orjson.dumps(head)[:-1] + b',"rows":['
    before = b"\n"
    for row in every(evaluation, candidates):
        yield before + orjson.dumps(
            {
                "number": row.number,
                "messages": row.messages,
                "reference": row.reference,
                "label": row.label,
                "answers": {
                    one.id: {
                        "text": given.text,
                        "error": given.error,
                        "scores": given.scores,
                        "judgements": [
                            {
                                "scorer": each.scorer,
                                "swapped": each.swapped,
                                "scores": each.scores,
                                "winner": each.winner,
                                "reason": each.reason,
                            }
                            for each in judged
                        ],
                    }
                    for one, given, judged in zip(
                        candidates, row.answers, row.judgements, strict=True
                    )
                    if given is not None
                },
            }
        )
        before = b",\n"
    yield b"\n]}\n"
