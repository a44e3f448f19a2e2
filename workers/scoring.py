"""A base model that says how surprising texts are, in a child process of the training environment.

It lives as long as a stretch of a cleaning; one that does not answer in time is killed.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app import storage
from app.config import ROOT, settings
from app.datasets.cleaning.filters import Score
from app.errors import N_, Unavailable

LOADING, SCORING = 90.0, 30.0  # seconds
NO_ANSWER = N_("The model that judges the texts does not answer.")


@contextmanager
def scorer(artefact: str) -> Iterator[Score]:
    """Raises FileNotFoundError if the model is gone, Unavailable if it cannot be asked."""
    directory = storage.fetch(artefact).resolve()
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "CUDA_VISIBLE_DEVICES": "",  # devices belong to whoever holds their lease
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    child = subprocess.Popen(
        [settings.train_python, "-m", "workers.stages.perplexity", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment,
    )
    try:
        answer(child, LOADING)
        yield lambda text: ask(child, text)
    finally:
        child.kill()
        child.communicate()


def ask(child: "subprocess.Popen[bytes]", text: str) -> float:
    assert child.stdin
    try:
        child.stdin.write(json.dumps({"text": text}).encode() + b"\n")
        child.stdin.flush()
    except OSError:
        raise Unavailable(NO_ANSWER, code="cleaning.model") from None
    return float(answer(child, SCORING)["perplexity"])


def answer(child: "subprocess.Popen[bytes]", seconds: float) -> dict[str, float]:
    """The child's next line. Raises Unavailable."""
    assert child.stdout
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    try:
        line = child.stdout.readline()
    finally:
        timer.cancel()
    if not line:
        raise Unavailable(NO_ANSWER, code="cleaning.model")
    found: dict[str, float] = json.loads(line)
    return found
