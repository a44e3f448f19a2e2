"""Routes of people and workspaces, for `tests/matrix.py`: bodies, and who manages what."""

from typing import Any

from sqlalchemy.orm import Session

from app.accounts.tables import ApiKey, User, Workspace
from tests import factories as make

PUBLIC = {
    "GET /login/oidc",
    "GET /login/oidc/callback",
    "GET /login/oidc/logout",
    "GET /invitations/{token}",
    "POST /invitations/{token}",
    "GET /reset/{token}",
    "POST /reset/{token}",
    "POST /api/v1/links/{token}/join",
    "POST /api/v1/links/{token}/password",
}
# A workspace's settings and members: what role one holds *there* counts, whichever is in view, and
# platform admins may as well. So the service asks; here stands what it must ask for.
SPACE = "/workspaces/{workspace_id}"
ANY_MEMBER = (f"GET {SPACE}", f"GET {SPACE}/settings", f"POST {SPACE}/leave")
OWNERS = (f"DELETE {SPACE}", f"POST {SPACE}/delete", f"POST {SPACE}/hand-over")
OWN = f"{SPACE}/switch"  # into any workspace of one's own
QUOTAS = "/quotas/{workspace}/members"
BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v1/workspaces/{workspace_id}/members": {"email": "new@example.com"},
    "PATCH /api/v1/workspaces/{workspace_id}/members/{user_id}": {"role": "viewer"},
    "POST /api/v1/workspaces": {"name": "x"},
    "PATCH /api/v1/workspaces/{workspace_id}": {"name": "x"},
    "POST /api/v1/workspaces/{workspace_id}/hand-over": {"user_id": "{user_id}"},
    "POST /api/v1/workspaces/{workspace_id}/invitations": {"email": "new@example.com"},
    "POST /api/v1/invitations": {"email": "new@example.com"},
    "POST /api/v1/workspaces/{workspace_id}/service-accounts": {"name": "x"},
    "POST /api/v1/workspaces/{workspace_id}/service-accounts/{account_id}/keys": {
        "name": "x",
        "scopes": ["members:write"],  # no more than the caller has
    },
    "POST /api/v1/users": {"email": "new@example.com", "workspace_id": "{workspace_id}"},
}
FORMS: dict[str, dict[str, str]] = {
    "POST /workspaces": {"name": "x"},
    "POST /workspaces/{workspace_id}/settings": {"name": "x"},
    "POST /workspaces/{workspace_id}/hand-over": {"user_id": "{user_id}"},
    "POST /workspaces/{workspace_id}/invitations": {"email": "new@example.com"},
    "POST /workspaces/{workspace_id}/members/{user_id}/role": {"role": "viewer"},
    "POST /admin/people/invite": {"email": "new@example.com"},
}


def managed(method: str, path: str) -> str:
    """The role held in the workspace named that its service asks for; empty if it asks for none."""
    if path.startswith(QUOTAS):
        return "admin"
    if not path.startswith(SPACE) or path == OWN:
        return ""
    line = f"{method} {path}"
    return "viewer" if line in ANY_MEMBER else "owner" if line in OWNERS else "admin"


def objects(db: Session, workspace: Workspace, owner: User) -> dict[str, str]:
    program = make.make_user(db, is_service=True, password_hash=None)
    make.make_membership(db, workspace, program, "member")
    make.make_key(db, workspace, program)
    key = db.query(ApiKey).filter_by(user_id=program.id).one()
    return {
        "invitation_id": make.make_invitation(db, workspace, owner)[0].id,
        "account_id": program.id,
        "service_key_id": key.id,
    }
