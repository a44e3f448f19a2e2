"""How a model would be served: by which engine, in which mode, needing how much."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cluster.tables import Node
from app.config import settings
from app.deployments import sizing
from app.deployments.sizing import Estimate
from app.deployments.tables import Deployment
from app.errors import N_, Invalid
from app.jobs import service as jobs
from app.jobs.states import FINAL
from app.jobs.tables import Job
from app.models import service as models
from app.models.tables import Model


@dataclass(frozen=True)
class Plan:
    """How a model would be served, and why so: what the form shows and what `create` does."""

    model: Model
    base: Model  # what carries the weights; the model itself unless it is an adapter
    engine: str  # vllm or transformers
    why_not_vllm: str
    mode: str  # base, adapter or merged
    forced: bool  # merged because the engine cannot serve adapters
    unsupported: str  # why vLLM cannot serve this adapter on its base, if it cannot
    max_model_len: int
    estimate: Estimate


def plan(
    db: Session,
    workspace_id: str,
    model_id: str,
    *,
    engine: str = "auto",
    mode: str | None = None,
    max_model_len: int | None = None,
    devices: int = 1,
) -> Plan:
    """Raises NotFound (no such model) and Invalid (what was asked for cannot be)."""
    model = models.get(db, workspace_id, model_id)
    if model.scores:
        raise Invalid(
            N_(
                "%(name)s is a reward model: it scores answers and writes none, so it cannot be"
                " deployed for chat. Download it to use it in a training of your own."
            ),
            code="reward_model",
            field="model",
            name=model.name,
        )
    adapter = model.kind == "adapter"
    base = db.get_one(Model, model.base_id) if adapter else model
    chosen, why_not_vllm = choose_engine(db, engine)
    if mode == "adapter" and not adapter:
        raise Invalid(
            N_("%(name)s is a whole model, so it is served as it is. Leave the mode out."),
            field="mode",
            name=model.name,
        )
    unsupported, forced = "", False
    if adapter:
        config = sizing.read_json(model, "adapter_config.json")
        unsupported = sizing.unsupported(config)
        forced = chosen == "transformers"
        if mode == "adapter" and forced:
            raise Invalid(
                N_(
                    "The transformers engine cannot serve adapters on their base. "
                    "Choose “merged”, which serves the same model as one piece."
                ),
                field="mode",
            )
        if mode == "adapter":
            sizing.check_adapter(config)
        mode = mode or ("merged" if forced or unsupported else "adapter")
    length = max_model_len or sizing.usual_length(base)
    sizing.check_length(base, length)
    beside = model if adapter and mode == "adapter" else None
    return Plan(
        model=model,
        base=base,
        engine=chosen,
        why_not_vllm=why_not_vllm,
        mode=mode if adapter and mode else "base",
        forced=forced,
        unsupported=unsupported,
        max_model_len=length,
        estimate=sizing.estimate(
            base, beside, engine=chosen, max_model_len=length, devices=devices
        ),
    )


def choose_engine(db: Session, asked: str) -> tuple[str, str]:
    """The engine that would run, and why it is not vLLM ("" if it is, or nobody knows yet).

    Nodes say which engines they have. Raises Invalid if vLLM is asked for and no node has it.
    """
    if asked == "transformers":
        return asked, ""
    if settings.engine == "transformers" and asked == "auto":
        return "transformers", N_("this platform is set to use transformers (DANLU_ENGINE)")
    reasons = []
    for facts in db.scalars(select(Node.facts).where(Node.dead_at.is_(None))):
        known = (facts.get("engines") or {}).get("vllm")
        if not known or known.get("available"):
            return "vllm", ""
        reasons.append(str(known.get("reason") or ""))
    if not reasons:
        return "vllm", ""
    if asked == "vllm":
        raise Invalid(
            N_("vLLM runs on no node: %(reason)s. Choose “auto” or “transformers”."),
            field="engine",
            reason=reasons[0],
        )
    return "transformers", reasons[0]


def merge(db: Session, deployment: Deployment) -> None:
    """Find the merged model made of the adapter, or a merge under way, or start one."""
    merged = db.scalar(
        select(Model.id)
        .where(
            Model.parent_id == deployment.model_id,
            Model.kind == "merged",
            Model.workspace_id == deployment.workspace_id,
            Model.deleted_at.is_(None),
        )
        .order_by(Model.created_at.desc())
        .limit(1)
    )
    if merged:
        deployment.served_model_id = merged
        models.pin(db, merged, "deployment", deployment.id, deployment.name)
        return
    running = db.scalar(
        select(Job.id)
        .where(
            Job.workspace_id == deployment.workspace_id,
            Job.stage == "merge",
            Job.model_id == deployment.model_id,
            Job.state.not_in((*FINAL, "cancelling")),
        )
        .limit(1)
    )
    deployment.merge_job_id = (
        running
        or jobs.create_merge(
            db,
            workspace_id=deployment.workspace_id,
            user_id=deployment.created_by,
            adapter_id=deployment.model_id,
        ).id
    )
