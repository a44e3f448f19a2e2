"""How an engine must speak for a model: with which words and template, where it stops.

vLLM keeps one tokenizer and one chat template for all that an engine carries. An adapter may only
be carried where both are its own (design.md, invariant 8); where it stops and how it draws, the
gateway says with each request.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from app import storage
from app.errors import N_, DomainError
from app.models import chat_template
from app.models.tables import Model

# What a generation config may set, with what vLLM does where it sets nothing.
SAMPLING: dict[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
WEIGHTS = (".safetensors",)


@dataclass(frozen=True)
class Speech:
    words: str  # a digest of the tokenizer
    template: tuple[str, str, tuple[tuple[str, str], ...]] | None  # text, of tools, special tokens
    stops: frozenset[int]
    sampling: tuple[tuple[str, float], ...]


def of(base: Model, adapter: Model | None = None) -> Speech:
    """How `base` speaks, or `adapter` on it, which speaks as its base where it says nothing.

    Raises FileNotFoundError, and Invalid for files that cannot be read.
    """
    return read(base.artefact, adapter.artefact if adapter else None)


@lru_cache(maxsize=256)  # artefacts do not change
def read(base: str, adapter: str | None) -> Speech:
    places = [storage.fetch(base, without=WEIGHTS)]
    if adapter:
        places.insert(0, storage.fetch(adapter, without=WEIGHTS))
    words = next((place for place in places if (place / "tokenizer.json").is_file()), None)
    tokenizer = orjson.loads((words / "tokenizer.json").read_bytes()) if words else {}
    says = next((place for place in places if has_template(place)), None)
    generation = next((found for place in places if (found := generation_of(place))), {})
    stops = stops_of(generation, places[-1])
    config = next((found for place in places if (found := tokenizer_config(place))), {})
    ends = chat_template.text_of(config.get("eos_token"))
    stops |= {one["id"] for one in tokenizer.get("added_tokens", []) if one["content"] == ends}
    return Speech(
        words=digest(tokenizer),
        template=template_of(says) if says else None,
        stops=frozenset(stops),
        sampling=tuple(
            (name, float(generation[name]))
            for name in SAMPLING
            if isinstance(generation.get(name), int | float)
        ),
    )


def digest(tokenizer: dict[str, Any]) -> str:
    """Of what decides how a text is cut: the same for two spellings of the same file."""
    model = tokenizer.get("model") or {}
    merges = [one if isinstance(one, str) else " ".join(one) for one in model.get("merges") or []]
    rest = {name: tokenizer.get(name) for name in ("added_tokens", "normalizer", "pre_tokenizer")}
    told = rest | {"type": model.get("type"), "vocab": model.get("vocab"), "merges": merges}
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()


def has_template(place: Path) -> bool:
    return (place / "chat_template.jinja").is_file() or "chat_template" in tokenizer_config(place)


def tokenizer_config(place: Path) -> dict[str, Any]:
    return chat_template.read_json(place / "tokenizer_config.json")


def template_of(place: Path) -> tuple[str, str, tuple[tuple[str, str], ...]] | None:
    """The template, and those special tokens that it asks for."""
    found = chat_template.load(place)
    if found is None:
        return None
    tools = found.tool_source or ""
    tokens = found.special_tokens.items()
    return (
        found.source.rstrip("\n"),
        tools.rstrip("\n"),
        tuple(sorted((name, token) for name, token in tokens if name in found.source + tools)),
    )


def generation_of(place: Path) -> dict[str, Any]:
    return chat_template.read_json(place / "generation_config.json")


def stops_of(generation: dict[str, Any], base: Path) -> set[int]:
    """The ids of a generation config, or else of the base's config."""
    found = generation.get("eos_token_id")
    if found is None:
        found = chat_template.read_json(base / "config.json").get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    return {one for one in listed if isinstance(one, int)}


def unsupported(base: Model, adapter: Model) -> str:
    """What of an adapter's own words no engine of its base could use; "" if nothing.

    An engine of its own is told the adapter's chat template, but keeps its base's tokenizer.
    """
    try:
        theirs, ours = of(base), of(base, adapter)
    except (OSError, ValueError, TypeError, KeyError, DomainError):
        return ""  # the engine will say what is wrong with the files
    if ours.words != theirs.words:
        return "tokenizer.json"
    if ours.template and theirs.template and ours.template[2] != theirs.template[2]:
        return "special_tokens_map.json"
    if ours.template and ours.template[1] and ours.template != theirs.template:
        return "additional_chat_templates"
    return ""


def differs(host: Speech, guest: Speech) -> str:
    """Why an engine that speaks as `host` cannot speak for `guest`, as a msgid; "" if it can."""
    if guest.words != host.words:
        return N_("%(host)s answers with another tokenizer.")
    if guest.template != host.template:
        return N_("%(host)s answers with another chat template.")
    if host.stops - guest.stops:
        return N_("%(host)s ends answers where this adapter goes on.")
    return ""


def sends(host: Speech, guest: Speech) -> dict[str, Any]:
    """What must be sent with each request so that `host`'s engine does as `guest` would."""
    theirs, ours = dict(host.sampling), dict(guest.sampling)
    found: dict[str, Any] = {
        name: ours.get(name, usual)
        for name, usual in SAMPLING.items()
        if ours.get(name, usual) != theirs.get(name, usual)
    }
    if stops := guest.stops - host.stops:
        found["stop_token_ids"] = sorted(stops)
    return found
