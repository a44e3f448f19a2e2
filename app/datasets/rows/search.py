"""Finding rows: text, role, length, language and flags, over the facts that lie beside a version.

DuckDB reads the facts in this process: read-only, nothing but the folder of facts, with a limit
on memory and threads. What a query found is the list of row numbers, kept for the next page of it.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from app.datasets.rows import facts
from app.datasets.rows.facts_child import COLUMNS
from app.datasets.rows.languages import LANGUAGES
from app.datasets.rows.warnings import BIT, FLAGS
from app.datasets.tables import DatasetVersion
from app.datasets.validation import matching
from app.errors import N_, Invalid

if TYPE_CHECKING:
    import duckdb

THREADS = 2
MEMORY = "256MiB"
AT_ONCE = 2  # queries; others wait for their turn
KEPT_BYTES = 64 * 2**20  # of row numbers that are remembered
DUPLICATE = "duplicate"
ALL_FLAGS = (DUPLICATE, *FLAGS)
SMALLEST, LARGEST = 0, 2**31 - 1

log = structlog.get_logger()
turns = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True)
class Filters:
    """What rows are wanted. Lengths are in characters, of all texts of a row."""

    q: str = ""
    role: str = ""
    min_length: int = SMALLEST
    max_length: int = LARGEST
    language: str = ""
    flag: str = ""

    def __bool__(self) -> bool:
        return self != Filters()


def wanted(
    q: str = "",
    role: str = "",
    min_length: int | None = None,
    max_length: int | None = None,
    language: str = "",
    flag: str = "",
) -> Filters:
    """Filters as they come from outside. Raises Invalid for what no row can have."""
    for name, value, known in (
        ("role", role, tuple(facts.ROLES)),
        ("language", language, LANGUAGES),
        ("flag", flag, ALL_FLAGS),
    ):
        if value and value not in known:
            raise Invalid(
                N_("“%(name)s” is one of: %(known)s."),
                code=f"filter.{name}",
                field=name,
                name=name,
                known=", ".join(known),
            )
    return Filters(
        q.encode(errors="replace").decode().casefold(),
        role,
        min(max(min_length or SMALLEST, SMALLEST), LARGEST),
        LARGEST if max_length is None else min(max(max_length, SMALLEST), LARGEST),
        language,
        flag,
    )


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The filters among the fields of a form or an address: those that say something.

    What `wanted` takes. A length that is no number says nothing.
    """
    found = {
        name: str(value)
        for name in ("q", "role", "language", "flag")
        if (value := fields.get(name))
    }
    lengths = {name: str(fields.get(name) or "") for name in ("min_length", "max_length")}
    numbers = {
        name: int(value)
        for name, value in lengths.items()
        if value.isascii() and value.isdecimal() and len(value) < 16
    }
    return found | numbers


# -- over the facts ----------------------------------------------------------------------


def find(version: DatasetVersion, filters: Filters) -> "array[int] | None":
    """The numbers of all rows that fit, in order; None while the facts are not there yet."""
    names = tuple(segment["artefact"] for segment in version.segments)
    duplicate = filters.flag == DUPLICATE
    key = (names, version.checks.get("artefact") if duplicate else None, astuple(filters))
    if (known := remembered.get(key)) is not None:
        return known
    try:
        places = matching.known(version)
        repeats = set(matching.repeated(version)) if duplicate else None
    except FileNotFoundError:
        return None
    if not all(
        (place / facts.PARQUET).exists() or (place / facts.LINES).exists() for place in places
    ):
        return None
    found = array("I")
    start = 0
    with turns:
        for place, segment in zip(places, version.segments, strict=True):
            if (local := numbers(place, filters)) is None:
                return None
            found.extend([start + number for number in local])
            start += segment["rows"]
    if repeats is not None:
        found = array("I", (number for number in found if number in repeats))
    remembered.put(key, found)
    return found


def numbers(place: Path, filters: Filters) -> list[int] | None:
    """The rows of one segment that fit, by its facts; None if these cannot be searched."""
    import duckdb

    clauses, values = conditions(filters)
    where = " AND ".join(clauses) or "true"
    # as text: hundreds of thousands of numbers take longer to hand over one by one than to find
    query = f"SELECT list(number)::VARCHAR FROM {table(place)} WHERE {where}"  # noqa: S608 - ours, and ?
    cursor = engine(place.parent).cursor()
    try:
        row = cursor.execute(query, values).fetchone()
    except duckdb.Error:  # such as rows too long for the memory it may take
        log.exception("the facts of a segment cannot be searched", place=str(place))
        return None
    finally:
        cursor.close()
    return sorted(orjson.loads(row[0])) if row and row[0] else []


def conditions(filters: Filters) -> tuple[list[str], list[Any]]:
    """The WHERE clauses of the filters, and the values of their places."""
    clauses: list[str] = []
    values: list[Any] = []
    if filters.min_length > SMALLEST:
        clauses.append("length >= ?")
        values.append(filters.min_length)
    if filters.max_length < LARGEST:
        clauses.append("length <= ?")
        values.append(filters.max_length)
    if filters.language:
        clauses.append("language = ?")
        values.append(filters.language)
    for name, bits in (
        ("roles", facts.ROLES.get(filters.role)),
        ("flags", BIT.get(filters.flag)),
    ):
        if bits:
            clauses.append(f"({name} & {bits}) <> 0")
    if filters.q:
        clauses.append("contains(text, ?)")
        values.append(filters.q)
    return clauses, values


def table(place: Path) -> str:
    """The facts of a segment as DuckDB reads them. Names are ours: no quote is in them."""
    if (place / facts.PARQUET).exists():
        return f"read_parquet('{quoted(place / facts.PARQUET)}')"
    types = ", ".join(f"{name}: '{kind}'" for name, kind in COLUMNS.items())
    return (
        f"read_json('{quoted(place / facts.LINES)}', format = 'newline_delimited', "
        f"columns = {{{types}}}, maximum_object_size = {2 * facts.SHORT})"
    )


def quoted(path: Path) -> str:
    return str(path).replace("'", "''")


@lru_cache(maxsize=4)
def engine(folder: Path) -> "duckdb.DuckDBPyConnection":
    """A database without tables that may read `folder` and nothing else."""
    import duckdb  # some 60 MB: only once somebody searches

    made = duckdb.connect(
        ":memory:",
        config={
            "threads": THREADS,
            "memory_limit": MEMORY,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    made.execute("SET allowed_directories = ?", [[str(folder)]])
    made.execute("SET enable_external_access = false")
    made.execute("SET lock_configuration = true")
    return made


class Remembered:
    """What the last queries found, up to KEPT_BYTES; the one not asked for longest goes first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.found: OrderedDict[Any, array[int]] = OrderedDict()
        self.size = 0

    def get(self, key: Any) -> "array[int] | None":
        with self.lock:
            if (found := self.found.get(key)) is not None:
                self.found.move_to_end(key)
            return found

    def put(self, key: Any, found: "array[int]") -> None:
        with self.lock:
            if old := self.found.pop(key, None):
                self.size -= len(old) * old.itemsize
            self.found[key] = found
            self.size += len(found) * found.itemsize
            while self.size > KEPT_BYTES and len(self.found) > 1:
                _, gone = self.found.popitem(last=False)
                self.size -= len(gone) * gone.itemsize


remembered = Remembered()
