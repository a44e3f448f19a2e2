"""Structured logs on stderr: a line for people on a terminal, JSON for machines otherwise."""

import contextlib
import sys
from typing import TextIO, cast

import structlog


class Stderr:
    """Never raises. With a full disk the log has a gap, and whoever logs goes on."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure() -> None:
    """Tracebacks are plain: the pretty ones print local variables, passwords and keys too."""
    terminal = sys.stderr.isatty()
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            console if terminal else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", Stderr())),
    )
