"""Pictures under a name that a person gives, which may by mistake be that of a photo."""

from __future__ import annotations

from pathlib import Path

from pipeline.system.console import UserError
from pipeline.system.outputs import blocked

MARK = "Clasificador"  # in the PNG's field Software: a picture with it may be drawn anew


def check(option: str, path: Path) -> None:
    """Raises UserError unless a picture may be drawn there: to a new .png, or over one that was drawn here."""
    if path.suffix.lower() != ".png":
        raise UserError(f"{option} {str(path)!r}: expected a name that ends in .png")
    if found := blocked(path):
        raise UserError(f"{option} {path}: {found} is no folder")
    if path.exists() and not is_ours(path):
        raise UserError(f"{option} {path}: is there already, and was not drawn here: name another file, or remove it")


def is_ours(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == MARK
    except (OSError, SyntaxError, ValueError):  # a folder, another format, a damaged file
        return False
