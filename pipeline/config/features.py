"""What `params.yaml` may say of the features of a data set's images, by which the stage `audit` finds what is odd."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.datasets import Pixels
from pipeline.config.fields import Strict, shown
from pipeline.config.networks import TimmConfig, TorchvisionConfig


def a_path(weights: str) -> str:
    if "://" in weights:
        raise ValueError(f"{shown(weights)}: expected the path of a file, since nothing is downloaded for features")
    return weights


class FeaturesConfig(Strict):
    """A pretrained backbone, in a file that is there, and the images that it gets."""

    network: Annotated[TorchvisionConfig | TimmConfig, Field(discriminator="name")]
    weights: Annotated[str, Field(min_length=1), AfterValidator(a_path)]
    size: Pixels | None = None  # pixels a side that packed images are scaled to; null: as they are
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def names_a_backbone_alone(self) -> FeaturesConfig:
        if surplus := self.network.model_fields_set - {"name", "model", "replace"}:
            raise ValueError(
                f"network.{min(surplus)} is for experiments; expected name and model, and beside network the path of"
                " a file of weights"
            )
        return self
