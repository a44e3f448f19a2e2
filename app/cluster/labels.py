"""Labels of nodes, and who asks for some: it runs only where a node has all of them."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cluster.tables import Node

FIELD = "label."  # of a form: label.gpu=h200


def offered(db: Session) -> dict[str, list[str]]:
    """The keys that living nodes have, and the values of each."""
    found: dict[str, set[str]] = {}
    for labels in db.scalars(select(Node.labels).where(Node.dead_at.is_(None))):
        for key, value in labels.items():
            found.setdefault(key, set()).add(value)
    return {key: sorted(found[key]) for key in sorted(found)}


def fits(has: Mapping[str, str], asked: Mapping[str, str]) -> bool:
    return asked.items() <= has.items()


def written(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def to_form(labels: Mapping[str, str]) -> dict[str, str]:
    return {FIELD + key: value for key, value in labels.items()}


def from_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """A form's values with its fields `label.…` made into `labels`, where it has any."""
    rest = {name: value for name, value in values.items() if not name.startswith(FIELD)}
    if len(rest) == len(values):
        return rest
    chosen = {
        name.removeprefix(FIELD): value
        for name, value in values.items()
        if name.startswith(FIELD) and value
    }
    return rest | {"labels": chosen}
