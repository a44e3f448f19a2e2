"""Tokens of other services, kept for users and workspaces: sealed in the row, never shown again.

Who made a personal secret may use it in each of their workspaces; a workspace's serves all who may
start work there, and its admins manage it. What runs later names a secret by its id and reads it with
`use` at the moment when it is needed: no token lies in a cursor, a spec or a message.
"""

import base64
import re
from collections.abc import Callable
from typing import Any

import orjson
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session, undefer

from app import fetching, hubs
from app.accounts.auth import Principal
from app.accounts.tables import Membership, User, UserSecret
from app.db import now
from app.errors import N_, Conflict, DomainError, Forbidden, Invalid, NotFound
from app.queue import transaction

KINDS = {
    "huggingface": "Hugging Face",
    "modelscope": "ModelScope",
    "wandb": "Weights & Biases",
    "swanlab": "SwanLab",
    "mlflow": "MLflow",
    "openai": "OpenAI API",
}
NAME = re.compile(r"[\w.@+& -]{1,60}\Z")
VALUE = re.compile(r"[\x21-\x7e]{8,500}\Z")  # what can stand in a header
WANDB, SWANLAB = "https://api.wandb.ai", "https://api.swanlab.cn"
SECONDS = 15.0  # that a test may take
ANSWER = 2**20  # bytes


def visible(who: Principal) -> Select[UserSecret]:
    """One's own, and those of the workspace in view."""
    mine = or_(UserSecret.user_id == who.user_id, UserSecret.workspace_id == who.workspace_id)
    return select(UserSecret).where(mine)


def every(db: Session, who: Principal, *kinds: str) -> list[UserSecret]:
    """Without their values. One's own first."""
    query = visible(who).order_by(
        UserSecret.user_id.is_(None), UserSecret.kind, UserSecret.name, UserSecret.id
    )
    return list(db.scalars(query.where(UserSecret.kind.in_(kinds)) if kinds else query))


def find(db: Session, who: Principal, secret_id: str, kind: str = "") -> UserSecret:
    """One that `who` may use. Raises NotFound, on the field `secret`."""
    row = db.scalar(visible(who).where(UserSecret.id == secret_id))
    if row is None or (kind and row.kind != kind):
        raise NotFound(N_("There is no such secret."), field="secret")
    return row


def managed(db: Session, who: Principal, secret_id: str) -> UserSecret:
    """One that `who` may change. Raises NotFound and Forbidden."""
    row = find(db, who, secret_id)
    if row.user_id is None and not who.may("admin"):
        raise Forbidden(N_("Only the workspace's admins manage its secrets."))
    return row


def create(
    db: Session, who: Principal, *, kind: str, name: str, value: str, shared: bool = False
) -> UserSecret:
    """`shared`: the workspace's. Raises Invalid, Forbidden, Conflict."""
    if kind not in KINDS:
        raise Invalid(N_("There is no such kind of secret."), field="kind")
    if shared and not who.may("admin"):
        raise Forbidden(N_("Only the workspace's admins manage its secrets."), field="shared")
    name = name.strip() or KINDS[kind]
    if not NAME.match(name):
        raise Invalid(
            N_("A name has at most 60 letters, digits, blanks and . _ @ & + -."), field="name"
        )
    owner = {
        "user_id": None if shared else who.user_id,
        "workspace_id": who.workspace_id if shared else None,
    }
    taken = select(UserSecret.id).filter_by(kind=kind, name=name, **owner)
    if db.scalar(taken):
        raise Conflict(N_("There is already a secret of this name."), field="name")
    row = UserSecret(kind=kind, name=name, created_by=who.user_id, **owner, **sealed(value))
    db.add(row)
    db.flush()
    return row


def sealed(value: str) -> dict[str, Any]:
    value = value.strip()
    if not VALUE.match(value):
        raise Invalid(
            N_("A token has 8 to 500 letters, digits and signs, and no blanks."), field="value"
        )
    return {"value": value, "tail": value[-4:], "checked": None}


def replace(db: Session, who: Principal, secret_id: str, value: str) -> UserSecret:
    """A new value; what uses the secret goes on with it."""
    row = managed(db, who, secret_id)
    for column, new in sealed(value).items():
        setattr(row, column, new)
    db.flush()
    return row


def remove(db: Session, who: Principal, secret_id: str) -> None:
    """What is under way and still needs it fails, and says so."""
    db.delete(managed(db, who, secret_id))
    db.flush()


def use(db: Session, secret_id: str, kind: str, workspace_id: str | None) -> str:
    """The token, for work of a workspace that was begun with it. A personal one only as long as its
    owner is a member there. Raises NotFound and sealing.WrongKey.
    """
    row = db.scalar(
        select(UserSecret)
        .options(undefer(UserSecret.value))
        .outerjoin(User, User.id == UserSecret.user_id)
        .outerjoin(
            Membership,
            (Membership.user_id == UserSecret.user_id) & (Membership.workspace_id == workspace_id),
        )
        .where(
            UserSecret.id == secret_id,
            UserSecret.kind == kind,
            or_(
                UserSecret.workspace_id == workspace_id,
                Membership.user_id.is_not(None) & User.disabled_at.is_(None),
            ),
        )
    )
    if row is None:
        raise NotFound(
            N_("The secret that this was to use is gone. Choose another one and begin again."),
            code="secret.gone",
        )
    row.used_at = now()
    return row.value


def best(db: Session, kind: str, workspace_id: str, user_id: str) -> str:
    """For work of a user in a workspace that names no secret: their own token, else the
    workspace's, the newest of each; empty where there is none. Raises sealing.WrongKey.
    """
    whose = or_(UserSecret.user_id == user_id, UserSecret.workspace_id == workspace_id)
    row = db.scalar(
        select(UserSecret)
        .options(undefer(UserSecret.value))
        .where(UserSecret.kind == kind, whose)
        .order_by(UserSecret.user_id.is_(None), UserSecret.created_at.desc())
        .limit(1)
    )
    if row is None:
        return ""
    row.used_at = now()
    return row.value


def hub_token(secret_id: str | None, hub: str, workspace_id: str | None) -> str:
    """Of an import, in a transaction of its own; empty where none was chosen. As `use`."""
    if not secret_id or hub not in KINDS:
        return ""
    with transaction() as db:
        return use(db, secret_id, hub, workspace_id)


def chosen_token(who: Principal, secret_id: str, hub: str) -> str:
    """Of one that `who` chose just now; empty where none was. Raises NotFound, sealing.WrongKey."""
    if not secret_id:
        return ""
    with transaction() as db:
        row = find(db, who, secret_id, hub)
        row.used_at = now()
        return row.value


# -- does it work? -----------------------------------------------------------------------------


def test(who: Principal, secret_id: str) -> UserSecret:
    """Ask the service whom the token stands for. No session is held while it answers."""
    with transaction() as db:
        row = find(db, who, secret_id)
        kind, value = row.kind, row.value
        if kind not in CHECKS:
            raise Conflict(N_("Nobody can be asked whether this token works."), code="no_test")
    found: dict[str, Any] = {"at": now().isoformat()}
    try:
        found["account"] = str(CHECKS[kind](value) or "")[:100]
    except DomainError as error:
        found |= {"message": error.message, "params": error.params}
    with transaction() as db:
        row = find(db, who, secret_id)
        row.checked = found
    return row


def ask(url: str, *, method: str = "GET", body: Any = None, **how: Any) -> Any:
    """JSON from a service. Raises Refused, also for a token that it does not know."""
    content = None if body is None else orjson.dumps(body)
    headers = dict(how.pop("headers", {}))
    if content is not None:
        headers |= {"content-type": "application/json", "content-length": str(len(content))}
    answer = fetching.ask(
        url, method, content, limit=ANSWER, seconds=SECONDS, headers=headers, **how
    )
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        return {}


def of_huggingface(token: str) -> Any:
    base, allow = hubs.endpoint("huggingface")
    found = ask(f"{base}/api/whoami-v2", headers=hubs.headers("huggingface", token), allow=allow)
    return found.get("name")


def of_modelscope(token: str) -> Any:
    base, allow = hubs.endpoint("modelscope")
    found = ask(f"{base}/api/v1/login", method="POST", body={"AccessToken": token}, allow=allow)
    if not found.get("Success"):
        raise unknown_token()
    return (found.get("Data") or {}).get("Username")


def of_wandb(token: str) -> Any:
    basic = base64.b64encode(f"api:{token}".encode()).decode()
    query = {"query": "query { viewer { username } }"}
    found = ask(
        f"{WANDB}/graphql", method="POST", body=query, headers={"authorization": f"Basic {basic}"}
    )
    viewer = (found.get("data") or {}).get("viewer")
    if not viewer:
        raise unknown_token()
    return viewer.get("username")


def of_swanlab(token: str) -> Any:
    found = ask(
        f"{SWANLAB}/api/login/api_key", method="POST", body={}, headers={"authorization": token}
    )
    return (found.get("userInfo") or {}).get("username")


def unknown_token() -> Invalid:
    return Invalid(N_("The service does not know this token."), code="secret.unknown")


CHECKS: dict[str, Callable[[str], Any]] = {
    "huggingface": of_huggingface,
    "modelscope": of_modelscope,
    "wandb": of_wandb,
    "swanlab": of_swanlab,
}
