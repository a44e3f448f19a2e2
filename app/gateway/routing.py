"""Where a model name leads: an alias to several deployments by weight, a name to one."""

import hashlib
import math
import random

from starlette.concurrency import run_in_threadpool

from app.deployments import aliases, idle
from app.deployments import service as deployments
from app.deployments.service import Route
from app.errors import N_, Invalid, NotFound
from app.gateway import waking
from app.gateway.remembered import Remembered
from app.gateway.tuning import calls
from app.queue import transaction
from app.quotas import spending

REMEMBER_SECONDS = 1.0  # how long a name need not be looked up again
AT_ONCE_SECONDS = 0.1  # the same after an engine failed: many requests fail together


Found = tuple[tuple[Route, int], ...]  # the deployments behind a name, with their weights
Key = tuple[str, str]  # workspace, name
known = Remembered[Key, Found]()


async def routes(
    workspace_id: str,
    name: str,
    sticky: str = "",
    *,
    now: bool = False,
    path: str = "",
    scores_prompt: bool = False,
    user_id: str = "",
) -> list[Route]:
    """The deployments to ask for `name`, best first, each with replicas that are ready.

    Of an alias's targets the weights decide which is first: by chance, or always alike for the
    same `sticky`. Those that are not ready are left out while another is, and so are those that
    cannot do what `path` asks, or with `scores_prompt` say how likely a prompt's tokens are. If all
    sleep, the first is woken and waited for. A tuned model that nobody has deployed is, for
    `user_id`, where the workspace lets calls do that. `now` looks at the rows, not at what is
    remembered. Raises NotFound, Unavailable, and Invalid for what no target can.
    """
    key = (workspace_id, name)
    try:
        found = await find(key, AT_ONCE_SECONDS if now else REMEMBER_SECONDS)
    except calls.NotDeployed:
        await run_in_threadpool(calls.serve, workspace_id, user_id, name)
        found = await known.look(key, lambda: look(*key))  # not with who looked before it was there
    wished = able(preferred(found, sticky), path, scores_prompt)
    ready = [route for route in wished if route.replicas]
    if ready:
        if wished[0].asleep:
            waking.soon(wished[0])
        return ready
    for route in wished:
        if route.asleep:
            waking.refuse_what_stays_asleep(route)
            awake = await waking.wait(workspace_id, route)
            known.forget(key)
            return able([awake], path, scores_prompt)
    raise waking.not_ready(wished[0])


def able(found: list[Route], path: str, scores_prompt: bool) -> list[Route]:
    """Those that can do it. Raises Invalid, saying why the first cannot, if there are none."""
    refusals = {route.deployment_id: refusal(route, path, scores_prompt) for route in found}
    fit = [route for route in found if not refusals[route.deployment_id]]
    if fit:
        return fit
    error = Invalid(
        refusals[found[0].deployment_id],
        code="endpoint_not_supported",
        field="model",
        name=found[0].name,
    )
    error.status = 400
    raise error


def refusal(route: Route, path: str, scores_prompt: bool) -> str:
    """Why this deployment cannot do what is asked; "" if it can."""
    if path == "embeddings" and not route.embeds:
        return N_(
            "%(name)s writes answers and gives no embeddings. Deploy an embedding model, or this "
            "model once more with the engine argument runner=pooling."
        )
    if path and path != "embeddings" and route.embeds:
        return N_("%(name)s gives embeddings and writes no answers: call /v1/embeddings.")
    engines = {replica.engine for replica in route.replicas}
    if scores_prompt and route.adapts and "vllm" in engines:
        # vLLM 0.32 maps a prompt's tokens to adapters as if they were the step's answers, and ends
        return N_(
            "%(name)s cannot say how likely the tokens of a prompt are (echo with logprobs): its "
            "engine has room for adapters. Deploy the model, merged if it is tuned, without room "
            "for others."
        )
    if path == "responses" and engines and "vllm" not in engines:
        return N_(
            "%(name)s is served by transformers, which does not know /v1/responses. Call "
            "/v1/chat/completions."
        )
    return ""


def preferred(found: Found, sticky: str) -> list[Route]:
    """All targets, each first as often as its weight says.

    The largest of `u ** (1 / weight)` wins, u drawn evenly from (0, 1) for each target (weighted
    rendezvous hashing): who sticks moves only to a target that gained weight, or from one that
    lost it.
    """
    if len(found) == 1:
        return [found[0][0]]

    def draw(target: tuple[Route, int]) -> float:
        route, weight = target
        if sticky:
            digest = hashlib.sha256(f"{route.deployment_id}\0{sticky}".encode()).digest()
            even = (int.from_bytes(digest[:8]) + 0.5) / 2**64
        else:
            even = random.random() or 0.5  # noqa: S311 - no secret hangs on it
        return math.log(even) / weight

    return [route for route, _ in sorted(found, key=draw, reverse=True)]


# -- looking up --------------------------------------------------------------------------


async def find(key: Key, remember: float) -> Found:
    """`look`, remembered. Raises NotFound."""
    return await known.get(key, remember, lambda: look(*key))


def look(workspace_id: str, name: str) -> Found:
    """From the rows. Being looked up is being used: what is found here stays awake."""
    with transaction() as db:
        targets = aliases.split(db, workspace_id, name)
        if not targets and name.startswith("ft:"):
            name = calls.deployment(db, workspace_id, name)
        targets = targets or [(name, 1)]
        found = [(deployments.route(db, workspace_id, one), weight) for one, weight in targets]
        ids = [one.id for route, _ in found if route for one in route.replicas]
        ids += [route.deployment_id for route, _ in found if route]
        if ids and idle.touch(db, ids):  # it may have waited for the sweep, which put one to sleep
            found = [(deployments.route(db, workspace_id, one), weight) for one, weight in targets]
        there = tuple((route, weight) for route, weight in found if route)
        if there:
            models = [(route.model_id, route.base_id) for route, _ in there]
            spending.refuse_call(db, workspace_id, models)
    if not there:
        raise NotFound(
            N_("There is no model called %(name)s here. /v1/models lists those there are."),
            code="model_not_found",
            field="model",
            name=name[:200],
        )
    return there
