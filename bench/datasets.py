"""How quickly a dataset is read, looked at, browsed and searched, and what an upload costs.

The structural pass over 400,000 chat rows on one core, against `datasets.load_dataset` with the
same checks, by turns; the look for warnings; the starter model's tokenizer. Then a stack of its
own: a million rows browsed at any depth and searched, and a large upload in pieces, with an eye on
the memory of the web process. Makes its own data; installs nothing: the peer runs in .venv-train
(`make up` builds it), or in DANLU_BENCH_PYTHON.

The last line is one JSON object; docs/benchmarks.md says what its keys mean.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.cli.stack import own_stack
from bench.parts import rows

PEER = Path(os.environ.get("DANLU_BENCH_PYTHON", ROOT / ".venv-train" / "bin" / "python"))
WORDS = ["careful", "数据集里", "检查然后", "lost on the way", "#777777", "nothing is like this"]
PIECE = 8 * 2**20


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def child(python: Path | str, what: str, file: Path) -> dict[str, Any]:
    env = os.environ | {"HF_HOME": str(file.parent / "hf"), "HF_HUB_OFFLINE": "1"}
    script = ROOT / "bench" / "parts" / "structural.py"
    run = subprocess.run(
        [str(python), script, what, file], env=env, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"The {what} failed:\n{run.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def ingest(folder: Path, count: int, most: int, rounds: int) -> dict[str, float]:
    """The structural pass, ours and the peers' by turns; then ours over very many short rows."""
    file = folder / "rows.jsonl"
    rows.write(file, count)
    size = file.stat().st_size / 1e6
    tell(f"{count:,} chat rows, {size:.0f} MB")
    best: dict[str, float] = {}
    peak = 0.0
    pythons = {"ours": Path(sys.executable), "peer": PEER, "batches": PEER}
    if not PEER.exists():
        raise SystemExit(f"{PEER} is not there: `make bench` builds it")
    for number in range(rounds):
        found = {what: child(python, what, file) for what, python in pythons.items()}
        if len({(one["rows"], one["bad"], one["repeats"]) for one in found.values()}) > 1:
            raise SystemExit(f"They do not find the same: {found}")
        for what, one in found.items():
            best[what] = min(best.get(what, 1e9), one["seconds"])
        peak = max(peak, found["ours"]["rss_mb"])
        tell(f"round {number + 1}: " + json.dumps(found))
    if most:
        many = folder / "many.jsonl"
        with many.open("wb") as out:
            for start in range(0, most, 10_000):
                out.write(
                    b"".join(
                        b'{"messages":[{"role":"user","content":"n%d"},'
                        b'{"role":"assistant","content":"ok"}]}\n' % number
                        for number in range(start, min(start + 10_000, most))
                    )
                )
        one = child(sys.executable, "ours", many)
        peak = max(peak, one["rss_mb"])
        tell(f"{most:,} rows: {json.dumps(one)}")
        many.unlink()
    return {
        "ingest_mb_s": round(size / best["ours"], 1),
        "vs_hf_datasets": round(best["peer"] / best["ours"], 2),
        "vs_hf_batches": round(best["batches"] / best["ours"], 2),
        "peak_rss_mb": peak,
    }


def look(folder: Path) -> dict[str, float]:
    """The look for warnings, and tokens: both over the first rows of the same file."""
    from tokenizers import Tokenizer

    from app.datasets.rows import warnings

    with (folder / "rows.jsonl").open("rb") as file:
        lines = list(islice(file, 60_000))
    size = sum(map(len, lines)) / 1e6
    found = [orjson.loads(line) for line in lines]
    started = time.perf_counter()
    for row in found:
        warnings.remarks(row)
    scanned = time.perf_counter() - started
    tokenizer = Tokenizer.from_file(str(ROOT / "workers/starter/model/tokenizer.json"))
    texts = ["\n".join(turn["content"] for turn in row["messages"]) for row in found]
    started = time.perf_counter()
    for start in range(0, len(texts), 1000):
        tokenizer.encode_batch(texts[start : start + 1000])
    tokenised = time.perf_counter() - started
    return {"scan_mb_s": round(size / scanned, 1), "tokenise_mb_s": round(size / tokenised, 1)}


# -- a real server -----------------------------------------------------------------------


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


def send(api: httpx.Client, name: str, size: int, pieces: Any) -> str:
    """Upload in pieces; the upload's id."""
    upload = api.post("/api/v1/uploads", json={"file_name": name, "size": size})
    upload.raise_for_status()
    offset = 0
    for piece in pieces:
        answer = api.patch(
            f"/api/v1/uploads/{upload.json()['id']}",
            content=piece,
            headers={"Upload-Offset": str(offset)},
            timeout=120,
        )
        answer.raise_for_status()
        offset += len(piece)
    assert offset == size, (offset, size)
    return str(upload.json()["id"])


def web_process(url: str) -> psutil.Process:
    """The process that answers there."""
    port = urlsplit(url).port
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == "LISTEN":
            return psutil.Process(connection.pid)
    raise SystemExit("The web process was not found")


def grown(api: httpx.Client, url: str, megabytes: int) -> float:
    """By how many MiB the web process is larger, at most, while an upload comes in."""
    web = web_process(url)
    block = random.Random(1).randbytes(PIECE)
    send(api, "warm.jsonl", PIECE, [block])
    before = peak = web.memory_info().rss

    def pieces() -> Any:
        nonlocal peak
        for _ in range(megabytes * 2**20 // PIECE):
            yield block
            peak = max(peak, web.memory_info().rss)

    upload = send(api, "large.jsonl", megabytes * 2**20 // PIECE * PIECE, pieces())
    api.delete(f"/api/v1/uploads/{upload}").raise_for_status()
    return round((peak - before) / 2**20, 1)


def served(folder: Path, count: int, megabytes: int) -> dict[str, float]:
    file = folder / "served.jsonl"
    rows.write(file, count, seed=2)
    homes: list[Path] = []

    def note(text: str) -> None:
        tell(text)
        if match := re.search(r"in (/\S+)", text):
            homes.append(Path(match[1]))

    with own_stack(note) as (url, key):
        api = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=120)
        growth = grown(api, url, megabytes)
        tell(f"{megabytes} MiB uploaded: {growth} MiB more memory")
        size = file.stat().st_size
        with file.open("rb") as source:
            upload = send(api, "rows.jsonl", size, iter(lambda: source.read(PIECE), b""))
        started = time.perf_counter()
        made = api.post("/api/v1/datasets", json={"name": "rows", "uploads": [upload]})
        made.raise_for_status()
        address = f"/api/v1/datasets/{made.json()['id']}"
        while (state := api.get(address).json())["status"] == "validating":
            time.sleep(1)
        seconds = time.perf_counter() - started
        tell(
            f"{count:,} rows: {state['status']} after {seconds:.0f} s ({size / 1e6 / seconds:.1f} MB/s)"
        )
        time.sleep(10)  # what follows a validation is over then
        browser = httpx.Client(base_url=url, headers={"accept-language": "zh-CN"}, timeout=120)
        sign_in(browser, homes[0])
        pick = random.Random(3)
        times = []
        for at in range(60):
            place = pick.randrange(count - 50)
            pages = (
                browser.get(f"/datasets/{made.json()['id']}?offset={place}"),
                api.get(f"{address}/rows?offset={place}&limit=50"),
            )
            times += [server_ms(page) for page in pages] if at >= 5 else []
        browse = statistics.quantiles(times, n=20)[-1]
        tell(f"a page: median {statistics.median(times):.1f} ms, p95 {browse:.1f} ms")
        searches = []
        for at, word in enumerate(["warm", *WORDS]):
            answer = api.get(f"{address}/rows", params={"q": word, "limit": 50})
            took = server_ms(answer) / 1000
            tell(f"{word!r}: {answer.json()['matches']:,} rows in {took:.2f} s")
            searches += [took] if at else []
        web = web_process(url).memory_info().rss / 2**20
        tell(f"the web process has {web:.0f} MiB after that")
    return {
        "browse_p95_ms": round(browse, 1),
        "search_s": round(max(searches), 3),
        "upload_rss_growth_mb": growth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000, help="of the structural pass")
    parser.add_argument("--most", type=int, default=5_000_000, help="short rows, for the memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--served", type=int, default=1_000_000, help="rows browsed and searched")
    parser.add_argument("--upload", type=int, default=2048, help="MiB")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="danlu-bench-") as scratch:
        folder = Path(scratch)
        facts = ingest(folder, asked.rows, asked.most, asked.rounds) | look(folder)
        facts |= served(folder, asked.served, asked.upload)
    tell(json.dumps(facts))


if __name__ == "__main__":
    os.environ.pop("DANLU_URL", None)
    main()
