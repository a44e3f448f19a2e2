"""A prompt with a better and a worse answer, as OpenAI, Bailian, LLaMA-Factory and TRL write it.

OpenAI: input {messages, tools}, preferred_output [message], non_preferred_output [message].
Bailian: messages, chosen, rejected. LLaMA-Factory: alpaca fields or conversations, with chosen
and rejected. TRL: prompt, chosen, rejected as texts or messages; without a prompt, chosen and
rejected are whole conversations that begin alike.
"""

from typing import Any

from app.datasets.formats import alpaca, completion, sharegpt
from app.datasets.formats import messages as openai
from app.datasets.formats.parts import (
    OBJECT,
    BadRow,
    Row,
    opened,
    text,
    tools_of,
    unused,
    wrong_type,
)
from app.datasets.formats.sharegpt import TAGS, Tags
from app.errors import N_

OPENAI_FIELDS = {"input", "preferred_output", "non_preferred_output"}
ANSWERS = {"chosen", "rejected"}
ANSWER = N_("An answer is a text, or one message of the assistant; this is of the type %(found)s.")


def from_preference(row: Row, tags: Tags | None = None) -> tuple[Row, set[str]]:
    """Raises BadRow, also for two answers that are the same."""
    tags = {**TAGS, **(tags or {})}
    if OPENAI_FIELDS & row.keys() > {"input"} or "preferred_output" in row:
        return from_openai(row)
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise BadRow(
                f"{name}.missing",
                name,
                N_("A preference needs both answers, and “%(name)s” is missing."),
                name=name,
            )
    extra: set[str] = set()
    path = "prompt"
    used = {"prompt", "system", "tools"}
    if whole(row["chosen"]) and whole(row["rejected"]):
        prompt, answers, path = split(row, extra)
        used = {"tools"}
        return finish(prompt, answers, row.get("tools"), path), extra | unused(row, used | ANSWERS)
    if "conversations" in row:
        turns = sharegpt.turns_of(row, tags)
        prompt, extra, path = turns.all, turns.extra, turns.path
        used = {"conversations", "system", "tools"}
    elif "messages" in row:
        prompt, extra = openai.conversation(row, "messages")
        path = "messages"
        used = {*openai.FIELDS}
    elif "prompt" in row:
        prompt, extra = completion.prompt_of(row)
        openai.link(prompt, path)
    elif "instruction" in row or "input" in row:
        prompt, path = alpaca.prompt_of(row), "instruction"
        used = set(alpaca.PROMPT_FIELDS)
    else:
        raise BadRow(
            "prompt.missing",
            "prompt",
            N_("There is no prompt: neither “prompt”, “messages”, “conversations” nor “input”."),
        )
    answers = {name: answer_of(row[name], name, tags, extra) for name in ("chosen", "rejected")}
    kept = finish(prompt, answers, row.get("tools") or row.get("functions"), path)
    return kept, extra | unused(row, used | ANSWERS)


def finish(prompt: list[Row], answers: dict[str, Row], tools: Any, path: str) -> Row:
    openai.check_prompt(prompt, path)
    for name, answer in answers.items():
        openai.link([*prompt, answer], path)
        openai.check_answer(answer, name)
    if answers["chosen"] == answers["rejected"]:
        raise BadRow(
            "preference.same",
            "rejected",
            N_("Both answers are the same, so there is nothing to learn from this row."),
        )
    kept: Row = {"messages": prompt, **answers}
    if found := tools_of(tools):
        kept["tools"] = found
    return kept


def from_openai(row: Row) -> tuple[Row, set[str]]:
    given = opened(row.get("input"))
    if not isinstance(given, dict):
        raise wrong_type("input.type", "input", OBJECT, given)
    extra: set[str] = set()
    answers = {}
    for name, field in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        if row.get(field) is None:
            raise BadRow(
                f"{name}.missing",
                field,
                N_("A preference needs both answers, and “%(name)s” is missing."),
                name=field,
            )
        answers[name] = answer_of(row[field], field, TAGS, extra)
    if "messages" not in given:
        raise BadRow("messages.missing", "input.messages", N_("The field “messages” is missing."))
    prompt, more = openai.conversation({"input.messages": given["messages"]}, "input.messages")
    kept = finish(prompt, answers, given.get("tools") or given.get("functions"), "input.messages")
    extra |= more | unused(given, openai.FIELDS, "input.")
    return kept, extra | unused(row, OPENAI_FIELDS)


def answer_of(value: Any, path: str, tags: Tags, extra: set[str]) -> Row:
    """An answer as a message: from a text, a message, a list of one, or a ShareGPT turn."""
    value = opened(value) if completion.is_list(value) else value
    if isinstance(value, str):
        return {"role": "assistant", "content": text(value, path)}
    if isinstance(value, list):
        if len(value) != 1:
            raise BadRow(
                "answer.many",
                path,
                N_("An answer is one message of the assistant, and these are %(count)s."),
                count=len(value),
            )
        value, path = value[0], f"{path}[0]"
    if not isinstance(value, dict):
        raise wrong_type("answer.type", path, ANSWER, value)
    here = f"{path}.role"
    if tags["role_tag"] in value and "role" not in value:
        here = f"{path}.{tags['role_tag']}"
        message = sharegpt.turn_of(value, path, tags, extra)
    else:
        message = openai.message_of(value, path, extra)
    if message["role"] != "assistant":
        raise BadRow("answer.role", here, N_("An answer must be a message of the assistant."))
    return message


def whole(value: Any) -> bool:
    """Whether an answer is a conversation, the prompt included."""
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and value[0].get("role") in ("system", "user", "developer")
    )


def split(row: Row, extra: set[str]) -> tuple[list[Row], dict[str, Row], str]:
    """What both conversations begin with, and the one message in which each ends."""
    chosen, more = openai.read(row, "chosen")
    rejected, others = openai.read(row, "rejected")
    extra |= more | others
    if chosen[:-1] != rejected[:-1]:
        raise BadRow(
            "preference.prompts",
            "rejected",
            N_("Both conversations must be the same but for the last message of each."),
        )
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1]["role"] != "assistant":
            raise BadRow(
                "turn.last",
                f"{name}[{len(turns) - 1}].role",
                N_("The last turn must be the assistant's."),
            )
    openai.link(chosen[:-1], "chosen")
    return chosen[:-1], {"chosen": chosen[-1], "rejected": rejected[-1]}, "chosen"
