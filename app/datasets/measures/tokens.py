"""A row as a model sees it: its tokens, and which of them are trained.

The work is done by a child that can be killed (`app.datasets.measures.tokenise`): a chat template comes
from a stranger, and may loop or eat memory.
"""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from app.config import ROOT
from app.errors import N_, Invalid, Unavailable

SECONDS = 10.0  # for one row, on the clock
PAGE = 1000  # tokens
AT_ONCE = threading.BoundedSemaphore(2)  # children of this process
PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")  # of our environment

TOO_MUCH = N_(
    "This row could not be put into the model's tokens: the chat template or the tokenizer needs"
    " more time or memory than it may."
)
REFUSALS = {
    "no_template": N_(
        "The model has no chat template, so conversations cannot be put into its words."
    ),
    "no_answer": N_("This row has no assistant turn at its end, so nothing of it is trained."),
    "unweighted": N_("All answers of this row have the weight 0, so nothing of it is trained."),
    "empty": N_("This row has no text, so nothing of it is trained."),
    "refused": N_("The chat template refuses this row: %(reason)s"),
    "unstable": N_(
        "The chat template renders this row's answers in a way that no generation prompt leads"
        " to, so nothing of it is trained."
    ),
    "no_stop": N_(
        "The chat template ends the model's answers without a special token, so a model trained"
        " with it would never stop. Training refuses this."
    ),
}


@dataclass(frozen=True)
class Token:
    id: int
    token: str  # as the vocabulary spells it
    text: str | None  # None: the rest of a character, or no part of the text
    trained: bool
    special: bool


@dataclass(frozen=True)
class Look:
    """One page of one text of a row; counts are of the whole text."""

    refused: str = ""  # a key of REFUSALS: why nothing is trained
    reason: str = ""  # in the template's words
    parts: list[str] = field(default_factory=list)  # texts of the row: "", chosen, rejected
    part: int = 0
    total: int = 0  # tokens
    trained: int = 0
    kept: int = 0  # tokens up to the maximum length
    kept_trained: int = 0
    offset: int = 0
    tokens: list[Token] = field(default_factory=list)

    @property
    def next_offset(self) -> int | None:
        end = self.offset + len(self.tokens)
        return end if end < self.total else None


def look(
    directory: Path,
    row: dict[str, Any],
    kind: str,
    *,
    max_length: int = 0,
    part: int = 0,
    offset: int = 0,
    limit: int = PAGE,
) -> Look:
    """The tokens `offset` to `offset + limit` of the row's text number `part`.

    `directory` is the model's; `max_length` 0 is no limit. Raises Invalid for a model or a template
    that cannot be used, Unavailable while too many ask.
    """
    asked = {
        "model": str(directory),
        "row": row,
        "kind": kind,
        "max_length": max_length,
        "part": part,
        "offset": offset,
        "limit": limit,
    }
    if not AT_ONCE.acquire(timeout=SECONDS):
        raise Unavailable(N_("Too many rows are being looked at. Try again in a moment."))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "app.datasets.measures.tokenise"],
            cwd=ROOT,
            env=environment(),
            input=orjson.dumps(asked),
            capture_output=True,
            timeout=SECONDS,
            check=True,
        )
        found = orjson.loads(done.stdout)
    except (subprocess.SubprocessError, orjson.JSONDecodeError) as error:
        raise Invalid(TOO_MUCH, code="tokens_failed") from error
    finally:
        AT_ONCE.release()
    if said := found.get("error"):
        raise Invalid(said["message"], code=said["code"], **said["params"])
    return Look(**found | {"tokens": [Token(**one) for one in found.get("tokens", ())]})


def environment() -> dict[str, str]:
    """No address and no key of ours goes to the child."""
    return {name: os.environ[name] for name in PASSED if name in os.environ} | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
    }
