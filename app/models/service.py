"""The registry's rules: who sees a model, how one is added, what keeps it from being deleted."""

import hashlib
from pathlib import Path
from typing import Any

from sqlalchemy import Select, case, func, or_, select, text
from sqlalchemy.orm import Session, aliased

from app import paging, storage
from app.config import ROOT
from app.db import now
from app.errors import N_, Conflict, Forbidden, NotFound
from app.models.families import FAMILIES, OTHER, SIZES, family_of
from app.models.tables import Model, ModelPin
from app.models.weights import inspect

__all__ = ["inspect"]  # part of this module's interface, though it lives in weights.py

STARTER = "danlu-starter"
NAMED = 5  # of those who use a model, in a sentence
STARTER_FILES = ROOT / "workers" / "starter" / "model"
NO_MODEL = N_("There is no model “%(model)s” here. The model list shows the names that work.")
# `kind` of a list, and the kinds of model it holds
ORDERS: dict[str, tuple[Any, ...]] = {
    "": (Model.workspace_id.is_(None), Model.created_at.desc()),
    "newest": (Model.created_at.desc(),),
    "name": (func.lower(Model.name),),
    "size": (Model.parameters.desc(),),
}
KINDS = {"base": ("base",), "tuned": ("adapter", "merged"), "adapter": ("adapter",), "merged": ("merged",)}  # fmt: skip


def seen_from(workspace_id: str) -> Select[Model]:
    """Models that `workspace_id` may see: its own and the shared, the deleted included."""
    return select(Model).where(
        or_(Model.workspace_id == workspace_id, Model.workspace_id.is_(None))
    )


def get(db: Session, workspace_id: str, id_or_name: str) -> Model:
    """A model by id, else by name: the workspace's own before a shared one, then the newest.

    Raises NotFound, also for another workspace's and for a deleted one.
    """
    model = db.scalar(
        seen_from(workspace_id)
        .where(or_(Model.id == id_or_name, Model.name == id_or_name), Model.deleted_at.is_(None))
        .order_by(
            (Model.id == id_or_name).desc(),
            Model.workspace_id.is_(None),
            Model.created_at.desc(),
        )
        .limit(1)
    )
    if model is None:
        raise NotFound(NO_MODEL, code="model_not_found", field="model", model=id_or_name[:100])
    return model


def known(db: Session, workspace_id: str, model_id: str) -> Model:
    """A model by id, a deleted one too. Raises NotFound."""
    model = db.scalar(seen_from(workspace_id).where(Model.id == model_id))
    if model is None:
        raise NotFound(NO_MODEL, code="model_not_found", field="model", model=model_id[:100])
    return model


def visible(
    db: Session,
    workspace_id: str,
    kind: str | None = None,
    *,
    q: str = "",
    family: str = "",
    size: str = "",
    scope: str = "",
    sort: str = "",
    after: str = "",
    offset: int = 0,
    limit: int | None = None,
) -> list[Model]:
    """The workspace's own models, newest first, then the shared ones; or as `sort` says: newest,
    name, size.

    `kind` is base, adapter, merged, tuned for the last two, or imported; `q` is part of a name,
    `family` as `families` has it, `size` one of `families.SIZES`, `scope` mine or shared. `after`
    is the model behind which to begin.
    """
    here = seen_from(workspace_id)
    query = here.where(Model.deleted_at.is_(None))
    if kind == "imported":
        query = query.where(Model.lineage.has_key("source"))
    elif kind:
        query = query.where(Model.kind.in_(KINDS[kind]))
    if q:
        query = query.where(
            or_(
                Model.name.icontains(q, autoescape=True),
                Model.lineage["source"]["repository"].astext.icontains(q, autoescape=True),
            )
        )
    if family == OTHER:
        query = query.where(Model.family.not_in(set(FAMILIES.values())))
    elif family:
        query = query.where(Model.family == family)
    if size:
        _, low, high = SIZES[size]
        of = aliased(Model)  # an adapter counts as what it runs on
        base = select(of.parameters).where(of.id == Model.base_id).scalar_subquery()
        weight = case((Model.kind == "adapter", base), else_=Model.parameters)
        query = query.where(weight >= low, weight < high)
    if scope:
        query = query.where(
            (Model.workspace_id == workspace_id)
            if scope == "mine"
            else Model.workspace_id.is_(None)
        )
    query = paging.behind(db, query, here, ORDERS.get(sort, ORDERS[""]), Model.id, after)
    return list(db.scalars(query.offset(offset).limit(limit)))


def register(
    db: Session,
    *,
    workspace_id: str | None,
    name: str,
    kind: str,
    artefact: str,
    base_id: str | None,
    parent_id: str | None,
    job_id: str | None,
    created_by: str | None,
    lineage: dict[str, Any],
    facts: dict[str, Any],
) -> Model:
    """Add a model whose files stand in the store as `artefact`.

    `facts` are those of `inspect`. An adapter takes architecture and context length from its
    base. A name that is taken in the workspace gets a number.
    """
    base = db.get(Model, base_id) if base_id else None
    model = Model(
        workspace_id=workspace_id,
        name=free_name(db, workspace_id, name),
        kind=kind,
        artefact=artefact,
        base_id=base_id,
        parent_id=parent_id,
        job_id=job_id,
        created_by=created_by,
        lineage=lineage,
        architecture=facts.get("architecture") or (base.architecture if base else ""),
        family=base.family if base else family_of(facts.get("architecture", "")),
        templated=facts.get("templated") or (base.templated if base else facts.get("templated")),
        parameters=facts.get("parameters", 0),
        context_length=facts.get("context_length") or (base.context_length if base else 0),
        size=facts.get("size", 0),
        licence=base.licence if base else "",
    )
    db.add(model)
    db.flush()
    return model


def free_name(db: Session, workspace_id: str | None, name: str) -> str:
    """`name`, or `name-2`, `name-3` … One registration at a time may look, per workspace."""
    db.execute(
        text("SELECT pg_advisory_xact_lock(hashtext(:key))"), {"key": f"models {workspace_id}"}
    )
    taken = set(
        db.scalars(
            select(Model.name).where(
                Model.workspace_id == workspace_id,
                Model.name.startswith(name, autoescape=True),
                Model.deleted_at.is_(None),
            )
        )
    )
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


# -- keeping and deleting ----------------------------------------------------------------


def pin(db: Session, model_id: str, owner_kind: str, owner_id: str, label: str = "") -> None:
    """Keep the model while `owner`, called `label`, needs it; twice is once. NotFound if it was
    just deleted.
    """
    model = db.scalar(
        select(Model)
        .where(Model.id == model_id, Model.deleted_at.is_(None))
        .with_for_update(read=True)
    )
    if model is None:
        raise NotFound(NO_MODEL, code="model_not_found", field="model", model=model_id)
    if db.get(ModelPin, (model_id, owner_kind, owner_id)) is None:
        db.add(ModelPin(model_id=model_id, owner_kind=owner_kind, owner_id=owner_id, label=label))
        db.flush()


def unpin(db: Session, model_id: str, owner_kind: str, owner_id: str) -> None:
    held = db.get(ModelPin, (model_id, owner_kind, owner_id))
    if held is not None:
        db.delete(held)
        db.flush()


def pins(db: Session, model_id: str) -> list[ModelPin]:
    return list(db.scalars(select(ModelPin).where(ModelPin.model_id == model_id)))


def delete(db: Session, workspace_id: str, model_id: str) -> Model:
    """Take the model out of the registry; its row stays for the lineage of others.

    Raises NotFound, Forbidden for a shared model, Conflict while jobs or deployments use it
    or models are built on it.
    """
    model = get(db, workspace_id, model_id)
    if model.workspace_id is None:
        raise Forbidden(
            N_("“%(name)s” is shared by the whole platform and cannot be deleted here."),
            name=model.name,
        )
    db.scalar(select(Model.id).where(Model.id == model.id).with_for_update())
    held = pins(db, model.id)
    if held:
        raise Conflict(
            N_("“%(name)s” is in use by %(users)s. Delete or finish what uses it first."),
            code="model_in_use",
            name=model.name,
            users=users(held),
        )
    children = list(
        db.scalars(
            select(Model.name)
            .where(Model.base_id == model.id, Model.kind == "adapter", Model.deleted_at.is_(None))
            .order_by(Model.created_at.desc())
            .limit(NAMED + 1)
        )
    )
    if children:
        raise Conflict(
            N_("“%(name)s” is the base of the adapter “%(child)s”. Delete that first."),
            code="model_in_use",
            name=model.name,
            child="”, “".join(children[:NAMED]) + (" …" if children[NAMED:] else ""),
        )
    model.deleted_at = now()
    db.flush()
    return model


def users(held: list[ModelPin]) -> str:
    """Who needs a model, by name and id: “chat” (dep_…), “mood” (job_…) …"""
    named = [f"“{one.label}” ({one.owner_id})" if one.label else one.owner_id for one in held]
    return ", ".join(named[:NAMED]) + (f" … ({len(held)})" if named[NAMED:] else "")


# -- lineage -----------------------------------------------------------------------------


def ancestors(db: Session, workspace_id: str, model: Model) -> list[Model]:
    """What `model` was made from, the oldest first; the deleted included."""
    chain: list[Model] = []
    parent_id = model.parent_id or model.base_id
    while parent_id and len(chain) < 50 and parent_id not in {each.id for each in chain}:
        parent = db.scalar(seen_from(workspace_id).where(Model.id == parent_id))
        if parent is None:
            break
        chain.insert(0, parent)
        parent_id = parent.parent_id or parent.base_id
    return chain


def made_from(db: Session, workspace_id: str, model: Model) -> list[Model]:
    """The workspace's models that were made directly from `model`, newest first."""
    return list(
        db.scalars(
            seen_from(workspace_id)
            .where(
                Model.deleted_at.is_(None),
                or_(
                    Model.parent_id == model.id,
                    (Model.base_id == model.id) & Model.parent_id.is_(None),
                ),
            )
            .order_by(Model.created_at.desc())
        )
    )


def chat_template(model: Model) -> str:
    """The chat template shipped with the model's files; "" if there is none to show."""
    try:
        path = storage.fetch(model.artefact) / "chat_template.jinja"
        return path.read_text(errors="replace")[:20_000] if path.is_file() else ""
    except FileNotFoundError:
        return ""


# -- the starter model -------------------------------------------------------------------


def ensure_starter(db: Session, files: Path = STARTER_FILES) -> Model:
    """The starter model that ships with this version, shared with all. Safe to call each start.

    An older version's stays while anything uses it.
    """
    digest = hashlib.sha256()
    for path in sorted(files.iterdir()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    artefact = f"models/{STARTER}-{digest.hexdigest()[:12]}"
    db.execute(text("SELECT pg_advisory_xact_lock(hashtext('danlu-starter'))"))
    shipped = select(Model).where(
        Model.workspace_id.is_(None), Model.kind == "base", Model.deleted_at.is_(None)
    )
    model = db.scalar(shipped.where(Model.artefact == artefact))
    if model is not None:
        return model
    facts = inspect(files)
    storage.put(files, artefact)
    for older in db.scalars(shipped.where(Model.artefact.startswith(f"models/{STARTER}-"))):
        used = select(func.count()).where(
            or_(Model.base_id == older.id, Model.parent_id == older.id), Model.deleted_at.is_(None)
        )
        if not pins(db, older.id) and not db.scalar(used):
            older.deleted_at = now()
        else:
            older.name = older.artefact.removeprefix("models/")
    db.flush()
    model = register(
        db,
        workspace_id=None,
        name=STARTER,
        kind="base",
        artefact=artefact,
        base_id=None,
        parent_id=None,
        job_id=None,
        created_by=None,
        lineage={},
        facts=facts,
    )
    model.licence, model.family = "Apache-2.0", "Danlu"
    model.description = N_(
        "A small demo model in Chinese and English that shows the whole flow on any machine. "
        "It knows little: use it to learn the console, not to answer questions."
    )
    return model
