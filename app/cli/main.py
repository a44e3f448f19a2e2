"""The `danlu` command: a client of the public API, and the way to `app.up`."""

import argparse
import os
import sys


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="danlu", description="Fine-tune and serve large language models on your own GPUs."
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start everything on this machine; Ctrl-C stops it")
    up.add_argument(
        "--only",
        metavar="PARTS",
        help="some of web,worker,node,beat, on a DATABASE_URL and REDIS_URL of yours",
    )
    commands.add_parser(
        "demo", help="the whole journey over HTTP: upload, tune, deploy, ask, measure"
    )
    return root


def main() -> int:
    """Exit status: 0 if the command did what it says, 2 for a wrong command line."""
    args = parser().parse_args()
    if args.command == "up":
        # A program of its own: this one knows the API and nothing behind it.
        chosen = ["--only", args.only] if args.only is not None else []
        os.execv(sys.executable, [sys.executable, "-m", "app.up", *chosen])
    from app.cli import demo

    return demo.main()


if __name__ == "__main__":
    sys.exit(main())
