"""`danlu models`: the registry."""

import tarfile
from pathlib import Path
from typing import Annotated

import typer

from app.cli import upload
from app.cli.text import _
from app.cli.client import (
    Failed,
    Json,
    bytes_of,
    connect,
    day,
    say,
    show_json,
    show_table,
    until,
)

app = typer.Typer(no_args_is_help=True, help=_("Base, tuned and imported models."))
Model = Annotated[str, typer.Argument(help=_("Its name or id."))]


@app.command("list", help=_("The workspace's models, then the shared ones."))
def index(
    q: Annotated[str, typer.Option("--search", "-q", help=_("Part of a name."))] = "",
    kind: Annotated[str, typer.Option(help=_("base, tuned, adapter or merged."))] = "",
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    found = connect().all("/api/v1/models", limit, q=q, kind=kind)
    if as_json:
        return show_json(found)
    columns = {
        "ID": lambda row: row["id"],
        "NAME": lambda row: row["name"],
        "KIND": lambda row: row["kind"],
        "PARAMETERS": lambda row: f"{row['parameters']:,}",
        "CONTEXT": lambda row: row["context_length"],
        "SIZE": lambda row: bytes_of(row["size"]),
        "CREATED": lambda row: day(row["created_at"]),
    }
    return show_table(found["data"], columns, "No model.")


@app.command(help=_("One model with its lineage, as JSON."))
def show(model: Model) -> None:
    show_json(connect().get(f"/api/v1/models/{model}"))


@app.command(help=_("All files of a model: weights or adapter, tokenizer, chat template, card, lineage."))
def download(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=_("A folder, or a file that ends in .tar."))
    ] = None,
) -> None:
    api = connect()
    found = api.get(f"/api/v1/models/{model}")
    place = output or Path(found["name"])
    packed = place.suffix == ".tar"
    if place.exists() and (packed or any(place.iterdir())):
        raise Failed(f"{place} is there already. Choose another with --output.")
    archive = place if packed else place.with_name(f"{place.name}.tar")
    upload.receive(api, f"/api/v1/models/{found['id']}/download", archive)
    if not packed:
        unpack(archive, place)
    say(str(place))


def unpack(archive: Path, place: Path) -> None:
    """The one folder that the archive holds becomes `place`. Raises Failed."""
    scratch = place.with_name(f".{place.name}.unpacking")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")  # refuses links and paths that lead elsewhere
        inner = list(scratch.iterdir())
        source = inner[0] if len(inner) == 1 and inner[0].is_dir() else scratch
        if place.exists():
            place.rmdir()
        source.rename(place)
        if source != scratch:
            scratch.rmdir()
    except (tarfile.TarError, OSError) as error:
        raise Failed(f"{archive} cannot be unpacked: {error}") from None
    archive.unlink()


@app.command("upload", help=_("Upload a model or an adapter. Given again, the command goes on where it was cut off."))
def upload_(
    place: Annotated[Path, typer.Argument(help=_("A folder of safetensors, tokenizer and config."))],
    name: Annotated[str, typer.Option("--name", "-n", help=_("The folder's name if left out."))] = "",
    base: Annotated[str, typer.Option(help=_("Of an adapter: its base, where it names none."))] = "",
    as_json: Json = False,
) -> None:
    api = connect()
    ids = upload.send(api, "/api/v1/uploads", upload.files_of(place))
    asked = {"uploads": ids, "name": name or place.stem, "base": base}
    begun = api.post("/api/v1/models", asked)
    path = f"/api/v1/models/imports/{begun['id']}"
    found = until(lambda: api.get(path), ("succeeded", "failed", "cancelled"))
    if found["state"] != "succeeded":
        raise Failed((found["error"] or {}).get("message") or found["state"])
    if as_json:
        return show_json(found)
    return say(f"{found['name']} is a model now: {found['model_id']}")


@app.command(help=_("Merge an adapter into its base, as a job."))
def merge(model: Model, as_json: Json = False) -> None:
    api = connect()
    job = api.post(f"/api/v1/models/{api.get(f'/api/v1/models/{model}')['id']}/merge")
    if as_json:
        return show_json(job)
    return say(f"{job['id']}: {job['state']}. Watch it: danlu jobs watch {job['id']}")


@app.command(help=_("Delete a model. Refused while anything uses it."))
def delete(model: Model) -> None:
    api = connect()
    api.delete(f"/api/v1/models/{api.get(f'/api/v1/models/{model}')['id']}")
