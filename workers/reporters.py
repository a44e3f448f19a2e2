"""Weights & Biases, SwanLab and MLflow on this node: which of them a run may report to, and what it
is told for that. The account is the node's environment; it reaches no run that has not asked.
"""

import os
from collections.abc import Iterable

from app.config import settings

# name → what has to be set for it to be offered (one of them), besides being installed
ACCOUNTS = {
    "wandb": ("WANDB_API_KEY", "WANDB_MODE"),
    "swanlab": ("SWANLAB_API_KEY", "SWANLAB_MODE"),
    "mlflow": ("MLFLOW_TRACKING_URI",),
}
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")


def available() -> list[str]:
    """Those that are installed in the training environment and have an account."""
    packages = settings.train_python.parent.parent.glob("lib/python*/site-packages")
    sites = list(packages)
    return [
        name
        for name, needs in ACCOUNTS.items()
        if any((site / name).is_dir() for site in sites)
        and any(os.environ.get(one) for one in needs)
    ]


def environment(names: Iterable[str]) -> dict[str, str]:
    """For a run that reports to `names`: their own variables, and the way out."""
    prefixes = tuple(f"{name.upper()}_" for name in names)
    if not prefixes:
        return {}
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(prefixes) or name in PROXIES
    }
