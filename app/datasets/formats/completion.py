"""Prompt and completion: two texts, or two lists of messages, as TRL has them.

Only the completion is learned: the assistant's turns of a prompt get the weight 0.
"""

from app.datasets.formats import messages as openai
from app.datasets.formats.parts import (
    BadRow,
    Row,
    opened,
    optional,
    text,
    tools_of,
    unused,
    wrong_type,
)
from app.errors import N_

FIELDS = {"prompt", "completion", "system", "tools"}
LIST_OR_TEXT = N_("A text or a list of messages is needed here, and this is of the type %(found)s.")


def from_completion(row: Row, *, weigh: bool = True) -> tuple[Row, set[str]]:
    """Without `weigh`, for what is judged and not learned, the prompt keeps its weights."""
    messages, extra = prompt_of(row)
    for message in messages:
        if weigh and message["role"] == "assistant":
            message["weight"] = 0.0
    completion = row.get("completion")
    if completion is None:
        raise BadRow(
            "completion.missing",
            "completion",
            N_("There is no “completion”, so there is nothing to learn from this row."),
        )
    if is_list(completion):
        answers, more = openai.read(row, "completion")
        extra |= more
    elif isinstance(completion, str):
        answers = [{"role": "assistant", "content": text(completion, "completion")}]
    else:
        raise wrong_type("completion.type", "completion", LIST_OR_TEXT, completion)
    if answers[-1]["role"] != "assistant":
        raise BadRow(
            "turn.last",
            f"completion[{len(answers) - 1}].role",
            N_("The last turn must be the assistant's."),
        )
    openai.check_answer(answers[-1], "completion")
    kept: Row = {"messages": ordered(messages + answers)}
    try:
        openai.link(kept["messages"], "messages")
        openai.check_turns(kept["messages"])
    except BadRow as bad:
        bad.path = original(bad.path, len(messages))
        raise
    if tools := tools_of(row.get("tools")):
        kept["tools"] = tools
    return kept, extra | unused(row, FIELDS)


def prompt_of(row: Row) -> tuple[list[Row], set[str]]:
    """The messages before the answer, from `prompt` and, beside a text, `system`."""
    prompt = row.get("prompt")
    if prompt is None:
        raise BadRow("prompt.missing", "prompt", N_("The field “prompt” is missing."))
    system = optional(row, "system")
    before: list[Row] = [{"role": "system", "content": system}] if system else []
    if is_list(prompt):
        messages, extra = openai.read(row, "prompt")
        return (before if messages[0]["role"] != "system" else []) + messages, extra
    if isinstance(prompt, str):
        return [*before, {"role": "user", "content": text(prompt, "prompt")}], set()
    raise wrong_type("prompt.type", "prompt", LIST_OR_TEXT, prompt)


def is_list(value: object) -> bool:
    """A list of messages, if only as JSON in a cell; a text that begins with a bracket is none."""
    found = opened(value)
    return isinstance(found, list) and (
        not isinstance(value, str)
        or (bool(found) and all(isinstance(one, dict) and "role" in one for one in found))
    )


def ordered(messages: list[Row]) -> list[Row]:
    """The fields of each message in the order in which rows keep them."""
    order = ("role", "content", "name", "weight", "reasoning_content", "tool_calls", "tool_call_id")
    return [{name: one[name] for name in order if name in one} for one in messages]


def original(path: str, prompt: int) -> str:
    """A place among all messages as one of the `prompt` first, or of the completion."""
    number, _, rest = path.removeprefix("messages[").partition("]")
    at = int(number) if number.isdecimal() else 0
    return f"prompt[{at}]{rest}" if at < prompt else f"completion[{at - prompt}]{rest}"
