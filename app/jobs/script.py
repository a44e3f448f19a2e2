"""A job as one script that needs TRL and nothing of ours, and the rows that it reads.

What comes from users stands in the script as one Python literal; all else is the template's.
"""

import pprint
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.orm import Session

from app.config import ROOT
from app.datasets.rows import browse
from app.datasets.splits import Held, Holding, row_key
from app.datasets.tables import DatasetVersion
from app.errors import N_, Conflict
from app.jobs import data, mixing, runs
from app.jobs.mixing import Amount
from app.jobs.service import STREAMED
from app.jobs.spec import Split
from app.jobs.tables import Job
from app.models.tables import Model

PACKAGES = "torch transformers peft datasets trl==1.16.0"
ADAPTERS = ("lora", "qlora")
OPTIMIZERS = {"adamw": "adamw_torch", "adafactor": "adafactor", "sgd": "sgd"}


@lru_cache
def template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(ROOT / "templates/jobs"),
        autoescape=False,  # noqa: S701 - Python, not HTML: values go in as literals
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("train.py.jinja")


def train_py(db: Session, job: Job) -> str:
    """Raises Conflict for a job that trains nothing."""
    if job.stage in STREAMED:
        raise Conflict(N_("This job trained nothing, so there is no script for it."))
    model = db.get_one(Model, job.model_id)
    base = db.get_one(Model, model.base_id) if model.base_id else model
    spec = job.spec
    facts = {
        "id": job.id,
        "name": job.name,
        "stage": job.stage,
        "method": job.method,
        "base": base.name,
        "made_from": model.name,
        "data": [runs.data_of(db, part["version"]) for part in data.parts_of(job)],
        "validation": job.mix.get("split") or runs.data_of(db, job.validation_version_id),
        "code": runs.VERSION,
        "hyperparameters": spec,
    }
    target = str(spec.get("lora_target", "all-linear"))
    modules = [name.strip() for name in target.split(",")]
    text: str = template().render(
        job=literal(facts),
        packages=PACKAGES + (" bitsandbytes" if job.method == "qlora" else ""),
        stage=job.stage,
        method=job.method,
        adapter=job.method in ADAPTERS,
        from_adapter=model.kind == "adapter",
        validates=bool(job.mix.get("split") or job.validation_version_id),
        train_on=spec.get("train_on", "answers"),
        simpo=spec.get("dpo_loss") == "simpo",
        dpo_loss=literal(spec.get("dpo_loss", "sigmoid")),
        pissa=spec.get("lora_init") == "pissa",
        loraplus=bool(spec.get("loraplus_ratio")) and job.method in ADAPTERS,
        optim=literal(OPTIMIZERS.get(str(spec.get("optimizer")), "adamw_torch")),
        target_modules=literal(target if target == "all-linear" else modules),
    )
    return text


def literal(value: Any) -> str:
    """As Python source: nothing in it can end the literal, whatever signs it has."""
    return pprint.pformat(value, sort_dicts=False, width=99)


# -- the rows ------------------------------------------------------------------------------


def rows(job: Job, parts: dict[str, DatasetVersion], *, validation: bool) -> Iterator[bytes]:
    """The rows that an epoch of the job has, or those that it validates on, as JSON lines.

    As the run reads them (`workers.stages.mixing`), a row that counts several times as often.
    No session is needed.
    """
    split = Split.model_validate(job.mix["split"]) if job.mix.get("split") else None
    own = job.validation_version_id
    items = data.parts_of(job)
    main = items[0]["version"]
    held: dict[bytes, Held] = {}
    if split:
        holding = Holding(mixing.held_back(parts[main].rows, split.split, split.most), split.seed)
        for line in browse.lines(parts[main]):
            holding.add(line)
        held = holding.held()
    if validation:
        source = parts[own] if own else parts[main]
        kept = (line for line in browse.lines(source) if own or row_key(line) in held)
        yield from (line + b"\n" for line in kept)
        return
    out = sum(one.count for one in held.values())
    counts = [
        parts[item["version"]].rows - (out if item["version"] == main else 0) for item in items
    ]
    amounts = [
        Amount(count, item.get("multiplier"), item.get("share"))
        for count, item in zip(counts, items, strict=True)
    ]
    wanted = mixing.effective(amounts)
    several = "datasets" in job.mix
    for item, count, want in zip(items, counts, wanted, strict=True):
        key = item["version"] if several else ""
        times = mixing.copies(count, want, int(job.spec.get("seed", 42)), key)
        for line in browse.lines(parts[item["version"]]):
            if item["version"] != main or row_key(line) not in held:
                yield (line + b"\n") * next(times, 0)
