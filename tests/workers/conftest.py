from pathlib import Path

import pytest

from tests.workers.stage_runs import Ran, Stages, reviews, serving, slow


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    """A process in the training environment that runs stages without importing torch each time."""
    with serving(tmp_path_factory.mktemp("stages")) as found:
        yield found


@pytest.fixture(scope="session")
def base(stages: Stages) -> Path:
    return stages.model()


@pytest.fixture(scope="session")
def data(stages: Stages) -> str:
    return stages.data(reviews(96))


@pytest.fixture(scope="session")
def uninterrupted(stages, base, data) -> Ran:
    run = stages.run(
        base=base,
        train=[data],
        validation=[data],
        hyperparameters=slow(40, save_steps=7, keep_checkpoints=2, eval_steps=10),
    )
    assert run.code == 0, run.log
    return run
