"""Files for tuning, as clients send them."""

import json
from typing import Any


def chats(count: int) -> bytes:
    """Conversations, one a line."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"判断情感：第{number}次购买，质量很好。"},
                {"role": "assistant", "content": "正面"},
            ]
        }
        for number in range(count)
    ]
    return jsonl(rows)


def pairs(count: int) -> bytes:
    """Preferences, as OpenAI has them."""
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"第{number}个问题？"}]},
            "preferred_output": [{"role": "assistant", "content": "好的回答。"}],
            "non_preferred_output": [{"role": "assistant", "content": "差的回答。"}],
        }
        for number in range(count)
    ]
    return jsonl(rows)


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
