"""`danlu models`: the registry."""

import shutil
import tarfile
from pathlib import Path
from typing import Annotated

import typer

from app.cli import complete, upload
from app.cli.client import Api, Failed, Row, connect, until
from app.cli.output import Json, Yes, bytes_of, day, say, show, show_table, sure
from app.cli.text import _

app = typer.Typer(no_args_is_help=True, help=_("Base, tuned and imported models."))
BASE = "/api/v1/models"
Model = Annotated[str, typer.Argument(help=_("Its name or id."), autocompletion=complete.model)]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help=_("A folder, or a file that ends in .tar.")),
]


@app.command("list", help=_("The workspace's models, then the shared ones."))
def index(
    q: Annotated[str, typer.Option("--search", "-q", help=_("Part of a name."))] = "",
    kind: Annotated[str, typer.Option(help=_("base, tuned, adapter, merged or imported."))] = "",
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    columns = {
        "ID": lambda row: row["id"],
        _("Name"): lambda row: row["name"],
        _("Kind"): lambda row: row["kind"],
        _("Parameters"): lambda row: f"{row['parameters']:,}",
        _("Context"): lambda row: row["context_length"],
        _("Size"): lambda row: bytes_of(row["size"]),
        _("Created"): lambda row: day(row["created_at"]),
    }
    show(
        connect().all(BASE, limit, q=q, kind=kind),
        as_json,
        lambda found: show_table(found["data"], columns, _("No model.")),
    )


@app.command("show", help=_("One model, and what it was made from."))
def detail(model: Model, as_json: Json = False) -> None:
    show(connect().get(f"{BASE}/{model}"), as_json, describe)


def describe(found: Row) -> None:
    say(f"{found['name']} ({found['id']}): {found['kind']}, {bytes_of(found['size'])}")
    for one in found["ancestors"]:
        made = _("made by job %(job)s", job=one["job_id"]) if one["job_id"] else ""
        say(f"  ← {one['name']} ({one['id']}) {one['kind']} {made}".rstrip())
    if found["job_id"]:
        say("  " + _("made by job %(job)s", job=found["job_id"]))
    if data := found["lineage"].get("dataset"):
        rows = data if isinstance(data, dict) else {}
        say("  " + _("trained on %(id)s, %(rows)s rows", id=rows.get("id"), rows=rows.get("rows")))


@app.command(
    help=_("All files of a model: weights or adapter, tokenizer, chat template, card, lineage.")
)
def download(model: Model, output: Output = None) -> None:
    api = connect()
    found = api.get(f"{BASE}/{model}")
    place = output or Path(Path(found["name"]).name or found["id"])
    say(str(fetch(api, f"{BASE}/{found['id']}/download", place)))


def fetch(api: Api, path: str, place: Path) -> Path:
    """A download that is one tar: kept as such, or as the folder in it. Raises Failed."""
    packed = place.suffix == ".tar"
    if place.exists() and (packed or not place.is_dir() or any(place.iterdir())):
        raise Failed(_("%(place)s is there already. Choose another with --output.", place=place))
    archive = place if packed else place.with_name(f"{place.name}.tar")
    upload.receive(api, path, archive)
    if not packed:
        unpack(archive, place)
    return place


def unpack(archive: Path, place: Path) -> None:
    """The one folder that the archive holds becomes `place`. Raises Failed."""
    scratch = place.with_name(f".{place.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")  # refuses links and paths that lead elsewhere
        inner = list(scratch.iterdir())
        source = inner[0] if len(inner) == 1 and inner[0].is_dir() else scratch
        if place.exists():
            place.rmdir()
        source.rename(place)
    except (tarfile.TarError, OSError) as error:
        raise Failed(_("%(file)s cannot be unpacked: %(why)s", file=archive, why=error)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    archive.unlink()


@app.command(
    "upload",
    help=_("Upload a model or an adapter. Given again, the command goes on where it was cut off."),
)
def upload_(
    place: Annotated[
        Path, typer.Argument(help=_("A folder of safetensors, tokenizer and config."))
    ],
    name: Annotated[
        str, typer.Option("--name", "-n", help=_("The folder's name if left out."))
    ] = "",
    base: Annotated[
        str,
        typer.Option(
            help=_("Of an adapter: its base, where it names none."),
            autocompletion=complete.model,
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    api = connect()
    ids = upload.send(api, upload.files_of(place))
    asked = {"uploads": ids, "name": name or place.resolve().stem, "base": base}
    arrive(api, asked, as_json)


@app.command(
    "import", help=_("Import a model from Hugging Face or ModelScope, or a preset of the console.")
)
def import_(
    repository: Annotated[str, typer.Argument(help=_("owner/name, or the id of a preset."))],
    hub: Annotated[str, typer.Option(help=_("huggingface or modelscope."))] = "huggingface",
    revision: Annotated[str, typer.Option(help=_("Branch, tag or commit."))] = "",
    name: Annotated[str, typer.Option("--name", "-n")] = "",
    as_json: Json = False,
) -> None:
    asked: Row = {"name": name, "hub": hub}
    if "/" in repository:
        asked |= {"repository": repository, "revision": revision}
    else:
        asked |= {"preset": repository}
    arrive(connect(), asked, as_json)


def arrive(api: Api, asked: Row, as_json: bool) -> None:
    """Begin an import and wait for its end. Raises Failed."""
    begun = api.post(BASE, asked)
    path = f"{BASE}/imports/{begun['id']}"
    found = until(lambda: api.get(path), ("succeeded", "failed", "cancelled"))
    if found["state"] != "succeeded":
        raise Failed((found["error"] or {}).get("message") or found["state"])
    show(
        found,
        as_json,
        lambda one: say(_("%(name)s is a model now: %(id)s", name=one["name"], id=one["model_id"])),
    )


@app.command(help=_("Merge an adapter into its base, as a job."))
def merge(model: Model, as_json: Json = False) -> None:
    api = connect()
    job = api.post(f"{BASE}/{api.get(f'{BASE}/{model}')['id']}/merge")
    show(job, as_json, begun_job)


@app.command(help=_("Write a model as a GGUF file, for llama.cpp and Ollama, as a job."))
def export(
    model: Model,
    shape: Annotated[str, typer.Option("--format", "-f", help=_("q8_0 or f16."))] = "q8_0",
    as_json: Json = False,
) -> None:
    api = connect()
    path = f"{BASE}/{api.get(f'{BASE}/{model}')['id']}/exports"
    show(api.post(path, {"format": shape}), as_json, begun_job)


def begun_job(job: Row) -> None:
    say(_("%(id)s: %(state)s. Watch it: danlu jobs watch %(id)s", id=job["id"], state=job["state"]))


@app.command(help=_("Delete a model. Refused while anything uses it."))
def delete(model: Model, yes: Yes = False) -> None:
    api = connect()
    found = api.get(f"{BASE}/{model}")
    sure(_("Delete %(name)s?", name=found["name"]), yes)
    api.delete(f"{BASE}/{found['id']}")


@app.command(help=_("Bring back a model that was deleted within a week, by its id."))
def restore(
    model: Annotated[str, typer.Argument(help=_("Its id."))], as_json: Json = False
) -> None:
    show(connect().post(f"{BASE}/{model}/restore"), as_json, lambda one: say(one["name"]))
