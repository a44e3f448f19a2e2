"""The platform's settings: what an administrator changes while it runs. Environment variables
(`app.config`) are for what must be known before there is a database.

One pydantic model of sections, kept in one row. A section is a small model whose fields all have
defaults; adding one means a field of `Platform` and a template `settings/<section>.html` with its
inputs. A field of type `Secret` holds ciphertext in memory as in the row: `reveal` gives the text.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationError,
    field_validator,
    model_validator,
)
from sqlalchemy.orm import Session

from app import mail, sealing
from app.accounts.tables import PlatformSettings
from app.db import now
from app.errors import N_, Invalid, NotFound

if TYPE_CHECKING:  # `auth` reads settings with every request
    from app.accounts.auth import Principal

STORED = {"stored": True}  # the context in which secrets are written as they are kept
HIDDEN = "••••••••"  # what is shown of a secret, and sent back by who leaves it as it is


def hidden(value: str, info: SerializationInfo) -> str:
    return value if info.context == STORED else HIDDEN if value else ""


class SecretMark:
    """Says of a field that its value is sealed."""


Secret = Annotated[
    str, Field(max_length=4000), SecretMark(), PlainSerializer(hidden, when_used="json-unless-none")
]


class Section(BaseModel):
    """The base of all sections."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class General(Section):
    """What everybody sees."""

    name: str = Field("Danlu", min_length=1, max_length=40, description="What pages call this.")
    language: Literal["", "zh", "en"] = Field(
        "", description="For who has chosen none; empty: what the browser asks for."
    )


class Mail(Section):
    """The SMTP server that alerts and invitations go through; none while `host` is empty."""

    host: str = Field("", max_length=255, description="Its name, or its address.")
    port: int = Field(587, ge=1, le=65535)
    security: mail.Security = Field(
        "starttls", description="`tls` from the first byte (port 465), or `none` at all."
    )
    user: str = Field("", max_length=320, description="Empty: no sign-in.")
    password: Secret = ""
    sender: str = Field("", max_length=320, description="Whom mails come from.")

    @property
    def ready(self) -> bool:
        return bool(self.host and self.sender)

    def server(self) -> mail.Server:
        """For `app.mail`. Raises sealing.WrongKey."""
        password = reveal(self.password)
        return mail.Server(self.host, self.port, self.security, self.sender, self.user, password)


class People(Section):
    """Who comes in, and what they may do by themselves."""

    create_workspaces: bool = Field(
        False, description="Whether everybody makes workspaces; else platform admins alone."
    )
    invitation_days: int = Field(7, ge=1, le=90, description="How long an invitation's link lasts.")


class Disk(Section):
    """Below its floor a node gets nothing new, training there stops with a checkpoint, and uploads
    are refused. The smaller of the two counts.
    """

    floor_percent: float = Field(5, ge=0, le=50, description="Of the disk.")
    floor_gb: float = Field(10, ge=0, le=10_000, description="GB of 10^9 bytes.")

    def floor(self, total: int) -> int:
        """In bytes, of a disk of `total`."""
        return int(min(total * self.floor_percent / 100, self.floor_gb * 10**9))


class Backups(Section):
    """Backups by the clock."""

    at: str = Field(
        "", pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$", description="HH:MM in UTC; empty: none."
    )
    keep: int = Field(7, ge=1, le=365, description="The last so many; older ones are deleted.")
    directory: str = Field(
        "",
        max_length=1000,
        description="On the machine that makes them; empty: backups in the home.",
    )
    artefacts: bool = Field(
        False, description="Datasets and models as well, as long as the store is a directory."
    )
    key: bool = Field(True, description="The secret key as well, if the home has it.")


class Retention(Section):
    """What is cleared away by itself, and when. Days count from the end of the job, or from when
    something was deleted; 0 is at once, but for `log_days`.
    """

    checkpoints: Literal["all", "few", "none"] = Field(
        "none", description="Kept of a job that is over; `few`: the last and the best."
    )
    checkpoint_days: int = Field(7, ge=0, le=3650, description="Until then all are kept.")
    run_days: int = Field(7, ge=0, le=3650, description="That other files of its runs stay.")
    log_days: int = Field(
        0, ge=0, le=3650, description="That its log can be read; 0: as long as the job is there."
    )
    deleted_days: int = Field(
        7, ge=0, le=365, description="That a deleted model or dataset can be brought back."
    )
    cache_gb: int = Field(
        0, ge=0, le=1_000_000, description="Of each node's cache; 0: what DANLU_CACHE_GB says."
    )


class Audit(Section):
    """What is kept of who did what."""

    days: int = Field(400, ge=30, le=3650, description="After which an entry is let go.")


class Maintenance(Section):
    """While it lasts only platform admins change anything. Reading, running work and inference go on;
    nothing new is scheduled.
    """

    on: bool = False
    since: datetime | None = Field(None, description="Not before; empty: at once.")
    until: datetime | None = Field(None, description="Not after; empty: until it is turned off.")
    text_zh: str = Field("", max_length=300, description="What users are told, in Chinese.")
    text_en: str = Field("", max_length=300, description="The same in English.")

    @field_validator("since", "until", mode="before")
    @classmethod
    def empty(cls, value: Any) -> Any:
        return value or None

    @field_validator("since", "until")
    @classmethod
    def zoned(cls, value: datetime | None) -> datetime | None:
        """A time without a zone is meant in the server's."""
        return value.astimezone() if value and value.tzinfo is None else value

    @model_validator(mode="after")
    def in_order(self) -> Self:
        if self.since and self.until and self.until <= self.since:
            raise ValueError(N_("The end comes before the beginning."))
        return self

    @property
    def active(self) -> bool:
        at = now()
        begun = self.since is None or self.since <= at
        return self.on and begun and (self.until is None or at < self.until)

    @property
    def ahead(self) -> bool:
        """Announced, and begins within a day."""
        return self.on and self.since is not None and now() < self.since < now() + timedelta(days=1)

    @property
    def retry_after(self) -> int:
        """Seconds."""
        left = (self.until - now()).total_seconds() if self.until else 300
        return int(min(3600, max(30, left)))

    def text(self, language: str) -> str:
        """What an administrator has written, in this language or else in the other."""
        texts = (self.text_zh, self.text_en) if language == "zh" else (self.text_en, self.text_zh)
        return texts[0] or texts[1]


class Oidc(Section):
    """Single sign-on by OpenID Connect."""

    enabled: bool = Field(False, description="Whether people sign in there.")
    label: str = Field("SSO", min_length=1, max_length=40, description="What the button says.")
    issuer: str = Field("", max_length=500, description="The provider's address: its `iss`.")
    client_id: str = Field("", max_length=500, description="As which this is registered there.")
    client_secret: Secret = Field("", description="Empty for a public client.")
    domains: str = Field(
        "", max_length=2000, description="Domains of addresses let in, with commas; empty: all."
    )
    create: Literal["invited", "everybody"] = Field(
        "invited", description="Who without an account gets one."
    )
    groups_claim: str = Field("", max_length=100, description="The claim that names groups.")
    groups: str = Field(
        "", max_length=8000, description="Lines `group = workspace: role`, by the short name."
    )

    @model_validator(mode="after")
    def whole(self) -> Self:
        if self.enabled and not (self.issuer and self.client_id):
            raise ValueError(N_("The provider's address and the client ID are needed."))
        self.rules()
        return self

    def domain_list(self) -> list[str]:
        return [one.lower().lstrip("@") for one in self.domains.replace(",", " ").split()]

    def rules(self) -> list[tuple[str, str, str]]:
        """(group, a workspace's slug, role) of each line of `groups`. Raises ValueError."""
        found = []
        for line in filter(None, map(str.strip, self.groups.splitlines())):
            group, _, rest = line.rpartition("=")
            slug, _, role = (part.strip() for part in rest.partition(":"))
            if not group.strip() or not slug or role not in ("viewer", "member", "admin"):
                raise ValueError(
                    N_("Each line has to be: group = workspace: viewer, member or admin.")
                )
            found.append((group.strip(), slug, role))
        return found


class Platform(BaseModel):
    """Every setting of the platform, by section."""

    model_config = ConfigDict(extra="forbid")

    general: General = General()
    mail: Mail = Mail()
    people: People = People()
    oidc: Oidc = Oidc()
    maintenance: Maintenance = Maintenance()
    disk: Disk = Disk()
    backups: Backups = Backups()
    retention: Retention = Retention()
    audit: Audit = Audit()


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Platform.model_fields.items()
    if isinstance(field.annotation, type)
}


def read(db: Session) -> Platform:
    """The settings; a look-up by primary key, once per session."""
    row = db.get(PlatformSettings, 1)
    return of(row.sections if row else {})


def of(sections: dict[str, Any]) -> Platform:
    """From the row. What a newer or an older version wrote and this one does not know, is left out,
    and what it refuses stands at its default: a setting never stops the platform.
    """
    known: dict[str, Section] = {}
    for name, section in SECTIONS.items():
        values = {
            key: sections.get(name, {})[key]
            for key in section.model_fields
            if key in sections.get(name, {})
        }
        try:
            known[name] = section.model_validate(values)
        except ValidationError as error:
            wrong = {one["loc"][0] for one in error.errors() if one["loc"]}
            kept = {key: value for key, value in values.items() if key not in wrong}
            known[name] = section.model_validate(kept) if wrong else section()
    return Platform(**known)


def change(db: Session, who: "Principal | None", **sections: dict[str, Any]) -> Platform:
    """Set some fields of some sections: `change(db, who, general={"name": "Lab"})`.

    Of a secret, HIDDEN leaves it and "" forgets it. Raises Invalid (`field` is section.name) and
    NotFound for a section that is none.
    """
    row = locked(db)
    kept = of(row.sections).model_dump(context=STORED, mode="json")
    for name, values in sections.items():
        if name not in SECTIONS:
            raise NotFound(N_("There is no such section of settings."))
        kept[name] = merged(name, kept[name], values)
    row.sections = kept
    row.updated_at = now()
    row.updated_by = who.user_id if who else None
    db.flush()
    return of(kept)


def locked(db: Session) -> PlatformSettings:
    """The row, locked, so that two who change different sections lose nothing."""
    row = db.get(PlatformSettings, 1, with_for_update=True, populate_existing=True)
    if row is None:
        row = PlatformSettings(id=1, sections={})
        db.add(row)
        db.flush()
    return row


def merged(name: str, old: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A section's values, the new over the old, as they are kept."""
    section = SECTIONS[name]
    fresh = {
        key: sealing.seal(value.strip()) if is_secret(section, key) and value else value
        for key, value in values.items()
        if not (is_secret(section, key) and value in (HIDDEN, None))
    }
    try:
        return section.model_validate(old | fresh).model_dump(context=STORED, mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in (name, *first["loc"]))
        raise Invalid(first["msg"].removeprefix("Value error, "), field=field) from error


def is_secret(section: type[Section], field: str) -> bool:
    known = section.model_fields.get(field)
    return known is not None and any(isinstance(one, SecretMark) for one in known.metadata)


def reveal(secret: str) -> str:
    """The text of a Secret; empty if there is none. Raises sealing.WrongKey."""
    return sealing.unseal(secret) if secret else ""


def is_flag(section: type[Section], field: str) -> bool:
    """Whether a form says no by leaving it out."""
    annotation = section.model_fields[field].annotation
    return annotation is bool or bool in get_args(annotation)
