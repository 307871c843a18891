"""Augmentation: every change against torchvision with the parameters drawn, these against their distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as torchvision

from pipeline.config.augmentation import Augment
from pipeline.dataset.augmentation import augment, draw, mix, named
from pipeline.dataset.augmentation.randaugment import Operation

EVERYTHING = {
    "rotation": 20.0,
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "translate": 0.1,
    "scale": [0.8, 1.2],
    "crop_padding": 4,
    "brightness": 0.4,
    "saturation": 0.4,
    "random_erasing": {"probability": 0.5},
    "randaugment": {},
    "mixup": 0.2,
    "cutmix": 1.0,
}


def config(**keys: Any) -> Augment:
    return Augment.model_validate(keys)


def drawn(count: int = 10_000, seed: int = 3, **keys: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """A table of draws, and its columns by name."""
    draws = draw(config(**keys), count, seed, epoch=1)
    assert draws.shape[0] == count and draws.dtype == torch.float32
    return draws, named(draws, config(**keys))


def changed(images: Tensor, seed: int = 3, **keys: Any) -> Tensor:
    return augment(images.clone(), config(**keys), drawn(len(images), seed, **keys)[0])


def scene(height: int, width: int) -> Tensor:
    """One smooth image (1, 3, H, W) in [0, 255] without any symmetry."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = [torch.sin(5 * x + 2 * y), torch.cos(3 * x - 4 * y), torch.sin(2 * x * y + 6 * y)]
    return (127.5 + 127.5 * torch.stack(waves)).unsqueeze(0)


def noise(count: int, height: int = 9, width: int = 7, channels: int = 3) -> Tensor:
    draw = Generator().manual_seed(5)
    return torch.randint(0, 256, (count, channels, height, width), generator=draw).float()


# --- An image depends on its own draws, and these on the seed --------------------------------------------------------


def test_nothing_to_change_draws_nothing_and_changes_nothing() -> None:
    images = noise(5)
    draws, columns = drawn(5)
    assert draws.shape == (5, 0) and columns == {}
    assert augment(images.clone(), config(), draws).equal(images)
    mixed, own = mix(images, images.flip(0), config(), draws)
    assert mixed.equal(images) and own.equal(torch.ones(5))


def test_draws_are_those_of_seed_and_epoch_alone() -> None:
    before = torch.get_rng_state()
    assert drawn(50, seed=1, **EVERYTHING)[0].equal(drawn(50, seed=1, **EVERYTHING)[0])
    assert not drawn(50, seed=1, **EVERYTHING)[0].equal(drawn(50, seed=2, **EVERYTHING)[0])
    again, other = (draw(config(**EVERYTHING), 50, 1, epoch) for epoch in (1, 2))
    assert again.equal(drawn(50, seed=1, **EVERYTHING)[0]) and not again.equal(other)
    assert torch.get_rng_state().equal(before)


def test_a_seed_goes_on_drawing_what_it_drew() -> None:
    """Published results depend on it: another order of the draws is another training."""
    columns = drawn(1000, **EVERYTHING, contrast=0.3)[1]
    expected = {
        "map": [-0.0385, -0.0004, 0.0014, -0.0016, 0.0032, -0.0208, -0.0001, 0.0002],
        "operations": [6.376, 0.074, 6.387, -0.026],
        "offsets": [-0.124, 0.136],
        "brightness": [1.0037],
        "contrast": [0.9952],
        "saturation": [0.9943],
        "random_erasing": [0.2219, 0.2229, 0.5093, 0.5050],
        "mixup": [0.7484],
        "cutmix": [0.7545, 0.4991, 0.4952],
    }
    assert {name: column.mean(0).tolist() for name, column in columns.items()} == {
        name: pytest.approx(means, abs=1e-4) for name, means in expected.items()
    }
    columns = drawn(1000, crop_padding=3, horizontal_flip=0.4)[1]
    assert columns["flips"].mean(0).tolist() == pytest.approx([0.423, 0], abs=1e-4)
    assert columns["offsets"].mean(0).tolist() == pytest.approx([0.02, 0.03], abs=1e-4)


@pytest.mark.parametrize(
    ("keys", "tolerance"),
    [
        (EVERYTHING, 0.0),
        ({**EVERYTHING, "randaugment": {"operations": 3, "magnitude": 30}}, 0.0),
        ({"horizontal_flip": 0.5, "crop_padding": 3}, 0.0),
        ({**EVERYTHING, "randaugment": None, "contrast": 0.4}, 1e-3),  # the mean of an image: sums in another order
    ],
    ids=["everything", "strong", "copies", "contrast"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_does_not_depend_on_its_batch(keys: dict[str, Any], tolerance: float, channels: int) -> None:
    images, (draws, _) = noise(8, 17, 23, channels), drawn(8, **keys)
    partners = images.flip(0)

    def both(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        mixed, own = mix(images[rows], partners[rows], config(**keys), draws[rows])
        return augment(images[rows].clone(), config(**keys), draws[rows]), mixed, own

    together, alone = both(slice(0, 8)), [both(slice(row, row + 1)) for row in range(8)]
    for whole, singles in zip(together, zip(*alone, strict=True), strict=True):
        assert (whole - torch.cat(singles)).abs().max() <= tolerance
    assert not together[0].equal(images)


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_read_from_the_device(channels: int) -> None:
    images, draws = noise(8, channels=channels).to("meta"), drawn(8, **EVERYTHING, contrast=0.4)[0].to("meta")
    assert augment(images, config(**EVERYTHING, contrast=0.4), draws).shape == images.shape  # meta has no values
    mixed, own = mix(images, images, config(**EVERYTHING, contrast=0.4), draws)
    assert mixed.shape == images.shape and own.shape == (8,)


@settings(deadline=None, max_examples=60)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "rotation": st.floats(0, 180),
            "horizontal_flip": st.floats(0, 1),
            "vertical_flip": st.floats(0, 1),
            "translate": st.floats(0, 1),
            "scale": st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(sorted),
            "crop_padding": st.integers(0, 8192),
            "brightness": st.floats(0, 100),
            "contrast": st.floats(0, 100),
            "saturation": st.floats(0, 100),
            "random_erasing": st.fixed_dictionaries({"probability": st.floats(0, 1)}),
            "randaugment": st.fixed_dictionaries({"operations": st.integers(1, 14), "magnitude": st.integers(0, 30)}),
            "mixup": st.floats(0, 100),
            "cutmix": st.floats(0, 100),
        },
    ),
    st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)),
)
def test_every_augmentation_keeps_shape_and_range(keys: dict[str, Any], shape: tuple[int, ...]) -> None:
    images = torch.rand(shape) * 255
    draws, _ = drawn(shape[0], **keys)
    result = augment(images.clone(), config(**keys), draws)
    mixed, own = mix(result, images, config(**keys), draws)
    for each in (result, mixed):
        assert each.shape == shape and each.dtype == torch.float32
        assert each.min() >= 0 and each.max() < 255.01  # NaN would fail
    assert own.shape == shape[:1] and own.min() >= 0 and own.max() <= 1


# --- Copies of pixels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_flip_is_exact(key: str, axis: int) -> None:
    images = noise(64)
    assert changed(images, **{key: 1}).equal(images.flip(axis + 1))
    some = changed(images, **{key: 0.5})
    flipped = [one.equal(before.flip(axis)) for one, before in zip(some, images, strict=True)]
    kept = [one.equal(before) for one, before in zip(some, images, strict=True)]
    assert [a != b for a, b in zip(flipped, kept, strict=True)] == [True] * 64
    assert 20 < sum(flipped) < 44


@pytest.mark.parametrize("more", [{}, {"rotation": 1e-6}], ids=["copied", "mapped"])
def test_alternating_flips_show_both_sides_of_an_image_in_turn(more: dict[str, float]) -> None:
    images, described = noise(64), config(horizontal_flip="alternating", **more)
    shown = [augment(images.clone(), described, draw(described, 64, 3, epoch)).round() for epoch in (1, 2, 3, 4)]
    assert shown[0].equal(shown[2]) and shown[1].equal(shown[3]) and shown[0].equal(shown[1].flip(3))
    flipped = [one.equal(before.flip(2)) for one, before in zip(shown[0], images, strict=True)]
    kept = [one.equal(before) for one, before in zip(shown[0], images, strict=True)]
    assert [a != b for a, b in zip(flipped, kept, strict=True)] == [True] * 64
    assert 20 < sum(flipped) < 44
    assert not draw(described, 64, 3, 1).equal(draw(described, 64, 4, 1))


@pytest.mark.parametrize("padding", [1, 4])
def test_crop_is_a_window_of_the_image_padded_by_reflection(padding: int) -> None:
    images, keys = noise(300), {"crop_padding": padding, "horizontal_flip": 0.3, "vertical_flip": 0.3}
    results, padded = changed(images, **keys), F.pad(images, [padding] * 4, mode="reflect")
    seen = set()
    columns = drawn(300, **keys)[1]
    rows = torch.cat([columns["offsets"], columns["flips"]], dim=1).int().tolist()
    for result, image, row in zip(results, padded, rows, strict=True):
        across, down, mirrored, upside_down = row
        cut = image[:, padding + down :, padding + across :][:, :9, :7]
        assert result.equal(cut.flip([axis for axis, flip in ((1, upside_down), (2, mirrored)) if flip]))
        seen.add((across, down))
    places = range(-padding, padding + 1)
    assert {across for across, _ in seen} == {down for _, down in seen} == set(places)


# --- Affine maps -----------------------------------------------------------------------------------------------------


def test_flip_comes_after_rotation() -> None:
    images = scene(40, 30).repeat(6, 1, 1, 1)
    rotated = changed(images, rotation=40)
    assert torch.allclose(changed(images, rotation=40, horizontal_flip=1), rotated.flip(3), atol=0.01)
    assert torch.allclose(changed(images, rotation=40, vertical_flip=1), rotated.flip(2), atol=0.01)
    assert torch.allclose(changed(images, rotation=1e-9), images, atol=0.01)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (60, 32), (31, 64)])
def test_affine_map_is_torchvisions_and_pillows(height: int, width: int) -> None:
    image = scene(height, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 2 - 2) ** 2
    for keys in ({"rotation": 30}, {"rotation": 180, "scale": [0.7, 1.5], "translate": 0.2}):
        maps = drawn(6, **keys)[1]["map"].view(-1, 2, 4)
        for result, linear, constant in zip(
            changed(image.repeat(6, 1, 1, 1), **keys), maps[..., :2], maps[..., 2:], strict=True
        ):
            angle = torch.atan2(linear[1, 0], linear[0, 0]).rad2deg().item()
            zoom = linear.det().rsqrt().item()
            shift = -torch.linalg.solve(linear, constant).diag() * torch.tensor([width, height])
            expected = torchvision.affine(
                image, -angle, shift.tolist(), zoom, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR
            )[0]
            assert (result - expected).abs().max() < 0.05  # to the corners and the edges
            if "scale" not in keys:
                pixels = image[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
                by_pillow = np.array(Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR))
                difference = (result.permute(1, 2, 0) - torch.tensor(by_pillow).float()).abs()
                assert difference[inside].max() < 3  # Pillow counts in integers


def test_nearest_takes_the_pixels_that_torchvision_takes() -> None:
    images = noise(6, 40, 40)
    turned = changed(images, rotation=10, interpolation="nearest")
    for result, image, places in zip(turned, images, drawn(6, rotation=10)[1]["map"].view(-1, 2, 4), strict=True):
        angle = torch.atan2(places[1, 0], places[0, 0]).rad2deg().item()
        expected = torchvision.rotate(image, angle, InterpolationMode.NEAREST)
        assert (result == expected).float().mean() > 0.999  # but for places just between two
    assert (turned == images).float().mean() < 0.9


def test_every_image_is_turned_by_its_own_angle_within_the_range() -> None:
    height, width, limit = 64, 40, 25
    image = torch.zeros(1, 1, height, width)
    image[..., 4:10, 18:22] = 255  # a mark above the center
    turned = changed(image.repeat(200, 1, 1, 1), rotation=limit)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    weight = turned[:, 0].sum((1, 2))
    right = (turned[:, 0] * x).sum((1, 2)) / weight - width / 2
    up = height / 2 - (turned[:, 0] * y).sum((1, 2)) / weight
    angles = torch.atan2(right, up).rad2deg()
    assert angles.abs().max() < limit + 1
    assert angles.min() < -0.9 * limit and angles.max() > 0.9 * limit
    assert len(angles.round(decimals=3).unique()) > 190
    assert (right**2 + up**2).sqrt().sub(25).abs().max() < 0.5  # turned, not sheared: this is not a square image


def test_what_was_outside_is_black() -> None:
    turned = changed(torch.full((20, 3, 32, 32), 200.0), rotation=180)
    corners = turned[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners < 1).all(-1).sum() > 20
    assert turned[..., 16, 16].allclose(torch.tensor(200.0))


# --- Colors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "adjust"),
    [
        ("brightness", torchvision.adjust_brightness),
        ("contrast", torchvision.adjust_contrast),
        ("saturation", torchvision.adjust_saturation),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions(key: str, adjust: Callable[[Tensor, float], Tensor], channels: int) -> None:
    images, factors = noise(20, channels=channels), drawn(20, **{key: 0.8})[1][key]
    for result, image, factor in zip(changed(images, **{key: 0.8}), images, factors[:, 0].tolist(), strict=True):
        assert torch.allclose(result, 255 * adjust(image / 255, factor), atol=0.01)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_of_randaugment_is_torchvisions(magnitude: int, channels: int) -> None:
    height, width, strength, bilinear = 40, 32, magnitude / 30, InterpolationMode.BILINEAR
    image = (scene(height, width)[:, :channels] * 0.8 + 20).round()  # not all levels: contrast to gain
    keys: dict[str, Any] = {"randaugment": {"operations": 1, "magnitude": magnitude}}
    results = changed(image.repeat(300, 1, 1, 1), **keys)
    as_bytes = image[0].to(torch.uint8)

    def affine(translate: list[float], shear: list[float]) -> Tensor:
        center = [0.0, 0.0] if any(shear) else None
        return torchvision.affine(
            image, 0.0, translate, 1.0, shear, interpolation=bilinear, center=center
        )[0]  # fmt: skip

    def expected(operation: Operation, sign: float) -> Tensor:
        factor, tangent = 1 + 0.9 * strength * sign, torch.tensor(0.3 * strength * sign).atan().rad2deg().item()
        match operation:
            case Operation.SHEAR_X:
                return affine([0, 0], [tangent, 0.0])
            case Operation.SHEAR_Y:
                return affine([0, 0], [0.0, tangent])
            case Operation.TRANSLATE_X:
                return affine([-150 / 331 * width * strength * sign, 0], [0.0, 0.0])
            case Operation.TRANSLATE_Y:
                return affine([0, -150 / 331 * height * strength * sign], [0.0, 0.0])
            case Operation.ROTATE:
                return torchvision.rotate(image, 30 * strength * sign, bilinear)[0]
            case Operation.BRIGHTNESS:
                return 255 * torchvision.adjust_brightness(image[0] / 255, factor)
            case Operation.COLOR:
                return 255 * torchvision.adjust_saturation(image[0] / 255, factor)
            case Operation.CONTRAST:
                return 255 * torchvision.adjust_contrast(image[0] / 255, factor)
            case Operation.SHARPNESS:
                return 255 * torchvision.adjust_sharpness(image[0] / 255, factor)
            case Operation.POSTERIZE:
                return torchvision.posterize(as_bytes, 8 - round(4 * strength))
            case Operation.SOLARIZE:
                return torchvision.solarize(as_bytes, 255 * (1 - strength))
            case Operation.AUTO_CONTRAST:
                return 255 * torchvision.autocontrast(image[0] / 255)
            case Operation.EQUALIZE:
                return torchvision.equalize(as_bytes)
        return image[0]

    seen = set()
    for result, (number, sign) in zip(results, drawn(300, **keys)[1]["operations"].tolist(), strict=True):
        operation = Operation(int(number))
        difference = (result - expected(operation, sign).float()).abs()
        moves = operation in range(Operation.SHEAR_X, Operation.BRIGHTNESS)
        assert difference.max() < (0.55 if moves else 0.01), operation  # what was moved is rounded to whole levels
        seen.add((operation, sign))
    assert len(seen) == 2 * len(Operation)


def test_operations_of_randaugment_follow_one_another() -> None:
    """Two rounds with one operation each are what one round does twice."""
    image, keys = scene(24, 24).round(), {"randaugment": {"operations": 2, "magnitude": 12}}
    draws, columns = drawn(200, **keys)
    results = augment(image.repeat(200, 1, 1, 1), config(**keys), draws)
    once = {"randaugment": {"operations": 1, "magnitude": 12}}
    single, names = drawn(500, **once)
    row_of = {tuple(drawn): row for drawn, row in zip(names["operations"].tolist(), single, strict=True)}
    for result, drawn_twice in zip(results, columns["operations"].tolist(), strict=True):
        first, second = tuple(drawn_twice[:2]), tuple(drawn_twice[2:])
        if second[0] >= Operation.BRIGHTNESS:  # else what moves pixels would come first, by design
            expected = augment(image.clone(), config(**once), row_of[first][None])
            expected = augment(expected, config(**once), row_of[second][None])
            assert torch.allclose(result, expected[0], atol=0.01)


# --- Erasing and mixing ----------------------------------------------------------------------------------------------


def test_erased_is_a_black_rectangle_of_the_area_that_was_asked_for() -> None:
    images = torch.full((400, 3, 60, 50), 9.0)
    keys = {"random_erasing": {"probability": 0.4, "area": [0.1, 0.2]}}
    erased = changed(images, **keys) == 0
    fractions = []
    for each in erased:
        assert each[0].equal(each[1]) and each[0].equal(each[2])
        down, across = each[0].any(1), each[0].any(0)
        assert each[0].equal(down[:, None] & across)
        assert down.int().diff().abs().sum() <= 2 and across.int().diff().abs().sum() <= 2  # without gaps
        fractions.append(each[0].float().mean().item())
    areas = [fraction for fraction in fractions if fraction]
    assert 120 < len(areas) < 200
    assert 0.09 < min(areas) < 0.11 and 0.19 < max(areas) < 0.21
    reached = erased[:, 0].any(0)
    assert reached[10:50, 10:40].all() and reached[[0, -1]].any(1).all() and reached[:, [0, -1]].any(0).all()


def test_mixup_is_a_weighted_mean() -> None:
    images, partners = noise(50), noise(50).flip(0)
    draws, columns = drawn(50, mixup=1.0)
    mixed, own = mix(images, partners, config(mixup=1.0), draws)
    assert own.equal(columns["mixup"][:, 0])
    weight = own.view(-1, 1, 1, 1)
    assert torch.allclose(mixed, weight * images + (1 - weight) * partners, atol=1e-3)


def test_cutmix_takes_a_rectangle_from_the_partner() -> None:
    images, partners = torch.zeros(300, 3, 20, 30), torch.ones(300, 3, 20, 30)
    draws, columns = drawn(300, cutmix=1.0)
    mixed, own = mix(images, partners, config(cutmix=1.0), draws)
    assert torch.allclose(1 - mixed.mean((1, 2, 3)), own, atol=1e-6)  # the share that is left, to the pixel
    wanted = columns["cutmix"][:, 0]
    assert (own >= wanted - 1e-6).all()  # never more than was drawn: a part may lie outside
    for each in mixed:
        assert each[0].bool().equal(each[0].any(1)[:, None] & each[0].any(0))
    middle = mixed[:, 0, 10, 15].mean()
    assert middle > mixed[:, 0, 0, 0].mean() > 0  # centers are uniform, so corners are taken less often


def test_of_mixup_and_cutmix_each_image_gets_one() -> None:
    images, partners = torch.zeros(400, 1, 20, 30), torch.ones(400, 1, 20, 30)
    draws, columns = drawn(400, mixup=1.0, cutmix=1.0)
    mixed, own = mix(images, partners, config(mixup=1.0, cutmix=1.0), draws)
    assert torch.allclose(1 - mixed.mean((1, 2, 3)), own, atol=1e-5)
    is_cut, is_mixed = columns["mixup"][:, 0] == 1, columns["cutmix"][:, 0] == 1
    assert (is_cut ^ is_mixed).all() and 150 < is_cut.sum() < 250
    assert ((mixed == 0) | (mixed == 1))[is_cut].all()
    assert (mixed.amax((1, 2, 3)) == mixed.amin((1, 2, 3)))[is_mixed].all()


# --- Distributions ---------------------------------------------------------------------------------------------------


def follows(values: Tensor, cdf: Callable[[Any], Any]) -> bool:
    return bool(scipy.stats.kstest(values.double().numpy(), cdf).pvalue > 0.01)


def between(low: float, high: float) -> Callable[[Any], Any]:
    return scipy.stats.uniform(low, high - low).cdf


def test_maps_are_drawn_uniformly() -> None:
    maps = drawn(rotation=10, scale=[0.8, 1.3], translate=0.2, horizontal_flip=0.25)[1]["map"].view(-1, 2, 4)
    flipped = maps[..., :2].det() < 0
    assert abs(flipped.float().mean() - 0.25) < 0.015
    maps = maps[~flipped]
    assert follows(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]).rad2deg(), between(-10, 10))
    assert follows(maps[..., :2].det().rsqrt(), between(0.8, 1.3))
    shifts = torch.linalg.solve(maps[..., :2], maps[..., 2:])
    assert follows(shifts[:, 0, 0], between(-0.2, 0.2)) and follows(shifts[:, 1, 1], between(-0.2, 0.2))


def test_crops_and_flips_are_drawn_uniformly() -> None:
    columns = drawn(crop_padding=4, horizontal_flip=0.3, vertical_flip=0.1)[1]
    for offsets in columns["offsets"].unbind(1):
        assert scipy.stats.chisquare(torch.bincount(offsets.long() + 4, minlength=9)).pvalue > 0.01
    assert torch.allclose(columns["flips"].mean(0), torch.tensor([0.3, 0.1]), atol=0.015)


def test_factors_are_drawn_uniformly_and_never_below_0() -> None:
    columns = drawn(brightness=0.4, contrast=2.0)[1]
    assert set(columns) == {"brightness", "contrast"}
    assert follows(columns["brightness"][:, 0], between(0.6, 1.4)) and follows(columns["contrast"][:, 0], between(0, 3))


def test_operations_of_randaugment_are_drawn_uniformly() -> None:
    rounds = drawn(randaugment={"operations": 2})[1]["operations"].view(-1, 2, 2)
    pairs = rounds[:, 0, 0] * len(Operation) + rounds[:, 1, 0]  # of a round and the next
    assert scipy.stats.chisquare(torch.bincount(pairs.long(), minlength=len(Operation) ** 2)).pvalue > 0.01
    assert rounds[..., 1].unique().tolist() == [-1, 1] and rounds[..., 1].mean().abs() < 0.03


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_follow_the_beta_distribution(key: str, alpha: float) -> None:
    columns = drawn(**{key: alpha})[1][key]
    shares, cdf = columns[:, 0], scipy.stats.beta(alpha, alpha).cdf
    # half of a symmetric distribution: at the other end, steps of float32 show
    assert follows(shares[shares < 0.5], lambda share: 2 * cdf(share))
    assert abs((shares < 0.5).float().mean() - 0.5) < 0.015
    for position in columns[:, 1:].unbind(1):
        assert follows(position, between(0, 1))


def test_erased_rectangles_follow_their_distribution() -> None:
    sides = drawn(random_erasing={"probability": 0.3, "area": [0.1, 0.4]})[1]["random_erasing"]
    chosen = sides[sides[:, 0] > 0]
    assert abs(len(chosen) / len(sides) - 0.3) < 0.015
    assert follows(chosen[:, 0] * chosen[:, 1], between(0.1, 0.4))
    assert follows((chosen[:, 0] / chosen[:, 1]).log(), between(np.log(0.3), -np.log(0.3)))
