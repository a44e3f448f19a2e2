"""The `danlu` command: a client of the public API, and the way to `app.up`."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli import admin, chat, client, datasets, deployments, jobs, keys, models
from app.cli.text import _
from app.cli.client import Api, Failed, connect, err, say, show_json

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=_("Fine-tune and serve large language models on your own GPUs."),
    epilog="Shell completion: danlu --install-completion.",
)
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(deployments.app, name="deployments")
app.command()(deployments.deploy)
app.command()(chat.chat)
app.add_typer(keys.app, name="keys")
app.add_typer(admin.app, name="admin")


@app.command(help=_("Start everything on this machine; Ctrl-C stops it."))
def up(
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PARTS",
            help=_("Some of web,worker,node,beat, on a DATABASE_URL and REDIS_URL of yours."),
        ),
    ] = None,
) -> None:
    # A program of its own: this one knows the API and nothing behind it.
    chosen = ["--only", only] if only is not None else []
    os.execv(sys.executable, [sys.executable, "-m", "app.up", *chosen])


@app.command(help=_("The whole journey over HTTP: upload, tune, deploy, ask, measure."))
def demo() -> None:
    from app.cli import demo as journey

    raise typer.Exit(journey.main())


@app.command(help=_("Keep an address and a key in ~/.danlu.yaml, which only you can read."))
def login(
    url: Annotated[str, typer.Option(help=_("Where Danlu is."))] = client.HERE,
    token: Annotated[
        str, typer.Option(envvar="DANLU_API_KEY", help=_("An API key; asked for if left out."))
    ] = "",
) -> None:
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(
            "an address that begins with http:// or https://", param_hint="--url"
        )
    if not token and sys.stdin.isatty():
        token = typer.prompt("API key", hide_input=True)
    token = (token or sys.stdin.readline()).strip()
    who = Api(url.rstrip("/"), token).get("/api/v1/me")
    file = client.keep(url.rstrip("/"), token)
    say(f"{who['email']} in {who['workspace']['name']}; kept in {file}")


@app.command(help=_("Forget the address and the key. The key itself goes on working: `danlu keys revoke`."))
def logout() -> None:
    client.config_file().unlink(missing_ok=True)


@app.command(help=_("Whom the key stands for, and where."))
def whoami(as_json: client.Json = False) -> None:
    who = connect().get("/api/v1/me")
    if as_json:
        return show_json(who)
    return say(f"{who['email']} ({who['role']}) in {who['workspace']['name']}")


class Resource(StrEnum):
    dataset = "dataset"
    model = "model"
    adapter = "adapter"


@app.command(help=_("Upload a folder. Given again, the command goes on where it was cut off."))
def upload(
    resource: Annotated[Resource, typer.Option("--resource", "-r", help=_("What it is."))],
    directory: Annotated[Path, typer.Option("--directory", "-d", help=_("A folder, or a file."))],
    name: Annotated[str, typer.Option("--name", "-n", help=_("The folder's name if left out."))] = "",
    as_json: client.Json = False,
) -> None:
    if resource is Resource.dataset:
        datasets.upload_(directory, name=name, as_json=as_json)
    else:
        models.upload_(directory, name=name, as_json=as_json)


def main() -> int:
    """Exit status: 0 if the command did what it says, 1 if it could not, 2 for a wrong line."""
    try:
        app()
    except Failed as failed:
        err.print(client.plain(failed), style="red", markup=False)
        return 1
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
