"""The `danlu` command: a client of the public API, and the way to `app.up`."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli import (
    admin,
    chat,
    client,
    datasets,
    deployments,
    evaluations,
    jobs,
    keys,
    models,
    node,
    quotas,
    workspaces,
)
from app.cli.client import Api, Failed, connect
from app.cli.output import Json, say, show, tell
from app.cli.text import _

app = typer.Typer(
    name="danlu",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=_("Fine-tune and serve large language models on your own GPUs."),
    epilog=_("Shell completion: danlu --install-completion."),
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.command(help=_("Serve a model."))(deployments.deploy)
app.add_typer(deployments.app, name="deployments")
app.command(help=_("Ask models the rows of a dataset, and say which is better."))(
    evaluations.evaluate
)
app.add_typer(evaluations.app, name="evaluations")
app.command(help=_("Talk to a model; answers come as they are written."))(chat.chat)
app.command(help=_("What the workspace used this month, and what it cost."))(quotas.usage)
app.add_typer(keys.app, name="keys")
app.add_typer(workspaces.app, name="workspaces")
app.add_typer(admin.app, name="admin")
app.add_typer(node.app, name="node")


@app.callback()
def main_options(
    lang: Annotated[  # read by app.cli.text, before anything is said
        str, typer.Option("--lang", metavar="zh|en", help=_("The language; else the terminal's."))
    ] = "",
) -> None:
    if lang not in ("", "zh", "en"):
        raise typer.BadParameter("zh, en", param_hint="--lang")


@app.command(help=_("Start everything on this machine; Ctrl-C stops it."))
def up(
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PARTS",
            help=_("Some of web,worker,node,beat, on a DATABASE_URL and REDIS_URL of yours."),
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help=_("In place of the Danlu that runs here, whose trainers and engines go on."),
        ),
    ] = False,
    no_backup: Annotated[
        bool, typer.Option("--no-backup", help=_("Change older tables without a backup of them."))
    ] = False,
) -> None:
    # A program of its own: this one knows the API and nothing behind it.
    chosen = ["--only", only] if only is not None else []
    chosen += ["--take-over"] if take_over else []
    chosen += ["--no-backup"] if no_backup else []
    os.execv(sys.executable, [sys.executable, "-m", "app.up", *chosen])


@app.command(help=_("Everything into one file, while it runs; in a directory under a new name."))
def backup(
    place: Annotated[Path, typer.Argument(metavar="FILE|DIR")],
    without_artefacts: Annotated[
        bool, typer.Option("--without-artefacts", help=_("Only the database and the key."))
    ] = False,
    without_key: Annotated[
        bool, typer.Option("--without-key", help=_("The secret key is kept elsewhere."))
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help=_("Say which backups are in a directory."))
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help=_("Read a backup and compare it with its manifest."))
    ] = False,
) -> None:
    flags = {
        "--without-artefacts": without_artefacts,
        "--without-key": without_key,
        "--list": list_,
        "--verify": verify,
    }
    run_backup("backup", *(flag for flag, given in flags.items() if given), "--", str(place))


@app.command(
    help=_("A new secret key: all that is sealed in the database is sealed anew, while Danlu runs.")
)
def reseal() -> None:
    run_backup("reseal")


@app.command(help=_("A backup into an empty home (and an empty DATABASE_URL, if one is set)."))
def restore(
    file: Path,
    home: Annotated[
        Path | None, typer.Option(help=_("An empty directory; DANLU_HOME if left out."))
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help=_("The secret key, where the backup has none."))
    ] = None,
) -> None:
    chosen = ["--home", str(home)] if home else []
    chosen += ["--key-file", str(key_file)] if key_file else []
    run_backup("restore", *chosen, "--", str(file))


def run_backup(*arguments: str) -> None:
    os.execv(sys.executable, [sys.executable, "-m", "app.backup", *arguments])


@app.command(help=_("Serve /v1 alone, without pages, on DANLU_HOST and DANLU_PORT."))
def gateway() -> None:
    os.execv(sys.executable, [sys.executable, "-m", "app.edge"])


@app.command(help=_("The whole journey over HTTP: upload, tune, deploy, ask, measure."))
def demo() -> None:
    from app.cli import demo as journey

    raise typer.Exit(journey.main())


@app.command(help=_("Keep an address and a key in ~/.danlu.yaml, which only you can read."))
def login(
    url: Annotated[
        str, typer.Option(envvar="DANLU_URL", help=_("Where Danlu is; asked for if left out."))
    ] = "",
    token: Annotated[
        str, typer.Option(envvar="DANLU_API_KEY", help=_("An API key; asked for if left out."))
    ] = "",
) -> None:
    typed = sys.stdin.isatty()
    if not url:
        url = typer.prompt(_("Address"), default=client.HERE, err=True) if typed else client.HERE
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(
            _("an address that begins with http:// or https://"), param_hint="--url"
        )
    if not token and typed:
        tell(_("Make a key at %(url)s/keys.", url=url.rstrip("/")))
        token = typer.prompt(_("API key"), hide_input=True, err=True)
    token = (token or sys.stdin.readline()).strip()
    who = Api(url.rstrip("/"), token).get("/api/v1/me")
    file = client.keep(url.rstrip("/"), token)
    say(
        _(
            "%(email)s in %(workspace)s; kept in %(file)s",
            email=who["email"],
            workspace=who["workspace"]["name"],
            file=file,
        )
    )


@app.command(
    help=_("Forget the address and the key. The key itself goes on working: `danlu keys revoke`.")
)
def logout() -> None:
    client.config_file().unlink(missing_ok=True)


@app.command(help=_("Whom the key stands for, and where."))
def whoami(as_json: Json = False) -> None:
    api = connect()
    show(
        api.get("/api/v1/me"),
        as_json,
        lambda who: say(f"{who['email']} ({who['role']}), {who['workspace']['name']}, {api.url}"),
    )


class Resource(StrEnum):
    dataset = "dataset"
    model = "model"
    adapter = "adapter"


@app.command(help=_("Upload a folder. Given again, the command goes on where it was cut off."))
def upload(
    resource: Annotated[Resource, typer.Option("--resource", "-r", help=_("What it is."))],
    directory: Annotated[Path, typer.Option("--directory", "-d", help=_("A folder, or a file."))],
    name: Annotated[
        str, typer.Option("--name", "-n", help=_("The folder's name if left out."))
    ] = "",
    base: Annotated[
        str,
        typer.Option(
            "--base-model", "--base_model", help=_("Of an adapter: its base, where it names none.")
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    if resource is Resource.dataset:
        datasets.upload_(directory, name=name, as_json=as_json)
    else:
        models.upload_(directory, name=name, base=base, as_json=as_json)


def main() -> int:
    """Exit status: 0 if the command did what it says, 1 if it could not, 2 for a wrong line, 130
    after Ctrl-C.
    """
    try:
        app()
    except Failed as failed:
        tell(str(failed))
        return 1
    except BrokenPipeError:  # whoever read along has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
