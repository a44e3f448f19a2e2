"""The rows of a run: those of an epoch, mixed of several datasets, and those held back.

Everything follows from the spec, so that another attempt reads the same rows: which rows are
held back from what they say, which are drawn from the seed and the dataset's id. A row that
counts several times is read once; `spread` repeats its examples.
"""

from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from app.datasets.rows import segments
from app.datasets.splits import Held, Holding, Leaks, Row, prompt_mark, row_key, row_mark
from app.errors import N_
from app.jobs import mixing
from app.jobs.mixing import Amount
from app.jobs.spec import Part, RunSpec
from workers.stages.prepare import NAMED, Examples
from workers.stages.run import Run, StageError


class Data:
    """Read `training` to its end before `validating`: that is how leaks are known."""

    def __init__(self, run: Run, spec: RunSpec) -> None:
        self.run, self.spec = run, spec
        parts = spec.mix or [Part(dataset="", rows=spec.train, multiplier=1)]
        self.main = parts[0]
        # the same datasets are the same run, in whatever order they are listed
        self.parts = sorted(parts, key=lambda part: part.dataset)
        self.rows = [sum(segments.index(Path(at)).rows for at in part.rows) for part in self.parts]
        self.held = self.hold_back()
        self.held_rows = sum(one.count for one in self.held.values())
        self.rows[self.parts.index(self.main)] -= self.held_rows
        amounts = [
            Amount(rows, part.multiplier, part.share)
            for part, rows in zip(self.parts, self.rows, strict=True)
        ]
        self.effective = mixing.effective(amounts)
        self.times = array("B")  # how often each row that was read is in an epoch
        self.leaks = self.watch()
        self.leaking: dict[str, list[str]] = {"row": [], "prompt": []}  # ids of validation rows
        self.validated = 0

    @property
    def validates(self) -> bool:
        return bool(self.spec.validation or self.held)

    # -- before ----------------------------------------------------------------------------

    def hold_back(self) -> dict[bytes, Held]:
        """The rows of the main dataset that the split keeps out of training."""
        split = self.spec.split
        if split is None:
            return {}
        rows = self.rows[self.parts.index(self.main)]
        holding = Holding(mixing.held_back(rows, split.split, split.most), split.seed)
        for line in lines(self.main.rows):
            holding.add(line)
        held = holding.held()
        if not held:
            raise StageError(
                "nothing_to_validate",
                N_("The dataset has too few different rows to hold some back for validation."),
            )
        self.run.event(
            "held_back",
            N_("%(count)s of %(rows)s rows are held back for validation, and not trained on."),
            count=sum(one.count for one in held.values()),
            rows=rows,
            seed=split.seed,
        )
        return held

    def watch(self) -> Leaks:
        leaks = Leaks()
        leaks.add_held(self.held)
        for line in lines(self.spec.validation):
            leaks.add_line(line)
        return leaks

    # -- the rows --------------------------------------------------------------------------

    def training(self) -> Iterator[Row]:
        """Each row that an epoch has, once."""
        for part, rows, wanted in zip(self.parts, self.rows, self.effective, strict=True):
            found = lines(part.rows)
            if part is self.main and self.held:
                found = (line for line in found if row_key(line) not in self.held)
            times = mixing.copies(rows, wanted, self.spec.hyperparameters.seed, part.dataset)
            for line, count in zip(found, times, strict=True):
                if count:
                    row = orjson.loads(line)
                    if self.validates:
                        self.leaks.see(line, row)
                    self.times.append(count)
                    yield row

    def validating(self) -> Iterator[Row]:
        """The rows held back, or the validation data; without those that leak, if so asked."""
        found = lines(self.spec.validation)
        if self.held:
            found = (line for line in lines(self.main.rows) if row_key(line) in self.held)
        for line in found:
            row = orjson.loads(line)
            self.validated += 1
            if kind := self.leaks.kind(row_mark(row_key(line)), prompt_mark(row)):
                self.leaking[kind].append(str(row.get("id", "?")))
                if self.spec.drop_leaks:
                    continue
            yield row

    # -- after -----------------------------------------------------------------------------

    def spread(self, examples: Examples) -> None:
        """Repeat the examples of rows that an epoch has more than once."""
        for number in range(len(examples)):
            for _ in range(self.times[examples.rows[number]] - 1):
                examples.repeat(number)

    def report_mix(self) -> list[dict[str, Any]]:
        """Say what an epoch is made of; nothing of a dataset that is taken as it is."""
        if not self.spec.mix:
            return []
        for part, rows, wanted in zip(self.parts, self.rows, self.effective, strict=True):
            self.run.event(
                "mixed",
                N_("%(name)s: %(rows)s rows, of which an epoch has %(effective)s."),
                name=part.name or part.dataset,
                rows=rows,
                effective=wanted,
            )
        return [
            {"dataset": part.dataset, "rows": rows, "effective": wanted}
            for part, rows, wanted in zip(self.parts, self.rows, self.effective, strict=True)
        ]

    def report_leaks(self) -> dict[str, int]:
        """Say which validation rows stand in the training data. Raises StageError when no other
        is left.
        """
        found = self.leaking["row"] + self.leaking["prompt"]
        if found:
            sentence = (
                N_(
                    "%(count)s of %(rows)s validation rows were left out, since the training data"
                    " has them too, or their prompts."
                )
                if self.spec.drop_leaks
                else N_(
                    "%(count)s of %(rows)s validation rows stand in the training data too, or their"
                    " prompts do: the validation loss looks better than it is."
                )
            )
            self.run.event(
                "leaks",
                sentence,
                count=len(found),
                rows=self.validated,
                whole=len(self.leaking["row"]),
                leaks=found[:NAMED],
            )
            for start in range(0, len(found), 1000):
                self.run.line(f"  leaks: {' '.join(found[start : start + 1000])}")
        if self.spec.drop_leaks and len(found) == self.validated:
            raise StageError(
                "nothing_to_validate",
                N_(
                    "Every validation row stands in the training data too, so none is left. Choose"
                    " other validation data."
                ),
            )
        return {"leaks": len(found)}


def lines(places: list[str]) -> Iterator[bytes]:
    return chain.from_iterable(segments.lines(Path(place)) for place in places)
