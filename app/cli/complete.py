"""Ids and names for the shell to complete: asked of the API, quickly or not at all."""

from collections.abc import Callable
from typing import Any

from app.cli.client import Api, Failed, account

PATIENCE = 1.5  # seconds


def of(path: str, *fields: str) -> Callable[[str], list[tuple[str, str]]]:
    """A completer of what a list holds: any of `fields` may be typed; the others explain it."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        try:
            found: list[dict[str, Any]] = Api(*account(), timeout=PATIENCE).get(path, limit=100)[
                "data"
            ]
        except (Failed, KeyError, TypeError):
            return []
        return [
            (str(row[field]), " ".join(str(row[other]) for other in fields if other != field))
            for row in found
            for field in fields[:-1]
            if str(row[field]).startswith(incomplete)
        ]

    return complete


dataset = of("/api/v1/datasets", "id", "name", "format")
job = of("/api/v1/jobs", "id", "name")
model = of("/api/v1/models", "name", "id", "kind")
deployment = of("/api/v1/deployments", "name", "id", "state")
served = of("/api/v1/deployments", "name", "state")
key = of("/api/v1/keys", "id", "name")
workspace = of("/api/v1/workspaces", "id", "name")
user = of("/api/v1/users", "id", "email")
node = of("/api/v1/nodes", "id", "state")
