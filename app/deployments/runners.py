"""What an engine does with a model: write answers, or give embeddings.

vLLM does one of the two (its `--runner`). Left to us it is what the model's own files say: the
modules.json of sentence-transformers, or an architecture that has no head to write with.
"""

import json
from collections.abc import Callable
from typing import Any

from app import storage
from app.errors import N_, Invalid
from app.models.tables import Model

GENERATE, POOLING = "generate", "pooling"
HEADLESS = ("Model", "ForMaskedLM")  # how such architectures end
SHIFTED = ("Roberta", "XLMRoberta")  # whose positions begin after the two of padding
POOLS = {"cls": "CLS", "lasttoken": "LAST", "mean": "MEAN"}
KNOWN = ("Transformer", "Pooling", "Normalize")
Read = Callable[[str], bytes]  # a file of a model; FileNotFoundError if it is not there


def of(model: Model) -> str:
    """What its files say: generate or pooling."""
    if model.architecture.endswith(HEADLESS) or modules(reader(model)):
        return POOLING
    return GENERATE


def embeds(arguments: dict[str, Any]) -> bool:
    """Whether an engine with these arguments gives embeddings."""
    return arguments.get("runner") == POOLING


def chosen(model: Model, arguments: dict[str, Any], engine: str) -> dict[str, Any]:
    """The arguments with the runner that the model's files ask for, unless they name one.

    Raises Invalid where the engine gives no embeddings, or would give wrong ones.
    """
    asked = arguments.get("runner") or of(model)
    if asked != POOLING:
        return arguments
    if engine != "vllm":
        raise Invalid(
            N_("%(name)s gives embeddings, which only vLLM can serve; it runs on no node here."),
            code="embeddings",
            field="engine",
            name=model.name,
        )
    strange = [kind for kind, _ in modules(reader(model)) if kind not in KNOWN]
    if strange:
        raise Invalid(
            N_(
                "The embeddings of %(name)s go through a layer that cannot be served here "
                "(%(kind)s), so they would be wrong."
            ),
            code="embeddings",
            field="model",
            name=model.name,
            kind=strange[0][:60],
        )
    return arguments | {"runner": POOLING}


def most(model: Model) -> int:
    """Tokens that an embedding can be made of, at most; 0 where the files do not say."""
    read = reader(model)
    shifted = 2 if model.architecture.startswith(SHIFTED) else 0
    said = (
        model.context_length - shifted,
        whole(parsed(read, "sentence_bert_config.json"), "max_seq_length"),
        whole(parsed(read, "tokenizer_config.json"), "model_max_length"),
    )
    return min((one for one in said if one > 0), default=0)


# -- the files of sentence-transformers --------------------------------------------------


def reader(model: Model) -> Read:
    return lambda name: storage.read(model.artefact, name)


def parsed(read: Read, name: str) -> Any:
    try:
        return json.loads(read(name))
    except (OSError, ValueError):
        return None


def whole(config: Any, name: str) -> int:
    """A number of tokens; 0 for anything else, and for “no end” (1e30)."""
    value = config.get(name) if isinstance(config, dict) else None
    return value if type(value) is int and 0 < value < 2**31 else 0


def modules(read: Read) -> list[tuple[str, str]]:
    """(kind, folder) of what modules.json lists: Transformer, Pooling, Normalize, Dense …"""
    found = parsed(read, "modules.json")
    listed = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return [
        (str(one.get("type", "")).rpartition(".")[2], str(one.get("path", ""))) for one in listed
    ]


def kept_as(folder: str) -> str:
    """The name under which an import keeps the config.json of such a folder: plain, as all are."""
    return f"{folder}.config.json"


def pooler(read: Read) -> dict[str, Any]:
    """How the vectors of tokens become one, in vLLM's words; empty where nothing is said."""
    found = modules(read)
    folder = next((path for kind, path in found if kind == "Pooling"), None)
    if folder is None:
        return {}
    said = parsed(read, kept_as(folder))
    said = said if isinstance(said, dict) else {}
    flags = [name.removeprefix("pooling_mode_") for name, on in said.items() if on is True]
    names = [str(said.get("pooling_mode", "")), *(name.partition("_")[0] for name in flags)]
    pool = next((POOLS[name] for name in names if name in POOLS), None)
    normalised = any(kind == "Normalize" for kind, _ in found)
    return {"use_activation": normalised} | ({"seq_pooling_type": pool} if pool else {})
