"""How long the server takes for each page, and how much a first visit loads.

Starts a stack of its own, signs in, and asks for every page 30 times. Server time is what the
`Server-Timing` header says; bytes are counted as they come over the wire, compressed.
The last line is one JSON object: `page_p95_ms` (of the slowest page), `slowest_page`,
`first_load_kb` (1 KB = 1000 bytes; the sign-in page, then home, with all their assets).
"""

import json
import os
import re
import statistics
import sys
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.cli.stack import own_stack
from bench.parts.console import server_ms, sign_in

PAGES = [
    "/",
    "/datasets",
    "/datasets/{dataset}",
    "/models",
    "/models/{model}",
    "/jobs",
    "/jobs/new",
    "/deployments",
    "/deployments/new",
    "/chat",
    "/keys",
    "/account",
    "/admin",
    "/admin/workspaces",
    "/admin/users",
]
ROUNDS = 30


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def wire_bytes(browser: httpx.Client, path: str, seen: set[str]) -> int:
    """Compressed bytes of a page and of what it loads that is not in `seen` yet."""
    total = 0
    with browser.stream("GET", path) as answer:
        page = b"".join(answer.iter_bytes()).decode()
        total += answer.num_bytes_downloaded
    for asset in sorted(set(re.findall(r'(?:src|href)="(/static/[^"#]+)', page)) - seen):
        seen.add(asset)
        with browser.stream("GET", asset) as answer:
            for _ in answer.iter_bytes():
                pass
            total += answer.num_bytes_downloaded
    return total


def main() -> None:
    """Print a line for each page, then the JSON line."""
    homes: list[Path] = []

    def note(text: str) -> None:
        tell(text)
        if match := re.search(r"in (/\S+)", text):
            homes.append(Path(match[1]))

    with own_stack(note) as (url, key):
        api = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"})
        ids = {
            "dataset": api.get("/api/v1/datasets").json()["data"][0]["id"],
            "model": api.get("/api/v1/models").json()["data"][0]["id"],
        }
        headers = {"accept-encoding": "gzip", "accept-language": "zh-CN"}
        browser = httpx.Client(base_url=url, headers=headers)
        seen: set[str] = set()
        loaded = wire_bytes(browser, "/login", seen)
        sign_in(browser, homes[0])
        loaded += wire_bytes(browser, "/", seen)
        slowest = ("", 0.0)
        for page in PAGES:
            path = page.format(**ids)
            times = [server_ms(browser.get(path)) for _ in range(ROUNDS)]
            p95 = statistics.quantiles(times, n=20)[-1]
            tell(f"{page:24} median {statistics.median(times):6.1f} ms   p95 {p95:6.1f} ms")
            slowest = max(slowest, (page, p95), key=lambda found: found[1])
    facts = {"page_p95_ms": slowest[1], "slowest_page": slowest[0], "first_load_kb": loaded / 1000}
    tell(json.dumps(facts))


if __name__ == "__main__":
    os.environ.pop("DANLU_URL", None)
    main()
