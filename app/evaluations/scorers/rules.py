"""Answers that are right or wrong by a rule: equal, contained, a pattern, a number, JSON."""

import math
import re
from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson
import re2

from app.errors import N_, Invalid
from app.evaluations.scorers.texts import LONGEST, normalised

# 1,234.5 and -2e-3; a sign only where it does not join two things
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(%)?")
FENCE = re.compile(r"```(?:json)?[ \t]*\n?(.*?)```", re.DOTALL | re.IGNORECASE)
DEEPEST = 32  # levels of fields that are compared
MOST_SCHEMA = 100_000  # characters


def exact(answer: str, reference: str, *, case: bool, punctuation: bool) -> float:
    def same(text: str) -> str:
        return normalised(text, case=case, punctuation=punctuation)

    return float(same(answer) == same(reference))


def contains(answer: str, wanted: list[str], *, every: bool, case: bool) -> float:
    """Whether one of the texts stands in the answer, or all of them."""
    text = normalised(answer, case=case, punctuation=True)
    found = [normalised(one, case=case, punctuation=True) in text for one in wanted]
    return float(bool(found) and (all(found) if every else any(found)))


# -- patterns ----------------------------------------------------------------------------


@lru_cache(maxsize=64)
def pattern(text: str, case: bool) -> Any:
    """RE2: no pattern takes longer than in proportion to the text. Raises Invalid."""
    options = re2.Options()
    options.case_sensitive = case
    options.dot_nl = True
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        told = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise Invalid(
            N_("This is no regular expression: %(reason)s"),
            code="bad_pattern",
            field="pattern",
            reason=told[:200],
        ) from None


def regex(answer: str, reference: str, *, text: str, case: bool, compare: bool) -> float:
    """Whether the pattern is found; with `compare`, whether what its first group caught, or all
    of it where it has none, is the reference.
    """
    found = pattern(text, case).search(answer[:LONGEST])
    if found is None or not compare:
        return float(found is not None)
    caught = found.group(1) if found.re.groups else found.group(0)
    return exact(caught or "", reference, case=case, punctuation=True)


# -- numbers -----------------------------------------------------------------------------


def number(text: str, *, last: bool = True) -> float | None:
    """The last number in a text, or the first; a percentage is a hundredth. None without one."""
    text = normalised(text, case=True, punctuation=True)
    found = list(NUMBER.finditer(text))
    if not found:
        return None
    match = found[-1 if last else 0]
    value = float(match[0].rstrip("%").replace(",", ""))
    return value / 100 if match[1] else value


def numeric(
    answer: str, reference: str, *, absolute: float, relative: float, last: bool
) -> float | None:
    """Whether the numbers are as close as is asked (math.isclose); None if none was wanted."""
    wanted = number(reference)
    if wanted is None:
        return None
    said = number(answer, last=last)
    return float(
        said is not None and math.isclose(said, wanted, rel_tol=relative, abs_tol=absolute)
    )


# -- JSON --------------------------------------------------------------------------------


def refuse(uri: str) -> Any:
    raise ValueError(uri)  # a schema fetches nothing


@lru_cache(maxsize=64)
def validator(schema: str) -> Any:
    """Of a JSON Schema, as JSON. Raises Invalid."""
    try:
        return jsonschema_rs.validator_for(
            orjson.loads(schema), retriever=refuse, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (orjson.JSONDecodeError, ValueError, TypeError) as error:
        raise Invalid(
            N_("This is no JSON Schema: %(reason)s"),
            code="bad_schema",
            field="schema",
            reason=str(error).splitlines()[0][:200],
        ) from None


def parsed(text: str) -> tuple[bool, Any]:
    """The JSON of an answer, also one in a code block: whether there is any, and it."""
    fenced = FENCE.search(text)
    for one in (text, fenced[1] if fenced else None):
        if one is not None:
            try:
                return True, orjson.loads(one.strip())
            except orjson.JSONDecodeError:
                continue
    return False, None


def leaves(value: Any, path: str = "", depth: int = 0) -> dict[str, Any]:
    """Each value that is no object, by its dotted path. Lists are values."""
    if not isinstance(value, dict) or depth == DEEPEST:
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= leaves(inner, f"{path}.{name}" if path else name, depth + 1)
    return found


def same(one: Any, other: Any) -> bool:
    """Numbers by their value, texts normalised; true is not 1."""
    if isinstance(one, str) and isinstance(other, str):
        return normalised(one, case=True, punctuation=True) == normalised(
            other, case=True, punctuation=True
        )
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def json_match(answer: str, reference: str, *, schema: str, fields: list[str]) -> float:
    """0 for what is no JSON, or not as the schema says; then the share of fields that are as in
    the reference: those named, or all of its. 1 where there are none to compare.
    """
    ok, said = parsed(answer)
    if not ok or (schema and not validator(schema).is_valid(said)):
        return 0.0
    known, wanted = parsed(reference)
    if not known:
        return 1.0 if schema else 0.0
    expected, given = leaves(wanted), leaves(said)
    paths = fields or list(expected)
    right = [path in given and same(given[path], expected.get(path)) for path in paths]
    return sum(right) / len(right) if right else 1.0
