"""Rows as training reads them: `python -m app.evaluations.perplexity.marks`, JSON in, JSON out.

A process of its own, as `app.datasets.measures.tokenise` is one: the chat template and the tokenizer
are a stranger's, so it has little memory, little time and no secrets.
"""

import dataclasses
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from app.datasets.measures.tokenise import confine
from app.errors import DomainError
from app.models import vocabulary
from app.models.marking import Dropped, Marker, Row, StopUntrained


def marked(marker: Marker, row: Row) -> dict[str, Any]:
    """{ids, spans}: the tokens, and those that count as [first, end): the last answer with its stop
    token, or of a row without one all but the first. {refused, reason} where there are none.
    """
    answered = row["messages"][-1:] and row["messages"][-1]["role"] == "assistant"
    try:
        (text, *_) = marker.texts(row, "sft" if answered else "pretrain")
        (encoding,) = marker.encode([text])
        found = marker.mark(text, encoding)
    except Dropped as dropped:
        return {"refused": dropped.kind, "reason": dropped.reason}
    except StopUntrained:
        return {"refused": "no_stop", "reason": ""}
    spans = found.carrying()
    return {"ids": list(found.ids), "spans": spans} if spans else {"refused": "empty", "reason": ""}


def main() -> None:
    confine()
    asked = json.load(sys.stdin)
    try:
        words = vocabulary.load(Path(asked["model"]))
        now = datetime.now()  # noqa: DTZ005 - the template's wall clock
        marker = dataclasses.replace(words.marker(now), train_on="last")
        if words.template is None:
            found: Any = [{"refused": "no_template", "reason": ""} for _ in asked["rows"]]
        else:
            found = [marked(marker, row) for row in asked["rows"]]
    except DomainError as error:
        found = {"error": error.kept()}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
