"""Every table of every domain: imported by each process entry, so that all foreign keys are known."""

from app.accounts import audit  # listens to what is written
from app.accounts import tables as accounts
from app.alerts import tables as alerts
from app.backups import tables as backups
from app.chat import tables as chat
from app.cluster import tables as cluster
from app.datasets import tables as datasets
from app.db import Base
from app.deployments import tables as deployments
from app.evaluations import tables as evaluations
from app.gateway.batches import tables as batches
from app.gateway.files import tables as files
from app.gateway.requests import tables as requests
from app.gateway.tuning import tables as tuning
from app.idempotency import tables as idempotency
from app.jobs import tables as jobs
from app.models import tables as models
from app.nodework import tables as nodework
from app.quotas import money_tables as money
from app.quotas import tables as quotas
from app.uploads import tables as uploads

__all__ = [
    "Base",
    "accounts",
    "alerts",
    "audit",
    "backups",
    "batches",
    "chat",
    "cluster",
    "datasets",
    "deployments",
    "evaluations",
    "files",
    "idempotency",
    "jobs",
    "models",
    "money",
    "nodework",
    "quotas",
    "requests",
    "tuning",
    "uploads",
]
