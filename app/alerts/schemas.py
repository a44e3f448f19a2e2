"""What comes in and goes out about alerts."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from app.alerts.kinds import KINDS
from app.alerts.tables import Alert, AlertDelivery, AlertRule
from app.errors import N_
from app.web import said

ADDRESS = re.compile(r"[^\s@<>,;\"]{1,64}@[A-Za-z0-9.-]{1,253}")
MOST = 50  # addresses of a rule
Severity = Literal["error", "warning"]


def listed(value: Any) -> Any:
    """A form's text or its only box as a list."""
    return re.split(r"[\s,;]+", value.strip()) if isinstance(value, str) else value


class RuleIn(BaseModel):
    """Of which kinds to tell whom. `addresses` are for mail, `url` and `secret` for everything else.

    `secret` signs what is sent: made for a `webhook` where none is given; that of a Feishu or DingTalk
    bot, if it has one. Left out when a rule is changed, `url` and `secret` stay.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(min_length=1, max_length=80)
    kinds: Annotated[list[str], BeforeValidator(listed)] = Field(min_length=1, max_length=20)
    how: Literal["mail", "webhook", "feishu", "dingtalk", "wecom"] = "mail"
    addresses: Annotated[list[str], BeforeValidator(listed)] = Field([], max_length=MOST)
    url: str = Field("", max_length=2000)
    secret: str = Field("", max_length=500)
    language: Literal["zh", "en"] = "zh"
    repeat_minutes: int = Field(0, ge=0, le=43_200, description="While it lasts; 0: told once.")
    enabled: bool = True

    @field_validator("kinds")
    @classmethod
    def known(cls, kinds: list[str]) -> list[str]:
        if not set(kinds) <= set(KINDS):
            raise ValueError(N_("There is no such kind of alert."))
        return sorted(set(kinds), key=list(KINDS).index)

    @field_validator("addresses")
    @classmethod
    def plain(cls, addresses: list[str]) -> list[str]:
        found = [one for one in addresses if one]
        if any(not ADDRESS.fullmatch(one) for one in found):
            raise ValueError(N_("Give mail addresses, with blanks or commas between."))
        return list(dict.fromkeys(found))


class RuleForm(RuleIn):
    """As the page sends it: a box that is not ticked is left out."""

    enabled: bool = False


class RuleOut(BaseModel):
    """A rule. Its address may hold a key, so only the host is told; `secret` only when it was made."""

    id: str
    name: str
    kinds: list[str]
    how: str
    addresses: list[str]
    host: str
    secret: str | None
    language: str
    repeat_minutes: int
    enabled: bool
    created_at: datetime

    @classmethod
    def of(cls, rule: AlertRule, secret: str | None = None) -> "RuleOut":
        names = (name for name in cls.model_fields if name != "secret")
        return cls(secret=secret, **{name: getattr(rule, name) for name in names})


class Rules(BaseModel):
    """The rules of a workspace or of the platform."""

    data: list[RuleOut]
    has_more: bool


class AlertOut(BaseModel):
    """Something that fires, or did."""

    id: str
    kind: str
    severity: Severity
    subject: str
    workspace: str | None
    message: str
    link: str
    fired_at: datetime
    resolved_at: datetime | None

    @classmethod
    def of(cls, request: Request, alert: Alert) -> "AlertOut":
        return cls(
            id=alert.id,
            kind=alert.kind,
            severity=KINDS[alert.kind].severity,
            subject=alert.subject,
            workspace=alert.workspace_id,
            message=said(request, {"message": alert.message, "params": alert.params}),
            link=alert.link,
            fired_at=alert.fired_at,
            resolved_at=alert.resolved_at,
        )


class Alerts(BaseModel):
    """Alerts, the newest first."""

    data: list[AlertOut]
    has_more: bool


class DeliveryOut(BaseModel):
    """A telling: `event` is firing, repeated, resolved or test."""

    id: str
    alert: str | None
    rule: str
    event: str
    state: str
    attempts: int
    error: str
    created_at: datetime
    delivered_at: datetime | None

    @classmethod
    def of(cls, request: Request, one: AlertDelivery) -> "DeliveryOut":
        return cls(
            id=one.id,
            alert=one.alert_id,
            rule=one.rule_id,
            event=one.event,
            state=one.state,
            attempts=one.attempts,
            error=said(request, one.error) if one.error else "",
            created_at=one.created_at,
            delivered_at=one.delivered_at,
        )


class Deliveries(BaseModel):
    """Who was told, and what came of it."""

    data: list[DeliveryOut]
    has_more: bool
