"""What repairs a text: each takes a text and gives it back without what does not belong in it.

All patterns run in time proportional to the text, whatever it is.
"""

import html
import re
import unicodedata
from functools import lru_cache

from opencc import OpenCC

# -- characters --------------------------------------------------------------------------

JOINED = "\u0600-\u06ff\u0900-\u0dff\u2600-\u27bf\ufe0f\U0001f000-\U0001faff"  # scripts, emoji
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
    f"|(?<![{JOINED}])[\u200c\u200d]"  # joiners belong in some scripts, and in emoji
)
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
BREAKS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
GARBAGE = re.compile(
    "[\ufffd\ufffe\uffff\ue000-\uf8ff\ufdd0-\ufdef\U000f0000-\U0010ffff]+"  # no character at all
    "|(?:锟斤拷)+锟?斤?|(?:烫烫){2,}烫?|(?:屯屯){2,}屯?"  # what wrong decoding is known to leave
)
EMOJI = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}"  # flags
    "|[0-9#*]\ufe0f?\u20e3"  # keycaps
    "|(?:[\U0001f000-\U0001f0ff\U0001f18e\U0001f191-\U0001f19a\U0001f201\U0001f21a\U0001f22f"
    "\U0001f232-\U0001f23a\U0001f250-\U0001faff\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe"
    "\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab\u26bd\u26be\u26c4\u26c5\u26ce\u26d4"
    "\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2755\u2757"
    "\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55]|[\u203c-\u3299\xa9\xae](?=\ufe0f))"
    "[\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
)


def remove_invisible_character(text: str) -> str:
    """Control characters, zero-width and direction marks, and tags that hide text in text."""
    return INVISIBLE.sub("", text)


def replace_uniform_whitespace(text: str) -> str:
    """Every kind of space as U+0020, every kind of line break as a newline; none more or fewer."""
    return BREAKS.sub("\n", SPACES.sub(" ", text))


def remove_non_meaning_characters(text: str) -> str:
    """Replacement and private-use characters, and the known leavings of a wrong decoding."""
    return GARBAGE.sub("", text)


def remove_emoji(text: str) -> str:
    return text if text.isascii() else EMOJI.sub("", text)


# -- Chinese -----------------------------------------------------------------------------


@lru_cache
def converter() -> OpenCC:
    return OpenCC("t2s")


def replace_traditional_chinese_to_simplified(text: str) -> str:
    """By phrase, so that 乾 becomes 干 in 乾淨 and stays in 乾坤."""
    if text.isascii():
        return text
    converted: str = converter().convert(text)
    return converted


# -- HTML --------------------------------------------------------------------------------

NAMES = (
    "a abbr acronym address area article aside audio b base bdi bdo big blockquote body br button"
    " canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div"
    " dl dt em embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6"
    " head header hgroup hr html i iframe img input ins kbd label legend li link main map mark"
    " menu meta meter nav noframes noscript object ol optgroup option p param picture pre progress"
    " q s samp script section select small source span strike strong style sub summary sup svg"
    " table tbody td template textarea tfoot th thead time title tr track tt u ul var video wbr"
)
BLOCKS = frozenset(
    "address article aside blockquote br center dd div dl dt fieldset figcaption figure footer"
    " form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section table tr ul".split()
)
MARKUP = re.compile(
    rf"<!--|<!doctype[^<>]{{0,200}}>|</?({'|'.join(NAMES.split())})(?:\s[^<>]{{0,2000}})?/?>",
    re.IGNORECASE,
)
ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});")
FENCE = re.compile(r"(^[ \t]{0,3}```.*$|`[^`\n]{1,200}`)", re.MULTILINE)
BLANK_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")


def remove_web_identifiers(text: str) -> str:
    """HTML tags, comments, scripts and entities; not in Markdown code, nor names HTML lacks.

    A block's end becomes a line break. `<think>` and `a < b` stay.
    """
    if "<" not in text and "&" not in text:
        return text
    parts = FENCE.split(text)
    inside = False
    for at, part in enumerate(parts):
        if part.lstrip().startswith("```"):
            inside = not inside
        elif not inside and at % 2 == 0:
            parts[at] = plain(part)
    new = "".join(parts)
    return text if new == text else BLANK_LINES.sub("\n\n", new).strip()


def plain(text: str) -> str:
    """Without markup. A script, a style or a comment that is never closed is left alone."""
    kept: list[str] = []
    at = 0
    lower = text.lower()
    unclosed: set[str] = set()
    while found := MARKUP.search(text, at):
        kept.append(text[at : found.start()])
        name = (found[1] or "").lower()
        at = found.end()
        end = "-->" if found[0] == "<!--" else f"</{name}"
        if found[0] == "<!--" or (name in ("script", "style") and found[0][1] != "/"):
            close = -1 if end in unclosed else lower.find(end, at)
            if close >= 0:
                at = close + len(end) if name == "" else lower.find(">", close) + 1 or len(text)
                continue
            unclosed.add(end)
            kept.append(found[0])
        elif name in BLOCKS and kept:
            kept.append("\n")
    kept.append(text[at:])
    return ENTITY.sub(lambda entity: unescaped(entity[0]), "".join(kept))


def unescaped(entity: str) -> str:
    """What an entity stands for; what would be no character stays as it is."""
    char = html.unescape(entity)
    if char == "\xa0":
        return " "
    if any(unicodedata.category(one) in ("Cc", "Cs", "Cn") and one != "\n" for one in char):
        return entity
    return char
