"""What can be limited, in which unit, and when it is looked at.

Limits on what runs at once decide when a job starts. Budgets are looked at when something is asked
for, and refuse there.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.errors import N_

HOUR = 3_600_000  # milliseconds


@dataclass(frozen=True)
class Kind:
    """`scale`: how many of what is stored make one of what is shown."""

    name: str
    label: str  # msgid
    most: int  # of what is shown
    scale: int = 1

    def stored(self, shown: Any) -> int:
        """Of a number as people write it; ROUND_HALF_EVEN where a millisecond is split."""
        return int((Decimal(str(shown)) * self.scale).to_integral_value())

    def shown(self, stored: int) -> int | float:
        if self.scale == 1:
            return stored
        value = Decimal(stored) / self.scale
        return int(value) if value == value.to_integral_value() else round(float(value), 4)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("devices", N_("GPUs at once"), 100_000),
        Kind("running_jobs", N_("Running jobs"), 1_000_000),
        Kind("queued_jobs", N_("Queued jobs"), 1_000_000),
        Kind("deployments", N_("Deployments"), 1_000_000),
        Kind("device_hours_day", N_("GPU-hours a day"), 10**9, HOUR),
        Kind("device_hours_month", N_("GPU-hours a month"), 10**9, HOUR),
        Kind("storage_bytes", N_("Storage"), 10**18),
        Kind("tokens_minute", N_("Tokens a minute"), 10**12),
        Kind("tokens_month", N_("Tokens a month"), 10**15),
    )
}
MONEY = Kind("balance", N_("Balance"), 10**9, 1_000_000)  # money: a top-up, in a currency
ASKED = KINDS | {MONEY.name: MONEY}  # what people ask more of
