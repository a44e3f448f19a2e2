"""Personal data in text: e-mail, phone, identity card, bank card, IP address.

Numbers that carry a check digit are only reported if it is right, and no pattern backtracks
further than its own bounded length, so hostile text costs no more than honest text. Pure.
"""

import ipaddress
import re
from collections.abc import Iterator

KINDS = ("email", "phone", "id_card", "bank_card", "ip")

Found = tuple[str, int, int]  # kind, start, end

BEFORE = r"(?<![0-9A-Za-z_])(?<![0-9][.\-])"
AFTER = r"(?![0-9A-Za-z_])(?!\.[0-9])"

DIGIT = re.compile("[0-9]")
LONG = re.compile(r"[0-9](?:[ \-()]{0,2}[0-9]){7}")  # eight digits: no shorter number is personal
DOTTED = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]")
COLONS = re.compile(":[0-9A-Fa-f]{0,4}:")
AT = re.compile(r"@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,62})\.){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9\-])")
LOCAL = re.compile(r"[A-Za-z0-9._%+\-]{1,64}\Z")
PHONE = re.compile(
    BEFORE
    + r"(?:(?:\+|00)?86[ \-]?)?1[3-9][0-9][ \-]?[0-9]{4}[ \-]?[0-9]{4}"  # a Chinese mobile
    + AFTER
    + "|"
    + BEFORE
    + r"(?:\(0[1-9][0-9]{1,2}\)[ \-]?|0[1-9][0-9]{1,2}-)[2-9][0-9]{6,7}"  # a landline
    + AFTER
    + "|"
    + r"(?<![0-9A-Za-z_+])\+[1-9][0-9]{0,2}(?:[ \-]?\(?[0-9]{2,4}\)?){2,4}"  # any other country's
    + AFTER
)
ID_CARD = re.compile(
    BEFORE
    + r"[1-9][0-9]{5}(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx]"
    + AFTER
)
BANK_CARD = re.compile(
    BEFORE + r"[2-69][0-9]{3}(?:[ \-]?[0-9]{4}){2}[ \-]?[0-9]{3,4}(?:[ \-]?[0-9]{1,3})?" + AFTER
)
IPV4 = re.compile(BEFORE + r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}" + AFTER)
IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{1,4}(?:::?[0-9A-Fa-f]{1,4}){2,7}(?![0-9A-Za-z:])")

PROVINCES = frozenset("11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53"
                      " 54 61 62 63 64 65 71 81 82 83 91".split())  # fmt: skip
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
# Issuers and the lengths of their numbers: UnionPay, Visa, Mastercard, Amex, JCB, Discover,
# and the 9-series that Chinese banks issued before UnionPay.
ISSUERS = re.compile(
    r"62[0-9]{14,17}|4[0-9]{15}|5[1-5][0-9]{14}|2[2-7][0-9]{14}|3[47][0-9]{13}|35[0-9]{14}"
    r"|6(?:0|4|5)[0-9]{14}|9[0-9]{15,18}"
)


def find(text: str) -> list[Found]:
    """What looks like personal data, in order, without overlaps: (kind, start, end)."""
    found: list[Found] = []
    if "@" in text:
        found += emails(text)
    if DIGIT.search(text):
        if LONG.search(text):
            found += numbers(text)
        found += addresses(text)
    if len(found) < 2:
        return found
    order = {"email": 0, "id_card": 1, "bank_card": 2, "phone": 3, "ip": 4}
    kept: list[Found] = []
    end = 0
    for one in sorted(found, key=lambda one: (one[1], order[one[0]])):
        if one[1] >= end:
            kept.append(one)
            end = one[2]
    return kept


def emails(text: str) -> Iterator[Found]:
    for domain in AT.finditer(text):
        at = domain.start()
        local = LOCAL.search(text, max(0, at - 64), at)
        if local and not local.group().startswith("."):
            yield "email", local.start(), domain.end()


def numbers(text: str) -> Iterator[Found]:
    for one in ID_CARD.finditer(text):
        if is_id_card(one.group()):
            yield "id_card", *one.span()
    for one in BANK_CARD.finditer(text):
        if is_bank_card(one.group()):
            yield "bank_card", *one.span()
    for one in PHONE.finditer(text):
        yield "phone", *one.span()


def addresses(text: str) -> Iterator[Found]:
    """Addresses of machines; loopback and the unspecified one are nobody's."""
    for hint, pattern in ((DOTTED, IPV4), (COLONS, IPV6)):
        if hint.search(text):
            for one in pattern.finditer(text):
                if is_address(one.group()):
                    yield "ip", *one.span()


def is_id_card(number: str) -> bool:
    """A Chinese identity number of 18 characters: a known province, the right check character."""
    total = sum(int(digit) * weight for digit, weight in zip(number, WEIGHTS, strict=False))
    return number[:2] in PROVINCES and "10X98765432"[total % 11] == number[17].upper()


def is_bank_card(number: str) -> bool:
    """A number of a known issuer's form, with the right Luhn digit; spaces and hyphens are skipped."""
    digits = number.replace(" ", "").replace("-", "")
    if not ISSUERS.fullmatch(digits):
        return False
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + at % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def is_address(text: str) -> bool:
    """`a::b` is a name in code as well; an IPv6 address has a digit in each of two groups."""
    if ":" in text and sum(bool(DIGIT.search(part)) for part in text.split(":")) < 2:
        return False
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)
