"""The worker's and beat's Celery app: `celery -A workers.celery worker -Q control,node.<id>`.

Beat only nudges the sweep, so it needs to remember nothing.
"""

from app import logs, tables
from app.queue import celery
from workers import tasks

__all__ = ["celery", "tables", "tasks"]  # imported so that all foreign keys and tasks are known

SWEEP_SECONDS = 5.0

celery.conf.update(
    beat_schedule={
        "sweep": {
            "task": "workers.sweep",
            "schedule": SWEEP_SECONDS,
            "options": {"expires": SWEEP_SECONDS},
        }
    },
    beat_scheduler="celery.beat:Scheduler",
)
logs.configure()
