"""A workspace's balance: what administrators put in, less what its usage cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import paging
from app.accounts import audit
from app.accounts.auth import Principal
from app.db import new_id
from app.errors import N_, DomainError, Invalid
from app.quotas.charging import change_account, money, parts_of
from app.quotas.kinds import MONEY
from app.quotas.money_tables import Account, TopUp


class OutOfMoney(DomainError):
    """The balance is used up, and nothing is done on credit."""

    status = 402
    code = "insufficient_balance"


@dataclass(frozen=True)
class Balance:
    """`full`: what it was after the last top-up."""

    workspace_id: str
    currency: str
    amount: Decimal  # to the cent
    full: Decimal
    prepaid: bool
    parts: Decimal  # exact

    @property
    def out(self) -> bool:
        return self.prepaid and self.parts <= 0

    @property
    def spent(self) -> float:
        """Of what there was after the last top-up, 0 to 1."""
        return float(1 - self.parts / parts_of(self.full)) if self.full else 1.0


def shown(row: Account) -> Balance:
    return Balance(
        row.workspace_id,
        row.currency,
        money(row.parts),
        money(row.full),
        row.prepaid,
        row.parts,
    )


def of(db: Session, workspace_id: str) -> list[Balance]:
    """One for each currency."""
    return [
        shown(row)
        for row in db.scalars(
            select(Account)
            .where(Account.workspace_id == workspace_id)
            .order_by(Account.currency)
            .execution_options(populate_existing=True)
        )
    ]


def top_up(
    db: Session, who: Principal, workspace_id: str, amount: Decimal, currency: str, note: str = ""
) -> TopUp:
    """Put money in; a negative amount takes it out again. From the first on, the workspace spends
    what it has and no more. Raises Invalid.
    """
    if not amount:
        raise Invalid(N_("An amount is needed."), field="amount")
    row = TopUp(
        id=new_id("top"),
        workspace_id=workspace_id,
        amount=amount,
        currency=currency,
        note=note,
        user_id=who.user_id,
    )
    db.add(row)
    change_account(db, workspace_id, currency, parts_of(amount))
    account = db.get_one(
        Account, (workspace_id, currency), with_for_update=True, populate_existing=True
    )
    account.prepaid = True
    account.full = max(account.parts, Decimal(0))
    db.flush()
    return row


def set_prepaid(db: Session, workspace_id: str, currency: str, prepaid: bool) -> None:
    """Whether the workspace stops when its balance is used up, or goes on owing."""
    change_account(db, workspace_id, currency, Decimal(0))
    account = db.get_one(
        Account, (workspace_id, currency), with_for_update=True, populate_existing=True
    )
    audit.note(
        db,
        "update",
        "account",
        f"{workspace_id}/{currency}",
        name=currency,
        workspace_id=workspace_id,
        before={"prepaid": account.prepaid},
        after={"prepaid": prepaid},
    )
    account.prepaid = prepaid
    db.flush()


def top_ups(
    db: Session, workspace_id: str, after: str = "", limit: int = 50
) -> tuple[Sequence[TopUp], bool]:
    """Newest first, and whether there are more."""
    here = select(TopUp).where(TopUp.workspace_id == workspace_id)
    query = paging.behind(db, here, here, [TopUp.at.desc()], TopUp.id, after)
    found = list(db.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def currency(db: Session, workspace_id: str) -> str:
    """In which its next top-up likely is: that of what is used up, or of what it has, or CNY."""
    found = sorted(of(db, workspace_id), key=lambda one: not one.out)
    return found[0].currency if found else "CNY"


def out(db: Session, workspace_id: str) -> Balance | None:
    """The balance that is used up, if one is."""
    return next((one for one in of(db, workspace_id) if one.out), None)


def refuse_if_out(db: Session, workspace_id: str) -> None:
    """Raises OutOfMoney."""
    if found := out(db, workspace_id):
        raise OutOfMoney(
            N_(
                "The balance of this workspace is used up (%(amount)s %(currency)s). A platform "
                "administrator can top it up."
            ),
            amount=str(found.amount),
            currency=found.currency,
            quota=MONEY.name,
        )
