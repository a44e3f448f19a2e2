"""Adapters into an engine that runs, many on one engine, and how soon an engine is back.

Starts a stack of its own with vLLM and the starter model, tunes 16 adapters, each to say a word
of its own, and has each served as soon as it is tuned. Then asks all of them at the same time,
kills the engine's core, and puts the deployment to sleep and asks for it.

    python bench/serving.py [adapters]

The last line is one JSON object: `hot_adapter_s`, `wake_extra_s`, `adapters_distinct`,
`recovery_s`; docs/benchmarks.md says what they mean.
"""

import json
import os
import re
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.cli.stack import own_stack
from bench.parts.adapters import ASKED, WORDS, dataset, ended, tune, wait_for

BASE = "plain"
LOOK = 0.05  # seconds between two tries


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Served:
    """The base, deployed on vLLM, and the adapters on it."""

    def __init__(self, api: httpx.Client, home: Path) -> None:
        self.api, self.home = api, home
        body = {"name": BASE, "model": "danlu-starter", "engine": "vllm", "max_model_len": 512}
        made = api.post("/api/v1/deployments", json=body)
        made.raise_for_status()
        self.path = f"/api/v1/deployments/{made.json()['id']}"
        wait_for(api, self.path, {"ready"}, 300)

    def ask(self, name: str, tokens: int = 8) -> str | None:
        """The answer; None while it cannot be had."""
        body = {
            "model": name,
            "messages": [{"role": "user", "content": ASKED}],
            "max_tokens": tokens,
            "temperature": 0,
        }
        try:
            answer = self.api.post("/v1/chat/completions", json=body)
        except httpx.TransportError:
            return None
        if answer.status_code != 200:
            return None
        return str(answer.json()["choices"][0]["message"]["content"])

    def until(self, name: str, seconds: float) -> str:
        """The first answer of `name`. Raises RuntimeError."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (answer := self.ask(name)) is not None:
                return answer
            time.sleep(LOOK)
        raise RuntimeError(f"{name} did not answer within {seconds} s: {self.about()}")

    def about(self) -> Any:
        return self.api.get(self.path).json()

    def start_seconds(self) -> float:
        """How long the engine took by itself, from its process to its first token."""
        (replica,) = self.about()["replicas"]
        began, ready = (datetime.fromisoformat(replica[at]) for at in ("started_at", "ready_at"))
        return (ready - began).total_seconds()


# -- adapters ----------------------------------------------------------------------------


def hot(served: Served, words: tuple[str, ...]) -> list[float]:
    """Tune an adapter for each word; the seconds from the end of each run to its first answer."""
    found = []
    for number, word in enumerate(words):
        name = f"adapter-{number}"
        job = tune(served.api, name, dataset(served.api, word))
        patience = time.monotonic() + 300
        while (end := ended(served.home, job)) is None:
            if time.monotonic() > patience:
                raise RuntimeError(f"{name} is not tuned after 300 s")
            time.sleep(LOOK)
        served.until(name, 60)
        found.append(time.time() - end)
        tell(f"{name:12} answers {found[-1]:5.2f} s after the end of its run")
        wait_for(served.api, f"/api/v1/jobs/{job}", {"succeeded"}, 60)
    return found


def distinct(served: Served, words: tuple[str, ...]) -> int:
    """How many adapters say their own word and nobody else's, all asked at once, three times."""
    names = [f"adapter-{number}" for number in range(len(words))]
    own = [True] * len(words)
    with ThreadPoolExecutor(len(words)) as together:
        for _ in range(3):
            answers = list(together.map(served.ask, names))
            for number, answer in enumerate(answers):
                said = [word for word in words if word in (answer or "")]
                own[number] &= said == [words[number]]
    for name, word, fine in zip(names, words, own, strict=True):
        if not fine:
            tell(f"{name} was to say {word}, and says {served.ask(name)}")
    return sum(own)


# -- trouble -----------------------------------------------------------------------------


def core(home: Path) -> psutil.Process:
    """The engine's core: the process that holds the model."""
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("DANLU_HOME") == str(home)
            if mine and "EngineCore" in " ".join([process.name(), *process.cmdline()]):
                return process
        except psutil.Error:
            continue
    raise RuntimeError("there is no engine core")


def recovery(served: Served, names: list[str]) -> float:
    """Seconds from the death of the engine's core until base and adapters answer again."""
    victim = core(served.home)
    began = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    while served.ask(BASE) is not None and time.monotonic() - began < 30:
        time.sleep(LOOK)
    for name in (BASE, *names):
        served.until(name, 180)
    return time.monotonic() - began


def wake(served: Served, guests: list[str]) -> float:
    """What a request waits for a sleeping deployment beyond the engine's own start."""
    for guest in guests:
        served.api.delete(f"/api/v1/deployments/{guest}").raise_for_status()
    served.api.put(f"{served.path}/idle", json={"minutes": 60}).raise_for_status()
    served.api.post(f"{served.path}/sleep").raise_for_status()
    wait_for(served.api, served.path, {"idle"}, 60)
    began = time.monotonic()
    served.until(BASE, 180)
    return time.monotonic() - began - served.start_seconds()


def main() -> None:
    words = WORDS[: int(sys.argv[1])] if len(sys.argv) > 1 else WORDS
    homes: list[Path] = []

    def note(text: str) -> None:
        tell(text)
        if match := re.search(r"in (/\S+)", text):
            homes.append(Path(match[1]))

    with own_stack(note) as (url, key):
        headers = {"authorization": f"Bearer {key}"}
        api = httpx.Client(base_url=url, headers=headers, timeout=200)
        served = Served(api, homes[0])
        tell(f"{BASE:12} is ready; its engine took {served.start_seconds():.1f} s")
        seconds = hot(served, words)
        tell(f"median {statistics.median(seconds):.2f} s, slowest {max(seconds):.2f} s")
        own = distinct(served, words)
        back = recovery(served, ["adapter-0"])
        tell(f"answers {back:.1f} s after its engine's core was killed")
        guests = [one["id"] for one in api.get(f"{served.path}/adapters").json()["data"]]
        extra = wake(served, guests)
        tell(f"a request to it asleep waits {extra:.2f} s beyond the engine's own start")
    facts = {
        "hot_adapter_s": round(max(seconds), 2),
        "wake_extra_s": round(extra, 2),
        "adapters_distinct": own,
        "recovery_s": round(back, 1),
    }
    tell(json.dumps(facts))


if __name__ == "__main__":
    os.environ.pop("DANLU_URL", None)
    main()
