"""Pages out of the templates in this folder. Each is one file, complete in itself, and opens from disk."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.page.words import duration, fixed, plural, signed
from pipeline.system.outputs import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent


def page_script(file: Path = TEMPLATES / "page.js") -> dict[str, Any]:
    """A script, by default that of pages on which a person ticks images, and the hash by which they allow no other."""
    script = file.read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return {"script": script, "script_digest": base64.b64encode(digest).decode()}


def write_page(path: Path, template: str, *, folder: Path = TEMPLATES, **values: Any) -> None:
    """Names of files and classes may be anything: whatever the template inserts is escaped.

    `folder` has templates of another room, which may build on those of this one.
    """
    page = environment(folder).get_template(template).render(values)
    if path.is_file() and path.read_bytes() == page.encode():
        return  # it has not changed, and replacing a file waits for the disk
    with atomic_write(path) as partial:
        partial.write_bytes(page.encode())


@cache
def environment(folder: Path) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update({word.__name__: word for word in (duration, fixed, plural, signed)})
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return made
