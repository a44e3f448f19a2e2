"""`danlu datasets`: what goes into a model."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import upload
from app.cli.client import Api, Failed, Json, Row, connect, day, say, show_json, show_table, until

app = typer.Typer(no_args_is_help=True, help="Data: upload, look, publish, download.")
SETTLED = ("draft", "published", "failed")
Dataset = Annotated[str, typer.Argument(help="Its id.")]
Version = Annotated[str, typer.Option(help="A version's number or id; the newest if left out.")]


@app.command("list")
def index(
    q: Annotated[str, typer.Option("--search", "-q", help="Part of a name.")] = "",
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    """The workspace's datasets, then the samples."""
    found = connect().all("/api/v1/datasets", limit, q=q)
    if as_json:
        return show_json(found)
    columns = {
        "ID": lambda row: row["id"],
        "NAME": lambda row: row["name"],
        "VERSION": lambda row: row["version"],
        "STATUS": lambda row: row["status"],
        "FORMAT": lambda row: row["format"],
        "ROWS": lambda row: row["rows"],
        "CREATED": lambda row: day(row["created_at"]),
    }
    return show_table(found["data"], columns, "No dataset yet: `danlu datasets upload FILE`.")


@app.command()
def show(dataset: Dataset, version: Version = "", as_json: Json = False) -> None:
    """One version, and what is wrong with its rows."""
    found = connect().get(f"/api/v1/datasets/{dataset}", version=version)
    if as_json:
        return show_json(found)
    return describe(found)


def describe(found: Row) -> None:
    say(
        f"{found['name']} ({found['id']}), version {found['version']}: {found['status']}, "
        f"{found['format'] or 'format not known yet'}, {found['rows']} rows"
    )
    if found["error"]:
        say(f"  {found['error']['message']}")
    for one in [*found["errors"], *found["warnings"]]:
        say(f"  {one['level']}: line {one['line']} {one['path']}: {one['message']}")
    more = found["error_count"] + found["warning_count"] - len(found["errors"] + found["warnings"])
    if more > 0:
        say(f"  and {more} more")


@app.command("upload")
def upload_(
    place: Annotated[Path, typer.Argument(help="A file or a folder.")],
    name: Annotated[str, typer.Option("--name", "-n", help="The file's name if left out.")] = "",
    dataset: Annotated[str, typer.Option(help="Make it the next version of this dataset.")] = "",
    publish: Annotated[bool, typer.Option(help="Publish it if every row is good.")] = False,
    as_json: Json = False,
) -> None:
    """Upload files as a dataset. Given again, the command goes on where it was cut off."""
    api = connect()
    found = make(api, place, name, dataset)
    if publish:
        found = published(api, found["id"])
    if as_json:
        return show_json(found)
    return describe(found)


def make(api: Api, place: Path, name: str, dataset: str = "") -> Row:
    """Send the files, make the dataset, wait until it has been read. Raises Failed."""
    ids = upload.send(api, "/api/v1/uploads", upload.files_of(place))
    path = f"/api/v1/datasets/{dataset}/versions" if dataset else "/api/v1/datasets"
    body = {"uploads": ids} if dataset else {"uploads": ids, "name": name or place.stem}
    made = api.post(path, body)
    found = until(lambda: api.get(f"/api/v1/datasets/{made['id']}"), SETTLED)
    if found["status"] == "failed":
        raise Failed(found["error"]["message"])
    return found


@app.command()
def publish(
    dataset: Dataset,
    skip_invalid: Annotated[bool, typer.Option(help="Leave out rows with errors.")] = False,
    as_json: Json = False,
) -> None:
    """Freeze the draft, so that jobs can train on it."""
    found = published(connect(), dataset, skip_invalid)
    if as_json:
        return show_json(found)
    return describe(found)


def published(api: Api, dataset: str, skip_invalid: bool = False) -> Row:
    path = f"/api/v1/datasets/{dataset}"
    api.post(f"{path}/publish", {"skip_invalid": skip_invalid})
    return until(lambda: api.get(path), SETTLED)


@app.command()
def rows(
    dataset: Dataset,
    q: Annotated[str, typer.Option("--search", "-q", help="Words that a row contains.")] = "",
    offset: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    version: Version = "",
) -> None:
    """Rows, as JSON."""
    path = f"/api/v1/datasets/{dataset}/rows"
    show_json(connect().get(path, q=q, offset=offset, limit=limit, version=version))


@app.command()
def download(
    dataset: Dataset,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file.")],
    shape: Annotated[str, typer.Option("--format", "-f", help="As `formats` lists them.")] = "",
    version: Version = "",
) -> None:
    """A version's rows, as they are kept or in another format."""
    if shape:
        path, params = f"/api/v1/datasets/{dataset}/export", {"format": shape}
    else:
        path, params = f"/api/v1/datasets/{dataset}/download", {}
    upload.receive(connect(), path, output, **params, **({"version": version} if version else {}))
    say(str(output))


@app.command()
def formats(dataset: Dataset, version: Version = "") -> None:
    """The formats that this dataset can be had in, as JSON."""
    show_json(connect().get(f"/api/v1/datasets/{dataset}/exports", version=version))


@app.command()
def delete(dataset: Dataset) -> None:
    """Delete a dataset. Refused while a job needs it."""
    connect().delete(f"/api/v1/datasets/{dataset}")
