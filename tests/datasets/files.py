"""Files to upload, and what is on disk."""

import json
from pathlib import Path
from typing import Any

from app.config import settings

HTMX = {"hx-request": "true"}  # asks for a fragment: by itself, it comes with its page


def row(question: str = "问", answer: str = "答") -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in rows)


def many(count: int) -> bytes:
    return jsonl(*(row(f"question {at}", f"answer {at}") for at in range(count)))


BAD = jsonl(row("one"), {"messages": []}, row("three"), 5)  # 2 good rows, lines 2 and 4 bad


def stored() -> list[str]:
    """Every file in the store and among the uploads, by its first folders."""
    found = []
    for root in (Path(settings.store_url), settings.uploads):
        found += [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return sorted(found)
