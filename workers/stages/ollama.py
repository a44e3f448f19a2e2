"""An Ollama Modelfile: the chat template in Ollama's own language, where to stop, how to sample.

Ollama's templates are Go's, not Jinja. Ours is found by rendering: if every turn of the model's
template is an opening, the content and a closing, whatever stands before, those make the Go
template, and what it says is compared with the original. Where they differ nothing is said, and
Ollama goes by the template inside the GGUF file.
"""

import itertools
import json
from dataclasses import dataclass
from typing import Any

from app.models.chat_template import ChatTemplate, ChatTemplateError

CONTEXT = 32_768  # tokens at most: Ollama takes the memory for them at once
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
NAMES = {"repetition_penalty": "repeat_penalty"}


@dataclass
class Turns:
    """How each role's turns open and close."""

    head: str  # before the first turn
    silent: str  # stands there where no system message does
    opening: dict[str, str]
    closing: dict[str, str]

    def render(self, messages: list[dict[str, str]]) -> str:
        """As Ollama will, with the opening of the answer."""
        text = self.head
        if not messages or messages[0]["role"] != "system":
            text += self.silent
        for message in messages:
            role = message["role"]
            text += self.opening[role] + message["content"] + self.closing[role]
        return text + self.opening["assistant"]


def modelfile(
    template: ChatTemplate | None,
    generation: dict[str, Any],
    stops: list[str],
    *,
    context: int,
    bos: str,
) -> str:
    """`bos`: what llama.cpp puts before everything by itself, if anything."""
    lines = ["FROM ./model.gguf", ""]
    turns = learn(template, bos) if template else None
    if turns:
        lines += [f'TEMPLATE """{go_template(turns)}"""', ""]
    elif template:
        lines += ["# TEMPLATE: Ollama reads the chat template inside model.gguf.", ""]
    lines += [f"PARAMETER num_ctx {min(context or CONTEXT, CONTEXT)}"]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if plain(stop) and '"' not in stop]
    for name in SAMPLING:
        value = generation.get(name)
        if isinstance(value, int | float) and generation.get("do_sample", True):
            lines.append(f"PARAMETER {NAMES.get(name, name)} {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def plain(text: str) -> bool:
    """Whether it can stand in a Modelfile and a Go template as it is."""
    return '"""' not in text and "{{" not in text and "}}" not in text and "\0" not in text


def go_template(turns: Turns) -> str:
    """One branch per role; the answer's opening stands where the last message is no answer."""
    roles = [
        f'eq .Role "{role}" }}}}{turns.opening[role]}{{{{ .Content }}}}{turns.closing[role]}'
        for role in turns.opening
        if role != "assistant"
    ]
    answer = (
        f'eq .Role "assistant" }}}}{turns.opening["assistant"]}{{{{ .Content }}}}'
        f"{{{{ if not $last }}}}{turns.closing['assistant']}{{{{ end }}}}"
    )
    silent = ""
    if turns.silent:
        silent = (
            '{{ if or (eq (len .Messages) 0) (ne (index .Messages 0).Role "system") }}'
            f"{turns.silent}{{{{ end }}}}"
        )
    return (
        turns.head
        + silent
        + "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ if "
        + "{{ else if ".join([*roles, answer])
        + '{{ end }}{{ if and $last (ne .Role "assistant") }}'
        + turns.opening["assistant"]
        + "{{ end }}{{ end }}"
    )


def learn(template: ChatTemplate, bos: str) -> Turns | None:
    """None where turns are not that simple."""

    def render(*said: str, answer: bool = True) -> str:
        roles = {"S": "system", "U": "user", "V": "user", "A": "assistant", "B": "assistant"}
        messages = [{"role": roles[one[1]], "content": one} for one in said]
        return template.render(messages, add_generation_prompt=answer).removeprefix(bos)

    s, u, v, a, b = (f"⟦{one}⟧" for one in "SUVAB")  # ⟦U⟧: stands in no template
    try:
        alone = render(u)
        more = render(u, a, v)
        before, between, opening = more.split(u)[0], more.split(u)[1].split(a)[0], ""
        rest = more.split(a)[1]  # closing of the answer, opening of a user's turn, V ...
        ending = alone.split(u)[1]  # closing of the user's turn, opening of the answer
        if between != ending or not rest.endswith(v + ending):
            return None
        middle = rest.removesuffix(v + ending)
        closed = render(u, a, answer=False).split(a)[1]
        if not middle.startswith(closed):
            return None
        opening = middle.removeprefix(closed)
        user_closing = render(u, answer=False).split(u)[1]
        if not ending.startswith(user_closing) or not before.endswith(opening):
            return None
        turns = Turns(
            head="",
            silent=before.removesuffix(opening),
            opening={"user": opening, "assistant": ending.removeprefix(user_closing)},
            closing={"user": user_closing, "assistant": closed},
        )
        try:
            start, after = render(s, u).split(u)[0].split(s)
        except (ChatTemplateError, ValueError):
            after = None  # no system messages here
        if after is not None and after.endswith(opening):
            turns.opening = {"system": start, **turns.opening}
            turns.closing["system"] = after.removesuffix(opening)
        asked = [[u], [u, a, v], [u, a, v, b, u]]
        if "system" in turns.opening:
            asked += [[s, *one] for one in asked]
        roles = {"S": "system", "U": "user", "V": "user", "A": "assistant", "B": "assistant"}
        for said in asked:
            messages = [{"role": roles[one[1]], "content": one} for one in said]
            if render(*said) != turns.render(messages):
                return None
    except (ChatTemplateError, IndexError, ValueError):
        return None
    parts = itertools.chain([turns.silent], turns.opening.values(), turns.closing.values())
    return turns if all(map(plain, parts)) else None
