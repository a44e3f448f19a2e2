"""A version in the formats of others: which carry it, and its rows as a file.

Nothing is left out in silence: before a file is sent in a format that may lose something, all
rows are tried, unless the reader said that the rows which do not fit are to be left out.
"""

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.accounts import acting, audit
from app.datasets.drafts import overlay
from app.datasets.formats import BadRow, Row
from app.datasets.formats.export import ANY_ROW, CSV_COLUMNS, EXPORTS, write
from app.datasets.states import DRAFT, PUBLISHED, PUBLISHING
from app.datasets.tables import DatasetVersion
from app.errors import N_, Conflict, Invalid

SURVEY_SECONDS = 0.5
BLOCK = 2**18  # bytes of a file that are sent at a time

# what each is, for people
NAMES = {
    "danlu": N_("Danlu JSONL, with the ids of rows"),
    "messages": N_("OpenAI messages"),
    "chatml": N_("Bailian ChatML (loss_weight)"),
    "alpaca": N_("Alpaca"),
    "sharegpt": N_("ShareGPT (LLaMA-Factory)"),
    "completion": N_("Prompt and completion, as texts"),
    "completion-messages": N_("Prompt and completion, as messages (TRL)"),
    "alpaca-csv": N_("Alpaca, as a CSV table"),
    "completion-csv": N_("Prompt and completion, as a CSV table"),
    "text": N_("Plain text ({text})"),
    "preference": N_("Bailian: messages, chosen, rejected"),
    "preference-openai": N_("OpenAI: preferred_output, non_preferred_output"),
    "preference-trl": N_("TRL: prompt, chosen, rejected"),
    "preference-alpaca": N_("LLaMA-Factory ranking, Alpaca"),
    "preference-sharegpt": N_("LLaMA-Factory ranking, ShareGPT"),
    "kto": N_("Messages with a label"),
    "kto-trl": N_("TRL: prompt, completion, label"),
    "kto-alpaca": N_("LLaMA-Factory KTO, Alpaca"),
    "kto-sharegpt": N_("LLaMA-Factory KTO, ShareGPT"),
}


@dataclass
class Unfit:
    """The rows that a format cannot say: how many, the first one's number from 0, and why."""

    count: int
    first: int
    why: BadRow


@dataclass
class Survey:
    """Which formats carry the rows that were looked at, from the first on."""

    seen: int = 0
    whole: bool = True  # all rows were looked at
    unfit: dict[str, Unfit] = field(default_factory=dict)


def rows(version: DatasetVersion) -> Iterator[Row]:
    return map(orjson.loads, overlay.lines(version))


def survey(version: DatasetVersion, seconds: float = SURVEY_SECONDS) -> Survey:
    """Try the rows in every format of their kind, for `seconds` at most."""
    found = Survey()
    until = time.monotonic() + seconds
    tried = [form for form in EXPORTS[version.kind] if form not in ANY_ROW]
    for number, row in enumerate(rows(version)):
        if number % 64 == 63 and time.monotonic() > until:
            found.whole = False
            break
        found.seen = number + 1
        for form in tried:
            try:
                write(row, form)
            except BadRow as why:
                found.unfit.setdefault(form, Unfit(0, number, why)).count += 1
    return found


def chosen(version: DatasetVersion, form: str) -> str:
    """A format of the version's kind; if none is asked for, the usual one.

    Raises Invalid for one that cannot hold rows of this kind, Conflict while there are none.
    """
    if version.status not in (DRAFT, PUBLISHING, PUBLISHED) or not version.rows:
        raise Conflict(N_("This version has no rows to export yet."), code="no_rows")
    possible = EXPORTS[version.kind]
    form = form or possible[1]
    if form not in possible:
        raise Invalid(
            N_("“%(format)s” cannot hold these rows. Formats that may: %(possible)s."),
            code="export.format",
            field="format",
            format=form[:50],
            possible=", ".join(possible),
        )
    return form


def check(version: DatasetVersion, form: str) -> None:
    """Raises Conflict with the first row that the format cannot say."""
    if form in ANY_ROW:
        return
    for number, row in enumerate(rows(version)):
        try:
            write(row, form)
        except BadRow as why:
            raise Conflict(
                N_(
                    "Row %(row)s cannot be written as “%(format)s”. %(why)s Choose another format, "
                    "or leave such rows out by saying so (skip_unfit)."
                ),
                code="export.unfit",
                row=number + 1,
                format=form,
                why={"message": why.message, "params": why.params},
            ) from None


def content(version: DatasetVersion, form: str) -> Iterator[bytes]:
    """The file, in blocks. Rows that the format cannot say are not in it: `check` first."""
    return table(version, form) if form in CSV_COLUMNS else lines(version, form)


def lines(version: DatasetVersion, form: str) -> Iterator[bytes]:
    block, size = [], 0
    for row in rows(version):
        try:
            line = orjson.dumps(write(row, form), option=orjson.OPT_APPEND_NEWLINE)
        except BadRow:
            continue
        block.append(line)
        size += len(line)
        if size > BLOCK:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join(block)


def table(version: DatasetVersion, form: str) -> Iterator[bytes]:
    """CSV in UTF-8 with the mark by which Excel knows it."""
    out = io.StringIO("\ufeff", newline="")
    out.seek(0, io.SEEK_END)
    to = csv.DictWriter(out, CSV_COLUMNS[form], restval="", quoting=csv.QUOTE_ALL)
    to.writeheader()
    for row in rows(version):
        try:
            to.writerow(write(row, form))
        except BadRow:
            continue
        if out.tell() > BLOCK:
            yield out.getvalue().encode()
            out.seek(0)
            out.truncate()
    yield out.getvalue().encode()


def suffix(form: str) -> str:
    return "csv" if form in CSV_COLUMNS else "jsonl"


def offers(version: DatasetVersion, found: Survey) -> list[dict[str, Any]]:
    """For a page and the API: each format, whether it carries all rows, and if not, why."""
    return [
        {
            "format": form,
            "name": NAMES[form],
            "suffix": suffix(form),
            "unfit": found.unfit.get(form),
            "none": form in found.unfit and found.unfit[form].count == found.seen,
        }
        for form in EXPORTS[version.kind]
    ]


def taken(version: DatasetVersion, form: str) -> None:
    """Tell the audit log that rows leave."""
    audit.note_apart(
        "export",
        "dataset",
        version.dataset_id,
        name=version.dataset.name,
        workspace_id=acting.current().workspace_id,
        after={"version": version.number, "rows": version.rows, "format": form},
    )
