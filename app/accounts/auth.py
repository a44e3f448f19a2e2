"""Who asks, in which workspace, and whether they may. Every route declares `requires`."""

from dataclasses import dataclass

ROLES = ("viewer", "member", "admin", "owner")  # each may do what those before it may
PLATFORM = "platform"  # not a workspace role: the platform's admins
SCOPES = (
    "datasets:read",
    "datasets:write",
    "models:read",
    "models:write",
    "jobs:read",
    "jobs:write",
    "deployments:read",
    "deployments:write",
    "inference",
    "account",
    "admin",
)


@dataclass(frozen=True)
class Principal:
    """A person or their API key, acting in one workspace."""

    user_id: str
    email: str
    name: str
    workspace_id: str
    workspace_name: str
    role: str
    is_platform_admin: bool
    sign_in_id: str | None = None
    api_key_id: str | None = None
    scopes: tuple[str, ...] = SCOPES

    def may(self, role: str) -> bool:
        """Whether this role, or more, is held. Templates ask it to hide what would be refused."""
        if role == PLATFORM:
            return self.is_platform_admin
        return ROLES.index(self.role) >= ROLES.index(role)
