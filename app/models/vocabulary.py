"""A model's tokenizer and chat template, read from its files without transformers.

What comes out of here tokenises as training does, which uses transformers' own loader; a test
holds the two together. For statistics and previews: pure, quick to load, no torch.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from app.errors import N_, DomainError, Invalid
from app.models import chat_template
from app.models.chat_template import SPECIAL_TOKENS, ChatTemplate, text_of
from app.models.marking import Marker

# What decides how a model reads and ends a text.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
)


@dataclass(frozen=True)
class Vocabulary:
    tokenizer: Tokenizer
    template: ChatTemplate | None
    special: set[int]  # ids that can end a turn
    stops: list[int]  # ids at which engines stop
    around: tuple[list[int], list[int]]  # ids that open and close a plain text

    def marker(self, now: datetime) -> Marker:
        return Marker(
            self.tokenizer, self.template, self.special, set(self.stops), self.around, now
        )


def load(directory: Path) -> Vocabulary:
    """Raises Invalid when the files cannot be used."""
    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = chat_template.read_json(directory / "tokenizer_config.json")
        if "added_tokens_decoder" not in config:
            config |= chat_template.special_tokens_map(directory)
        return read(directory, tokenizer, config)
    except DomainError:
        raise
    except Exception as error:  # tokenizers raises nothing more precise
        raise Invalid(
            N_("The model's tokenizer cannot be read: %(reason)s"),
            code="bad_model",
            reason=str(error)[:500],
        ) from error


def read(directory: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> Vocabulary:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_tokens(declared(config, tokenizer))
    named = {name: text_of(config.get(f"{name}_token")) for name in SPECIAL_TOKENS}
    words = [word for word in named.values() if word is not None] + extra(config)
    known = added(tokenizer)
    missing = [word for word in words if word not in known]
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in missing])
    ids = {word: tokenizer.token_to_id(word) for word in words}
    special = {at for at, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    special |= {at for at in ids.values() if at is not None}
    bos, eos = (ids.get(named[name] or "") for name in ("bos", "eos"))
    closing = [] if eos is None else [eos]
    stops = stop_tokens(directory) or closing
    return Vocabulary(
        tokenizer,
        chat_template.load(directory),
        special | set(stops),
        stops,
        (opening(tokenizer, bos), closing),
    )


def added(tokenizer: Tokenizer) -> set[str]:
    return {token.content for token in tokenizer.get_added_tokens_decoder().values()}


def declared(config: dict[str, Any], tokenizer: Tokenizer) -> list[AddedToken]:
    """Tokens that only tokenizer_config.json adds, in the order of their ids."""
    known = added(tokenizer)
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    found = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda one: int(one[0]))
    return [
        AddedToken(one["content"], **{name: bool(one[name]) for name in names if name in one})
        for _, one in found
        if one["content"] not in known
    ]


def extra(config: dict[str, Any]) -> list[str]:
    """Special tokens without a role, under the names of several generations."""
    found = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    words = found.values() if isinstance(found, dict) else found
    return [word for one in words if (word := text_of(one)) is not None]


def opening(tokenizer: Tokenizer, bos: int | None) -> list[int]:
    """The ids that the tokenizer itself puts before a text: the one that begins it, or nothing."""
    before = tokenizer.encode("a").ids[: -len(tokenizer.encode("a", add_special_tokens=False).ids)]
    return [token for token in before if token == bos]


def stop_tokens(directory: Path) -> list[int]:
    """The ids at which the model's engine stops to generate, as its own files have them."""
    for name in ("generation_config.json", "config.json"):
        found = chat_template.read_json(directory / name).get("eos_token_id")
        if found is not None:
            return list(found) if isinstance(found, list) else [int(found)]
    return []
