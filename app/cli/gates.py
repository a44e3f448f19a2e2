"""What a tuning job asks of an evaluation at its end, and what came of it."""

from app.cli import datasets, evaluations
from app.cli.client import Api, Row
from app.cli.output import say
from app.cli.text import _

BASE = "/api/v1/jobs"
STATES = {
    "waiting": _("waits for the evaluation"),
    "starting": _("starts"),
    "promoted": _("serves"),
    "refused": _("not good enough"),
    "failed": _("failed"),
}


def asked(
    api: Api,
    dataset: str,
    scorers: list[str],
    checkpoints: list[int],
    rows: int | None,
    serve_as: str,
    *,
    not_worse: bool,
) -> Row:
    """The `evaluation` of a job as the API takes it."""
    found: Row = {"dataset": datasets.id_of(api, dataset), "checkpoints": checkpoints}
    if scorers:
        found["scorers"] = scorers
    if rows:
        found["limit"] = rows
    if serve_as:
        found["gate"] = {"name": serve_as, "needs": "not_worse" if not_worse else "better"}
    return found


def of(api: Api, job: str) -> Row:
    found: Row = api.get(f"{BASE}/{job}/evaluation")
    return found


def told(found: Row) -> None:
    """Figures and verdicts, which candidate is best, and whether the result serves."""
    one = found["evaluation"]
    if one is None:
        return say(_("No evaluation: the job asked for none, or is not over."))
    evaluations.told(one)
    best = [each["label"] for each in one["candidates"] if each["id"] == found["best"]]
    if best:
        say(_("Best: %(name)s", name=best[0]))
    if promotion := found["promotion"]:
        gate(promotion)
    return None


def gate(promotion: Row) -> None:
    state = STATES.get(promotion["state"], promotion["state"])
    name, needs = promotion["name"], promotion["needs"]
    say(_("Gate: %(name)s (%(needs)s): %(state)s", name=name, needs=needs, state=state))
    if promotion["message"]:
        say(f"  {promotion['message']}")
