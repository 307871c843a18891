"""What a config may say about augmentation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.config.fields import Strict, shown


def as_pair(limits: Any) -> Any:
    if not isinstance(limits, list | tuple) or len(limits) != 2:
        raise ValueError(f"{shown(limits)}: expected [smallest, largest]")
    return tuple(limits)


def smallest_first(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"[{limits[0]:g}, {limits[1]:g}]: expected [smallest, largest]")
    return limits


Probability = Annotated[float, Field(ge=0, le=1)]
RelativeChange = Annotated[float, Field(ge=0, le=100)]  # 0.4 is from 0.6 to 1.4 times
Area = Annotated[float, Field(gt=0, le=1)]  # fraction of the image
Zoom = Annotated[float, Field(ge=0.01, le=100)]
Limits = (BeforeValidator(as_pair), AfterValidator(smallest_first))  # of a tuple: it can be hashed, YAML's list can't


class RandomErasing(Strict):
    """Random erasing: a black rectangle at a random place."""

    probability: Probability = 0.5
    area: Annotated[tuple[Area, Area], *Limits] = (0.02, 0.33)  # uniform between


class RandAugment(Strict):
    """So many random operations, one after another, each as strong as `magnitude` says."""

    operations: Annotated[int, Field(gt=0, le=14)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class Augment(Strict):
    """Random changes to training images, drawn anew for every image and epoch. Amounts are uniform in their range."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, ± this
    interpolation: Literal["nearest", "bilinear"] = "bilinear"  # where pixels of a moved image are between others
    horizontal_flip: Probability | Literal["alternating"] = 0.0  # alternating: in every other epoch
    vertical_flip: Probability = 0.0
    translate: Annotated[float, Field(ge=0, le=1)] = 0.0  # ± this fraction of the side
    scale: Annotated[tuple[Zoom, Zoom], *Limits] = (1.0, 1.0)
    crop_padding: Annotated[int, Field(ge=0, le=8192)] = 0  # pixels, by reflection, before a crop of the old size
    brightness: RelativeChange = 0.0
    contrast: RelativeChange = 0.0
    saturation: RelativeChange = 0.0
    random_erasing: RandomErasing | None = None
    randaugment: RandAugment | None = None
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0  # alpha of the Beta distribution of shares; 0: no mixing
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
