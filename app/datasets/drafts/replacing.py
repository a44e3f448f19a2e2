"""Find and replace in the texts of rows: plain, or a regular expression of RE2.

RE2 looks at a text in time proportional to its length, whatever was typed; what then still takes
too long (very many matches in an enormous row) is cut off by the clock.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import re2

from app.datasets.drafts import edits, overlay
from app.datasets.tables import DatasetVersion
from app.errors import N_, Invalid

MOST_FIND, MOST_REPLACE = 1000, 20_000  # characters
ROW_SECONDS = 2.0
PREVIEW_SECONDS = 1.0  # then the preview says how far it came, and is asked to go on
EXAMPLES = 20
MARKS = 3  # matches of a row that an example shows
AROUND = 60  # characters of context in an example
MEMORY = 8 * 2**20  # of a compiled expression

SLOW = N_("This takes too long in row %(row)s. Look for something simpler.")
TEMPLATE = re.compile(r"\\(?:(\d)|g<(\w+)>|(.))", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

Row = dict[str, Any]
Part = str | int  # of a replacement: a text, or the number of a group


@dataclass(frozen=True)
class Wanted:
    """What is looked for. `roles` empty means every role; a pre-training row has none."""

    find: str
    replace: str = ""
    regex: bool = False
    case: bool = True  # upper and lower case differ
    roles: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"roles": list(self.roles)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Wanted":
        return cls(**data | {"roles": tuple(data["roles"])})


@dataclass(frozen=True)
class Pattern:
    wanted: Wanted
    compiled: Any  # re2 has no types
    parts: list[Part]
    needle: bytes  # what the JSON of a row that matches contains; empty when that is not known

    def put(self, match: Any) -> str:
        return "".join(
            part if isinstance(part, str) else match.group(part) or "" for part in self.parts
        )


# -- compiling ---------------------------------------------------------------------------


def compiled(wanted: Wanted) -> Pattern:
    """Raises Invalid, naming the field."""
    for name, most in (("find", MOST_FIND), ("replace", MOST_REPLACE)):
        value = getattr(wanted, name)
        if len(value) > most:
            raise Invalid(
                N_("At most %(most)s characters."), code="too_long", field=name, most=most
            )
        if "\0" in value or not encodable(value):
            raise Invalid(
                N_("This contains characters that cannot be stored."), code="text", field=name
            )
    if not wanted.find:
        raise Invalid(N_("Say what to look for."), code="missing", field="find")
    options = re2.Options()
    options.max_mem, options.log_errors = MEMORY, False
    options.case_sensitive, options.literal = wanted.case, not wanted.regex
    try:
        found = re2.compile(wanted.find, options)
    except re2.error as error:
        why = error.args[0]
        raise Invalid(
            N_("This is not a regular expression that can be used: %(why)s."),
            code="regex",
            field="find",
            why=why.decode(errors="replace") if isinstance(why, bytes) else str(why),
        ) from None
    parts: list[Part] = [wanted.replace]
    if wanted.regex:
        parts = template(wanted.replace, found.groups, found.groupindex)
    plain = not wanted.regex and wanted.case
    return Pattern(wanted, found, parts, orjson.dumps(wanted.find)[1:-1] if plain else b"")


def encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def template(text: str, groups: int, names: dict[str, int]) -> list[Part]:
    r"""A replacement with \1, \g<name>, \n, \t and \\. Raises Invalid for an unknown group."""
    parts: list[Part] = []
    end = 0
    for match in TEMPLATE.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        digit, name, other = match.groups()
        if other:
            parts.append(ESCAPES.get(other, match.group()))
            continue
        group = int(digit) if digit else names.get(name, int(name) if name.isdecimal() else -1)
        if not 0 <= group <= groups:
            raise Invalid(
                N_("The expression has no group “%(group)s”."),
                code="group",
                field="replace",
                group=digit or name,
            )
        parts.append(group)
    return [*parts, text[end:]]


# -- one row -----------------------------------------------------------------------------


def texts(row: Row, roles: tuple[str, ...]) -> Iterator[tuple[Row, str, str]]:
    """The texts of a row: what holds it, its field, and its place such as messages[1].content."""
    if "text" in row:
        yield row, "text", "text"
    holders = [(f"messages[{at}]", one) for at, one in enumerate(row.get("messages", []))]
    holders += [(name, row[name]) for name in ("chosen", "rejected") if name in row]
    for path, holder in holders:
        if not roles or holder["role"] in roles:
            for name in ("reasoning_content", "content"):
                if holder.get(name):
                    yield holder, name, f"{path}.{name}"


@dataclass(frozen=True)
class Hit:
    """A match: its place in the row, the text around it, and what would stand there."""

    path: str
    before: str
    found: str
    put: str
    after: str


def replaced(pattern: Pattern, line: bytes) -> tuple[Row, int, list[Hit]] | None:
    """The row with every match replaced, how many there are, and the first. None without one.

    Raises TimeoutError.
    """
    if pattern.needle not in line:
        return None
    row = orjson.loads(line)
    until = time.monotonic() + ROW_SECONDS
    hits: list[Hit] = []
    count = 0
    for holder, name, path in texts(row, pattern.wanted.roles):
        text: str = holder[name]
        pieces = []
        end = 0
        for match in pattern.compiled.finditer(text):
            start, stop = match.span()
            put = pattern.put(match)
            pieces += [text[end:start], put]
            end = stop
            count += 1
            if len(hits) < MARKS:
                around = text[max(0, start - AROUND) : start], text[stop : stop + AROUND]
                hits.append(Hit(path, around[0], match.group(), put, around[1]))
            if count % 64 == 0 and time.monotonic() > until:
                raise TimeoutError
        if pieces:
            holder[name] = "".join([*pieces, text[end:]])
    return (row, count, hits) if count else None


# -- the preview -------------------------------------------------------------------------


@dataclass
class Preview:
    """What would change, up to row `next_offset`."""

    rows: int = 0  # that change
    matches: int = 0
    refused: int = 0  # rows that would break a rule: they are left as they are
    examples: list[tuple[int, str, list[Hit]]] = field(default_factory=list)  # number, id, hits
    next_offset: int = 0
    total: int = 0
    has_more: bool = False


def preview(version: DatasetVersion, wanted: Wanted, *, offset: int = 0) -> Preview:
    """Look from row `offset` on, for a second. Raises Invalid."""
    pattern = compiled(wanted)
    over = overlay.of(version)
    found = Preview(next_offset=offset, total=over.rows)
    until = time.monotonic() + PREVIEW_SECONDS
    for entry in overlay.entries(over, offset):
        if entry.number % 64 == 0 and entry.number > offset and time.monotonic() > until:
            break
        made = changed(version, pattern, entry)
        found.next_offset = entry.number + 1
        if made is None:
            continue
        line, count, hits = made
        if line is None:
            found.refused += 1
            continue
        found.rows += line != entry.line
        found.matches += count
        if len(found.examples) < EXAMPLES and line != entry.line:
            found.examples.append((entry.number, overlay.id_of(line), hits))
    found.has_more = found.next_offset < over.rows
    return found


def changed(
    version: DatasetVersion, pattern: Pattern, entry: overlay.Entry
) -> tuple[bytes | None, int, list[Hit]] | None:
    """The row's new JSON, or None where a rule forbids it; None at all without a match."""
    try:
        made = replaced(pattern, entry.line)
    except TimeoutError:
        raise Invalid(SLOW, code="slow", field="find", row=entry.number + 1) from None
    if made is None:
        return None
    row, count, hits = made
    try:
        return edits.checked(version, row, row["id"]), count, hits
    except Invalid:
        return None, count, hits
