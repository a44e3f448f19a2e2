"""TensorBoard on a unix socket: `python -m workers.board DIR PREFIX`, of the training environment.

Shows DIR/runs at DIR/socket, and ends when nobody has asked for ten minutes, or who started it is
gone. `app.jobs.boards` starts it and stands in front of it.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

IDLE = 600.0  # seconds
LOOK = 5.0


def main() -> int:
    from tensorboard import program
    from tensorboard.plugins.core.core_plugin import CorePluginLoader
    from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin
    from tensorboard.plugins.metrics.metrics_plugin import MetricsPlugin
    from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
    from werkzeug.serving import make_server

    directory, prefix = Path(sys.argv[1]), sys.argv[2]
    place = directory / "socket"

    class Server(program.TensorBoardServer):
        def __init__(self, application: Any, _flags: Any) -> None:
            self.asked = time.monotonic()
            self.parent = os.getppid()

            def counted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
                self.asked = time.monotonic()
                found: Iterable[bytes] = application(environ, start_response)
                return found

            os.umask(0o077)
            self.server = make_server(f"unix://{place}", 0, counted, threaded=True)

        def watch(self) -> None:
            while os.getppid() == self.parent and time.monotonic() - self.asked < IDLE:
                time.sleep(LOOK)
            place.unlink(missing_ok=True)
            os._exit(0)

        def serve_forever(self) -> None:
            threading.Thread(target=self.watch, daemon=True).start()
            self.server.serve_forever()

        def get_url(self) -> str:
            return "http://localhost:0/"  # nowhere: what matters is the socket

    os.nice(10)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    plugins = [CorePluginLoader(), MetricsPlugin, ScalarsPlugin, HParamsPlugin]
    board = program.TensorBoard(plugins, None, Server)
    board.configure(
        argv=[
            "tensorboard",
            f"--logdir={directory / 'runs'}",
            f"--path_prefix={prefix}",
            "--load_fast=false",
            "--reload_interval=3",
            "--reload_multifile=true",
        ]
    )
    return int(board.main() or 0)


if __name__ == "__main__":
    sys.exit(main())
