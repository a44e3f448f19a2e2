"""Stopping a run to keep what it has learnt."""

import pytest

from tests.workers.stage_runs import slow

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine


def test_finish_keeps_what_was_learnt(stages, base, data):
    run = stages.start(
        stages.write(
            {"base": base, "train": [data], "validation": [data], "hyperparameters": slow(4000)}
        )
    )
    run.until(lambda run: len(run.metrics) > 3, 200)
    (run.directory / "finish").touch()
    stages.wait(run)
    assert run.code == 0, run.log
    last = run.metrics[-1]["step"]
    assert 3 < last < 4000
    assert run.status["state"] == "succeeded"
    assert run.result["steps"] == last
    assert run.events["finish"]["params"] == {"step": last}
    assert run.evaluations[-1]["step"] == last
    assert (run.directory / "adapter" / "adapter_model.safetensors").stat().st_size > 0
