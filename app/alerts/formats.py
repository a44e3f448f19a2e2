"""What is sent, and where: a mail's text, our own JSON, and the messages of chat bots.

Contracts: Feishu https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot · DingTalk
https://open.dingtalk.com/document/orgapp/custom-robot-access · WeCom
https://developer.work.weixin.qq.com/document/path/91770. Their answers have status 200 even where
they refuse; a code in the body says it.
"""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import orjson

from app.alerts.kinds import KINDS
from app.alerts.tables import Alert
from app.config import settings
from app.errors import N_
from app.signing import signature
from app.web import catalogue

HOWS = ("mail", "webhook", "feishu", "dingtalk", "wecom")
STATES = {
    "firing": N_("Alert"),
    "repeated": N_("Still"),
    "resolved": N_("Resolved"),
    "test": N_("Test"),
}
TEST = N_("This is a test. Alerts arrive here.")


@dataclass(frozen=True)
class Notice:
    """What there is to say, before it is put into anybody's format."""

    id: str  # of the delivery: the same for all tries
    event: str
    alert: Alert | None
    language: str
    site: str  # what the platform is called
    workspace: str = ""  # its name

    def say(self, message: str, **params: Any) -> str:
        """What fills a place may itself be a sentence: `{message, params}`."""
        filled = {
            name: self.say(value["message"], **value.get("params", {}))
            if isinstance(value, dict)
            else value
            for name, value in params.items()
        }
        text = catalogue(self.language).gettext(message)
        return text % filled if filled else text

    @property
    def sentence(self) -> str:
        if self.alert is None:
            return self.say(TEST)
        return self.say(self.alert.message, **self.alert.params)

    @property
    def subject(self) -> str:
        title = self.say(KINDS[self.alert.kind].title) if self.alert else ""
        parts = [f"[{self.site}]", self.say(STATES[self.event]), title, self.workspace]
        return " · ".join(part for part in parts if part)

    @property
    def url(self) -> str:
        return f"{settings.url}{self.alert.link}" if self.alert and self.alert.link else ""

    @property
    def text(self) -> str:
        lines = [self.subject, self.sentence]
        if self.alert:
            lines.append(f"{self.alert.fired_at:%Y-%m-%d %H:%M} UTC")
        return "\n".join([*lines, *([self.url] if self.url else [])])


@dataclass(frozen=True)
class Post:
    url: str
    headers: dict[str, str]
    body: bytes


def post(how: str, url: str, secret: str, notice: Notice, at: datetime) -> Post:
    """The request that tells a webhook or a bot."""
    stamp = int(at.timestamp())
    headers = {"content-type": "application/json"}
    if how == "webhook":
        body = orjson.dumps(message(notice, at))
        headers |= {"webhook-id": notice.id, "webhook-timestamp": str(stamp)}
        if secret:
            headers["webhook-signature"] = signature(secret, notice.id, stamp, body)
        return Post(url, headers, body)
    if how == "feishu":
        said: dict[str, Any] = {"msg_type": "text", "content": {"text": notice.text}}
        if secret:
            said |= {"timestamp": str(stamp), "sign": hashed(f"{stamp}\n{secret}".encode(), b"")}
    elif how == "dingtalk":
        said = {"msgtype": "text", "text": {"content": notice.text}}
        if secret:
            sign = hashed(secret.encode(), f"{stamp * 1000}\n{secret}".encode())
            url += "&" if "?" in url else "?"
            url += urlencode({"timestamp": stamp * 1000, "sign": sign})
    else:
        said = {"msgtype": "text", "text": {"content": notice.text}}
    return Post(url, headers, json.dumps(said, ensure_ascii=False).encode())


def hashed(key: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def message(notice: Notice, at: datetime) -> dict[str, Any]:
    """Our own JSON."""
    alert = notice.alert
    return {
        "type": f"alert.{notice.event}",
        "at": at,
        "text": notice.sentence,
        "alert": alert
        and {
            "id": alert.id,
            "kind": alert.kind,
            "severity": KINDS[alert.kind].severity,
            "subject": alert.subject,
            "workspace": alert.workspace_id,
            "params": alert.params,
            "fired_at": alert.fired_at,
            "resolved_at": alert.resolved_at,
            "url": notice.url,
        },
    }


def refusal(how: str, body: bytes) -> str:
    """What a bot says that it did not like; empty if it took the message."""
    if how not in ("feishu", "dingtalk", "wecom"):
        return ""
    try:
        answer = orjson.loads(body)
        code = answer.get("code", answer.get("errcode", answer.get("StatusCode", 0)))
        words = answer.get("msg") or answer.get("errmsg") or answer.get("StatusMessage") or ""
    except (orjson.JSONDecodeError, AttributeError):
        return body.decode(errors="replace")[:200]
    return "" if code == 0 else f"{code} {words}"[:200]
