"""A tuned model is served the very tokens it was trained with.

Training: our renderer and marker, as the stages use them. Serving: vLLM's own validation, parsing
and rendering, in its own environment. For every answer that is trained, the tokens before it are
the prompt that vLLM would give its engine, and the last one that carries loss stops the engine.
"""

import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from app.config import ROOT, settings
from app.models import vocabulary
from app.models.marking import Dropped, Marked, StopUntrained
from tests.models import parity
from tests.models.parity import CONVERSATIONS, STARTER
from workers.engines import vllm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]  # importing vLLM on a busy machine

SOURCES = parity.sources()
NAMES = [*SOURCES, "starter"]
# Rendered from the prompt's parts alone in serving, or for eyes: no template of a text model.
OTHER = {
    "gptoss": "vLLM renders this family with openai-harmony, not with its template",
    "idefics3": "reads images and lists of parts; a plain text comes out empty",
    "smolvlm": "reads images and lists of parts; a plain text comes out empty",
    "llava_next": "reads images and lists of parts; a plain text comes out empty",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("parity")
    made = {name: parity.make(directory, name, source) for name, source in SOURCES.items()}
    return made | {"starter": STARTER}


def sent(message: dict[str, Any]) -> dict[str, Any]:
    """As callers send it: what a tool is called with is JSON text."""
    calls = [
        call
        | {
            "function": (function := call["function"])
            | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}
        }
        for call in message.get("tool_calls", ())
    ]
    return message | {"tool_calls": calls} if calls else message


def prefixes(row: dict[str, Any]) -> list[dict[str, Any]]:
    """What a caller would have sent for each of the row's answers."""
    return [
        {"messages": [sent(one) for one in row["messages"][:at]]}
        | ({"tools": row["tools"]} if "tools" in row else {})
        for at, message in enumerate(row["messages"])
        if message["role"] == "assistant"
    ]


@pytest.fixture(scope="module")
def served(models, tmp_path_factory) -> dict[tuple[str, str], list[list[int] | str]]:
    """For each model and conversation the prompt of each answer, as vLLM has it."""
    directory = tmp_path_factory.mktemp("served")
    templates = {}
    for name, place in models.items():
        (directory / name).mkdir()
        if path := vllm.served_template(place, None, directory / name):
            templates[name] = path.read_text("utf-8")
    asked = [
        (name, title, body)
        for name in models
        for title, row in CONVERSATIONS.items()
        for body in prefixes(row)
    ]
    done = subprocess.run(
        [settings.serve_python, ROOT / "tests/models/parity_oracle.py"],
        input=json.dumps(
            {
                "models": {name: str(place) for name, place in models.items()},
                "templates": templates,
                "form": vllm.CONTENT_FORMAT,
                "cases": [(name, body) for name, _, body in asked],
            }
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[tuple[str, str], list[list[int] | str]] = {}
    answers = json.loads(done.stdout.splitlines()[-1])
    for (name, title, _), prompt in zip(asked, answers, strict=True):
        found.setdefault((name, title), []).append(prompt)
    return found


def trained(place: Path, row: dict[str, Any]) -> tuple[vocabulary.Vocabulary, list[Marked]]:
    """The row as the stages train it. Raises Dropped, StopUntrained."""
    words = vocabulary.load(place)
    marker = words.marker(datetime.now())
    texts = marker.texts(row | {"id": "r1"})
    encodings = marker.encode(texts)
    return words, [marker.mark(*pair) for pair in zip(texts, encodings, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_is_what_is_served(name, models, served):
    if reason := next((why for start, why in OTHER.items() if name.startswith(start)), ""):
        pytest.skip(reason)
    held, refused = 0, set()
    for title, row in CONVERSATIONS.items():
        prompts = served[name, title]
        try:
            words, samples = trained(models[name], row)
        except (Dropped, StopUntrained) as error:
            refused.add((title, str(error)))
            continue
        assert all(isinstance(prompt, list) for prompt in prompts), (title, prompts)
        spans = [(sample, span) for sample in samples for span in sample.spans]
        before = sorted(list(sample.ids[: span[0]]) for sample, span in spans)
        assert before == sorted(prompts), difference(words, title, before, sorted(prompts))
        for sample, (first, end) in spans:
            answer = list(sample.ids[first:end])
            assert answer[-1] in words.stops, (title, words.tokenizer.decode(answer))
            assert not set(answer[:-1]) & set(words.stops), title
            assert all(sample.trained()[first:end]), title
            held += 1
    assert held >= 3


def difference(words, title, ours, theirs) -> str:
    """Where two lists of prompts part, for people."""
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            at = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), -1)
            shown = [
                words.tokenizer.decode(ids[max(0, at - 8) : at + 12], skip_special_tokens=False)
                for ids in (mine, other)
            ]
            return f"{title}: trained {shown[0]!r}, served {shown[1]!r}"
    return f"{title}: {len(ours)} trained, {len(theirs)} served"
