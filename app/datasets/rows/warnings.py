"""What is odd in a row that can be used: empty turns, personal data, characters that went wrong.

Each pattern has a cheap look before it, and none backtracks, so that hostile text costs no more
than honest text. Pure.
"""

import re
from collections.abc import Iterator
from typing import Any

from app.datasets.formats import Row
from app.datasets.formats import remarks as formal
from app.datasets.formats.parts import Remark
from app.datasets.rows import personal
from app.errors import N_

# what a row can be filtered by, each a bit in the columns
FLAGS = ("personal", "control", "mojibake", "empty", "odd")
BIT = {name: 1 << at for at, name in enumerate(FLAGS)}

EMPTY = N_("This turn is empty.")
CONTROL = N_("The text contains the invisible character %(char)s.")
MOJIBAKE = N_("The text was decoded with the wrong encoding somewhere: “%(text)s”.")
PERSONAL = {
    "email": N_("This looks like an e-mail address. In this row: %(count)s."),
    "phone": N_("This looks like a phone number. In this row: %(count)s."),
    "id_card": N_("This looks like an identity-card number. In this row: %(count)s."),
    "bank_card": N_("This looks like a bank-card number. In this row: %(count)s."),
    "ip": N_("This looks like an IP address. In this row: %(count)s."),
}

# no number that is looked for is shorter, with the dots of an address
DIGITS = re.compile("[0-9][0-9 .()\\-]{5,}[0-9]")

# C0 without tab, line feed and carriage return; DEL and C1; zero width and the order of writing
CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb]"
)

# UTF-8 that was read as Windows-1252: what begins a character, and what goes on in one
AFTER = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
LATIN = re.compile(f"[\xc2-\xdf][{AFTER}]|[\xe0-\xef][{AFTER}]{{2}}|[\xf0-\xf4][{AFTER}]{{3}}")
HINT = re.compile(f"[\xc2-\xf4][{AFTER}]")
BYTES = {char: byte for byte in range(256) if (char := bytes([byte]).decode("cp1252", "ignore"))}
# what such letters come to when they were meant: signs and letters that people write with
MEANT = re.compile(
    "[\xa0-\xff\u0391-\u03c9\u0400-\u04ff\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u2010-\u203a\u20ac\u2122\u3000-\u30ff"
    "\u3400-\u9fff\uac00-\ud7a3\uff00-\uffef\U0001f300-\U0001faff]"
)
# Chinese whose UTF-8 was read as GBK, by what its commonest beginnings become; and the words
# that replacement characters and unset memory become
WORDS = ("锟斤拷", "烫烫烫", "屯屯屯", "\ufffd")
SIGNS = ("锛", "銆", "鐨", "鈥", "紝", "紵", *WORDS)
RUN = re.compile("[\u3400-\u9fff\ue000-\uf8ff€]{4,400}")


def remarks(row: Row) -> list[Remark]:
    """One for each code."""
    parts = texts(row)
    return found_in(row, parts, "\n".join([text for _, text in parts]))


def found_in(row: Row, parts: list[tuple[str, str]], whole: str) -> list[Remark]:
    """As `remarks`; `parts` are the row's texts, and `whole` all of them."""
    found = formal.remarks(row)
    for path, text in parts:
        if (not text or text.isspace()) and not calls(row, path):
            found.append(Remark("turn.empty", path, EMPTY))
            break
    if CONTROLS.search(whole):
        found.append(control(parts))
    if not whole.isascii() and (HINT.search(whole) or any(one in whole for one in SIGNS)):
        found += decoded(parts)
    return found + persons(whole, parts)


def texts(row: Row) -> list[tuple[str, str]]:
    """Every text of a row that is read or learned, with its place."""
    found = [("text", row["text"])] if "text" in row else []
    for at, message in enumerate(row.get("messages", ())):
        found.append((f"messages[{at}].content", message["content"]))
        if "reasoning_content" in message:
            found.append((f"messages[{at}].reasoning_content", message["reasoning_content"]))
    for name in ("chosen", "rejected"):
        if name in row:
            found += [(f"{name}.content", row[name]["content"])]
    return found


def calls(row: Row, path: str) -> bool:
    """Whether the message of this text calls tools, so that it need say nothing."""
    name, _, rest = path.partition("[")
    message: Any = row.get(name.partition(".")[0])
    if rest:
        message = message[int(rest.partition("]")[0])]
    return isinstance(message, dict) and "tool_calls" in message


def flags(found: list[Remark]) -> int:
    """The bits of FLAGS."""
    bits = 0
    for one in found:
        bits |= BIT[flag(one.code)]
    return bits


def flag(code: str) -> str:
    """The flag that a row with this remark has."""
    known = {"text.control": "control", "text.mojibake": "mojibake", "turn.empty": "empty"}
    return "personal" if code.startswith("personal.") else known.get(code, "odd")


# -- personal data -----------------------------------------------------------------------


def persons(whole: str, parts: list[tuple[str, str]]) -> list[Remark]:
    """One for each kind, at the first place."""
    if not any(True for _ in people(whole)):
        return []
    places: dict[str, list[str]] = {}
    for path, text in parts:
        for kind in people(text):
            places.setdefault(kind, []).append(path)
    return [
        Remark(f"personal.{kind}", paths[0], PERSONAL[kind], {"count": len(paths)})
        for kind, paths in places.items()
    ]


def people(text: str) -> Iterator[str]:
    """The kinds of personal data, as often as they come. Looks only where there are digits."""
    if "@" in text:
        for kind, _, _ in personal.emails(text):
            yield kind
    for match in DIGITS.finditer(text):
        for kind, _, _ in personal.find(text[max(0, match.start() - 3) : match.end() + 3]):
            yield kind
    if personal.COLONS.search(text):
        for match in personal.IPV6.finditer(text):
            if personal.is_address(match[0]):
                yield "ip"


# -- characters --------------------------------------------------------------------------


def control(parts: list[tuple[str, str]]) -> Remark:
    """The first control character; there is one."""
    path, char = next((path, match[0]) for path, text in parts if (match := CONTROLS.search(text)))
    return Remark("text.control", path, CONTROL, {"char": f"U+{ord(char):04X}"})


def decoded(parts: list[tuple[str, str]]) -> list[Remark]:
    """The first text that was decoded wrongly."""
    for path, text in parts:
        if sample := mojibake(text):
            return [Remark("text.mojibake", path, MOJIBAKE, {"text": sample})]
    return []


def mojibake(text: str) -> str:
    """The first characters that come of a wrong decoding; empty if there are none."""
    for match in LATIN.finditer(text):
        data = bytes(BYTES.get(char, ord(char) & 0xFF) for char in match[0])
        meant = data.decode("utf-8", "ignore")
        if meant and MEANT.match(meant):
            return match[0]
    if word := next((one for one in WORDS if one in text), ""):
        return word
    if any(sign in text for sign in SIGNS):
        return next((run[0][:20] for run in RUN.finditer(text) if as_gbk(run[0])), "")
    return ""


def as_gbk(run: str) -> bool:
    """Whether a run of characters is UTF-8 that was read as GBK."""
    data = run.encode("gb18030", "ignore")
    meant = data.decode("utf-8", "ignore")
    # a few bytes at the ends are lost, as the run is cut out; honest Chinese comes to nothing
    return len(meant) >= 2 and len(meant.encode()) >= 0.75 * len(data)
