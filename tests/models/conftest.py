import pytest

from models.checkpoint import Checkpoint
from tests.models.welds import fitted


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return fitted()
