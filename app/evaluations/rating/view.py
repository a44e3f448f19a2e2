"""Rating rounds as JSON and as files."""

import csv
import io
from collections.abc import Sequence

import orjson
from fastapi import Response
from sqlalchemy.orm import Session

from app.evaluations import service as evaluations
from app.evaluations.export import harmless
from app.evaluations.rating import service
from app.evaluations.rating.schemas import RaterOut, RatingRoundOut
from app.evaluations.tables import RatingRound


def out(db: Session, rounds: Sequence[RatingRound]) -> list[RatingRoundOut]:
    of = service.progress(db, rounds)
    several = evaluations.candidates(db, list({one.evaluation_id for one in rounds}))
    return [
        RatingRoundOut(
            id=one.id,
            evaluation_id=one.evaluation_id,
            name=one.name,
            kind=one.kind,
            state=one.state,
            rows=len(one.numbers),
            items=len(one.numbers) * (len(several[one.evaluation_id]) - (one.kind == "pairs")),
            raters=[
                RaterOut(user_id=user_id, name=name, done=done)
                for user_id, name, done in of[one.id]
            ],
            results=one.results,
            created_at=one.created_at,
            closed_at=one.closed_at,
        )
        for one in rounds
    ]


def file(db: Session, one: RatingRound, form: str) -> Response:
    """All ratings of a closed round, as CSV or JSON. Raises Conflict while it is open."""
    given = service.ratings(db, one)
    labels = {
        each.id: each.label
        for each in evaluations.candidates(db, [one.evaluation_id])[one.evaluation_id]
    }
    names = {user_id: name for user_id, name, _ in service.progress(db, [one])[one.id]}
    lines = [
        {
            "row": each.number,
            "candidate": labels[each.candidate_id],
            "candidate_id": each.candidate_id,
            "rater": names[each.user_id],
            "rater_id": each.user_id,
            "value": each.value,
            "at": each.at.isoformat(),
        }
        for each in given
    ]
    if form == "csv":
        made = io.StringIO()
        writer = csv.writer(made)
        writer.writerow(lines[0])
        for each, line in zip(given, lines, strict=True):
            counted = line | {"row": each.number + 1}  # as on the pages
            writer.writerow([harmless(cell) for cell in counted.values()])
        body = ("\ufeff" + made.getvalue()).encode()
    else:
        head = out(db, [one])[0].model_dump(mode="json")
        body = orjson.dumps(head | {"ratings": lines})
    media = "text/csv; charset=utf-8" if form == "csv" else "application/json"
    disposition = {"Content-Disposition": f'attachment; filename="{one.id}.{form}"'}
    return Response(body, media_type=media, headers=disposition)
