"""The trainings of an experiment: one, one for each of several seeds, or one for each fold."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.config.experiments import Experiment
    from pipeline.dataset.packed import PackedDataset


class Training(NamedTuple):
    """One of them: its seed, the fold that validates it if that is not the data set's own, and the file of its model.

    The first file of an experiment is the model that predicts.
    """

    file: str
    seed: int
    fold: int | None = None

    @property
    def told(self) -> str:
        """What tells it from the others."""
        return f"seed {self.seed}" if self.fold is None else f"fold {self.fold}"


def trainings(config: Experiment, seed: int, packed: PackedDataset) -> list[Training]:
    if config.folds:
        others = [Training(f"fold-{fold}.safetensors", seed, fold) for fold in range(1, packed.folds)]
        return [Training("model.safetensors", seed, 0), *others]
    others = [Training(f"seed-{other}.safetensors", other) for other in range(seed + 1, seed + config.seeds)]
    return [Training("model.safetensors", seed), *others]
