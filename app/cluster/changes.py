"""What has changed of the board, as triggers in the database write it down.

A row of `board_changes` names a node whose devices or leases are other ones, or a request that is,
and the transaction that did it. Who looks asks for the doings of all transactions that were not over
yet when it looked last. So nothing is missed, however late it commits and whoever wrote it, and a
decision reads a few dozen rows of a large cluster instead of all.
"""

import time
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db import new_id

DEVICES, LEASES, REQUEST, ORIGIN = "devices", "leases", "request", "origin"
TRUSTED = 300.0  # seconds: who has not looked for so long looks at everything
KEPT = 600.0  # seconds for which changes are kept, at least

SINCE = text(
    """
    SELECT what, of_id, pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
           bool_or(xid = coalesce(pg_current_xact_id_if_assigned()::text::bigint, -1))
    FROM board_changes WHERE xid >= :since OR xid = 0 GROUP BY what, of_id
    """
)
ORIGINAL = text("INSERT INTO board_changes (xid, what, of_id) VALUES (0, 'origin', :origin)")
STRANGE = text(  # of the server that a backup was made on
    """
    DELETE FROM board_changes
    WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
      AND xid IS DISTINCT FROM pg_current_xact_id_if_assigned()::text::bigint
    """
)
CLEAR = text("DELETE FROM board_changes WHERE xid > 0 AND xid < :before")


@dataclass
class Changes:
    """Ids of what is to be read again."""

    everything: bool = False
    devices: set[str] = field(default_factory=set)  # nodes
    leases: set[str] = field(default_factory=set)  # nodes
    requests: set[str] = field(default_factory=set)

    def add(self, what: str, id_: str) -> None:
        if what == DEVICES:
            self.devices.add(id_)
        elif what == LEASES:
            self.leases.add(id_)
        elif what == REQUEST:
            self.requests.add(id_)


class Reader:
    """Reads them for one who keeps a picture of the board. Under the cluster's lock alone."""

    def __init__(self) -> None:
        self.origin = ""  # of these changes: another database has another one
        self.since: int | None = None  # transactions from there on may have been missed
        self.looked = 0.0
        self.unsure = Changes()  # seen in a transaction that may yet be rolled back
        self.old = (0.0, 0)  # a time, and the first transaction that was not over then

    def read(self, db: Session) -> Changes:
        """What is to be read again. Everything, unless the last time came to its end: see `seen`."""
        since, at = self.since, time.monotonic()
        self.since = None
        found, unsure = Changes(), Changes()
        trusted = since is not None and at - self.looked < TRUSTED
        rows = db.execute(SINCE, {"since": since if trusted else 0}).all()
        origin = next((id_ for what, id_, *_ in rows if what == ORIGIN), "")
        if not trusted or not origin or origin != self.origin:
            found.everything = True
            db.execute(STRANGE)
        else:
            found = self.unsure
        for what, id_, before, own in rows:
            found.add(what, id_)
            if own:
                unsure.add(what, id_)
            self.next = before
        if not origin:
            origin = new_id("brd")
            db.execute(ORIGINAL, {"origin": origin})
            self.next = 0
        self.origin, self.unsure, self.looked = origin, unsure, at
        self.clear(db, at)
        return found

    def seen(self) -> None:
        """What `read` has named was read."""
        self.since = self.next

    def clear(self, db: Session, at: float) -> None:
        """What everybody has seen who is still trusted."""
        if not self.old[1]:
            self.old = (at, self.next)
        elif at - self.old[0] > KEPT:
            db.execute(CLEAR, {"before": self.old[1]})
            self.old = (at, self.next)
