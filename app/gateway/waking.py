"""Requests that wait for a deployment to wake: many wake it once, and one look serves them all."""

import asyncio
import time
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.config import settings
from app.deployments import idle
from app.deployments import service as deployments
from app.deployments.service import Route
from app.deployments.view import WAITS
from app.errors import N_, Unavailable
from app.queue import transaction

log = structlog.get_logger()

LOOK_SECONDS = 0.2
MOST_WAITING = 100  # requests, for one deployment
MOST_IN_ALL = 1000  # in this process; each holds its body in memory
NUDGE_SECONDS = 10.0


@dataclass
class Watch:
    task: asyncio.Task[Route]
    waiting: int = 0


watches: dict[str, Watch] = {}
nudged: dict[str, float] = {}
nudges: set[asyncio.Task[None]] = set()  # held, or they might be collected while they run


async def wait(workspace_id: str, route: Route) -> Route:
    """Wake what sleeps; its route once an engine of it is ready.

    No thread and no database session is held meanwhile. Raises Unavailable with the reason.
    """
    watch = watches.get(route.deployment_id)
    crowd = sum(one.waiting for one in watches.values())
    if crowd >= MOST_IN_ALL or (watch and watch.waiting >= MOST_WAITING):
        raise Unavailable(
            N_("%(name)s is waking up, and too many requests wait for it already. Try again."),
            code="deployment_waking",
            retry_after=10,
            name=route.name,
        )
    if watch is None:
        watch = Watch(asyncio.create_task(see_it_wake(workspace_id, route)))
        watches[route.deployment_id] = watch
    watch.waiting += 1
    try:
        async with asyncio.timeout(settings.wake_seconds):
            return await asyncio.shield(watch.task)
    except TimeoutError:
        raise Unavailable(
            N_("%(name)s was asleep and is not awake yet after %(seconds)s seconds. Try again."),
            code="deployment_waking",
            retry_after=10,
            name=route.name,
            seconds=settings.wake_seconds,
        ) from None
    finally:
        watch.waiting -= 1
        if not watch.waiting:
            watch.task.cancel()
            del watches[route.deployment_id]


async def see_it_wake(workspace_id: str, route: Route) -> Route:
    woken = False
    while True:
        try:
            woken = woken or await run_in_threadpool(wake, route.deployment_id)
            found = await run_in_threadpool(look, workspace_id, route.name)
        except DBAPIError as error:  # who waits may wait for the database too
            log.warning("waiting for the database", error=str(error).splitlines()[0])
        else:
            if found.replicas:
                return found
            refuse_what_stays_asleep(found)
        await asyncio.sleep(LOOK_SECONDS)


def wake(deployment_id: str) -> bool:
    with transaction() as db:
        if idle.wake(db, deployment_id):
            log.info("woken by a request", deployment=deployment_id)
    return True


def look(workspace_id: str, name: str) -> Route:
    with transaction() as db:
        return deployments.route(db, workspace_id, name) or Route("", name, "stopped", "", ())


def refuse_what_stays_asleep(route: Route) -> None:
    """Raises Unavailable for what will not wake by itself soon."""
    if not route.asleep or route.state == "error":
        raise not_ready(route)
    if route.state == "pending" and route.reason in WAITS:
        raise Unavailable(
            N_("%(name)s is asleep and cannot wake just now. %(why)s"),
            code="deployment_waits",
            retry_after=30,
            name=route.name,
            why={"message": WAITS[route.reason], "params": {}},
        )


def not_ready(route: Route) -> Unavailable:
    if route.state == "stopped":
        return Unavailable(
            N_("%(name)s is stopped. Start its deployment and try again."),
            code="deployment_stopped",
            retry_after=60,
            name=route.name,
        )
    return Unavailable(
        N_("%(name)s is not ready yet (%(state)s). Try again in a few seconds."),
        code="deployment_not_ready",
        name=route.name,
        state=route.state,
    )


def soon(route: Route) -> None:
    """Wake it, but let nobody wait for it."""
    at = time.monotonic()
    if at - nudged.get(route.deployment_id, -NUDGE_SECONDS) < NUDGE_SECONDS:
        return
    if len(nudged) > 1000:
        nudged.clear()
    nudged[route.deployment_id] = at
    task = asyncio.create_task(wake_quietly(route.deployment_id))
    nudges.add(task)
    task.add_done_callback(nudges.discard)


async def wake_quietly(deployment_id: str) -> None:
    try:
        await run_in_threadpool(wake, deployment_id)
    except DBAPIError as error:
        log.warning("not woken", error=str(error).splitlines()[0])
