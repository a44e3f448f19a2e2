"""Personal data replaced by what kind of data it was: <EMAIL>, <PHONE>, …"""

from app.datasets.rows import personal


def masked(text: str, kind: str) -> str:
    found = [one for one in personal.find(text) if one[0] == kind]
    if not found:
        return text
    parts: list[str] = []
    at = 0
    for _, start, end in found:
        parts += (text[at:start], f"<{kind.upper()}>")
        at = end
    return "".join([*parts, text[at:]])


def replace_emails(text: str) -> str:
    return masked(text, "email")


def replace_phones(text: str) -> str:
    return masked(text, "phone")


def replace_identifier(text: str) -> str:
    return masked(text, "id_card")


def replace_bank_cards(text: str) -> str:
    return masked(text, "bank_card")


def replace_ip(text: str) -> str:
    return masked(text, "ip")
