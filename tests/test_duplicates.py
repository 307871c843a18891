"""Near duplicates: what is found, what is not, and the search against comparing everything with everything."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sklearn
from conftest import Project, failed_in_one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Transpose

from pipeline.checking import alignment, hamming, hashing, properties
from pipeline.checking.duplicates import NEAREST, near_pairs, pair_components
from pipeline.checking.hamming import Index
from pipeline.config.datasets import NearDuplicates
from pipeline.images import decode, stored
from pipeline.images.sources import open_source

PARAMS = NearDuplicates()


def jpeg(photo: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def resized(photo: Image.Image, percent: int) -> Image.Image:
    return photo.resize((photo.width * percent // 100, photo.height * percent // 100), Image.Resampling.BICUBIC)


def cropped(photo: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = photo.size
    return photo.crop((round(width * left), round(height * top), round(width * right), round(height * bottom)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality 30": lambda photo: jpeg(photo, 30),
    "quality 95": lambda photo: jpeg(photo, 95),
    "half": lambda photo: resized(photo, 50),
    "larger": lambda photo: resized(photo, 150),
    "half, quality 30": lambda photo: jpeg(resized(photo, 50), 30),
    "without left": lambda photo: cropped(photo, 0.05, 0, 1, 1),
    "without bottom": lambda photo: cropped(photo, 0, 0, 1, 0.95),
    "center": lambda photo: cropped(photo, 0.025, 0.025, 0.975, 0.975),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned left": lambda photo: photo.transpose(Transpose.ROTATE_90),
    "turned right, smaller": lambda photo: jpeg(resized(photo.transpose(Transpose.ROTATE_270), 75), 60),
    "mirrored crop": lambda photo: ImageOps.mirror(cropped(photo, 0.03, 0.02, 1, 1)),
    "darker": lambda photo: ImageEnhance.Brightness(photo).enhance(0.9),
    "more contrast": lambda photo: ImageEnhance.Contrast(photo).enhance(1.1),
    "gray": lambda photo: photo.convert("L").convert("RGB"),
}
CROPPED = ("without left", "without bottom", "center", "mirrored crop")
LOOK_ALIKES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "left half": lambda photo: cropped(photo, 0, 0, 0.5, 1),
    "right half": lambda photo: cropped(photo, 0.5, 0, 1, 1),
    "zoomed in": lambda photo: cropped(photo, 0.15, 0.15, 0.85, 0.85),
}


@pytest.fixture(scope="session")
def regions() -> list[Image.Image]:
    """Regions of two photos that do not overlap and show something."""
    photos = [
        Image.open(Path(sklearn.__file__).parent / "datasets/images" / name) for name in ("china.jpg", "flower.jpg")
    ]
    every = [
        photo.crop((column, row, column + 106, row + 105))
        for photo in photos
        for row in range(0, 420, 105)
        for column in range(0, 636, 106)
    ]
    return [region for region in every if np.asarray(region).std((0, 1)).max() > 30]


def fingerprints(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack(
        [hashing.fingerprint(properties.reduced(np.asarray(picture.convert("RGB")))) for picture in pictures]
    )


def recall_and_precision(photos: list[Image.Image]) -> tuple[dict[str, float], float]:
    """Of each kind of copy the part found beside the photos, and the part of all pairs that are copies."""
    plain = fingerprints(photos)
    copies = {name: fingerprints([change(photo) for photo in photos]) for name, change in COPIES.items()}
    recall = {}
    for name, changed in copies.items():
        found = {tuple(pair) for pair in near_pairs(np.concatenate([plain, changed]), PARAMS).tolist()}
        recall[name] = sum((n, n + len(photos)) in found for n in range(len(photos))) / len(photos)
    others = [fingerprints([change(photo) for photo in photos]) for change in LOOK_ALIKES.values()]
    pairs = near_pairs(np.concatenate([plain, *copies.values(), *others]), PARAMS)
    version, photo = np.divmod(pairs, len(photos))
    right = (photo[:, 0] == photo[:, 1]) & (version <= len(COPIES)).all(1)
    return recall, float(right.mean())


def test_copies_are_found_and_look_alikes_are_not(regions: list[Image.Image]) -> None:
    recall, precision = recall_and_precision(regions)
    assert {name: part for name, part in recall.items() if part < (0.85 if name in CROPPED else 0.95)} == {}
    assert precision >= 0.99


def test_copies_of_real_photos(data_mirror: Path) -> None:
    photos = []
    for item, content in open_source(data_mirror / "cats-dogs/cats-dogs-sample.zip").read():
        if item.path.endswith("7.jpg"):
            photos.append(decode.upright(decode.decode(stored.read(content), item.path).image, channels=3))
    recall, precision = recall_and_precision(photos[:100])
    assert {name: part for name, part in recall.items() if part < 0.95} == {}
    assert precision >= 0.99


def test_order_does_not_matter(regions: list[Image.Image]) -> None:
    pictures = fingerprints(regions + [COPIES["mirrored crop"](region) for region in regions])
    order = np.random.default_rng(0).permutation(len(pictures))
    pairs = near_pairs(pictures, PARAMS)
    assert len(pairs) >= 0.9 * len(regions)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    shuffled = np.sort(order[near_pairs(pictures[order], PARAMS)], axis=1)
    assert sorted(shuffled.tolist()) == sorted(pairs.tolist())


def test_a_stricter_distance_or_difference_finds_fewer(regions: list[Image.Image]) -> None:
    pictures = fingerprints(regions + [COPIES["half, quality 30"](region) for region in regions])
    found = len(near_pairs(pictures, PARAMS))
    assert len(near_pairs(pictures, NearDuplicates(distance=0))) < found
    assert len(near_pairs(pictures, NearDuplicates(difference=0.1))) < found


def test_pictures_of_nothing_resemble_nothing(regions: list[Image.Image]) -> None:
    gray = np.arange(1500, dtype=np.uint8)[:, None, None]
    noise = np.random.default_rng(0).integers(0, 2, (1500, hashing.SIDE, hashing.SIDE), dtype=np.uint8)
    blank = np.broadcast_to(gray, noise.shape)
    photo = fingerprints([regions[0], COPIES["half"](regions[0])])
    pairs = near_pairs(np.concatenate([blank, blank // 2 + noise, photo]), PARAMS)
    assert pairs.tolist() == [[3000, 3001]]


def test_pairs_are_found_among_any_number_of_others(regions: list[Image.Image]) -> None:
    pictures = fingerprints(regions + [COPIES["center"](region) for region in regions])
    others = np.random.default_rng(0).integers(0, 256, (4 * NEAREST, *pictures.shape[1:]), dtype=np.uint8)
    pairs = near_pairs(pictures, PARAMS)
    assert (near_pairs(np.concatenate([others, pictures]), PARAMS) - len(others)).tolist() == pairs.tolist()


def test_a_crowd_of_one_picture_is_one_group(regions: list[Image.Image]) -> None:
    """More than are ever compared with each: they are connected all the same."""
    count = 4 * NEAREST
    one = fingerprints(regions[:1])[0]
    noise = np.random.default_rng(0).integers(-1, 2, (count, *one.shape))
    crowd = (one.astype(int) + noise).clip(0, 255).astype(np.uint8)
    pairs = near_pairs(np.concatenate([crowd, fingerprints(regions[1:])]), PARAMS)
    assert len(pairs) < 2 * NEAREST * count
    group = pair_components(count + len(regions) - 1, pairs)
    assert (group[:count] == 0).all()
    assert (group[count:] != 0).all()


def test_a_memory_map_is_as_good_as_an_array(regions: list[Image.Image], tmp_path: Path) -> None:
    pictures = fingerprints(regions + [COPIES["half"](region) for region in regions])
    pictures.tofile(tmp_path / "fingerprints")
    mapped = np.memmap(tmp_path / "fingerprints", np.uint8, "r", shape=pictures.shape)
    assert near_pairs(mapped, PARAMS).tolist() == near_pairs(pictures, PARAMS).tolist()


@pytest.mark.parametrize("count", [0, 1])
def test_few_pictures_have_no_pairs(count: int) -> None:
    assert near_pairs(np.zeros((count, hashing.SIDE, hashing.SIDE), np.uint8), PARAMS).shape == (0, 2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), radius=st.integers(0, 8), noise=st.floats(0, 0.5))
def test_search_finds_what_comparing_everything_finds(seed: int, radius: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    spectra = random.standard_normal((80, 9, 9))
    spectra[40:] = spectra[:40] + noise * random.standard_normal((40, 9, 9))
    spectra[60:] = spectra[60:].swapaxes(1, 2)
    spectra[50:70] *= (-1) ** np.arange(9)
    spectra[:2] += spectra[:2].swapaxes(1, 2)  # equal to their transposed
    spectra[2] = 0
    hashes = hashing.orientations(spectra)
    distance = np.min([np.bitwise_count(turned[:, None] ^ hashes[0]) for turned in hashes], axis=0)
    expected = {(q, e, distance[q, e]) for q, e in np.argwhere(distance <= radius).tolist()}
    nearest: dict[tuple[int, int], int] = {}
    for stretch in Index(hashes, radius).within(hashes):
        for query, entry, bits in zip(*(part.tolist() for part in stretch), strict=True):
            nearest[query, entry] = min(bits, nearest.get((query, entry), 64))
    assert {(*two, bits) for two, bits in nearest.items()} == expected


def test_search_takes_huge_buckets_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "AT_ONCE", 1000)
    spectra = np.repeat(np.random.default_rng(0).standard_normal((1, 9, 9)), 700, axis=0)
    hashes = hashing.orientations(spectra)
    sizes = [len(query) for query, _, _ in Index(hashes, 2).within(hashes)]
    assert max(sizes) <= 1000
    assert sum(sizes) >= 700 * 700


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_turning_a_picture_moves_the_bits_of_its_hash(seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (hashing.SIDE, hashing.SIDE), dtype=np.uint8)
    hashes = hashing.orientations(hashing.spectra(picture))
    for turn in range(8):
        turned = picture.T if turn & 4 else picture
        turned = turned[::-1] if turn & 2 else turned
        turned = turned[:, ::-1] if turn & 1 else turned
        assert hashing.phash(turned) == f"{int(hashes[turn]):016x}"
        assert (alignment.turned_back(turned[None], np.array([turn]))[0] == picture).all()


def test_pixel_hash_is_of_pixels_and_size() -> None:
    photo = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert hashing.pixel_hash(photo) == hashing.pixel_hash(photo.copy())
    assert len(hashing.pixel_hash(photo)) == 32
    assert len({hashing.pixel_hash(picture) for picture in (photo, photo.reshape(4, 3, 3), photo + 1)}) == 3


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_components_are_numbered_by_first_appearance(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = graph
    group = pair_components(count, np.array(edges, np.int64).reshape(-1, 2))
    expected = list(range(count))
    for one, other in edges * count:
        expected[one] = expected[other] = min(expected[one], expected[other])
    numbers = {first: number for number, first in enumerate(dict.fromkeys(expected))}
    assert group.tolist() == [numbers[first] for first in expected]
    assert group.dtype == np.int32


@pytest.mark.parametrize("wrong", [{"distance": 9}, {"difference": 0}, {"similarity": 1}, True])
def test_senseless_parameters(project: Project, wrong: object) -> None:
    project.dataset("photos", "photos", near_duplicates=wrong)
    failed_in_one_line(project.run("check", "photos"), "datasets.photos.check.near_duplicates")


@given(st.integers(1, 255), st.integers(1, 255), st.integers(0, 2**32 - 1))
def test_hashes_are_those_of_exact_arithmetic(height: int, width: int, seed: int) -> None:
    """Whole numbers know no rounding, so no processor adds them up to something else."""
    random = np.random.default_rng(seed)
    gray = random.uniform(0, 255, (height, width)).astype(np.float32)
    levels = np.rint(gray * 8).astype(np.int64)
    rows, columns = ((hashing.resampling(side) * 2**13).astype(np.int64) for side in (height, width))
    exact = np.rint((rows @ levels @ columns.T) / 2**29)
    assert np.array_equal(hashing.fingerprint(gray), exact)

    pattern = random.integers(0, 256, (hashing.SIDE, hashing.SIDE), dtype=np.uint8)
    pattern[:, hashing.SIDE // 2 :] = pattern[:, : hashing.SIDE // 2][:, ::-1]  # half of its frequencies are zero
    cosines = (hashing.COSINES * 2**12).astype(np.int64)
    assert np.array_equal(hashing.spectra(pattern) > 0, cosines @ pattern.astype(np.int64) @ cosines.T > 0)
