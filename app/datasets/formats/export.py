"""Rows as they are kept, written in the formats of others.

A row is written so that reading it again gives the same row; where that cannot be, BadRow says
what would be lost. Two things are given up, as no meaning is: the ids of calls, where a format
links calls and answers by their order, and the name of a tool's answer that repeats its call's.
"""

from typing import Any

import orjson

from app.datasets.formats.completion import is_list
from app.datasets.formats.parts import BadRow, Row
from app.errors import N_

# what can be asked for, by the kind of rows; the first is our own form with ids
EXPORTS: dict[str, tuple[str, ...]] = {
    "sft": (
        "danlu", "messages", "chatml", "alpaca", "sharegpt", "completion", "completion-messages",
        "alpaca-csv", "completion-csv",
    ),
    "pretrain": ("danlu", "text"),
    "preference": (
        "danlu", "preference", "preference-openai", "preference-trl", "preference-alpaca",
        "preference-sharegpt",
    ),
    "kto": ("danlu", "kto", "kto-trl", "kto-alpaca", "kto-sharegpt"),
}  # fmt: skip
ANY_ROW = {"danlu", "text", "preference", "kto"}  # what carries every row of its kind
CSV_COLUMNS = {
    "alpaca-csv": ("instruction", "input", "output", "system", "tools"),
    "completion-csv": ("prompt", "completion"),
}

CALLS = N_("It calls tools, which this format cannot say.")
TOOLS = N_("It has tools, which this format cannot say.")
NAME = N_("A message has a name, which this format cannot say.")
WEIGHT = N_("A turn has a weight, which this format cannot say.")
REASONING = N_("A turn has reasoning of its own (reasoning_content), which this format cannot say.")
ORDER = N_("Its turns do not alternate between user and assistant, as this format needs it.")
EMPTY = N_("An empty turn cannot be said in this format.")
HISTORY = N_("It has more than one question and answer, which a table cannot say.")
LIST = N_("A text of it reads as a list of messages.")
ONE_TURN = N_("It is more than one question and one answer.")
FRACTION = N_("A turn has a weight between 0 and 1; OpenAI's format knows 0 and 1 only.")
ZERO = N_("A turn has the weight 0; Bailian's format knows only weights above 0.")
LEARNED = N_("A turn before the last is learned, and this format learns the completion only.")
PARALLEL = N_("Several answers of tools follow each other, and this format has one for all calls.")
THOUGHT = N_("A turn says something and calls a tool, and this format has one or the other.")


def write(row: Row, form: str) -> Row:
    """The row in the format `form` of EXPORTS. Raises BadRow where it would lose something."""
    match form:
        case "danlu":
            return row
        case "text":
            return {"text": row["text"]}
        case "messages" | "chatml":
            return {"messages": openai(row["messages"], form), **tools(row)}
        case "alpaca" | "alpaca-csv":
            return alpaca(row, form)
        case "sharegpt":
            return sharegpt(row["messages"]) | tools(row, as_text=True)
        case "completion" | "completion-csv":
            return completion(row)
        case "completion-messages":
            return conversational(row) | tools(row)
        case "preference":
            return {"messages": openai(row["messages"], ""), **answers(row)} | tools(row)
        case "preference-openai":
            pair = answers(row)
            return {
                "input": {"messages": openai(row["messages"], "messages"), **tools(row)},
                "preferred_output": [pair["chosen"]],
                "non_preferred_output": [pair["rejected"]],
            }
        case "preference-trl":
            lists = {name: [answer] for name, answer in answers(row).items()}
            return {"prompt": openai(row["messages"], ""), **lists} | tools(row)
        case "preference-alpaca":
            texts = {name: unmistakable(row[name], name) for name in ("chosen", "rejected")}
            return prompt(row["messages"]) | texts | tools(row, as_text=True)
        case "preference-sharegpt":
            said = {name: turns([row[name]])[0] for name in ("chosen", "rejected")}
            return sharegpt(row["messages"]) | said | tools(row, as_text=True)
        case "kto":
            return {"messages": openai(row["messages"], ""), "label": row["label"], **tools(row)}
        case "kto-trl":
            *before, last = openai(row["messages"], "")
            made = {"prompt": before, "completion": [last], "label": row["label"]}
            return unweighted(row, made) | tools(row)
        case "kto-alpaca":
            return unweighted(row, alpaca(row, "alpaca")) | {"kto_tag": row["label"]}
        case "kto-sharegpt":
            made = sharegpt(row["messages"]) | {"kto_tag": row["label"]}
            return made | tools(row, as_text=True)
    raise ValueError(form)


def cannot(message: str, path: str = "messages") -> BadRow:
    return BadRow("export", path, message)


def tools(row: Row, *, as_text: bool = False) -> Row:
    if "tools" not in row:
        return {}
    found = row["tools"]
    return {"tools": orjson.dumps(found).decode() if as_text else found}


# -- messages ----------------------------------------------------------------------------


def openai(messages: list[Row], form: str) -> list[Row]:
    """As OpenAI has them, arguments of calls as text; `form` says which weights are known."""
    return [message_out(message, f"messages[{at}]", form) for at, message in enumerate(messages)]


def message_out(message: Row, path: str, form: str) -> Row:
    made = dict(message)
    weight = made.pop("weight", None)
    if weight is not None:
        if form == "messages" and weight not in (0, 1):
            raise cannot(FRACTION, f"{path}.weight")
        if form == "chatml" and weight == 0:
            raise cannot(ZERO, f"{path}.weight")
        name = "loss_weight" if form == "chatml" else "weight"
        made[name] = int(weight) if weight in (0, 1) else weight
    if calls := message.get("tool_calls"):
        made["tool_calls"] = [call_out(call) for call in calls]
    return made


def call_out(call: Row) -> Row:
    function = call["function"]
    return {**call, "function": {**function, "arguments": as_json(function["arguments"])}}


def as_json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def answers(row: Row) -> dict[str, Row]:
    return {name: message_out(row[name], name, "") for name in ("chosen", "rejected")}


# -- alpaca ------------------------------------------------------------------------------


def alpaca(row: Row, form: str) -> Row:
    *before, last = row["messages"]
    made = prompt(before)
    if form == "alpaca-csv" and "history" in made:
        raise cannot(HISTORY)
    made["output"] = plain(last, f"messages[{len(before)}]")
    if "system" in made:  # the order of columns in which people know it
        made["system"] = made.pop("system")
    if "history" in made:
        made["history"] = made.pop("history")
    return made | tools(row, as_text=True)


def prompt(messages: list[Row]) -> Row:
    """instruction, input, and system and history where there are."""
    said = [plain(message, f"messages[{at}]") for at, message in enumerate(messages)]
    roles = [message["role"] for message in messages]
    first = 1 if roles[:1] == ["system"] else 0
    if roles[first:] != (["user", "assistant"] * len(roles))[: len(roles) - first] or (
        roles[-1:] != ["user"]
    ):
        raise cannot(ORDER)
    if not all(one.strip() for one in said[first:]) or (first and not said[0]):
        raise cannot(EMPTY)
    made: Row = {"instruction": said[-1], "input": ""}
    if first:
        made["system"] = said[0]
    pairs = said[first:-1]
    if pairs:
        made["history"] = [[pairs[at], pairs[at + 1]] for at in range(0, len(pairs), 2)]
    return made


def plain(message: Row, path: str) -> str:
    """The text of a message that is nothing but text."""
    for name, why in (
        ("tool_calls", CALLS),
        ("tool_call_id", CALLS),
        ("name", NAME),
        ("weight", WEIGHT),
        ("reasoning_content", REASONING),
    ):
        if name in message:
            raise cannot(why, f"{path}.{name}")
    text: str = message["content"]
    return text


def unmistakable(message: Row, path: str) -> str:
    """A text that nobody takes for a list of messages, written as JSON."""
    if is_list(text := plain(message, path)):
        raise cannot(LIST, path)
    return text


# -- prompt and completion ---------------------------------------------------------------


def completion(row: Row) -> Row:
    messages = row["messages"]
    if [message["role"] for message in messages] != ["user", "assistant"]:
        raise cannot(ONE_TURN)
    if "tools" in row:
        raise cannot(TOOLS, "tools")
    question, answer = (unmistakable(one, f"messages[{at}]") for at, one in enumerate(messages))
    return {"prompt": question, "completion": answer}


def conversational(row: Row) -> Row:
    """The last turn is the completion; what was said before it is not learned."""
    messages = row["messages"]
    for at, message in enumerate(messages[:-1]):
        if message["role"] == "assistant" and message.get("weight", 1) != 0:
            raise cannot(LEARNED, f"messages[{at}]")
    before = [{name: one[name] for name in one if name != "weight"} for one in messages[:-1]]
    return {"prompt": openai(before, ""), "completion": openai(messages[-1:], "")}


def unweighted(row: Row, made: Row) -> Row:
    """A judged answer's conversation, where no turn but the last has a part in learning."""
    for at, message in enumerate(row["messages"]):
        if "weight" in message:
            raise cannot(WEIGHT, f"messages[{at}].weight")
    return made


# -- sharegpt ----------------------------------------------------------------------------


def sharegpt(messages: list[Row]) -> Row:
    made = turns(messages)
    first = 1 if made[0]["from"] == "system" else 0
    for at, turn in enumerate(made[first:]):
        if (turn["from"] in ("human", "observation")) != (at % 2 == 0):
            raise cannot(PARALLEL if turn["from"] == "observation" else ORDER)
    if first and not made[0]["value"]:
        raise cannot(EMPTY, "messages[0].content")
    return {"conversations": made}


def turns(messages: list[Row]) -> list[Row]:
    names = {
        call["id"]: call["function"]["name"]
        for message in messages
        for call in message.get("tool_calls", ())
    }
    made = []
    for at, kept in enumerate(messages):
        path, message = f"messages[{at}]", dict(kept)
        if message["role"] == "tool" and message.get("name") == names.get(message["tool_call_id"]):
            message.pop("name")
        message.pop("tool_call_id", None)
        calls = message.pop("tool_calls", None)
        said = plain(message, path)
        if calls:
            made.append({"from": "function_call", "value": call_value(said, calls, path)})
        else:
            made.append({"from": SPEAKERS[message["role"]], "value": said})
    return made


SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def call_value(said: str, calls: list[Row], path: str) -> str:
    """The JSON of the calls, after the thought if there is one."""
    thought = said.startswith("<think>") and said.rstrip().endswith("</think>")
    if said and not (thought and said.count("</think>") == 1):
        raise cannot(THOUGHT, f"{path}.content")
    made = [{name: call["function"][name] for name in ("name", "arguments")} for call in calls]
    return said + orjson.dumps(made[0] if len(made) == 1 else made).decode()
