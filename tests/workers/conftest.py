import pytest

from tests.workers.stage_runs import serving


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    """A process in the training environment that runs stages without importing torch each time."""
    with serving(tmp_path_factory.mktemp("stages")) as found:
        yield found
