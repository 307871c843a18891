"""The base class of all sections of `params.yaml`, and the types of values that several of them have."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable
from functools import partial
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline.system.credentials import holds_secret

Positive = Annotated[int, Field(gt=0, lt=2**31)]
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


def hexadecimal(digits: int, text: str) -> str:
    if not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", text):
        raise ValueError(f"{shown(text)}: expected {digits} hexadecimal digits")
    return text


Md5 = Annotated[str, AfterValidator(partial(hexadecimal, 32))]
Sha256 = Annotated[str, AfterValidator(partial(hexadecimal, 64))]
Address = Annotated[str, Field(min_length=1), AfterValidator(without_password)]  # DVC writes it into dvc.lock


def hint(word: str, known: Iterable[str]) -> str:
    """` (did you mean '…'?)` with the most similar of the known words, or nothing if none is similar."""
    by_lower_case = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    return f" (did you mean '{by_lower_case[close[0]]}'?)" if close else ""


def shown(value: object) -> str:
    """A value in an error message, cut to what a line has room for."""
    text = BRIEF.repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


class Strict(BaseModel):
    """A section of `params.yaml`: no coercion, no unknown keys, no change after validation."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    elsewhere: ClassVar[dict[str, str]] = {}  # keys that people put here by mistake, and where they belong

    @model_validator(mode="before")
    @classmethod
    def knows_every_key(cls, value: object) -> object:
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    place = cls.elsewhere.get(key)
                    meant = f" (did you mean '{place}'?)" if place else hint(str(key), cls.model_fields)
                    raise ValueError(f"unknown key {shown(str(key))}{meant}; allowed: {', '.join(cls.model_fields)}")
        return value
