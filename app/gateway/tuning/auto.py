"""What “auto” means: OpenAI's hyperparameters as ours, once the number of rows is known. Pure."""

import math
from typing import Any

from app.jobs import methods

BATCH = 16  # rows in a step, where there are enough of them
STEPS = 8  # in an epoch, at least, as far as a batch of one allows
KEPT = 2  # checkpoints: the epochs before the last, which is the result


def epochs(rows: int) -> int:
    """OpenAI's own rule: three, more for few rows and fewer for very many."""
    if rows * 3 < 100:
        return max(1, min(25, 100 // rows))
    if rows * 3 > 25_000:
        return max(1, 25_000 // rows)
    return 3


def resolve(asked: dict[str, Any], stage: str, rows: int) -> dict[str, Any]:
    """`asked` with a number wherever it says “auto”."""
    usual = {
        "n_epochs": epochs(rows),
        "batch_size": max(1, min(BATCH, rows // STEPS)),
        "learning_rate_multiplier": 1.0,
    }
    if stage == "dpo":
        usual["beta"] = 0.1
    return {
        name: value if asked.get(name, "auto") == "auto" else asked[name]
        for name, value in usual.items()
    }


def ours(resolved: dict[str, Any], stage: str, method: str) -> dict[str, Any]:
    """The same as fields of our own hyperparameters. The model of the last step is the result."""
    rate = methods.defaults(stage, method)["learning_rate"]
    found = {
        "epochs": float(resolved["n_epochs"]),
        "batch_size": resolved["batch_size"],
        "learning_rate": min(1.0, rate * resolved["learning_rate_multiplier"]),
        "keep_best": False,
    }
    return found | ({"beta": resolved["beta"]} if "beta" in resolved else {})


def with_checkpoints(given: dict[str, Any], rows: int) -> dict[str, Any]:
    """A checkpoint at the end of each epoch, the last of which are kept, unless it is said."""
    step = given.get("batch_size", BATCH) * given.get("gradient_accumulation", 1)
    return {"save_steps": max(1, math.ceil(rows / step)), "keep_checkpoints": KEPT} | given
