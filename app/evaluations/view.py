"""Evaluations as JSON and as pages show them, with sentences in the reader's language."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.errors import DomainError
from app.evaluations import boards, charts, rows, service, trying
from app.evaluations.judging import choosing, prompts
from app.evaluations.rows import Shown
from app.evaluations.schemas import AnswerOut, CandidateOut, EvaluationOut, JudgementOut, RowOut
from app.evaluations.scorers.scoring import LOWER_IS_BETTER
from app.evaluations.tables import Candidate, Evaluation
from app.web import said, sentence


def error_of(request: Request, error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """{code, message}"""
    if not error:
        return None
    return {"code": str(error.get("code") or "failed"), "message": said(request, error)}


def out(request: Request, db: Session, found: Sequence[Evaluation]) -> list[EvaluationOut]:
    of = service.candidates(db, [one.id for one in found])
    return [
        EvaluationOut.of(
            one,
            [CandidateOut.of(each, error_of(request, each.error)) for each in of[one.id]],
            said(request, one.waits) if one.waits else "",
            error_of(request, one.error),
        )
        for one in found
    ]


def tried(request: Request, who: Principal, asked: trying.EndpointAsked) -> trying.EndpointTold:
    """What became of asking an endpoint. Raises Invalid and NotFound for what was asked wrongly."""
    try:
        answer, milliseconds = trying.ask(who, asked)
    except DomainError as error:
        if error.field:
            raise
        return trying.EndpointTold(
            works=False,
            answer="",
            milliseconds=0,
            code=error.code,
            message=sentence(request, error),
        )
    return trying.EndpointTold(
        works=True, answer=answer, milliseconds=milliseconds, code="", message=""
    )


def row_out(request: Request, row: Shown, candidates: Sequence[Candidate]) -> RowOut:
    return RowOut(
        number=row.number,
        messages=row.messages,
        reference=row.reference,
        label=row.label,
        gap=row.gap,
        answers=[
            AnswerOut(
                candidate=one.id,
                text=given.text,
                error=error_of(request, given.error),
                finish=given.finish,
                scores=given.scores,
                said=given.said,
                judgements=[
                    JudgementOut(
                        scorer=each.scorer,
                        swapped=each.swapped,
                        scores=each.scores,
                        winner=each.winner,
                        reason=each.reason,
                        error=error_of(request, each.error),
                    )
                    for each in judged
                ],
            )
            for one, given, judged in zip(candidates, row.answers, row.judgements, strict=True)
            if given is not None
        ],
    )


# -- for pages ---------------------------------------------------------------------------


def progress(one: Evaluation, candidates: Sequence[Candidate]) -> tuple[int, int]:
    """Rows that are answered, and judged, of all candidates together, and how many there will be."""
    done = sum(each.done for each in candidates) + one.judging.get("done", 0)
    return done, one.rows * len(candidates) + choosing.expected(one, len(candidates))


def verdicts(one: Evaluation, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """What leads the page: of each candidate beside the baseline, by the first scorer."""
    if not one.scorers:
        return []
    key, kind = one.scorers[0]["key"], one.scorers[0]["kind"]
    return [
        {
            "candidate": each,
            "base": candidates[0],
            "key": key,
            "lower": kind in LOWER_IS_BETTER,
            **one.verdicts[each.id][key],
        }
        for each in candidates[1:]
        if key in one.verdicts.get(each.id, {})
    ]


def confusions(candidates: Sequence[Candidate], key: str) -> list[dict[str, Any]]:
    """Of each candidate: its table, with the share that each cell is of its row."""
    found = []
    for each in candidates:
        figure = each.figures.get(key) or {}
        if "table" in figure:
            rows = [
                {
                    "name": name,
                    "cells": [
                        (count, count / sum(cells) if sum(cells) else 0.0) for count in cells
                    ],
                    "precision": precision,
                    "recall": recall,
                    "f1": f1,
                }
                for name, cells, precision, recall, f1 in zip(
                    figure["labels"],
                    figure["table"],
                    figure["precision"],
                    figure["recall"],
                    figure["f1"],
                    strict=False,
                )
            ]
            found.append({"candidate": each, "labels": figure["labels"], "rows": rows})
    return found


def page(
    request: Request, db: Session, one: Evaluation, candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """What the page of an evaluation shows above its rows."""
    version, dataset = service.dataset_of(db, one)
    labelled = next((each["key"] for each in one.scorers if each.get("labels")), "")
    done, total = progress(one, candidates)
    board = boards.leaderboard(db, one)
    return {
        "one": one,
        "candidates": candidates,
        "version": version,
        "dataset": dataset,
        "done": done,
        "total": total,
        "verdicts": verdicts(one, candidates),
        "confusions": confusions(candidates, labelled) if labelled else [],
        "labelled": labelled,
        "answered": any(each["kind"] != "perplexity" for each in one.scorers),
        "board": list(zip(board, charts.spans(board), strict=True)),
        "history": boards.history(db, one.workspace_id, one),
        "distributions": charts.distributions(one.scorers, candidates),
        "events": service.events(db, one.id),
        "lower": LOWER_IS_BETTER,
        "judged": judged(one),
        "waits": said(request, one.waits) if one.waits else "",
    }


def judged(one: Evaluation) -> list[dict[str, Any]]:
    """The models that were asked; judges with their dimensions, named in their language."""
    return [
        {
            "key": each["key"],
            "kind": each["kind"],
            "model": each["model"],
            "scale": each.get("scale", 0),
            "dimensions": prompts.dimensions(each["dimensions"], each["language"])
            if "dimensions" in each
            else [],
            "error": one.judging.get("errors", {}).get(each["key"]),
        }
        for each in one.scorers
        if each["kind"] in ("judge", "pairwise", "embedding")
    ]


def rows_of(
    db: Session,
    one: Evaluation,
    candidates: Sequence[Candidate],
    asked: dict[str, Any],
    limit: int,
) -> dict[str, Any]:
    """A page of rows, and how it was chosen. What is not understood is left out."""
    asked["scorer"] = asked["scorer"] or one.scorers[0]["key"]
    asked["candidate"] = rows.candidate_of(candidates, asked["candidate"]).id
    if asked["order"] not in rows.ORDERS:
        asked["order"] = "gain" if len(candidates) > 1 else "worst"
    found, more, count = rows.page(db, one, candidates, limit=limit, **asked)
    return {"found": found, "more": more, "count": count, "asked": asked, "size": limit}
