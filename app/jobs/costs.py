"""What a job would cost: device time and trained tokens, less what is free of the model."""

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy.orm import Session

from app.db import now
from app.errors import N_
from app.models.tables import Model
from app.quotas import free, prices
from app.quotas.prices import DEVICE


@dataclass(frozen=True)
class Cost:
    """`value` in `currency`, None where nothing has a price; how it comes about, as a sentence."""

    value: float | None
    currency: str
    words: str
    params: dict[str, str]


def of(
    db: Session, workspace_id: str, model: Model, device: str, hours: float, tokens: float
) -> Cost:
    """Of so many device hours and trained tokens, by today's prices."""
    whats = [one for one in (model.id, model.base_id) if one]
    book = prices.book(db)
    hour = book.at(DEVICE, [device], now())
    each = book.at("trained", whats, now())
    minutes = sum(one.left for one in free.of(db, workspace_id, whats) if one.kind == free.DEVICE)
    paid = max(0.0, hours - minutes / 60)
    params = {
        "hours": f"{hours:.4g}",
        "free": f"{min(hours, minutes / 60):.4g}",
        "tokens": f"{tokens:,.0f}",
    }
    found = Decimal(0)
    currency = hour.currency if hour else each.currency if each else ""
    if hour and hour.amount is not None:
        found += Decimal(paid) * hour.amount
        params |= {"price": plain(hour.amount), "currency": hour.currency}
    if each and each.amount is not None:
        if each.currency == currency:
            found += Decimal(tokens) * each.amount / 1000
        params |= {"each": plain(each.amount), "other": each.currency}
    words = WORDS[hour is not None, each is not None, bool(hour and minutes)]
    value = round(float(found), 4) if hour or each else None
    return Cost(value, currency, words, params)


def plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


NOTHING = N_("no price is set; a platform administrator sets one beside the quotas")
TOKENS = N_("%(tokens)s trained tokens / 1,000 x %(each)s %(other)s")
WORDS = {  # devices have a price; trained tokens have; some of the hours are free
    (False, False, False): NOTHING,
    (False, True, False): TOKENS,
    (True, False, False): N_("%(hours)s device hours x %(price)s %(currency)s"),
    (True, False, True): N_(
        "(%(hours)s device hours - %(free)s free ones) x %(price)s %(currency)s"
    ),
    (True, True, False): N_(
        "%(hours)s device hours x %(price)s %(currency)s + %(tokens)s trained tokens / 1,000 x "
        "%(each)s %(other)s"
    ),
    (True, True, True): N_(
        "(%(hours)s device hours - %(free)s free ones) x %(price)s %(currency)s + %(tokens)s "
        "trained tokens / 1,000 x %(each)s %(other)s"
    ),
}
