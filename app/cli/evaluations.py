"""`danlu evaluate` and `danlu evaluations`: which model is better."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import Api, Failed, Row, connect, until
from app.cli.output import Json, Yes, day, say, show, show_table, sure, tell
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("Which model is better: list, show, rows, cancel."))
BASE = "/api/v1/evaluations"
OVER = ("succeeded", "failed", "cancelled", "paused")
Evaluation = Annotated[str, typer.Argument(help=_("Its id."))]


class Format(StrEnum):
    csv = "csv"
    json = "json"


def evaluate(
    dataset: Annotated[str, typer.Argument(help=_("A published dataset's id or name."))],
    candidates: Annotated[
        list[str],
        typer.Argument(
            help=_(
                "Names of deployments or models; KIND:TARGET for others (deployment, model,"
                " checkpoint, answers). The first is the baseline."
            )
        ),
    ],
    scorer: Annotated[
        list[str],
        typer.Option("--scorer", "-s", help=_("The first decides; several may be given.")),
    ] = ["accuracy"],  # noqa: B006 - typer copies it
    judge: Annotated[
        str, typer.Option(help=_("A deployment that gives each answer marks, with its reason."))
    ] = "",
    judge_pairs: Annotated[
        str, typer.Option(help=_("One that says which of two answers is better, in both orders."))
    ] = "",
    judge_prompt: Annotated[
        Path | None, typer.Option(help=_("What the judge is asked: a file with places."))
    ] = None,
    dimension: Annotated[
        list[str] | None,
        typer.Option(help=_("What the judge looks at; left out: the five presets.")),
    ] = None,
    scale: Annotated[int, typer.Option(help=_("The judge's best mark: 5 or 10."))] = 5,
    embedder: Annotated[
        str, typer.Option(help=_("An embedding model: how near answers are to references."))
    ] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help=_("So many rows, drawn at random."))
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help=_("Of an answer."))] = 512,
    name: Annotated[str, typer.Option("--name", "-n")] = "",
    fail_if_worse: Annotated[
        bool, typer.Option(help=_("Exit with 1 if a candidate is worse than the baseline."))
    ] = False,
    wait: Annotated[bool, typer.Option(help=_("Until it is over."))] = True,
    as_json: Json = False,
) -> None:
    api = connect()
    served = {one["id"] for one in api.get("/v1/models")["data"]}
    made = api.post(
        BASE,
        {
            "name": name,
            "dataset": dataset_of(api, dataset),
            "candidates": [candidate(one, served) for one in candidates],
            "scorers": judges(judge, judge_pairs, judge_prompt, dimension, scale)
            + [{"kind": one} for one in scorer]
            + ([{"kind": "embedding", "model": embedder}] if embedder else []),
            "settings": {"max_tokens": max_tokens} | ({"limit": limit} if limit else {}),
        },
    )
    if wait:
        made = followed(api, made["id"])
    show(made, as_json, told)
    if made["state"] == "failed":
        raise Failed((made["error"] or {}).get("message", ""))
    first = made["scorers"][0]["key"]
    worse = [one for one in made["verdicts"].values() if one[first]["verdict"] == "worse"]
    if fail_if_worse and worse:
        raise Failed(_("A candidate is worse than the baseline."))


def judges(
    marks: str, pairs: str, prompt: Path | None, dimension: list[str] | None, scale: int
) -> list[Row]:
    """The scorers that ask a model. They come first, so that they decide."""
    told: Row = {"prompt": prompt.read_text(encoding="utf-8")} if prompt else {}
    if dimension is not None:
        told["dimensions"] = dimension
    found: list[Row] = []
    if marks:
        found.append({"kind": "judge", "model": marks, "scale": scale} | told)
    if pairs:
        found.append({"kind": "pairwise", "model": pairs} | told)
    return found


def candidate(text: str, served: set[str]) -> Row:
    kind, _colon, target = text.partition(":")
    if target and kind in ("deployment", "model", "checkpoint", "answers"):
        return {"kind": kind, "target": target}
    if "/checkpoint-" in text:
        return {"kind": "checkpoint", "target": text}
    return {"kind": "deployment" if text in served else "model", "target": text}


def dataset_of(api: Api, id_or_name: str) -> str:
    """Raises Failed if there is none."""
    if id_or_name.startswith(("ds_", "dv_")):
        return id_or_name
    for one in api.all("/api/v1/datasets")["data"]:
        if one["name"] == id_or_name:
            return str(one["id"])
    raise Failed(_("There is no dataset %(name)s.", name=id_or_name))


def followed(api: Api, evaluation_id: str) -> Row:
    said = ""

    def look() -> Row:
        nonlocal said
        found: Row = api.get(f"{BASE}/{evaluation_id}")
        done = sum(one["done"] for one in found["candidates"])
        total = found["rows"] * len(found["candidates"])
        judged = found["judging"].get("done", 0)
        if all(one["kind"] == "perplexity" for one in found["scorers"]):
            judged = 0
        also = _("%(count)s judged", count=judged) if judged else ""
        text = " ".join(filter(None, (found["state"], f"{done}/{total}", also, found["waits"])))
        if text != said:
            tell(text)
        said = text
        return found

    return until(look, OVER)


def told(found: Row) -> None:
    say(f"{found['name']} ({found['id']}): {found['state']}")
    for one in found["candidates"]:
        figures = [
            f"{key} {figure['value']:.4f}"
            for key, figure in one["figures"].items()
            if figure["value"] is not None
        ]
        say("  " + ", ".join([one["label"], *figures]))
        for key, verdict in found["verdicts"].get(one["id"], {}).items():
            say(
                f"    {key}: {verdict['verdict']} {verdict['difference']:+.4f}"
                f" [{verdict['low']:+.4f}, {verdict['high']:+.4f}]"
            )


@app.command("list", help=_("The workspace's evaluations, newest first."))
def index(limit: Annotated[int, typer.Option(min=1)] = 50, as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("State"): lambda row: row["state"],
        _("Rows"): lambda row: row["rows"],
        _("Created"): lambda row: day(row["created_at"]),
    }
    show(
        connect().all(BASE, limit),
        as_json,
        lambda found: show_table(
            found["data"], columns, _("No evaluations: `danlu evaluate DATASET MODEL MODEL`.")
        ),
    )


@app.command("show", help=_("Figures and verdicts of one."))
def detail(evaluation: Evaluation, as_json: Json = False) -> None:
    show(connect().get(f"{BASE}/{evaluation}"), as_json, told)


@app.command(help=_("All rows with answers and scores, as CSV or JSON."))
def rows(
    evaluation: Evaluation,
    form: Annotated[Format, typer.Option("--format")] = Format.csv,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=_("A file; else the terminal."))
    ] = None,
) -> None:
    got = connect().send("GET", f"{BASE}/{evaluation}/export", params={"format": form.value})
    if output is None:
        sys.stdout.write(got.text)
    else:
        output.write_bytes(got.content)


@app.command(help=_("Stop it; what was answered is kept."))
def cancel(evaluation: Evaluation, as_json: Json = False) -> None:
    show(connect().post(f"{BASE}/{evaluation}/cancel", {}), as_json, told)


@app.command(help=_("Let a candidate serve under a name, if it is better than what does now."))
def promote(
    evaluation: Evaluation,
    candidate: Annotated[str, typer.Argument(help=_("Its id or its label."))],
    name: Annotated[str, typer.Argument(help=_("The name at /v1."))],
    not_worse: Annotated[
        bool, typer.Option(help=_("Also where no difference is certain."))
    ] = False,
    as_json: Json = False,
) -> None:
    api = connect()
    several = api.get(f"{BASE}/{evaluation}")["candidates"]
    chosen = [one["id"] for one in several if candidate in (one["id"], one["label"])]
    if len(chosen) != 1:
        raise Failed(_("There is not exactly one candidate %(name)s.", name=candidate))
    body = {"candidate": chosen[0], "name": name, "needs": "not_worse" if not_worse else "better"}
    show(
        api.post(f"{BASE}/{evaluation}/promotions", body),
        as_json,
        lambda made: say(f"{made['name']}: {made['state']}"),
    )


@app.command(help=_("Which candidates were to serve, and what became of that."))
def promotions(evaluation: Evaluation, as_json: Json = False) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("State"): lambda row: row["state"],
        _("Verdict"): lambda row: (row["verdict"] or {}).get("verdict", ""),
        _("Created"): lambda row: day(row["created_at"]),
    }
    show(
        connect().get(f"{BASE}/{evaluation}/promotions"),
        as_json,
        lambda found: show_table(found["data"], columns, _("Nothing was to serve.")),
    )


@app.command(help=_("Remove one that is over, with its answers."))
def delete(evaluation: Evaluation, yes: Yes = False) -> None:
    sure(_("Delete %(name)s?", name=evaluation), yes)
    connect().delete(f"{BASE}/{evaluation}")
