"""What is odd in a good row is said, and nothing is said of what is not odd."""

import random
import time
from typing import Any

import pytest

from app.datasets.rows import personal, warnings

CLEAN = [
    "数据集里的每一行都会被检查，然后才能进入训练。涓涓细流，终成江海；鄂伦春、锛子也是词。",
    "l’été “où” — déjà vu, Straße… NÃO «é» Âge, naïve café » (Ö»)",
    "Привет, мир! Ελληνικά. 日本語の文章です。한국어 문장.",
    "def f(a: int) -> str: return a[::2]  # 12:30, 1.2.3, 2024-01-31, 3.14159265358979",
    "👩‍👩‍👧 emoji with joiners\tand a tab\r\n",
    "version 10.2 of 2019, order 123456, 1 000 000 rows",
]


def row(*texts: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(texts)
    return {
        "messages": [
            {"role": role, "content": text} for role, text in zip(roles, texts, strict=False)
        ]
    }


def found(*texts: str) -> list[tuple[str, str]]:
    return [(one.code, one.path) for one in warnings.remarks(row(*texts))]


@pytest.mark.parametrize("text", CLEAN)
def test_honest_text_is_left_alone(text: str) -> None:
    assert found(text, text) == []


CHINESE = "这是一个测试，请问问题在哪里？我们来看一看。"
FRENCH = "“It’s déjà vu” — naïve, and the café’s façade…"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "cp1252"),
        (CHINESE, "latin-1"),
        (CHINESE, "gb18030"),
        (FRENCH, "cp1252"),  # as GB18030 it has few letters of two bytes
        (FRENCH, "latin-1"),
    ],
)
def test_mojibake(text: str, encoding: str) -> None:
    wrong = text.encode().decode(encoding, "ignore")
    assert found("ok", f"before {wrong} after") == [
        *([("text.control", "messages[1].content")] if encoding == "latin-1" else []),
        ("text.mojibake", "messages[1].content"),
    ]


def test_a_replacement_character() -> None:
    assert found("a\ufffdb", "ok") == [("text.mojibake", "messages[0].content")]
    assert found("锟斤拷", "ok") == [("text.mojibake", "messages[0].content")]


@pytest.mark.parametrize("char", ["\x01", "\x1b", "\x7f", "\x85", "\u200b", "\u202e", "\ufeff"])
def test_control_characters(char: str) -> None:
    remarks = warnings.remarks(row("ok", f"a{char}b"))
    assert [(one.code, one.path) for one in remarks] == [("text.control", "messages[1].content")]
    assert remarks[0].message % remarks[0].params


def test_empty_turns() -> None:
    assert found("", "x") == [("turn.empty", "messages[0].content")]
    made = row("x", "")
    made["messages"][1]["tool_calls"] = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    ]
    assert warnings.remarks(made) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to lin.wei+x@example.com.cn please", "email"),
        ("电话13812345678。", "phone"),
        ("tel (+86) 138-1234-5678", "phone"),
        ("call +44 20 7946 0958 now", "phone"),
        ("身份证11010519491231002X号", "id_card"),
        ("卡号 4111 1111 1111 1111", "bank_card"),
        ("host 192.168.3.14:80", "ip"),
        ("host 2001:db8:0:1::8a2e", "ip"),
    ],
)
def test_personal_data(text: str, kind: str) -> None:
    remarks = warnings.remarks(row("ok", f"{text}\n{text}"))
    assert [(one.code, one.path) for one in remarks] == [
        (f"personal.{kind}", "messages[1].content")
    ]
    assert remarks[0].params == {"count": 2}
    assert warnings.flags(remarks) == warnings.BIT["personal"]


@pytest.mark.parametrize("text", ["110105194912310021", "4111 1111 1111 1112", "999.1.2.3"])
def test_a_wrong_check_digit_is_no_personal_data(text: str) -> None:
    assert found(text, "ok") == []


def test_looking_only_at_digits_misses_nothing() -> None:
    """`people` looks at stretches of digits, `personal.find` at all of a text."""
    pick = random.Random(3)
    parts = [
        "13812345678", "+86 138 1234 5678", "(010) 62345678", "010-62345678", "+1 415 555 2671",
        "11010519491231002X", "4111111111111111", "6222 0200 1234 5678 90", "10.0.0.8", "a@b.co",
        "fe80::1:2", "x", " ", "。", "号", "-", ".", "(", ")", "+", "7", "2024-01-02", "1.5", "\n",
    ]  # fmt: skip
    for _ in range(5000):
        text = "".join(pick.choice(parts) for _ in range(pick.randrange(1, 6)))
        whole = {kind for kind, _, _ in personal.find(text)}
        assert set(warnings.people(text)) >= whole - {"ip", "phone", "bank_card", "id_card"}
        if not whole:
            continue
        assert set(warnings.people(text)), text


def test_other_kinds_of_rows() -> None:
    prompt = [{"role": "user", "content": "a"}]
    chosen = {"role": "assistant", "content": "13812345678"}
    empty = {"role": "assistant", "content": ""}
    preference = {"messages": prompt, "chosen": chosen, "rejected": empty}
    assert [(one.code, one.path) for one in warnings.remarks(preference)] == [
        ("turn.empty", "rejected.content"),
        ("personal.phone", "chosen.content"),
    ]
    assert [one.code for one in warnings.remarks({"text": "a\x02"})] == ["text.control"]


@pytest.mark.parametrize(
    "text",
    ["é" * 200_000, "锛" * 200_000, "1" * 200_000, "1 " * 100_000, "a@" * 100_000, "1." * 100_000,
     ":a" * 100_000, "\u00e2\u0080" * 100_000, "(" * 200_000, "0-" * 100_000],
)  # fmt: skip
def test_hostile_text_takes_no_longer(text: str) -> None:
    started = time.process_time()
    warnings.remarks(row(text, "x"))
    assert time.process_time() - started < 2
