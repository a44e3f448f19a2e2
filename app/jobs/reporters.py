"""Where else a run may report to: what the nodes have installed and an account for.

The account is the node's: its administrator sets it in the environment of the worker
(docs/settings.md). There is no store of secrets here, so nobody types a key into a form.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cluster.tables import Node

NAMES = {"wandb": "Weights & Biases", "swanlab": "SwanLab", "mlflow": "MLflow"}


def offered(db: Session) -> dict[str, str]:
    """Name → what it is called, of those that some living node can report to."""
    facts = db.scalars(select(Node.facts).where(Node.dead_at.is_(None)))
    able = {name for one in facts for name in one.get("reporters") or ()}
    return {name: title for name, title in NAMES.items() if name in able}
