"""A run of checkpoints alone, without a model."""

import pytest
from helpers import save_steps


@pytest.fixture
def run(tmp_path):
    save_steps(tmp_path, [3.0, 1.0, 2.0])
    return tmp_path
