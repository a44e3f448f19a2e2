"""A stack's console, as a bench asks it: signed in, with the server's own time."""

import json
import re
from pathlib import Path

import httpx


def server_ms(answer: httpx.Response) -> float:
    """Milliseconds that the server spent. Raises for an error."""
    answer.raise_for_status()
    match = re.search(r"dur=([\d.]+)", answer.headers["server-timing"])
    assert match, answer.headers["server-timing"]
    return float(match[1])


def sign_in(browser: httpx.Client, home: Path) -> None:
    first = json.loads((home / "first-run.json").read_text())
    form = {"email": first["email"], "password": first["password"], "next": "/"}
    answer = browser.post("/login", data=form, headers={"origin": str(browser.base_url)})
    assert answer.status_code == 303, answer.text[:500]
