"""`danlu datasets`: what goes into a model."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import complete, upload
from app.cli.client import Api, Failed, Row, connect, until
from app.cli.output import Json, Yes, day, say, show, show_json, show_table, sure, tell
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("Data: upload, look, publish, download."))
BASE = "/api/v1/datasets"
SETTLED = ("draft", "published", "failed", "mapping")
Dataset = Annotated[str, typer.Argument(help=_("Its id."), autocompletion=complete.dataset)]
Version = Annotated[str, typer.Option(help=_("A version's number or id; the newest if left out."))]


@app.command("list", help=_("The workspace's datasets, then the samples."))
def index(
    q: Annotated[str, typer.Option("--search", "-q", help=_("Part of a name."))] = "",
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    show(connect().all(BASE, limit, q=q), as_json, lambda found: table(found["data"]))


def table(rows: list[Row]) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("Version"): lambda row: row["version"],
        _("State"): lambda row: row["status"],
        _("Format"): lambda row: row["format"],
        _("Rows"): lambda row: row["rows"],
        _("Created"): lambda row: day(row["created_at"]),
    }
    show_table(rows, columns, _("No dataset yet: `danlu datasets upload FILE`."))


@app.command("show", help=_("One version, and what is wrong with its rows."))
def detail(dataset: Dataset, version: Version = "", as_json: Json = False) -> None:
    show(connect().get(f"{BASE}/{dataset}", version=version), as_json, describe)


def id_of(api: Api, name: str) -> str:
    """Of the one dataset that is called so; else `name` as it is, which may be an id."""
    rows = api.get(BASE, q=name, limit=100)["data"]
    found = [row["id"] for row in rows if row["name"] == name]
    return found[0] if len(found) == 1 else name


def describe(found: Row) -> None:
    say(
        _(
            "%(name)s (%(id)s), version %(version)s: %(state)s, %(format)s, %(rows)s rows",
            name=found["name"],
            id=found["id"],
            version=found["version"],
            state=found["status"],
            format=found["format"] or "–",
            rows=found["rows"],
        )
    )
    if found["error"]:
        say(f"  {found['error']['message']}")
    for one in [*found["errors"], *found["warnings"]]:
        place = " ".join(filter(None, (one["file"], str(one["line"]), one["path"])))
        say(f"  {one['level']}: {place}: {one['message']}")
    more = found["error_count"] + found["warning_count"] - len(found["errors"] + found["warnings"])
    if more > 0:
        say("  " + _("and %(count)s more", count=more))


@app.command(
    "upload",
    help=_("Upload files as a dataset. Given again, the command goes on where it was cut off."),
)
def upload_(
    place: Annotated[Path, typer.Argument(help=_("A file or a folder."))],
    name: Annotated[str, typer.Option("--name", "-n", help=_("The file's name if left out."))] = "",
    dataset: Annotated[
        str,
        typer.Option(
            help=_("Make it the next version of this dataset."), autocompletion=complete.dataset
        ),
    ] = "",
    publish: Annotated[
        bool, typer.Option("--publish", help=_("Publish it if every row is good."))
    ] = False,
    as_json: Json = False,
) -> None:
    api = connect()
    found = made(api, place, name, dataset)
    if publish:
        found = published(api, found["id"])
    show(found, as_json, describe)


def made(api: Api, place: Path, name: str, dataset: str = "") -> Row:
    """Send the files, make the dataset, wait until it has been read. Raises Failed."""
    ids = upload.send(api, upload.files_of(place))
    path = f"{BASE}/{dataset}/versions" if dataset else BASE
    body = {"uploads": ids} if dataset else {"uploads": ids, "name": name or place.resolve().stem}
    begun = api.post(path, body)
    found = until(lambda: api.get(f"{BASE}/{begun['id']}"), SETTLED)
    if found["status"] == "failed":
        raise Failed(found["error"]["message"])
    if found["status"] == "mapping":
        tell(_("Its columns have no names that are known. Name them in the console."))
    return found


@app.command(help=_("Freeze the draft, so that jobs can train on it."))
def publish(
    dataset: Dataset,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help=_("Leave out rows with errors."))
    ] = False,
    as_json: Json = False,
) -> None:
    show(published(connect(), dataset, skip_invalid), as_json, describe)


def published(api: Api, dataset: str, skip_invalid: bool = False) -> Row:
    path = f"{BASE}/{dataset}"
    api.post(f"{path}/publish", {"skip_invalid": skip_invalid})
    return until(lambda: api.get(path), SETTLED)


@app.command(help=_("Rows, as JSON."))
def rows(
    dataset: Dataset,
    q: Annotated[str, typer.Option("--search", "-q", help=_("Words that a row contains."))] = "",
    offset: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    version: Version = "",
) -> None:
    path = f"{BASE}/{dataset}/rows"
    show_json(connect().get(path, q=q, offset=offset, limit=limit, version=version))


@app.command(help=_("A version's rows, as they are kept or in another format."))
def download(
    dataset: Dataset,
    output: Annotated[Path, typer.Option("--output", "-o", help=_("A file."))],
    shape: Annotated[str, typer.Option("--format", "-f", help=_("As `formats` lists them."))] = "",
    version: Version = "",
) -> None:
    if shape:
        path, params = f"{BASE}/{dataset}/export", {"format": shape}
    else:
        path, params = f"{BASE}/{dataset}/download", {}
    upload.receive(connect(), path, output, **params, **({"version": version} if version else {}))
    say(str(output))


@app.command(help=_("The formats that this dataset can be had in."))
def formats(dataset: Dataset, version: Version = "", as_json: Json = False) -> None:
    columns = {
        _("Format"): lambda row: row["format"],
        _("Name"): lambda row: row["name"],
        _("Fits"): lambda row: _("yes") if row["carries_all"] else row["why"],
    }
    show(
        connect().get(f"{BASE}/{dataset}/exports", version=version),
        as_json,
        lambda found: show_table(found["data"], columns, ""),
    )


@app.command(help=_("Delete a dataset. Refused while a job needs it."))
def delete(dataset: Dataset, yes: Yes = False) -> None:
    sure(_("Delete %(name)s with all its versions?", name=dataset), yes)
    connect().delete(f"{BASE}/{dataset}")


@app.command(help=_("Bring back a dataset that was deleted within a week, by its id."))
def restore(
    dataset: Annotated[str, typer.Argument(help=_("Its id."))], as_json: Json = False
) -> None:
    show(connect().post(f"{BASE}/{dataset}/restore"), as_json, lambda one: say(one["name"]))
