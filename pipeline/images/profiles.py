"""Embedded color profiles (ICC): whether they say something else than sRGB, and conversion to sRGB.

PNG's gAMA, cHRM and cICP and the numbers by which AVIF and HEIC may tell their colors (nclx) are not looked at.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipeline.images.formats import DAMAGED_METADATA

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # color spaces of profiles, and the modes of their pixels
GRAY = ("1", "L", "LA")
STEPS = 6  # shades of each channel by which a profile is compared with sRGB
TOLERANCE = 5  # of 255: how far these may be from sRGB's. With its primaries and gamma 2.2, none is further


def issues(image: Image.Image) -> list[str]:
    """The issue code for an embedded profile that is not sRGB, or can't be used."""
    if "icc_profile" not in image.info:
        return []
    profile = image.info["icc_profile"]
    mode = mode_for(profile, image.mode)
    if mode is None:
        return [DAMAGED_METADATA]
    return [] if is_srgb(profile, mode) else ["color_profile"]


def to_srgb(image: Image.Image) -> Image.Image:
    """The image in the colors of sRGB, RGB or RGBA, if it has a profile that says otherwise; else as it is."""
    profile = image.info.get("icc_profile")
    mode = mode_for(profile, image.mode)
    if mode is None or is_srgb(profile, mode):
        return image
    converted = transform(profile, mode).apply(image.convert(mode))
    if image.has_transparency_data:
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    converted.info = {key: value for key, value in image.info.items() if key not in ("icc_profile", "transparency")}
    return converted


def mode_for(profile: object, mode: str) -> str | None:
    """The mode in which the profile converts pixels of a mode; None for one that is damaged or of other colors."""
    if not isinstance(profile, bytes):  # Pillow could not put it together
        return None
    own = mode_of(profile)
    fits = own == "RGB" if mode not in (*GRAY, "CMYK") else own in ("RGB", "L") if mode in GRAY else own == "CMYK"
    return own if fits else None


@lru_cache(maxsize=64)
def mode_of(profile: bytes) -> str | None:
    """The mode of the pixels that a profile is for; None for one that is damaged or of rare colors."""
    from PIL import ImageCms

    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
        mode = SPACES.get(space)
        if mode is not None:
            transform(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return mode


@lru_cache(maxsize=64)
def transform(profile: bytes, mode: str) -> ImageCmsTransform:
    """From a profile to sRGB: relative colorimetric with black point compensation, as photo editors convert."""
    from PIL import ImageCms

    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


@lru_cache(maxsize=64)
def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether colors mean the same with a profile as with sRGB, whatever it is called."""
    if mode == "CMYK":
        return False
    shades = np.linspace(0, 255, STEPS).astype(np.uint8)
    colors = np.stack(np.meshgrid(shades, shades, shades), -1).reshape(STEPS, -1, 3)
    image = Image.fromarray(colors) if mode == "RGB" else Image.fromarray(shades[None])
    difference = np.asarray(transform(profile, mode).apply(image), np.int16) - np.asarray(image.convert("RGB"))
    return bool(np.abs(difference).max() <= TOLERANCE)
