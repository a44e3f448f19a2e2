"""Personal data and secrets replaced by what kind of data it was: <EMAIL>, <SECRET>, …

Every pattern is bounded, so hostile text costs no more than honest text. Pure.
"""

import re

from app.datasets.rows import personal

# Keys of well-known services by their beginnings, tokens of the Authorization header, JSON Web
# Tokens, and what is written behind the word for a secret.
SECRETS = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"dk-[A-Za-z0-9_-]{43}"
    r"|sk-[A-Za-z0-9_-]{16,200}"  # OpenAI, Anthropic, DashScope, DeepSeek
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|LTAI[A-Za-z0-9]{12,30}"
    r"|AKID[A-Za-z0-9]{13,40}"
    r"|AIza[A-Za-z0-9_-]{35}"
    r"|(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36,251}"
    r"|github_pat_[A-Za-z0-9_]{22,255}"
    r"|glpat-[A-Za-z0-9_-]{20,64}"
    r"|hf_[A-Za-z0-9]{30,64}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,250}"
    r"|eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}"
    r")(?![A-Za-z0-9])"
)
PRIVATE = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----(?:[^-]|-(?!----)){1,10000}"
    r"(?:-----END [A-Z ]{0,20}PRIVATE KEY-----)?"
)
NAMED = re.compile(
    r"(?P<name>(?:\bBearer\s{1,3}|(?:api[_-]?key|access[_-]?key|secret|token|passw(?:or)?d|pwd|密码|密钥|口令)"
    r"[A-Za-z_-]{0,20}[\"']?\s{0,3}(?:[=:：]|是|为)\s{0,3}[\"']?))"
    r"(?P<value>[^\s\"'，。,;<>]{6,200})",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    text = PRIVATE.sub("<SECRET>", text)
    text = SECRETS.sub("<SECRET>", text)
    text = NAMED.sub(lambda found: f"{found['name']}<SECRET>", text)
    parts: list[str] = []
    at = 0
    for kind, start, end in personal.find(text):
        parts += (text[at:start], f"<{kind.upper()}>")
        at = end
    return "".join([*parts, text[at:]])
