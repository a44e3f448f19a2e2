"""A row as a form: one group of fields per turn, and back. Or its JSON, for whoever prefers it."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from starlette.datastructures import FormData

from app.datasets.drafts.differing import pretty
from app.errors import N_, Invalid

MOST_TURNS = 400  # a longer conversation is edited as JSON
FIELDS = ("role", "content", "weight", "name", "reasoning_content", "tool_calls", "tool_call_id")
ANSWERS = ("chosen", "rejected")
Row = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """The fields of a message as they are typed."""

    role: str = "user"
    content: str = ""
    weight: str = ""
    name: str = ""
    reasoning_content: str = ""
    tool_calls: str = ""  # JSON
    tool_call_id: str = ""

    @property
    def more(self) -> bool:
        """Whether it says more than role, content and weight."""
        return bool(self.name or self.reasoning_content or self.tool_calls or self.tool_call_id)


@dataclass
class Form:
    kind: str
    view: str = "turns"  # or json
    seen: str = ""  # hash of the row that the editor was shown
    turns: list[Turn] = field(default_factory=list)
    answers: dict[str, Turn] = field(default_factory=dict)  # chosen, rejected
    text: str = ""
    label: str = "true"
    tools: str = ""  # JSON
    json: str = ""
    errors: dict[str, str] = field(default_factory=dict)  # by place: see `place`


# -- from a row, from what was typed -----------------------------------------------------


def of_row(kind: str, row: Row, view: str = "turns", seen: str = "") -> Form:
    form = Form(kind, view, seen)
    if view == "json" or len(row.get("messages", [])) > MOST_TURNS:
        form.view = "json"
        form.json = pretty({name: value for name, value in row.items() if name != "id"})
        return form
    form.turns = [turn_of(message) for message in row.get("messages", [])]
    form.answers = {name: turn_of(row[name]) for name in ANSWERS if name in row}
    form.text = row.get("text", "")
    form.label = "true" if row.get("label", True) else "false"
    form.tools = pretty(row["tools"]) if "tools" in row else ""
    return form


def empty(kind: str, view: str = "turns") -> Form:
    """For a new row."""
    user, answer = {"role": "user", "content": ""}, {"role": "assistant", "content": ""}
    row: Row = {"text": ""}
    if kind == "preference":
        row = {"messages": [user], "chosen": answer, "rejected": answer}
    elif kind != "pretrain":
        row = {"messages": [user, answer]} | ({"label": True} if kind == "kto" else {})
    return of_row(kind, row, view)


def turn_of(message: Row) -> Turn:
    found = {name: message[name] for name in FIELDS if message.get(name) not in (None, "")}
    for name in ("tool_calls",):
        if name in found:
            found[name] = pretty(found[name])
    return Turn(**{name: str(value) for name, value in found.items()})


def of_form(kind: str, form: FormData) -> Form:
    """What was typed. Raises Invalid when the groups of fields do not fit together."""
    view = "json" if form.get("view") == "json" else "turns"
    columns = {name: typed(form, name) for name in FIELDS}
    if len({len(values) for values in columns.values()}) > 1:
        raise Invalid(N_("The form could not be read."), code="form")
    turns = [
        Turn(**dict(zip(FIELDS, one, strict=True))) for one in zip(*columns.values(), strict=True)
    ]
    answers = {}
    for name in ANSWERS:
        values = {field: typed(form, f"{name}.{field}") for field in FIELDS}
        if all(values.values()):
            answers[name] = Turn(**{field: one[0] for field, one in values.items()})

    def one(name: str) -> str:
        return next(iter(typed(form, name)), "")

    return Form(
        kind=kind,
        view=view,
        seen=one("hash"),
        turns=turns[: MOST_TURNS + 1],
        answers=answers,
        text=one("text"),
        label=one("label") or "true",
        tools=one("tools"),
        json=one("json"),
    )


def typed(form: FormData, name: str) -> list[str]:
    """Browsers send line ends as CR LF, whatever they were."""
    return [value.replace("\r\n", "\n") for value in form.getlist(name) if isinstance(value, str)]


def moved(form: Form, what: str) -> Form:
    """The form after a button: add:2 (after turn 2), remove:2, up:2, down:2, from 0."""
    verb, _, at = what.partition(":")
    turns = list(form.turns)
    number = int(at) if re.fullmatch(r"-?[0-9]{1,4}", at) else 0
    if verb == "add" and len(turns) < MOST_TURNS:
        before = turns[number].role if 0 <= number < len(turns) else "assistant"
        turns.insert(number + 1, Turn(role="user" if before == "assistant" else "assistant"))
    elif 0 <= number < len(turns):
        if verb == "remove":
            del turns[number]
        other = number + {"up": -1, "down": 1}.get(verb, 0)
        if verb in ("up", "down") and 0 <= other < len(turns):
            turns[number], turns[other] = turns[other], turns[number]
    return replace(form, turns=turns)


# -- to a row ----------------------------------------------------------------------------


def to_row(form: Form, old: Row | None = None) -> Row:
    """The row to be checked. `old`: texts that were only shown keep their line ends.

    Raises Invalid for what is no JSON, or no number.
    """
    if form.view == "json":
        found: Row = parsed(form.json, "json")
        return found
    old = old or {}
    if form.kind == "pretrain":
        return {"text": kept(form.text, old.get("text"))}
    was = old.get("messages", [])
    row: Row = {
        "messages": [
            message(turn, f"messages[{at}]", was[at] if at < len(was) else {})
            for at, turn in enumerate(form.turns)
        ]
    }
    for name, turn in form.answers.items():
        row[name] = message(turn, name, old.get(name, {}))
    if form.kind == "kto":
        row["label"] = form.label == "true"
    if form.tools.strip():
        row["tools"] = parsed(form.tools, "tools")
    return row


def message(turn: Turn, path: str, old: Row) -> Row:
    made: Row = {"role": turn.role, "content": kept(turn.content, old.get("content"))}
    if turn.name:
        made["name"] = turn.name
    if turn.tool_call_id:
        made["tool_call_id"] = turn.tool_call_id
    if turn.role == "assistant":
        if turn.weight.strip():
            made["weight"] = number(turn.weight, f"{path}.weight")
        if turn.reasoning_content:
            made["reasoning_content"] = kept(turn.reasoning_content, old.get("reasoning_content"))
        if turn.tool_calls.strip():
            made["tool_calls"] = parsed(turn.tool_calls, f"{path}.tool_calls")
    return made


def kept(text: str, old: Any) -> str:
    """The old text, if it differs only in what a browser does to line ends."""
    return old if isinstance(old, str) and old.replace("\r\n", "\n") == text else text


def number(text: str, path: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Invalid(N_("A number is needed."), code="number", field=path) from None


def parsed(text: str, path: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid(
            N_("This is not valid JSON: %(why)s, in line %(line)s."),
            code="json",
            field=path,
            why=error.msg,
            line=error.lineno,
        ) from None


# -- where a message belongs -------------------------------------------------------------

IN_TURN = re.compile(r"(?:messages\[(\d+)\]|(chosen|rejected))(?:\.(\w+))?")


def place(form: Form, path: str) -> str:
    """The field of the form that a path in the row is about: `2.content`, `chosen.role`, `tools`.

    Empty when none is.
    """
    if form.view == "json":
        return "json"
    found = IN_TURN.match(path)
    if found and (found[2] or int(found[1]) < len(form.turns)):
        name = found[3] if found[3] in FIELDS else "content"
        return f"{found[2] or found[1]}.{name}"
    top = re.split(r"[.\[]", path)[0]
    return top if top in ("text", "label", "tools") else ""
