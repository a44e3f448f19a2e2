"""Where else a run may report to: what the nodes have installed, with an account.

The account is the user's own token or their workspace's (`accounts.user_secrets`), else the node's: its
administrator sets that in the environment of the worker (docs/settings.md).
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import user_secrets
from app.accounts.auth import Principal
from app.cluster.tables import Node
from app.jobs.tables import Job

NAMES = {"wandb": "Weights & Biases", "swanlab": "SwanLab", "mlflow": "MLflow"}


def offered(db: Session, who: Principal) -> dict[str, str]:
    """Name → what it is called, of those that some living node can report to for `who`."""
    facts = list(db.scalars(select(Node.facts).where(Node.dead_at.is_(None))))
    able = {name for one in facts for name in one.get("reporters") or ()}
    installed = {name for one in facts for name in one.get("reporters_installed") or ()}
    able |= installed & {row.kind for row in user_secrets.every(db, who, *NAMES)}
    return {name: title for name, title in NAMES.items() if name in able}


def tokens(db: Session, job_id: str, fence: int) -> dict[str, str]:
    """For an attempt that runs: service → the token that its user, or else their workspace, keeps.

    Empty for one that is not in force any more. Raises sealing.WrongKey.
    """
    job = db.get(Job, job_id)
    if job is None or job.fence != fence:
        return {}
    found = {
        name: user_secrets.best(db, name, job.workspace_id, job.created_by)
        for name in job.report_to
    }
    return {name: token for name, token in found.items() if token}
