"""Do validation rows stand in the training data too? Looked at before the run, while one waits.

The process keeps the last few looks; the run looks again and says what it found in the job's events.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from app.datasets.rows import browse, looking
from app.datasets.splits import Held, Holding, Leaks, row_key
from app.datasets.tables import DatasetVersion
from app.jobs import mixing
from app.jobs.data import Data

PAUSE_ROWS = 256  # rows between two looks at the clock
MOST_OWN = 500_000  # rows of validation data whose marks are kept here; of more, the run says it
EXAMPLES = 5
EXAMPLE_CHARS = 200


@dataclass(frozen=True)
class Example:
    number: int  # of the validation row in its version, from 0
    kind: str  # row or prompt: what the training data has too
    text: str


@dataclass
class Found(looking.Progress):
    """How far a look has come, and what it has found."""

    too_large: bool = False
    validation_rows: int = 0
    leaks: int = 0
    whole: int = 0  # of them, those whose whole row is there
    examples: list[Example] = field(default_factory=list)


class Look(looking.Look[Found]):
    """One look at one choice of data."""

    def __init__(self, chosen: Data, seed: int) -> None:
        super().__init__(Found())
        self.chosen, self.seed = chosen, seed
        self.leaks = Leaks()
        self.held: dict[bytes, Held] = {}

    def go(self) -> Iterator[None]:
        """First what validates, then what trains."""
        chosen, found = self.chosen, self.found
        own = chosen.validation
        if own is None and chosen.split is None:
            return
        if own is not None and own.rows > MOST_OWN:
            found.too_large = True
            return
        validating = own or chosen.main
        trained = sum(item.version.rows for item in chosen.items)
        found.total = validating.rows + trained
        if chosen.split:
            holding = Holding(chosen.held, chosen.split.seed)
            for line in self.lines(validating):
                if line is None:
                    yield
                else:
                    holding.add(line)
            self.held = holding.held()
            self.leaks.add_held(self.held)
        else:
            for line in self.lines(validating):
                if line is None:
                    yield
                else:
                    self.leaks.add_line(line)
        found.validation_rows = sum(self.leaks.counts)
        yield from self.train()
        self.conclude(validating)

    def train(self) -> Iterator[None]:
        """Look at every row that an epoch would have, just as the run will read them."""
        held = self.found.validation_rows if self.held else 0
        wanted = mixing.effective(self.chosen.amounts(held))
        for place, item in enumerate(self.chosen.items):
            version = item.version
            rows = version.rows - (held if place == 0 else 0)
            times = mixing.copies(rows, wanted[place], self.seed, self.key(version))
            for line in self.lines(version):
                if line is None:
                    yield
                elif (place or row_key(line) not in self.held) and next(times, 0):
                    self.leaks.see(line)

    def key(self, version: DatasetVersion) -> str:
        """As `runs.start_facts` names the datasets of a mix; one taken alone has no name."""
        return version.id if "datasets" in self.chosen.stored() else ""

    def lines(self, version: DatasetVersion) -> Iterator[bytes | None]:
        """Rows, and None where there may be a pause."""
        for number, line in enumerate(browse.lines(version)):
            if number % PAUSE_ROWS == 0:
                yield None
            self.found.read += 1
            yield line

    def conclude(self, validating: DatasetVersion) -> None:
        found = self.found
        for number, count, kind in self.leaks.found():
            found.leaks += count
            found.whole += count if kind == "row" else 0
            if len(found.examples) < EXAMPLES:
                row = browse.row(validating, number)
                found.examples.append(Example(number, kind, asked(row)[:EXAMPLE_CHARS]))
        self.leaks, self.held = Leaks(), {}


def asked(row: dict[str, Any]) -> str:
    """What a row is known by: its first question."""
    messages = row.get("messages") or [{"role": "user", "content": row.get("text", "")}]
    first = next((one for one in messages if one["role"] == "user"), messages[0])
    return str(first.get("content") or "")


def look(chosen: Data, seed: int, seconds: float = looking.STRETCH) -> Found:
    """Go on looking for `seconds`. The versions of `chosen` are loaded, and published."""
    parts = tuple((item.version.id, item.multiplier, item.share) for item in chosen.items)
    own = chosen.validation.id if chosen.validation else ""
    return kept(Key(parts, own, repr(chosen.split), seed, chosen)).stretch(seconds)


@dataclass(frozen=True)
class Key:
    """What a look depends on."""

    parts: tuple[tuple[str, float | None, float | None], ...]
    validation: str
    split: str
    seed: int
    chosen: Data = field(compare=False)


@lru_cache(maxsize=8)
def kept(key: Key) -> Look:
    return Look(key.chosen, key.seed)
