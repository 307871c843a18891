"""A few of the kills of `make torture`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from conftest import Clone
from torture import Torture


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells which processes are left")
def test_stages_killed_at_random_moments_end_as_if_they_had_not_been(
    digits: Clone, copy_of: Callable[[Clone], Clone]
) -> None:
    torture = Torture(copy_of(digits), seed=1, targets=("evaluate@digits-cnn", "report@digits"), longest=2)
    for stage in ("check@digits", "train@digits-cnn"):
        assert not torture.round(stage, kills=3)
