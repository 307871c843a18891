"""Classify images: python classify.py IMAGE …   (needs numpy, onnxruntime and Pillow)"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

RESIZE: dict[str, Callable[..., Image.Image]]
RESIZE = {"crop": ImageOps.fit, "pad": ImageOps.pad, "stretch": Image.Image.resize}

model = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))
about = json.loads(model.get_modelmeta().custom_metadata_map["preprocessing"])
for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(about["mode"])
    resized = RESIZE[about["fit"]](image, about["size"], Image.Resampling[about["interpolation"]])
    (probabilities,) = model.run(None, {"images": np.asarray(resized).reshape(1, *about["shape"])})
    best = probabilities[0].argmax()
    print(f"{path}: {about['classes'][best]} {probabilities[0, best]:.4f}")
