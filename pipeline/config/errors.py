"""pydantic's errors in one line that names the key, its value and what was expected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.config.fields import hint, shown

LONGEST_KEY = 100  # characters that an error shows


def in_one_line(error: ValidationError, raw: object) -> str:
    """The first faulty key with its value and what was expected there."""
    faults = [(dotted_path(fault, raw), fault) for fault in error.errors()]
    path, fault = faults[0]
    if fault["loc"][-1:] != ("[key]",):
        # pydantic reports an error for each member of a union: the deepest one is of the member that was meant
        inside = (f for f in faults if f[0] == path or f[0].startswith(f"{path}."))
        path, fault = max(inside, key=lambda f: len(f[0]))
    expected = " or ".join(dict.fromkeys(f["msg"].removeprefix("Value error, ") for p, f in faults if p == path))
    value, choices = fault["input"], ""
    if fault["type"] == "union_tag_invalid":
        path, value, choices = f"{path}.name", value["name"], fault["ctx"]["expected_tags"]
        expected = f"Input should be one of {choices}"
    elif fault["type"] == "union_tag_not_found":
        path, expected = f"{path}.name", "Field required"
    elif fault["type"] == "literal_error":
        choices = fault["ctx"]["expected"]
    if isinstance(value, str):
        expected += hint(value, re.findall("'([^']+)'", choices))
    without_value = fault["type"] in ("value_error", "missing", "union_tag_not_found") or fault["loc"][-1] == "[key]"
    where = path if without_value else f"{path} = {shown(value)}"
    return f"{where}: {expected}" if where else expected


def dotted_path(fault: Mapping[str, Any], raw: object) -> str:
    """pydantic's location without the names of union members, which stand in no file."""
    location = fault["loc"]
    keys, value = [], raw
    for part in location:
        is_missing = fault["type"] == "missing" and part is location[-1]
        if isinstance(value, dict) and (part in value or is_missing):
            keys.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            keys.append(part)
            value = value[part]
    if location and location[-1] == "[key]" and fault["input"] not in keys:
        keys.append(fault["input"])  # as it stands in the file: 2020-01-01, null, …
    texts = map(str, keys)
    return ".".join(text if text.isprintable() and len(text) <= LONGEST_KEY else shown(text) for text in texts)
