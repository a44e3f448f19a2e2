"""Finding a row of a version by its id."""

import orjson

from app.datasets.drafts import overlay
from app.datasets.drafts.overlay import Entry, Overlay
from app.errors import NotFound


def named(over: Overlay, which: str) -> Entry:
    """The row with this id, or of this number. Raises NotFound."""
    if which.isdecimal():
        return overlay.entry(over, int(which) if len(which) < 16 else -1)
    key = over.ids.get(which)
    if key is None:
        place = guess(over, which)
        key = (scan(over, which) if place is None else place, "")
    elif key not in over.edits:  # it is deleted
        raise NotFound(overlay.NO_ROW)
    return overlay.entry(over, over.before(key))


def guess(over: Overlay, row_id: str) -> int | None:
    """Where the row stands, if ids ascend by their number, as an upload writes them."""
    prefix, _, tail = row_id.rpartition(".")
    if not tail.isdecimal() or len(tail) > 15:
        return None
    wanted = int(tail)
    low, high, at = 0, over.base - 1, wanted - 1
    for tries in range(64):
        if low > high:
            break
        # few lines of a file are left out, so the number tells nearly where the row stands
        at = (low + high) // 2 if tries > 4 else min(max(at, low), high)
        other, _, number = overlay.id_of(next(overlay.base_lines(over, at))).rpartition(".")
        if other != prefix or not number.isdecimal():
            break
        if int(number) == wanted:
            return at
        low, high = (at + 1, high) if int(number) < wanted else (low, at - 1)
        at += wanted - int(number)
    return None


def scan(over: Overlay, row_id: str) -> int:
    """Raises NotFound."""
    begins = b'{"id":' + orjson.dumps(row_id) + b","
    for place, line in enumerate(overlay.base_lines(over, 0)):
        if line.startswith(begins):
            return place
    raise NotFound(overlay.NO_ROW)
