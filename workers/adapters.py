"""Guests on this node: loads adapters into engines that run, and takes them out again.

What shall be loaded follows from the rows, so an engine that was started anew, and a replica
that is new, get all of them; only then are they routed to for a guest.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import structlog

from app import storage
from app.config import settings
from app.deployments import carrying
from app.deployments.carrying import Guest, Work
from app.errors import N_
from app.nodework.asking import do
from workers import process
from workers.engines import health

log = structlog.get_logger()

PATIENCE = httpx.Timeout(120.0, connect=3.0)  # it waits for the step that the engine is at
busy: dict[str, Future[None]] = {}  # by replica
pool = ThreadPoolExecutor(8, thread_name_prefix="adapters")
turn = threading.Lock()


def tick(node_id: str) -> None:
    """One look at what the engines of this node carry. Short: the engines are asked in threads."""
    with turn:
        found = do(carrying.to_do, node_id)
        for work in found:
            under_way = busy.get(work.replica_id)
            if under_way and not under_way.done():
                continue
            if under_way and (trouble := under_way.exception()):
                log.warning("cannot load adapters", replica=work.replica_id, error=str(trouble))
            busy[work.replica_id] = pool.submit(carry, work)


def soon() -> None:
    """Look now, for a guest that somebody waits for; the node's loop looks again anyhow."""
    pool.submit(tick, settings.node)


def carry(work: Work) -> None:
    """Raises httpx.HTTPError while the engine does not answer: the next look tries again."""
    for guest in work.unload:
        unload(work, guest)
        do(carrying.mark_unloaded, work.replica_id, work.fence, guest.id)
    for guest in work.load:
        began = time.monotonic()
        storage.hold(process.marker(work.replica_id, work.fence), [guest.artefact])
        error = load(work, guest) or first_token(work, guest)
        took = time.monotonic() - began
        do(
            carrying.mark_loaded, work.replica_id, work.fence, guest.id,
            seconds=took, error=error,
        )  # fmt: skip
        code = error and error["code"]
        log.info("adapter loaded", name=guest.name, seconds=round(took, 3), error=code)


def ask(work: Work, verb: str, body: dict[str, str]) -> httpx.Response:
    url = f"{work.address}/v1/{verb}_lora_adapter"
    return health.client.post(url, json=body, headers=health.key(work.secret), timeout=PATIENCE)


def load(work: Work, guest: Guest) -> dict[str, Any] | None:
    """None, or why it cannot be."""
    try:
        path = storage.fetch(guest.artefact)
    except FileNotFoundError:
        return lost(guest)
    body = {"lora_name": guest.name, "lora_path": str(path)}
    answer = ask(work, "load", body)
    if answer.status_code == 400 and b"already been loaded" in answer.content:
        unload(work, guest)  # of an earlier guest, or a load that nobody noted down
        answer = ask(work, "load", body)
    if answer.status_code == 200:
        return None
    if answer.status_code == 503:
        raise httpx.HTTPStatusError("the engine is busy", request=answer.request, response=answer)
    return refused(said(answer))


def unload(work: Work, guest: Guest) -> None:
    answer = ask(work, "unload", {"lora_name": guest.name})
    if answer.status_code not in (200, 404):
        answer.raise_for_status()


def first_token(work: Work, guest: Guest) -> dict[str, Any] | None:
    """The adapter is there once it has made one real token."""
    if health.one_token(work.address, work.secret, guest.name):
        return None
    health.client.get(f"{work.address}/health", timeout=health.QUICK).raise_for_status()
    return refused("it makes no token")


def said(answer: httpx.Response) -> str:
    """The engine's own words."""
    try:
        found = answer.json()
        return str(found["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


def refused(why: str) -> dict[str, Any]:
    return {
        "code": "adapter_refused",
        "message": N_("The engine refused the adapter: %(why)s"),
        "params": {"why": why},
        "advice": N_("Deploy it again in the mode “merged”, which serves it as one piece."),
    }


def lost(guest: Guest) -> dict[str, Any]:
    return {
        "code": "artefact_missing",
        "message": N_("The store has lost a file that this deployment needs: %(artefact)s."),
        "params": {"artefact": guest.artefact},
        "advice": N_("Bring the store back and start the deployment again."),
    }
