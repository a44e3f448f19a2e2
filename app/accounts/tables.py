"""Who may do what: users, workspaces, memberships, sessions, API keys."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, Index, UniqueConstraint, case, literal
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, Created, new_id
from app.sealing import Sealed


class User(Base):
    __tablename__ = "users"
    __audited__ = True

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("usr"))
    email: Mapped[str] = mapped_column(unique=True)  # lower case
    name: Mapped[str]
    password_hash: Mapped[str | None]  # None: no password opens it
    is_platform_admin: Mapped[bool] = mapped_column(default=False)
    language: Mapped[str | None]  # zh or en; None follows the browser
    # no person but a program of one workspace, its only one: it has API keys and no sign-in
    is_service: Mapped[bool] = mapped_column(default=False, server_default="false")
    created_at: Mapped[Created]
    disabled_at: Mapped[datetime | None]

    @hybrid_property
    def shown(self) -> str:
        """The name wherever an author stands: a program is marked as one."""
        return f"\N{GEAR} {self.name}" if self.is_service else self.name

    @shown.inplace.expression
    @classmethod
    def _shown(cls) -> ColumnElement[str]:
        return case((cls.is_service, literal("\N{GEAR} ").concat(cls.name)), else_=cls.name)


class Workspace(Base):
    __tablename__ = "workspaces"
    __audited__ = True

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ws"))
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    # what a call of a tuned model does that is not deployed: off, load, start
    tuned_calls: Mapped[str] = mapped_column(default="load", server_default="load")
    # whose own workspace it is; nobody else's to leave, hand over or delete, nor theirs
    personal_of: Mapped[str | None] = mapped_column(ForeignKey("users.id"), unique=True)
    created_at: Mapped[Created]


class Membership(Base):
    __tablename__ = "memberships"
    __audited__ = True

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    role: Mapped[str]  # owner, admin, member, viewer
    created_at: Mapped[Created]

    user: Mapped[User] = relationship(lazy="raise")
    workspace: Mapped[Workspace] = relationship(lazy="raise")


class Invitation(Base):
    """A one-time link by which the holder of an address joins a workspace, or only the platform."""

    __tablename__ = "invitations"
    __audited__ = True
    __table_args__ = (
        Index("ix_invitations_workspace_id_created_at", "workspace_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("inv"))
    workspace_id: Mapped[str | None] = mapped_column(
        ForeignKey("workspaces.id", ondelete="CASCADE")
    )
    email: Mapped[str] = mapped_column(index=True)  # lower case
    role: Mapped[str]
    token_hash: Mapped[str] = mapped_column(unique=True)  # sha256 of 256 random bits
    invited_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    accepted_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
    accepted_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    workspace: Mapped[Workspace | None] = relationship(lazy="raise")
    inviter: Mapped[User] = relationship(lazy="raise", foreign_keys=[invited_by])


class ResetLink(Base):
    """A one-time link by which somebody who forgot their password sets another."""

    __tablename__ = "reset_links"
    __audited__ = True

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("rst"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    token_hash: Mapped[str] = mapped_column(unique=True)  # sha256 of 256 random bits
    made_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class Identity(Base):
    """Somebody as a single sign-on provider knows them, and whose account that is here."""

    __tablename__ = "identities"
    __audited__ = True

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)  # `sub`: the provider's, never reused
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[Created]


class SignIn(Base):
    """A browser's session. Named so because `session` is the database's word."""

    __tablename__ = "sign_ins"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("sid"))
    token_hash: Mapped[str] = mapped_column(unique=True)  # sha256 of the cookie
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))  # the one in view
    ip: Mapped[str]
    user_agent: Mapped[str]
    by_oidc: Mapped[bool] = mapped_column(default=False, server_default="false")
    created_at: Mapped[Created]
    seen_at: Mapped[Created]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class ApiKey(Base):
    __tablename__ = "api_keys"
    __audited__ = True
    __table_args__ = (Index("ix_api_keys_workspace_id_created_at", "workspace_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("key"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]  # the first characters, for display
    secret_hash: Mapped[str] = mapped_column(unique=True)  # sha256 of 256 random bits
    scopes: Mapped[list[str]]
    models: Mapped[list[str]] = mapped_column(default=list)  # see `accounts.limits`
    ips: Mapped[list[str]] = mapped_column(default=list)
    rpm: Mapped[int | None]
    tpm: Mapped[int | None] = mapped_column(BigInteger)
    parallel: Mapped[int | None]
    daily_tokens: Mapped[int | None] = mapped_column(BigInteger)
    total_tokens: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]
    used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class PlatformSettings(Base):
    """One row, 1: what `accounts.platform` keeps."""

    __tablename__ = "platform_settings"
    __audited__ = True

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sections: Mapped[dict[str, Any]] = mapped_column(default=dict)
    updated_at: Mapped[Created]
    updated_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))


class AuditEntry(Base):
    """Who did what, and what it was before. Never changed; see `accounts.audit`.

    No foreign keys: the log outlives what it tells of.
    """

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("ix_audit_entries_at_id", "at", "id"),
        Index("ix_audit_entries_workspace_id_at", "workspace_id", "at"),
        Index("ix_audit_entries_user_id_at", "user_id", "at"),
        Index("ix_audit_entries_noun_id_at", "noun_id", "at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[Created]
    actor: Mapped[str]  # user, key, service, nobody, system
    user_id: Mapped[str | None]
    user_name: Mapped[str]  # the address they had then
    api_key_id: Mapped[str | None]
    ip: Mapped[str]
    agent: Mapped[str]
    request_id: Mapped[str]
    workspace_id: Mapped[str | None]  # None: the platform
    action: Mapped[str]  # create, update, delete, revoke, sign_in ...
    noun: Mapped[str]  # job, api_key ...
    noun_id: Mapped[str]
    name: Mapped[str]  # of the noun, as it was then
    before: Mapped[dict[str, Any]]  # only what changed
    after: Mapped[dict[str, Any]]
    words: Mapped[str] = mapped_column(deferred=True)  # what is searched


class UserSecret(Base):
    """A token of another service: of a user, for all they do, or of a workspace, for its members."""

    __tablename__ = "user_secrets"
    __audited__ = True
    __unaudited__ = ("checked",)
    __table_args__ = (
        UniqueConstraint(
            "user_id", "workspace_id", "kind", "name", postgresql_nulls_not_distinct=True
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("sec"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"), index=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))  # exactly one of the two
    kind: Mapped[str]  # see accounts.user_secrets.KINDS
    name: Mapped[str]
    value: Mapped[str] = mapped_column(Sealed, deferred=True)
    tail: Mapped[str]  # its last characters, to know it by
    checked: Mapped[
        dict[str, Any] | None
    ]  # when it was last tested: {at, account} or {at, message, params}
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    used_at: Mapped[datetime | None]
