"""What the forms and the JSON API take."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from app.accounts.limits import Few, Models, Networks, Tokens
from app.db import now

Role = Literal["viewer", "member", "admin", "owner"]
Email = Annotated[str, Field(max_length=254)]
Name = Annotated[str, Field(max_length=80)]


def as_list(value: Any) -> Any:
    """One ticked box arrives as a string, several as a list."""
    return [value] if isinstance(value, str) else value


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class SignInForm(BaseModel):
    email: Email
    password: Annotated[str, Field(max_length=1000)]
    next: str = "/"


class PasswordForm(BaseModel):
    current: Annotated[str, Field(max_length=1000)]
    password: Annotated[str, Field(max_length=1000)]


class LanguageForm(BaseModel):
    lang: Literal["zh", "en"]
    next: str = "/"


class NextForm(BaseModel):
    next: str = "/login"


class KeyLimits(Strict):
    """What the key may call, from where, how much: left out or empty is no limit."""

    models: Models = []
    ips: Networks = []
    rpm: Few | None = None
    tpm: Tokens | None = None
    parallel: Few | None = None
    daily_tokens: Tokens | None = None
    total_tokens: Tokens | None = None

    def limits(self) -> dict[str, Any]:
        return self.model_dump(include=set(KeyLimits.model_fields))


class KeyForm(KeyLimits):
    """`days` until it expires; empty is never."""

    name: Annotated[Name, Field(min_length=1)]
    scopes: Annotated[list[str], BeforeValidator(as_list)] = []
    days: Annotated[int | None, Field(ge=1, le=3650)] = None

    def expires_at(self) -> datetime | None:
        return now() + timedelta(days=self.days) if self.days else None

    def made(self) -> dict[str, Any]:
        """As `keys.create_api_key` asks."""
        more = {"expires_at": self.expires_at(), **self.limits()}
        return {"name": self.name, "scopes": self.scopes, **more}


class KeyEdit(KeyLimits):
    """`days` from now until it expires: empty leaves that as it is, 0 is never."""

    name: Annotated[Name, Field(min_length=1)]
    days: Annotated[int | None, Field(ge=0, le=3650)] = None

    def changes(self) -> dict[str, Any]:
        found = {"name": self.name, **self.limits()}
        if self.days is not None:
            found["expires_at"] = now() + timedelta(days=self.days) if self.days else None
        return found


class KeyCreate(KeyLimits):
    """A new API key: its name, what it may be used for, its limits, and until when."""

    name: Annotated[Name, Field(min_length=1)]
    scopes: list[str]
    expires_at: AwareDatetime | None = None


class KeyChange(KeyLimits):
    """What is left out stays as it is; null, or an empty list, lifts a limit."""

    name: Annotated[Name, Field(min_length=1)] = ""
    expires_at: AwareDatetime | None = None


class MemberCreate(Strict):
    """Somebody to add to a workspace."""

    email: Email
    name: Name = ""
    role: Role = "member"


class RoleChange(Strict):
    """A role to give."""

    role: Role


class MemberChoice(Strict):
    """One of the members."""

    user_id: str = Field(min_length=1, max_length=80)


class ServiceAccountCreate(Strict):
    """A program, and its role."""

    name: Annotated[Name, Field(min_length=1)]
    role: Literal["viewer", "member", "admin"] = "member"


class ServiceAccountChange(Strict):
    """What is left out stays as it is."""

    name: Name = ""
    role: Literal["viewer", "member", "admin"] | None = None
    disabled: bool | None = None


class InvitationCreate(Strict):
    """Whom to invite, and as what."""

    email: Email
    role: Role = "member"


class PersonInvited(Strict):
    """Whom to invite to the platform."""

    email: Email


class Joining(Strict):
    """What somebody new says of themselves; who has an account leaves both out."""

    name: Name = ""
    password: Annotated[str, Field(max_length=1000)] = ""


class NewPassword(Strict):
    """The password from now on."""

    password: Annotated[str, Field(max_length=1000)]


class WorkspaceName(Strict):
    """What a workspace is called."""

    name: Annotated[Name, Field(min_length=1)]


class WorkspaceCreate(Strict):
    """`owner` is the e-mail address of an existing user; left out, it is who asks."""

    name: Annotated[Name, Field(min_length=1)]
    owner: Email = ""


class UserCreate(Strict):
    """A new account, and the workspace it starts in."""

    email: Email
    name: Name = ""
    workspace_id: str
    role: Role = "member"
    is_platform_admin: bool = False


class LanguageChange(Strict):
    """A language; null follows the browser."""

    language: Literal["zh", "en"] | None


class PasswordChange(Strict):
    """The password so far, and the new one."""

    current: Annotated[str, Field(max_length=1000)]
    password: Annotated[str, Field(max_length=1000)]
