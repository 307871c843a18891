"""Classify images: python classify.py IMAGE …   (needs numpy, onnxruntime and Pillow)"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))
about = json.loads(model.get_modelmeta().custom_metadata_map["preprocessing"])
size, method = tuple(about["size"]), Image.Resampling[about["interpolation"]]
Image.MAX_IMAGE_PIXELS = about["max_pixels"]
warnings.simplefilter("error", Image.DecompressionBombWarning)  # what has more is refused, as in training


def resized(image: Image.Image) -> Image.Image:
    """The image in the size that the model takes, as it was in training."""
    if about["fit"] == "crop":
        return ImageOps.fit(image, size, method)
    if about["fit"] == "stretch":
        return image.resize(size, method)
    scale = min(size[0] / image.width, size[1] / image.height)
    whole = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)
    padded = Image.new(image.mode, size)
    padded.paste(whole, ((size[0] - whole.width) // 2, (size[1] - whole.height) // 2))
    return padded


def probabilities(path: str) -> np.ndarray:
    """Of each class. Raises whatever Pillow raises for what is no image."""
    photo = Image.open(path)
    if photo.mode.startswith(("I", "F")):
        raise ValueError("has more than 8 bits a channel, which this script does not scale as in training")
    # many programs leave the fourth sample of a BMP at 0, as unused
    is_unused = photo.format == "BMP" and photo.mode == "RGBA" and not photo.getchannel("A").getbbox()
    image = ImageOps.exif_transpose(photo.convert("RGB") if is_unused else photo).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(about["mode"])
    return model.run(None, {"images": np.asarray(resized(image)).reshape(1, *about["shape"])})[0][0]


if len(sys.argv) == 1:
    sys.exit(__doc__)
failed = False
for path in sys.argv[1:]:
    try:
        found = probabilities(path)
        print(f"{path}: {about['classes'][found.argmax()]} {found.max():.4f}")
    except Exception as error:
        failed = True
        print(f"error: {path}: {error}", file=sys.stderr)
sys.exit(failed)
