"""Chat templates: the one renderer, for previews and for training.

A model is trained on the very text it will be served with, so what comes out of here equals
transformers' `apply_chat_template(tokenize=False)` to the letter; tests hold the two together.
No transformers in it: the console renders with it too.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError

from app.errors import N_, Invalid
from app.models.sandbox import LimitExceeded, Sandbox, clock

MOST_SOURCE = 2**18  # characters of a template; the longest known ones have about 25,000
SECONDS = 5.0  # for one conversation
SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
REASONING = ("reasoning_content", "thinking", "reasoning")  # names for it, the standard one first


class ChatTemplateError(Invalid):
    """The template cannot be used, or refuses the conversation."""

    code = "chat_template"


@dataclass(frozen=True)
class ChatTemplate:
    """A model's own template, and the special tokens that it may name."""

    source: str
    tool_source: str | None = None  # for conversations with tools, where a model has two
    special_tokens: dict[str, str] = field(default_factory=dict)  # {"eos_token": "<|im_end|>"}

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        now: datetime | None = None,
        **variables: Any,
    ) -> str:
        """The conversation as text. `now` is what the template takes for the present.

        Raises ChatTemplateError: broken, refusing, or past its limits of time and memory.
        """
        source = self.tool_source if tools is not None and self.tool_source else self.source
        template = compiled(source)
        clock.now, clock.deadline = now, time.monotonic() + SECONDS
        try:
            return template.render(
                messages=[present(message) for message in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens | variables,
            )
        except (LimitExceeded, MemoryError, RecursionError) as error:
            raise too_much() from error
        except Exception as error:  # whatever a stranger's template makes of our data
            raise ChatTemplateError(
                N_("The model's chat template refuses this conversation: %(reason)s"),
                reason=str(error)[:500],
            ) from error
        finally:
            clock.now, clock.deadline = None, float("inf")


def load(directory: Path) -> ChatTemplate | None:
    """The template of a model's directory, chosen as transformers does; None if it has none.

    Raises ChatTemplateError when what is there cannot be read.
    """
    try:
        config = read_json(directory / "tokenizer_config.json")
        legacy = {} if "added_tokens_decoder" in config else special_tokens_map(directory)
        tokens = {
            f"{name}_token": token
            for name in SPECIAL_TOKENS
            if (token := text_of((config | legacy).get(f"{name}_token"))) is not None
        }
        sources = by_name(config.get("chat_template")) | dict(files(directory))
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(error) from error
    if not sources:
        return None
    if "default" not in sources:
        raise ChatTemplateError(N_("The model has several chat templates and no default one."))
    for source in sources.values():
        compiled(source)
    return ChatTemplate(sources["default"], sources.get("tool_use"), tokens)


def read_json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if not isinstance(found, dict):
        raise TypeError(f"{path.name} is not an object")
    return found


def special_tokens_map(directory: Path) -> dict[str, Any]:
    """Older models keep their special tokens in a file of its own."""
    return read_json(directory / "special_tokens_map.json")


def text_of(token: Any) -> str | None:
    """A special token is written as text, or as an object with its `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def by_name(found: Any) -> dict[str, str]:
    """`chat_template` of tokenizer_config.json: one template, or a list of named ones."""
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, dict):
        return {str(name): str(source) for name, source in found.items()}
    return {str(one["name"]): str(one["template"]) for one in found or []}


def files(directory: Path) -> Iterable[tuple[str, str]]:
    """Templates in files of their own; they come before those of tokenizer_config.json."""
    if (path := directory / "chat_template.jinja").exists():
        yield "default", path.read_text("utf-8")
        for other in sorted((directory / "additional_chat_templates").glob("*.jinja")):
            yield other.stem, other.read_text("utf-8")


@lru_cache(maxsize=64)
def compiled(source: str) -> Template:
    if len(source) > MOST_SOURCE:
        raise too_much()
    try:
        return ENVIRONMENT.from_string(source)
    except (TemplateError, SyntaxError, RecursionError, MemoryError) as error:
        raise unreadable(error) from error


def present(message: dict[str, Any]) -> dict[str, Any]:
    """The message without its empty fields; reasoning under every name that templates read."""
    message = {name: value for name, value in message.items() if value is not None}
    reasoning = next((message[name] for name in REASONING if name in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def unreadable(error: BaseException) -> ChatTemplateError:
    return ChatTemplateError(
        N_("The model's chat template cannot be read: %(reason)s"), reason=str(error)[:500]
    )


def too_much() -> ChatTemplateError:
    return ChatTemplateError(N_("The model's chat template needs more time or memory than it may."))


ENVIRONMENT = Sandbox()
