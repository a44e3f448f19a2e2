"""Which column of a file is which field of a format.

A mapping is `{"format", "columns": {field: column}, "tags"?: {…}}`. A column is a field's name,
or a path into nested objects and lists: `data.question`, `turns.0`.
"""

import re
from collections.abc import Iterable
from typing import Any

import orjson

from app.datasets.formats.parts import Row, unused

Mapping = dict[str, Any]

# the fields of each format that a page offers, and whether they are needed
FIELDS: dict[str, dict[str, bool]] = {
    "alpaca": {
        "instruction": True, "input": False, "output": True, "system": False, "history": False,
        "tools": False,
    },
    "completion": {"prompt": True, "completion": True, "system": False, "tools": False},
    "messages": {"messages": True, "tools": False},
    "sharegpt": {"conversations": True, "system": False, "tools": False},
    "text": {"text": True},
    "preference": {
        "prompt": True, "chosen": True, "rejected": True, "system": False, "tools": False,
    },
    "kto": {
        "prompt": True, "completion": True, "label": True, "system": False, "tools": False,
    },
}  # fmt: skip
TEXTS = {
    "instruction", "input", "output", "system", "prompt", "completion", "text", "chosen", "rejected"
}  # fmt: skip
YES = {"true", "yes", "y", "1", "good", "是", "对", "好", "真", "正", "赞", "👍"}
NO = {"false", "no", "n", "0", "bad", "否", "错", "坏", "差", "假", "负", "踩", "👎"}
MAX_COLUMNS = 200
MAX_DEPTH = 3

# -- applying ----------------------------------------------------------------------------


def apply(raw: Row, mapping: Mapping) -> Row:
    """The row with the format's own field names. A column that the row lacks gives no field."""
    row: Row = {}
    for field, column in mapping["columns"].items():
        value = value_at(raw, column)
        if value is not None:
            row[field] = fitting(field, value)
    return row


def value_at(raw: Any, path: str) -> Any:
    """What stands at `path`; None if nothing does."""
    if not isinstance(raw, dict | list):
        return None
    if isinstance(raw, dict) and path in raw:  # a name may hold dots of its own
        return raw[path]
    name, dot, rest = path.partition(".")
    if isinstance(raw, list):
        at = int(name) if name.isascii() and name.isdecimal() and len(name) < 9 else len(raw)
        value = raw[at] if at < len(raw) else None
    else:
        value = raw.get(name)
    return value_at(value, rest) if dot else value


def fitting(field: str, value: Any) -> Any:
    """A cell as the field needs it: a number as text, a yes or no as a boolean."""
    if field in ("label", "kto_tag") and isinstance(value, str | int | float):
        word = str(value).strip().lower().removesuffix(".0")
        return True if word in YES else False if word in NO else value
    if field in TEXTS and isinstance(value, int | float):
        return orjson.dumps(value).decode()
    return value


def unmapped(raw: Row, mapping: Mapping) -> set[str]:
    """The names of the fields that the mapping leaves out."""
    used = set(mapping["columns"].values())
    used |= {path.partition(".")[0] for path in used if path not in raw}
    return unused(raw, used)


def original(path: str, mapping: Mapping) -> str:
    """A place in a row of the format, as a place in the file's row."""
    field, rest = re.fullmatch(r"(\w*)(.*)", path, re.DOTALL).groups()  # type: ignore[union-attr]
    return str(mapping["columns"].get(field, field)) + rest


def names(rows: Iterable[Any]) -> list[str]:
    """The columns that these rows offer, nested objects by their paths, in the order met."""
    found: dict[str, None] = {}

    def add(row: Row, before: str, depth: int) -> None:
        for name, value in row.items():
            if len(found) >= MAX_COLUMNS or len(name) > 200:
                continue
            if isinstance(value, dict) and depth < MAX_DEPTH:
                add(value, f"{before}{name}.", depth + 1)
            else:
                found[before + name] = None

    for row in rows:
        if isinstance(row, dict):
            add(row, "", 1)
    return list(found)


# -- guessing ----------------------------------------------------------------------------

# what columns are called, the surest name first; see `plain`
WORDS: dict[str, tuple[str, ...]] = {
    "question": (
        "instruction", "指令", "question", "问题", "prompt", "提示词", "query", "提问", "提示",
        "userprompt", "userinput", "用户输入", "用户问题", "userquery", "user", "human", "用户",
        "problem", "题目", "问句", "问", "request", "请求", "ask", "q", "source",
    ),
    "input": ("input", "输入", "context", "上下文", "背景", "材料", "passage", "补充"),
    "answer": (
        "output", "输出", "answer", "回答", "答案", "response", "completion", "回复", "答复",
        "标准答案", "参考答案", "应答", "助手", "assistant", "gpt", "reply", "target", "solution",
        "modeloutput", "补全", "答", "a", "bot",
    ),
    "system": ("system", "systemprompt", "系统提示词", "系统提示", "系统", "人设", "系统指令"),
    "history": ("history", "历史", "历史对话", "对话历史"),
    "tools": ("tools", "functions", "工具"),
    "text": ("text", "文本", "正文", "content", "内容", "document", "article", "文章", "语料", "body"),
    "chosen": (
        "chosen", "preferred", "responsechosen", "chosenresponse", "better", "winner", "accepted",
        "好的回答", "更好的回答", "优选回答", "优选", "偏好回答", "正例", "positive", "good",
    ),
    "rejected": (
        "rejected", "dispreferred", "responserejected", "rejectedresponse", "worse", "loser",
        "差的回答", "较差的回答", "拒绝回答", "拒绝", "非偏好回答", "负例", "negative", "bad",
    ),
    "label": ("label", "标签", "ktotag", "labels", "category", "类别", "分类", "评价", "好坏"),
    "turns": (
        "messages", "conversations", "conversation", "消息", "对话", "会话", "dialogue", "dialog",
        "chat", "turns", "对话内容",
    ),
}  # fmt: skip


def guess(columns: Iterable[str], sample: Any = None) -> Mapping:
    """The likeliest mapping of these columns. `sample` is a row: its values help.

    Always a mapping; one that lacks needed columns is for the user to finish.
    """
    found: dict[str, str] = {}
    left = list(columns)
    for concept, words in WORDS.items():
        named = {plain(column): column for column in reversed(left)}
        word = next((one for one in words if one in named), None)
        if word is not None:
            found[concept] = named[word]
            left.remove(named[word])
    if "turns" in found and (mapping := of_turns(found, value_at(sample, found["turns"]))):
        return mapping
    second = next((one for one in left if plain(one) in WORDS["question"]), None)
    if "question" not in found:
        for other in ("input", "text"):
            if other in found and not ("question" in found or set(found) <= {"text"}):
                found["question"] = found.pop(other)
    elif second is not None:
        found.setdefault("input", second)
    if "label" in found and "answer" not in found and "chosen" not in found:
        found["answer"] = found.pop("label")
    return of_concepts(found, sample)


def of_concepts(found: dict[str, str], sample: Any) -> Mapping:
    if "chosen" in found and "rejected" in found:
        names = {"question": "prompt", "chosen": "chosen", "rejected": "rejected"}
        return made("preference", found, names)
    if "label" in found and type(fitting("label", value_at(sample, found["label"]))) is bool:
        names = {"question": "prompt", "answer": "completion", "label": "label"}
        return made("kto", found, names)
    if "question" not in found and "answer" not in found and "text" in found:
        return made("text", {"text": found["text"]}, {"text": "text"})
    if "input" in found or "history" in found or "question" not in found:
        names = {"question": "instruction", "input": "input", "answer": "output"}
        return made("alpaca", found, names | {"history": "history"})
    return made("completion", found, {"question": "prompt", "answer": "completion"})


def made(form: str, found: dict[str, str], names: dict[str, str]) -> Mapping:
    names = {**names, "system": "system", "tools": "tools"}
    columns = {field: found[concept] for concept, field in names.items() if concept in found}
    return {"format": form, "columns": columns}


def of_turns(found: dict[str, str], turns: Any) -> Mapping | None:
    """A mapping for a column that holds conversations, if these turns look like some."""
    first = turns[0] if isinstance(turns, list) and turns else None
    if not isinstance(first, dict):
        return None
    roles = {plain(name): name for name in reversed(list(first))}
    role = next((roles[one] for one in ROLE_NAMES if one in roles), None)
    content = next((roles[one] for one in CONTENT_NAMES if one in roles), None)
    if role is None or content is None:
        return None
    preference = "chosen" in found and "rejected" in found
    names = {"chosen": "chosen", "rejected": "rejected"} if preference else {}
    if (role, content) == ("role", "content"):
        form = "preference" if preference else "messages"
        return made(form, found, {"turns": "messages", **names})
    mapping = made(
        "preference" if preference else "sharegpt", found, {"turns": "conversations", **names}
    )
    said = list(dict.fromkeys(str(one.get(role)) for one in turns if isinstance(one, dict)))
    said = [one for one in said if one.lower() not in ("system", "系统")]
    tags = {"role_tag": role, "content_tag": content}
    if said[:1] and said[0] != "human":
        tags["user_tag"] = said[0]
    if said[1:] and said[1] != "gpt":
        tags["assistant_tag"] = said[1]
    if tags != {"role_tag": "from", "content_tag": "value"}:
        mapping["tags"] = tags
    return mapping


ROLE_NAMES = ("role", "from", "speaker", "角色", "author", "sender", "who", "发言人")
CONTENT_NAMES = ("content", "value", "text", "内容", "utterance", "message", "发言")


def plain(name: str) -> str:
    """A column's name without what people write differently: case, spaces, its path."""
    return re.sub(r"[\W_]+", "", name.rpartition(".")[2].lower())
