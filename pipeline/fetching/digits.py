"""Write the handwritten digits inside scikit-learn as an archive of PNG files: real images without a download."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

GRAY_LEVELS = 16  # white in scikit-learn's digits; black is 0
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that zip knows
UNIX = 3  # the system that wrote the archive, in zip's numbers


def write_archive(path: Path) -> None:
    """Write the 1,797 images as `<class>/NNNN.png`; NNNN is the position in load_digits.

    The bytes of the archive are always the same.
    """
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
            member.create_system = UNIX  # otherwise it depends on this machine
            member.external_attr = 0o644 << 16
            archive.writestr(member, png.getvalue())
