"""A few of the kills of `make torture`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from conftest import Clone
from torture import Torture


# on a busy machine training takes long enough to be logged live, into a database that was not there before
@pytest.mark.usefixtures("untracked")
@pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells which processes are left")
def test_stages_killed_at_random_moments_end_as_if_they_had_not_been(
    digits: Clone, copy_of: Callable[[Clone], Clone]
) -> None:
    torture = Torture(copy_of(digits), seed=1, targets=("evaluate@digits-mlp", "report@digits"), longest=2)
    for stage in ("check@digits", "train@digits-mlp"):
        assert not torture.round(stage, kills=3)
