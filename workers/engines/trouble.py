"""What the page says of engines that could not be started, or were given up."""

from datetime import timedelta
from typing import Any

from app.config import settings
from app.errors import N_, DomainError

START_LIMIT = timedelta(minutes=10)

TOO_SLOW = {
    "code": "start_timeout",
    "message": N_("The engine was not ready after %(minutes)s minutes."),
    "params": {"minutes": int(START_LIMIT.total_seconds() // 60)},
    "advice": N_("Its log tells what it was doing. It is tried again by itself."),
    "permanent": False,
}


UNRESPONSIVE = {
    "code": "unresponsive",
    "message": N_("The engine was alive but did not answer, so it was stopped."),
    "params": {},
    "advice": N_("It is started again by itself. If this repeats, its log tells more."),
    "permanent": False,
}


def cannot_start(error: Exception) -> dict[str, Any]:
    """What the page says of an engine that could not be started."""
    if isinstance(error, DomainError):
        return {
            "code": error.code,
            "message": error.message,
            "params": error.params,
            "advice": N_("Delete the deployment and make another, in the mode “merged”.")
            if error.code.startswith("adapter")
            else N_("Build that environment on the node, or choose the other engine."),
            "permanent": True,
        }
    if isinstance(error, FileNotFoundError):
        return {
            "code": "artefact_missing",
            "message": N_("The store has lost a file that this deployment needs: %(artefact)s."),
            "params": {"artefact": str(error)[:300]},
            "advice": N_("Bring the store back and start the deployment again."),
            "permanent": True,
        }
    return {
        "code": "cannot_start",
        "message": N_("Node %(node)s could not start the engine: %(why)s"),
        "params": {"node": settings.node, "why": str(error)[:300]},
        "advice": N_("It is tried again by itself."),
        "permanent": False,
    }
