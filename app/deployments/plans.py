"""How a model would be served: by which engine, in which mode, needing how much."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cluster.tables import Device, Node
from app.config import settings
from app.deployments import guests, options, revisions, room, runners, sizing, speech
from app.deployments.guests import Place
from app.deployments.revisions import Settings
from app.deployments.room import Room
from app.deployments.sizing import Estimate, Shape
from app.deployments.tables import Deployment
from app.errors import N_, Invalid
from app.jobs import priorities
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
    settings: Settings  # what the replicas would be started with
    shape: Shape
    quantizations: list[str]  # those that engine and devices can do
    room: Room  # for other adapters of its base
    place: Place  # where an adapter is carried, or why it needs an engine of its own


def plan(
    db: Session,
    workspace_id: str,
    model_id: str,
    *,
    engine: str = "auto",
    mode: str | None = None,
    max_model_len: int | None = None,
    devices: int = 1,
    memory: int | None = None,
    exclusive: bool = False,
    quantization: str = "",
    arguments: Mapping[str, Any] | None = None,
    replicas: int = 1,
    adapters: int | None = None,
    own_engine: bool = False,
    host: Deployment | None = None,
) -> Plan:
    """Raises NotFound (no such model) and Invalid (what was asked for cannot be).

    `memory` is in bytes of each device: a share of it. An adapter is carried by engines of its
    base that run, unless `own_engine`, or settings that only an engine of its own has, are asked
    for; `host` asks for those of one deployment.
    """
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
        unsupported = sizing.unsupported(config) or speech.unsupported(base, model)
        forced = chosen == "transformers"
        if mode == "adapter" and forced:
            raise Invalid(
                N_(
                    "The transformers engine cannot serve adapters on their base. "
                    "Choose “merged”, which serves the same model as one piece."
                ),
                field="mode",
            )
        if mode == "adapter" and unsupported:
            raise sizing.refused(unsupported)
        mode = mode or ("merged" if forced or unsupported else "adapter")
    found = Place()
    special = memory or exclusive or quantization or any((arguments or {}).values())
    alone = own_engine or replicas > 1 or devices > 1 or adapters is not None or bool(special)
    if adapter and mode == "adapter" and (host or not alone):
        found = guests.place(db, workspace_id, model, base, max_model_len=max_model_len, host=host)
        if host and found.refusal:
            message, params = found.refusal
            raise Invalid(message, code="not_carried", field="model", **params)
    if host and mode != "adapter":
        raise not_carried(model, unsupported)
    if found.host:
        return carried(model, base, engine, found)
    given = runners.chosen(base, dict(arguments or {}), chosen)
    most = runners.most(base) if runners.embeds(given) else 0
    length = max_model_len or min(sizing.usual_length(base), most or sizing.usual_length(base))
    sizing.check_length(base, length)
    beside = model if adapter and mode == "adapter" else None
    kind = device_kind(db)
    config = sizing.read_json(base, "config.json")
    can = options.offered(engine=chosen, kind=kind, config=config)
    options.check_quantization(quantization, can, config)
    checked = options.check(given, engine=chosen, kind=kind)
    check_memory(memory, exclusive=exclusive)
    kept = room.NONE
    if chosen == "vllm" and mode != "merged" and not runners.embeds(checked):
        kept = room.of(db, workspace_id, base, beside, adapters)
    shape = Shape.of(base, beside)
    estimate = sizing.needs(
        shape,
        engine=chosen,
        max_model_len=length,
        devices=devices,
        memory=memory,
        quantization=quantization,
        arguments=checked,
    )
    return Plan(
        model=model,
        base=base,
        engine=chosen,
        why_not_vllm=why_not_vllm,
        mode=mode if adapter and mode else "base",
        forced=forced,
        unsupported=unsupported,
        max_model_len=length,
        estimate=estimate,
        settings=Settings(
            engine=engine,
            devices=devices,
            max_model_len=length,
            memory=memory,
            exclusive=exclusive,
            quantization=quantization,
            arguments=checked,
            estimate=estimate.stored(),
        ),
        shape=shape,
        quantizations=can,
        room=kept,
        place=found,
    )


def carried(model: Model, base: Model, engine: str, found: Place) -> Plan:
    """An adapter on engines that run: it takes memory that they have kept for such."""
    assert found.host
    length, estimate = found.host.max_model_len, Estimate(model.size, 0, 0)
    return Plan(
        model=model,
        base=base,
        engine="vllm",
        why_not_vllm="",
        mode="adapter",
        forced=False,
        unsupported="",
        max_model_len=length,
        estimate=estimate,
        settings=Settings(engine=engine, max_model_len=length, estimate=estimate.stored()),
        shape=Shape.of(base, model),
        quantizations=[],
        room=room.NONE,
        place=found,
    )


def not_carried(model: Model, feature: str) -> Invalid:
    """What is no adapter that an engine of its base could carry."""
    if model.kind != "adapter":
        return Invalid(
            N_("%(name)s is a whole model: it needs an engine of its own."),
            code="not_carried",
            field="model",
            name=model.name,
        )
    return Invalid(
        N_(
            "vLLM cannot serve %(name)s on its base: it uses %(feature)s. Deploy it by itself, "
            "merged into its base."
        ),
        code="not_carried",
        field="model",
        name=model.name,
        feature=feature or "transformers",
    )


def device_kind(db: Session) -> str | None:
    """`cuda` where any living node has a GPU, else `cpu`; None before any has reported."""
    kinds = set(db.scalars(select(Device.kind).join(Node).where(Node.dead_at.is_(None))))
    return "cuda" if "cuda" in kinds else min(kinds, default=None)


def check_memory(memory: int | None, *, exclusive: bool) -> None:
    if memory is not None and exclusive:
        raise Invalid(
            N_("Either whole devices or a share of their memory: leave one of the two out."),
            field="memory",
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
    if running:
        priorities.hurry(db, running, deployment.priority)
        deployment.merge_job_id = running
        return
    deployment.merge_job_id = jobs.create_merge(
        db,
        workspace_id=deployment.workspace_id,
        user_id=deployment.created_by,
        adapter_id=deployment.model_id,
        priority=deployment.priority,
    ).id


def find_host(db: Session, guest: Deployment) -> None:
    """A locked guest goes on: with its host, or another, or else with an engine of its own."""
    host = db.get_one(Deployment, guest.host_id)
    if host.desired == "stopped" or host.deleted_at:
        found = plan(db, guest.workspace_id, guest.model_id, mode="adapter", engine=guest.engine)
        if found.place.host is None:
            guest.host_id, guest.sends, guest.replicas = None, {}, 1
            guest.adapters, guest.adapter_rank = found.room.adapters, found.room.rank
            revisions.add(db, guest, found.settings, guest.created_by)
            return
        guests.attach(guest, found.place)
    guests.again(db, guest)
