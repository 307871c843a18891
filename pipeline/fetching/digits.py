"""The handwritten digits inside scikit-learn as an archive of PNG files: real images without a network."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

GRAY_LEVELS = 16  # of scikit-learn's digits, above 0
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that zip knows
UNIX = 3


def write_archive(path: Path) -> None:
    """Write the 1,797 images as `<class>/NNNN.png`, NNNN being the place in load_digits, with the same bytes always."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * 255 / GRAY_LEVELS).astype(np.uint8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, (image, label) in enumerate(zip(images, digits.target, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png", compress_level=0)
            member = zipfile.ZipInfo(f"{label}/{number:04}.png", EPOCH)
            member.create_system = UNIX  # else it tells which system wrote it
            member.external_attr = 0o644 << 16
            archive.writestr(member, png.getvalue())
