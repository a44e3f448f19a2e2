"""Aliases: names at `/v1` that lead to deployments, by weight. They come before their names."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import User
from app.db import new_id, now
from app.deployments.aliases_schemas import AliasPut, Target
from app.deployments.tables import Alias, AliasEvent, Deployment
from app.errors import N_, Conflict, Invalid, NotFound


def find(db: Session, workspace_id: str, name: str) -> Alias | None:
    return db.scalar(select(Alias).where(Alias.workspace_id == workspace_id, Alias.name == name))


def get(db: Session, workspace_id: str, alias: str) -> Alias:
    """By id or name. Raises NotFound."""
    found = db.scalar(
        select(Alias).where(
            Alias.workspace_id == workspace_id, or_(Alias.id == alias, Alias.name == alias)
        )
    )
    if found is None:
        raise NotFound(N_("There is no such alias."))
    return found


def listed(db: Session, workspace_id: str) -> list[Alias]:
    return list(
        db.scalars(select(Alias).where(Alias.workspace_id == workspace_id).order_by(Alias.name))
    )


def deployments(db: Session, aliases: Sequence[Alias]) -> dict[str, Deployment]:
    """What they lead to, by id."""
    ids = {target["deployment"] for alias in aliases for target in alias.targets}
    return {one.id: one for one in db.scalars(select(Deployment).where(Deployment.id.in_(ids)))}


def split(db: Session, workspace_id: str, name: str) -> list[tuple[str, int]]:
    """For the gateway: the names of an alias's deployments and their weights, those of weight 0
    left out; empty if `name` is no alias.
    """
    alias = find(db, workspace_id, name)
    if alias is None:
        return []
    known = deployments(db, [alias])
    return [
        (one.name, target["weight"])
        for target in alias.targets
        if target["weight"] and (one := known[target["deployment"]]).deleted_at is None
    ]


def save(db: Session, who: Principal, asked: AliasPut, *, new: bool = False) -> Alias:
    """Make the alias, or make it lead elsewhere.

    Raises NotFound (a deployment), Invalid (one named twice, or no weight at all), and with `new`
    Conflict where there is one of that name.
    """
    if not any(target.weight for target in asked.targets):
        raise Invalid(N_("At least one weight must be above 0."), field="targets")
    chosen = [(held(db, who.workspace_id, one), one.weight) for one in ordered(asked.targets)]
    if len({deployment.id for deployment, _ in chosen}) < len(chosen):
        raise Invalid(N_("A deployment stands there twice."), field="targets")
    made = db.execute(
        insert(Alias)
        .values(
            id=new_id("als"),
            workspace_id=who.workspace_id,
            name=asked.name,
            targets=[],
            created_at=now(),
        )
        .on_conflict_do_nothing()
        .returning(Alias.id)
    ).all()
    if new and not made:
        raise Conflict(
            N_("There is an alias called %(name)s already. Choose another name."),
            code="name_taken",
            field="name",
            name=asked.name,
        )
    alias = db.scalars(
        select(Alias)
        .where(Alias.workspace_id == who.workspace_id, Alias.name == asked.name)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    targets = [{"deployment": one.id, "weight": weight} for one, weight in chosen]
    if targets != alias.targets:
        alias.targets = targets
        total = sum(weight for _, weight in chosen)
        said = ", ".join(f"{one.name} {share(weight, total)}" for one, weight in chosen)
        record(db, who, alias, N_("It leads to %(targets)s."), targets=said)
    return alias


def ordered(targets: Sequence[Target]) -> list[Target]:
    return sorted(targets, key=lambda target: -target.weight)


def held(db: Session, workspace_id: str, target: Target) -> Deployment:
    """The deployment, kept from being deleted until the transaction's end."""
    found = db.scalar(
        select(Deployment)
        .where(
            Deployment.workspace_id == workspace_id,
            Deployment.deleted_at.is_(None),
            or_(Deployment.id == target.deployment, Deployment.name == target.deployment),
        )
        .with_for_update(read=True)
    )
    if found is None:
        raise NotFound(
            N_("There is no deployment called %(name)s."),
            field="targets",
            name=target.deployment,
        )
    return found


def share(weight: int, total: int) -> str:
    """90 %, 0.5 %"""
    return f"{100 * weight / total:.3g} %"


def remove(db: Session, who: Principal, alias: str) -> None:
    found = get(db, who.workspace_id, alias)
    record(db, who, found, N_("The alias %(name)s was deleted."), name=found.name)
    db.delete(found)
    db.flush()


def refuse_if_led_to(db: Session, deployment: Deployment) -> None:
    """Raises Conflict if an alias leads to the deployment, whose row is locked."""
    alias = db.scalar(
        select(Alias)
        .where(
            Alias.workspace_id == deployment.workspace_id,
            Alias.targets.contains([{"deployment": deployment.id}]),
        )
        .order_by(Alias.name)
        .limit(1)
    )
    if alias:
        raise Conflict(
            N_("The alias %(alias)s leads to it. Take it out of the alias first."),
            code="in_use",
            alias=alias.name,
        )


# -- what was done -----------------------------------------------------------------------


def record(db: Session, who: Principal, alias: Alias, message: str, **params: str) -> None:
    db.add(
        AliasEvent(
            workspace_id=who.workspace_id,
            alias_id=alias.id,
            user_id=who.user_id,
            message=message,
            params=params,
        )
    )
    db.flush()


def history(
    db: Session, alias: Alias, say: Callable[..., str], limit: int = 100
) -> list[dict[str, Any]]:
    """{at, message, by}, newest first; `say(msgid, **params)` is in the reader's language."""
    rows = db.execute(
        select(AliasEvent, User.shown)
        .join(User, User.id == AliasEvent.user_id)
        .where(AliasEvent.workspace_id == alias.workspace_id, AliasEvent.alias_id == alias.id)
        .order_by(AliasEvent.id.desc())
        .limit(limit)
    )
    return [
        {"at": event.at, "message": say(event.message, **event.params), "by": name}
        for event, name in rows
    ]
