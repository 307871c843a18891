"""Sections of `params.yaml` that take nothing but what they know, and the kinds of values that they share."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline.system.credentials import holds_secret

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
LONGEST = 200  # characters of a value in an error message
BRIEF = reprlib.Repr()
BRIEF.maxstring = BRIEF.maxother = BRIEF.maxlong = LONGEST
BRIEF.maxlevel, BRIEF.maxlist, BRIEF.maxdict = 4, 20, 20


def without_password(address: str) -> str:
    if holds_secret(address):
        raise ValueError(
            "an address with a password or token in it, which DVC would print and write into dvc.lock; expected it"
            " without: http(s) finds them in ~/.netrc, s3 in ~/.aws/credentials or AWS_* variables, and ssh uses keys"
            " and ~/.ssh/config"
        )
    return address


Address = Annotated[str, Field(min_length=1), AfterValidator(without_password)]  # in a section that DVC locks


def hint(word: str, known: Iterable[str]) -> str:
    by_lower_case = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    return f" (did you mean '{by_lower_case[close[0]]}'?)" if close else ""


def shown(value: Any) -> str:
    """A value in an error message, cut to what a line has room for."""
    text = BRIEF.repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


class Strict(BaseModel):
    """No coercion, no unknown keys, no change after validation."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def knows_every_key(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    allowed = ", ".join(cls.model_fields)
                    raise ValueError(
                        f"unknown key {shown(str(key))}{hint(str(key), cls.model_fields)}; allowed: {allowed}"
                    )
        return value
