"""A job in a terminal: its state, a progress bar, and the loss as a curve of characters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from app.cli.client import Row
from app.cli.output import out, plain, tell

HEIGHT = 12  # of the curve, in lines
WIDEST = 100  # columns
AXIS = 24  # columns that plotille takes for the axis and its labels
Draw = Callable[[Row, list[Row]], None]


@contextmanager
def shown() -> Iterator[Draw]:
    """What draws a job: over and over in place in a terminal, else a line on stderr per change."""
    if not out().is_terminal:
        yield lines()
        return
    from rich.live import Live

    with Live(console=out(), auto_refresh=False) as live:
        yield lambda job, rows: live.update(drawn(job, rows), refresh=True)


def lines() -> Draw:
    said = ""

    def draw(job: Row, rows: list[Row]) -> None:
        nonlocal said
        line = status(job, rows)
        if line != said:
            tell(line)
        said = line

    return draw


def status(job: Row, rows: list[Row]) -> str:
    words = [job["name"], job["state"], job["reason"], job["phase"]]
    if job["total"]:
        words.append(f"{job['step']}/{job['total']}")
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    if losses:
        words.append(f"loss {losses[-1]:.4f}")
    return plain(" ".join(filter(None, words)))


def drawn(job: Row, rows: list[Row]) -> Any:
    """State, progress bar and curve, for rich."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    parts: list[Any] = [Text(status(job, rows))]
    if job["total"]:
        width = min(out().width, WIDEST)
        parts.append(ProgressBar(total=job["total"], completed=job["step"], width=width))
    return Group(*parts, Text(curve(rows)))


def curve(rows: list[Row], width: int = 0) -> str:
    """The loss over the steps, and the validation loss where there is one; empty before two."""
    import plotille

    figure = plotille.Figure()
    figure.width = max((width or min(out().width, WIDEST)) - AXIS, 20)
    figure.height = HEIGHT
    figure.with_colors = False
    figure.x_label, figure.y_label = "step", "loss"
    drawn_any = False
    for name in ("loss", "eval_loss"):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if len(points) > 1:
            figure.plot(*map(list, zip(*points, strict=True)), label=name)
            drawn_any = True
    return str(figure.show(legend=False)) if drawn_any else ""
