"""What a workspace and its members may have: the platform's default, then the workspace's own, and
for a member both theirs and the workspace's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts import audit
from app.db import new_id, now
from app.errors import N_, Invalid
from app.quotas.kinds import KINDS
from app.quotas.tables import Quota

LOCK = 7_238_002  # the advisory lock of a workspace's budgets
INHERIT = "inherit"  # in place of an amount: no row of one's own
PLATFORM, WORKSPACE, MEMBER = "platform", "workspace", "member"
Name = tuple[str, str]  # of a limit, and for `devices` of one type the device's model


@dataclass(frozen=True)
class Limit:
    """What counts now: so many (None: no limit), where it comes from, and when it ends."""

    amount: int | None
    source: str = PLATFORM
    until: datetime | None = None


NO_LIMIT = Limit(None)


def now_in_force(db: Session, *where: Any) -> Iterable[Quota]:
    """Rows in force, so ordered that of one limit the last counts."""
    return db.scalars(
        select(Quota)
        .where(or_(Quota.until.is_(None), Quota.until > now()), *where)
        .order_by(
            Quota.workspace_id.nulls_first(), Quota.user_id.nulls_first(), Quota.temporary, Quota.id
        )
        .execution_options(populate_existing=True)
    )


def source(row: Quota) -> str:
    return MEMBER if row.user_id else WORKSPACE if row.workspace_id else PLATFORM


def effective(db: Session, workspace_id: str | None) -> dict[Name, Limit]:
    """Of a workspace, or with None the platform's default for all."""
    whose = or_(Quota.workspace_id.is_(None), Quota.workspace_id == workspace_id)
    rows = now_in_force(db, whose, Quota.user_id.is_(None))
    return {(row.name, row.device): Limit(row.amount, source(row), row.until) for row in rows}


def of_member(db: Session, workspace_id: str, user_id: str) -> dict[Name, Limit]:
    """A member's own, which hold beside the workspace's."""
    rows = now_in_force(db, Quota.workspace_id == workspace_id, Quota.user_id == user_id)
    return {(row.name, row.device): Limit(row.amount, MEMBER, row.until) for row in rows}


def of_both(
    db: Session, workspace_id: str, user_id: str | None, *names: str
) -> dict[str | None, dict[str, Limit]]:
    """The member's id → their own rows, and None → the workspace's; of these names, which are no
    devices'. One query.
    """
    rows = now_in_force(
        db,
        Quota.name.in_(names),
        Quota.device == "",
        or_(Quota.workspace_id.is_(None), Quota.workspace_id == workspace_id),
        or_(Quota.user_id.is_(None), Quota.user_id == user_id),
    )
    last: dict[str | None, dict[str, Limit]] = {user_id: {}, None: {}}
    for row in rows:
        last[row.user_id][row.name] = Limit(row.amount, source(row), row.until)
    return last


def caps(
    db: Session, workspace_id: str, user_id: str | None, name: str
) -> list[tuple[str | None, Limit]]:
    """What holds for a member at once: (None, the workspace's) and (their id, their own), of those
    that are limits at all.
    """
    found = of_both(db, workspace_id, user_id, name)
    limits = [(whose, found[whose].get(name, NO_LIMIT)) for whose in reversed(found)]
    return [(whose, limit) for whose, limit in limits if limit.amount is not None]


def tokens(db: Session, workspace_id: str, user_id: str) -> dict[str | None, dict[str, int]]:
    """The member's id → their `tokens_minute` and `tokens_month`, and None → the workspace's; only
    those that are limits. One query.
    """
    both = of_both(db, workspace_id, user_id, "tokens_minute", "tokens_month")
    found = {
        whose: {name: limit.amount for name, limit in limits.items() if limit.amount is not None}
        for whose, limits in both.items()
    }
    return {whose: amounts for whose, amounts in found.items() if amounts}


def lock(db: Session, workspace_id: str) -> None:
    """Who takes of a workspace's budgets waits here for the others, until the transaction's end."""
    db.execute(
        text("SELECT pg_advisory_xact_lock(:key, hashtext(:workspace))"),
        {"key": LOCK, "workspace": workspace_id},
    )


# -- what may run at once ----------------------------------------------------------------


@dataclass(frozen=True)
class Ceiling:
    """What may be held at once. None is no limit."""

    devices: int | None = None
    by_model: Mapping[str, int] = field(default_factory=dict)  # a device's model → so many
    jobs: int | None = None


OPEN = Ceiling()


@dataclass
class Held:
    """What is held just now, by workspace and by member, and of each the devices by model."""

    devices: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def take(self, workspace_id: str, user_id: str | None, model: str, devices: int = 1) -> None:
        """`devices` negative gives them back."""
        for user in {"", user_id or ""}:
            for one in {"", model}:
                self.devices[workspace_id, user, one] += devices

    def run(self, workspace_id: str, user_id: str | None, jobs: int = 1) -> None:
        """A job has got its devices; negative: it has given them back."""
        for user in {"", user_id or ""}:
            self.jobs[workspace_id, user] += jobs


@dataclass(frozen=True)
class Limits:
    """Limits on what runs at once, of everybody: pure, for the scheduler's decision."""

    default: Ceiling = OPEN
    workspaces: Mapping[str, Ceiling] = field(default_factory=dict)
    members: Mapping[tuple[str, str], Ceiling] = field(default_factory=dict)

    def workspace(self, workspace_id: str) -> Ceiling:
        return self.workspaces.get(workspace_id, self.default)

    def member(self, workspace_id: str, user_id: str | None) -> Ceiling:
        return self.members.get((workspace_id, user_id or ""), OPEN)

    def room(
        self, held: Held, workspace_id: str, user_id: str | None = None, model: str = ""
    ) -> int | None:
        """How many more devices of `model` (empty: as far as models do not matter) may be taken;
        None is no limit.
        """
        found = []
        whose = [("", self.workspace(workspace_id))]
        if user_id:
            whose.append((user_id, self.member(workspace_id, user_id)))
        for user, ceiling in whose:
            if ceiling.devices is not None:
                found.append(ceiling.devices - held.devices[workspace_id, user, ""])
            if model and model in ceiling.by_model:
                found.append(ceiling.by_model[model] - held.devices[workspace_id, user, model])
        return max(0, min(found)) if found else None

    def may_run(self, held: Held, workspace_id: str, user_id: str | None = None) -> bool:
        """Whether one more job may run at once."""
        whose = [("", self.workspace(workspace_id))]
        if user_id:
            whose.append((user_id, self.member(workspace_id, user_id)))
        return all(
            ceiling.jobs is None or held.jobs[workspace_id, user] < ceiling.jobs
            for user, ceiling in whose
        )

    def most(
        self, workspace_id: str, user_id: str | None = None, models: Iterable[str] = ()
    ) -> int | None:
        """What one request could ever get, of the best of `models`; None is no limit."""
        rooms = [self.room(Held(), workspace_id, user_id, one) for one in set(models) or {""}]
        known = [room for room in rooms if room is not None]
        return max(known) if len(known) == len(rooms) else None


CONCURRENT = text(
    """
    SELECT coalesce(workspace_id, ''), coalesce(user_id, ''), name, device, amount FROM quotas
    WHERE name IN ('devices', 'running_jobs') AND (until IS NULL OR until > :at)
    ORDER BY temporary, id
    """
)


def concurrent(db: Session) -> Limits:
    """All that is set of what may run at once, in one query."""
    found: dict[tuple[str, str], dict[Name, int | None]] = {("", ""): {}}
    for workspace_id, user_id, name, device, amount in db.execute(CONCURRENT, {"at": now()}):
        found.setdefault((workspace_id, user_id), {})[name, device] = amount
    default = found.pop(("", ""))
    return Limits(
        default=ceiling(default),
        workspaces={
            whose[0]: ceiling(default | own) for whose, own in found.items() if not whose[1]
        },
        members={whose: ceiling(own) for whose, own in found.items() if whose[1]},
    )


def ceiling(amounts: Mapping[Name, int | None]) -> Ceiling:
    return Ceiling(
        devices=amounts.get(("devices", "")),
        by_model={
            device: amount
            for (name, device), amount in amounts.items()
            if name == "devices" and device and amount is not None
        },
        jobs=amounts.get(("running_jobs", "")),
    )


# -- setting them ------------------------------------------------------------------------


def change(
    db: Session,
    workspace_id: str | None,
    user_id: str | None,
    amounts: Mapping[str, Any],
    until: datetime | None = None,
) -> None:
    """Set the limits named, as people write them: {name: so many, None (no limit) or "inherit"};
    `devices_by_model` is {a device's model: the same}. With `until` they end by themselves, and what
    was set before counts again. Raises Invalid, with the field.
    """
    if until is not None and until <= now():
        raise Invalid(N_("This time is over already."), field="until")
    for name, amount in amounts.items():
        if name == "devices_by_model":
            for device, most in amount.items():
                put(db, workspace_id, user_id, ("devices", device), most, until)
        else:
            put(db, workspace_id, user_id, (name, ""), amount, until)
    db.flush()


def put(
    db: Session,
    workspace_id: str | None,
    user_id: str | None,
    name: Name,
    amount: Any,
    until: datetime | None,
) -> None:
    kind = KINDS[name[0]]
    row = {
        "workspace_id": workspace_id,
        "user_id": user_id,
        "name": kind.name,
        "device": name[1],
        "temporary": until is not None,
    }
    same = [getattr(Quota, key).is_not_distinct_from(value) for key, value in row.items()]
    was = db.execute(select(Quota.amount, Quota.until).where(*same)).one_or_none()
    if amount == INHERIT:
        if was:
            db.execute(delete(Quota).where(*same))
            tell(db, "delete", row, was, None)
        return
    if amount is not None and not 0 <= amount <= kind.most:
        raise Invalid(
            N_("A quota is a number from 0 to %(most)s, or empty for no limit."),
            field="devices_by_model" if name[1] else kind.name,
            most=kind.most,
        )
    stored = None if amount is None else kind.stored(amount)
    values = row | {"id": new_id("quo"), "amount": stored, "until": until, "updated_at": now()}
    db.execute(
        insert(Quota)
        .values(**values)
        .on_conflict_do_update(
            constraint="uq_quotas_of",
            set_={"amount": stored, "until": until, "updated_at": now()},
        )
    )
    if was != (stored, until):
        tell(db, "update" if was else "create", row, was, (stored, until))


def tell(db: Session, action: str, row: dict[str, Any], was: Any, now_is: Any) -> None:
    """The audit log, of a limit: (amount, until) before and after, None where there was none."""
    before, after = (
        {"amount": "unlimited" if one[0] is None else one[0], "until": one[1]} if one else {}
        for one in (was, now_is)
    )
    whose = {key: row[key] for key in ("user_id", "device") if row[key]}
    audit.note(
        db,
        action,
        "quota",
        "/".join(str(one) for one in (row["workspace_id"], row["user_id"], row["name"]) if one),
        name=" ".join(one for one in (row["name"], row["device"]) if one),
        workspace_id=row["workspace_id"],
        before=before,
        after=after | whose if after else {},
    )


def clear(db: Session) -> None:
    """Drop what has ended."""
    db.execute(delete(Quota).where(Quota.until <= now()))
