"""The Celery tasks: shells around functions that know no Celery.

A message is only a nudge: each function looks at the row, and finds nothing to do when the
message was late or doubled.
"""

from app.accounts import letters
from app.alerts import delivering
from app.backups import service as backups
from app.datasets import work
from app.datasets.cleaning import run as cleaning
from app.datasets.drafts import comparing, rewriting
from app.datasets.intake import importing
from app.datasets.validation import checking
from app.gateway.tuning import preparing
from app.jobs import orphans, webhook
from app.models import importing as model_importing
from app.models import sweep as model_sweep
from app.queue import celery
from workers import clearing, replicas, scoring, starting
from workers import sweep as sweeping


@celery.task(name="workers.sweep")
def sweep() -> None:
    sweeping.timed()


@celery.task(name="workers.start_run")
def start_run(job_id: str, fence: int) -> None:
    starting.start_run(job_id, fence)


@celery.task(name="workers.start_replica")
def start_replica(replica_id: str, fence: int) -> None:
    replicas.start_replica(replica_id, fence)


@celery.task(name="workers.clear_node")
def clear_node() -> None:
    clearing.clear()


@celery.task(name="workers.validate_dataset")
def validate_dataset(version_id: str) -> None:
    work.validate_version(version_id)


@celery.task(name="workers.check_dataset")
def check_dataset(version_id: str) -> None:
    checking.check_version(version_id)


@celery.task(name="workers.import_dataset")
def import_dataset(version_id: str) -> None:
    importing.import_version(version_id)


@celery.task(name="workers.import_model")
def import_model(import_id: str) -> None:
    model_importing.import_model(import_id)


@celery.task(name="workers.clear_import")
def clear_import(import_id: str) -> None:
    model_sweep.clear_import(import_id)


@celery.task(name="workers.clear_models")
def clear_models() -> None:
    model_sweep.clear_models()


@celery.task(name="workers.clean_dataset")
def clean_dataset(version_id: str) -> None:
    cleaning.clean_version(version_id, scoring.scorer)


@celery.task(name="workers.publish_dataset")
def publish_dataset(version_id: str) -> None:
    work.publish_version(version_id)


@celery.task(name="workers.clear_store")
def clear_store() -> None:
    orphans.clear()


@celery.task(name="workers.clear_dataset")
def clear_dataset(dataset_id: str) -> None:
    work.clear(dataset_id)


@celery.task(name="workers.change_draft")
def change_draft(act_id: str) -> None:
    rewriting.change_draft(act_id)


@celery.task(name="workers.compare_versions")
def compare_versions(comparison_id: str) -> None:
    comparing.compare_versions(comparison_id)


@celery.task(name="workers.send_letter")
def send_letter(sealed: str) -> None:
    letters.deliver(sealed)


@celery.task(name="workers.deliver_alert")
def deliver_alert(delivery_id: str) -> None:
    delivering.deliver(delivery_id)


@celery.task(name="workers.make_backup")
def make_backup(backup_id: str) -> None:
    backups.make(backup_id)


@celery.task(name="workers.deliver_webhook")
def deliver_webhook(job_id: str) -> None:
    webhook.deliver(job_id)


@celery.task(name="workers.prepare_tuning")
def prepare_tuning(row_id: str) -> None:
    preparing.prepare(row_id)
