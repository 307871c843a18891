"""Pages out of the templates in this folder. Each is one file, complete in itself, and opens from disk."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from pipeline.system.outputs import atomic_write

TEMPLATES = Path(__file__).parent


def page_script() -> dict[str, str]:
    """The script of the pages on which a person ticks images, and the hash by which they allow it and no other."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return {"script": script, "script_digest": base64.b64encode(digest).decode()}


def write_page(path: Path, template: str, **values: object) -> None:
    """Names of files and classes may be anything: whatever the template inserts is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    page = environment.get_template(template).render(values)
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
