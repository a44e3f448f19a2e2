"""Asking an engine how it is: does it answer, does it know its model, does it make tokens?"""

from typing import Any

import httpx

# One for all calls: a client reads the certificates of the whole world when it is made. Engines
# are on this machine, behind no proxy; they come and go, so no connection to one is kept.
client = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
QUICK = httpx.Timeout(3.0)
TOKEN = httpx.Timeout(30.0, connect=3.0)  # one token, behind whatever else it is doing


def up(address: str, secret: str, name: str) -> bool:
    """It answers, and lists the model by its name."""
    try:
        if client.get(f"{address}/health", timeout=QUICK).status_code != 200:
            return False
        models = client.get(f"{address}/v1/models", headers=key(secret), timeout=QUICK)
        listed = [model["id"] for model in models.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    return name in listed


def one_token(address: str, secret: str, name: str) -> bool:
    """It has made one real token of the model, or a vector where it writes no answers."""
    body = {"model": name, "prompt": "1", "max_tokens": 1, "temperature": 0}
    try:
        answer = client.post(
            f"{address}/v1/completions", json=body, headers=key(secret), timeout=TOKEN
        )
        if answer.status_code == 404:  # it writes no answers
            return one_embedding(address, secret, name)
        return answer.status_code == 200 and tokens(answer.json()) > 0
    except (httpx.HTTPError, ValueError):
        return False


def one_embedding(address: str, secret: str, name: str) -> bool:
    """Raises httpx.HTTPError and ValueError."""
    body = {"model": name, "input": "1"}
    answer = client.post(f"{address}/v1/embeddings", json=body, headers=key(secret), timeout=TOKEN)
    return answer.status_code == 200 and bool(answer.json().get("data"))


def tokens(answer: Any) -> int:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return int((usage or {}).get("completion_tokens") or 0)


def busy(address: str, secret: str, gauges: tuple[str, ...]) -> bool | None:
    """Whether it has requests to answer; None if it does not say."""
    try:
        answer = client.get(f"{address}/metrics", headers=key(secret), timeout=QUICK)
        answer.raise_for_status()
        lines = [line for line in answer.text.splitlines() if line.startswith(gauges)]
        return any(float(line.rpartition(" ")[2]) > 0 for line in lines)
    except (httpx.HTTPError, ValueError):
        return None


def generated(address: str, secret: str, counter: str) -> float | None:
    """Tokens it has made since it started; None if it does not say."""
    try:
        if client.get(f"{address}/health", timeout=QUICK).status_code != 200:
            return None
        answer = client.get(f"{address}/metrics", headers=key(secret), timeout=QUICK)
        answer.raise_for_status()
        return sum(
            float(line.rpartition(" ")[2])
            for line in answer.text.splitlines()
            if line.startswith(counter)
        )
    except (httpx.HTTPError, ValueError):
        return None


def key(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}
