"""What the JSON API answers about people, keys and workspaces."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from app.accounts import signin
from app.accounts.schemas import Role
from app.accounts.tables import Membership, SignIn, User, Workspace


class WorkspaceName(BaseModel):
    """A workspace by its id and its name."""

    id: str
    name: str


class MeOut(BaseModel):
    """Who sent the request. `scopes` are what the key may be used for; a browser has all."""

    id: str
    email: str
    name: str
    workspace: WorkspaceName
    role: Role
    is_platform_admin: bool
    scopes: list[str]


class KeyOwner(BaseModel):
    """The person whom a key stands for."""

    id: str
    email: str


class KeyOut(BaseModel):
    """An API key, without its secret; `prefix` is how that begins."""

    model_config = ConfigDict(extra="allow")  # limits, where there are some

    id: str
    name: str
    prefix: str
    scopes: list[str]
    user: KeyOwner
    created_at: datetime
    used_at: datetime | None
    expires_at: datetime | None


class KeyMade(KeyOut):
    """A new API key. Its `secret` is in this answer and nowhere else."""

    secret: str


class KeyList(BaseModel):
    """API keys, the newest first."""

    data: list[KeyOut]
    has_more: bool


class WorkspaceOut(BaseModel):
    """A workspace; `role` is yours in it, null where you have none; `personal` says that it is
    somebody's own.
    """

    id: str
    slug: str
    name: str
    role: Role | None
    personal: bool
    created_at: datetime

    @classmethod
    def of(cls, workspace: Workspace, role: str | None) -> Self:
        return cls(
            id=workspace.id,
            slug=workspace.slug,
            name=workspace.name,
            role=role,
            personal=workspace.personal_of is not None,
            created_at=workspace.created_at,
        )


class WorkspaceList(BaseModel):
    """Workspaces by name."""

    data: list[WorkspaceOut]
    has_more: bool


class MemberOut(BaseModel):
    """Somebody in a workspace; `id` is the user's."""

    id: str
    email: str
    name: str
    role: Role
    disabled: bool
    created_at: datetime

    @classmethod
    def of(cls, membership: Membership, user: User, **more: str | None) -> Self:
        return cls(
            id=user.id,
            email=user.email,
            name=user.name,
            role=membership.role,
            disabled=user.disabled_at is not None,
            created_at=membership.created_at,
            **more,
        )


class MemberMade(MemberOut):
    """A new member. The `password` of a new account is in this answer and nowhere else; null for
    somebody who had an account.
    """

    password: str | None


class MemberList(BaseModel):
    """Members in the order they came."""

    data: list[MemberOut]
    has_more: bool


class ServiceAccountOut(BaseModel):
    """A program of a workspace."""

    id: str
    name: str
    role: Role
    disabled: bool
    created_at: datetime

    @classmethod
    def of(cls, membership: Membership, user: User) -> Self:
        return cls(
            id=user.id,
            name=user.name,
            role=membership.role,
            disabled=user.disabled_at is not None,
            created_at=membership.created_at,
        )


class ServiceAccountList(BaseModel):
    """Service accounts in the order they came."""

    data: list[ServiceAccountOut]
    has_more: bool


class InvitationOut(BaseModel):
    """An invitation that is open; `workspace_id` is null for one to the platform alone."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    workspace_id: str | None
    email: str
    role: Role
    invited_by: str
    created_at: datetime
    expires_at: datetime


class InvitationMade(InvitationOut):
    """An invitation with its link, which is in this answer and nowhere else, but for the mail to
    whom it invites where the platform has a mail server (`mailed`).
    """

    url: str
    mailed: bool


class InvitationList(BaseModel):
    """Invitations, the newest first."""

    data: list[InvitationOut]
    has_more: bool


class Joined(BaseModel):
    """Who came in, and where."""

    user_id: str
    workspace_id: str | None
    role: Role


class ResetMade(BaseModel):
    """A one-time link to set a new password, which is in this answer and nowhere else, but for the
    mail to its owner where the platform has a mail server (`mailed`).
    """

    user_id: str
    email: str
    url: str
    mailed: bool
    expires_at: datetime


class UserOut(BaseModel):
    """An account of the platform."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    email: str
    name: str
    is_platform_admin: bool
    created_at: datetime
    disabled_at: datetime | None


class UserMade(UserOut):
    """An account with a new password, which is in this answer and nowhere else."""

    password: str


class UserList(BaseModel):
    """Accounts in the order they came."""

    data: list[UserOut]
    has_more: bool


class SignInOut(BaseModel):
    """A browser that is signed in; `current` is the one that asks."""

    id: str
    browser: str = Field(description="Such as “Firefox, Windows”; empty if it is not known")
    ip: str
    current: bool
    created_at: datetime
    seen_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, row: SignIn, current: str | None) -> Self:
        return cls(
            id=row.id,
            browser=signin.browser(row.user_agent),
            ip=row.ip,
            current=row.id == current,
            created_at=row.created_at,
            seen_at=row.seen_at,
            expires_at=row.expires_at,
        )


class SignInList(BaseModel):
    """Browsers, the last used first."""

    data: list[SignInOut]
    has_more: bool
