"""Bodies of the routes of quotas and money, for `tests/matrix.py`."""

from typing import Any

BODIES: dict[str, dict[str, Any]] = {
    "PUT /api/v1/quotas": {"workspaces": ["{workspace_id}"], "devices": 1},
    "PUT /api/v1/quotas/default": {"devices": 1},
    "PUT /api/v1/quotas/{workspace}": {"devices": 1},
    "PUT /api/v1/quotas/{workspace}/members/{user_id}": {"devices": 1},
    "PUT /api/v1/prices": {"hour": "1.5"},
}
FORMS: dict[str, dict[str, str]] = {}


def filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [filled(one, ids) for one in value]
    return value.format(**ids) if isinstance(value, str) else value
