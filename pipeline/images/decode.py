"""Decode images. Whoever looks at an image opens it here, so that all see the same pixels.

An image that is not whole raises ImageError; one that is whole but odd comes with issue codes.
"""

from __future__ import annotations

import io
import posixpath
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Transpose

from pipeline.images import profiles
from pipeline.images.errors import ImageError
from pipeline.images.formats import DAMAGED_METADATA, SUFFIXES, avif, heif, integrity, jpeg, magic, png, tiff
from pipeline.images.formats.integrity import limit_pixels
from pipeline.images.modes import displayable
from pipeline.images.stored import TOO_MUCH, Problem, Read
from pipeline.system import memory
from pipeline.system.memory import MOST_PIXELS

warnings.filterwarnings("ignore", module=r"PIL\.")  # they are about metadata; damaged pixels raise
Image.MAX_IMAGE_PIXELS = None  # limit_pixels checks it

INSPECT = {
    "JPEG": jpeg.inspect, "PNG": png.inspect, "GIF": integrity.gif, "WEBP": integrity.webp, "PPM": integrity.ppm,
    "AVIF": integrity.boxes, "HEIF": integrity.boxes,
}  # fmt: skip
INSPECT_WITH_SIZE = {"BMP": integrity.bmp, "TIFF": tiff.inspect}  # these compare the limit with what the file says
# Pillow's own Image.open knows too few brands of AVIF, no HEIF, and misreads some TIFFs
OPEN = {"AVIF": avif.open_image, "HEIF": heif.open_image, "TIFF": tiff.open_image}
# These decoders stop at damage outside of the pixels, so it is cut out before; others skip it
WITHOUT_DAMAGE = {"JPEG": jpeg.without_damage, "PNG": png.without_damage, "TIFF": tiff.without_damage}
PER_PIXEL = 20  # bytes of memory that a decoder takes at most, measured for all formats
LIBRARY = 64 * 1024**2  # bytes that a decoder's library takes; without it Pillow does not know the format
TOO_LARGE = ("decompressed data too large", "too much memory")  # in messages of Pillow; so are the following
TRUNCATED = ("truncated", "not enough image data", "reached eof", "unexpected end")
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip


class Decoded(NamedTuple):
    """The first frame of an image, with 8 bits a sample: EXIF orientation is not applied."""

    header: Image.Image  # size and EXIF; the pixels too, unless `pixels` has them
    mode: str  # as it is stored
    format: str
    issues: list[str]
    pixels: NDArray[np.uint8] | None = None  # (H, W, 3) uint8, where the decoder gives an array

    @property
    def image(self) -> Image.Image:
        """The image with its pixels."""
        if self.pixels is None:
            return self.header
        image = Image.fromarray(self.pixels)
        image.info = self.header.info
        return image


def decode(content: Read, path: str, max_pixels: float = MOST_PIXELS) -> Decoded:
    """Decode every pixel of one image. Of `path`, only the suffix matters.

    Raises ImageError for anything but a whole image of at most `max_pixels` pixels, and MemoryError where the system
    has too little memory for such an image.
    """
    if isinstance(content, Problem):
        raise ImageError(*content)
    if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
        return Decoded(image, image.mode, "array", [])
    if not content:
        raise ImageError("empty_file", "0 bytes")
    stored_as = magic.image_format(content)
    if stored_as is None:
        raise ImageError(*magic.describe(content))
    needed = LIBRARY
    try:
        found = inspect(stored_as, content, max_pixels)
        if DAMAGED_METADATA in found and stored_as in WITHOUT_DAMAGE:
            content = WITHOUT_DAMAGE[stored_as](content)
        needed = MOST_PIXELS * PER_PIXEL  # until its size is known
        image = open_image(stored_as, content)
        limit_pixels(image.width, image.height, max_pixels)
        needed = image.width * image.height * PER_PIXEL
        pixels = None
        if stored_as == "JPEG":
            loaded, pixels = jpeg.load(content, image)
        elif stored_as == "PNG":
            loaded = png.load(content)
        else:
            image.load()
            loaded = image
        limit_pixels(loaded.width, loaded.height, max_pixels)  # a frame may enlarge the canvas
        shown, clipped = displayable(loaded, stored_as, content)
        issues = [*oddities(loaded, stored_as, path), *found, *clipped, *profiles.issues(shown)]
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything, also where they get no memory
        if not memory.would_give(LIBRARY if isinstance(error, UnidentifiedImageError) else needed):
            raise MemoryError from None
        raise unusable(error) from None
    return Decoded(shown, loaded.mode, image.format or stored_as, list(dict.fromkeys(issues)), pixels)


def inspect(stored_as: str, content: bytes, max_pixels: float) -> list[str]:
    """Issue codes of a file. Raises ImageError where a part of it is damaged or missing."""
    if stored_as in INSPECT_WITH_SIZE:
        return INSPECT_WITH_SIZE[stored_as](content, max_pixels)
    return INSPECT[stored_as](content)


def open_image(stored_as: str, content: bytes) -> Image.Image:
    """The image with its size and mode, not yet decoded. Raises what its decoder raises."""
    if stored_as not in OPEN:
        return Image.open(io.BytesIO(content), formats=[stored_as])
    try:
        return OPEN[stored_as](content)
    except SyntaxError as error:
        raise UnidentifiedImageError(str(error)) from None


def unusable(error: Exception) -> ImageError:
    """The ImageError for an exception that a decoder raised."""
    if isinstance(error, MemoryError):
        return ImageError("too_large", TOO_MUCH)
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return ImageError(
            "unreadable", "begins like an image but its header makes no sense, or is of a kind that is not read"
        )
    if any(words in reason.lower() for words in TOO_LARGE):
        return ImageError("too_large", reason)
    if any(words in reason.lower() for words in TRUNCATED):
        return ImageError("truncated", reason)
    return ImageError("unreadable", f"its decoder gives up: {reason}")


def oddities(image: Image.Image, stored_as: str, path: str) -> list[str]:
    """Issue codes of an image that is whole and usable."""
    found = []
    if SUFFIXES.get(posixpath.splitext(path)[1].lower(), stored_as) != stored_as:
        found.append("format_mismatch")
    if orientation(image) != 1:
        found.append("exif_rotated")
    if exif_is_corrupt(image):
        found.append("corrupt_exif")
    if image.mode not in ("L", "RGB"):
        found.append("unexpected_mode")
    if stored_as in ("AVIF", "HEIF") and getattr(image, "n_frames", 1) > 1:
        found.append("animated")
    return found


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it makes no sense."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return value if value in UPRIGHT else 1


def exif_is_corrupt(image: Image.Image) -> bool:
    """Whether there is EXIF that points beyond its own end or gives an orientation other than 1 to 8."""
    try:
        block = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
        if not block:
            return False
        first = next(tiff.directories(block))
        return bool(first.beyond) or "corrupt_exif" in tiff.odd_orientation(first)
    except (ImageError, StopIteration):
        return True


class Preprocessing(NamedTuple):
    """How a file becomes what a network gets; the keys are those of `pack` and `check` in params.yaml."""

    height: int
    width: int
    channels: int
    interpolation: str
    fit: str
    color_profile: str
    max_pixels: int  # of a file's image; larger ones are not decoded

    def upright(self, content: Read, path: str) -> Image.Image:
        """The decoded image as a person sees it. Raises what `decode` raises."""
        return upright(decode(content, path, self.max_pixels).image, self.channels, self.color_profile)

    def scaled(self, image: Image.Image) -> NDArray[np.uint8]:
        """An upright image, as (height, width, channels) uint8."""
        return np.ascontiguousarray(to_size(image, self.height, self.width, self.interpolation, self.fit))


def upright(image: Image.Image, channels: int, color_profile: str = "stored") -> Image.Image:
    """A decoded image as a person sees it: EXIF orientation applied, transparency on white.

    Its mode is L for 1 channel, RGB for 3. With `srgb` for its color profile, its colors are converted to sRGB.
    """
    turn = UPRIGHT.get(orientation(image))
    if color_profile == "srgb":
        image = profiles.to_srgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if turn is not None:
        image = image.transpose(turn)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def upright_pixels(decoded: Decoded) -> NDArray[np.uint8]:
    """The pixels as a person sees them, (H, W, 3) uint8."""
    if decoded.pixels is not None and orientation(decoded.header) == 1:
        return decoded.pixels
    return np.asarray(upright(decoded.image, channels=3))


def to_size(
    image: Image.Image, height: int, width: int, interpolation: str = "bilinear", fit: str = "crop"
) -> NDArray[np.uint8]:
    """Scale an image to a size. Returns (height, width, channels) uint8.

    `fit` says what to do with another aspect ratio. `crop`: the shorter side fits, the center is cut out. `pad`: the
    whole image fits, with black beside it, as augmentation leaves it where it moves an image. `stretch`: both sides
    are scaled to fit. `interpolation` is what Pillow and torchvision call so; where an image shrinks, all of its
    pixels count.
    """
    method = Image.Resampling[interpolation.upper()]
    if fit == "crop":
        fitted = ImageOps.fit(image, (width, height), method=method)
    elif fit == "pad":
        scale = min(width / image.width, height / image.height)
        inner = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)
        fitted = Image.new(image.mode, (width, height))
        fitted.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    else:
        fitted = image.resize((width, height), method)
    pixels = np.asarray(fitted)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def lost_by_cropping(image: Image.Image, height: int, width: int) -> float:
    """The fraction of an image's area that `to_size` cuts off to give it another aspect ratio."""
    ratio = (image.width * height) / (image.height * width)
    return 1 - min(ratio, 1 / ratio)
