"""The encoding of the names in an archive that does not tell it: archivers often write the code page of their country.

A wrong guess makes names ugly, but no two of them equal: an encoding has to give back the bytes of every name.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

STANDARD = "cp437"  # what the format of zip says; it has a sign for every byte
JAPANESE = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "FULLWIDTH")
# The scripts that each encoding is used for, tried in this order: text in a later encoding, read in an earlier one,
# shows letters of another script, two scripts in a word, or signs, and is refused.
SCRIPTS = {
    "cp932": JAPANESE, "euc_kr": ("HANGUL",), "gb2312": ("CJK",), "big5": ("CJK",), "gbk": ("CJK",),
    "cp949": ("HANGUL",), "cp866": ("CYRILLIC",), "cp1251": ("CYRILLIC",), STANDARD: ("LATIN",),
    "cp1252": ("LATIN",), "cp850": ("LATIN",),
}  # fmt: skip


class Candidates:
    """The encodings in which all names so far make sense, the likeliest first. Keeps no names."""

    def __init__(self) -> None:
        self.left = ["utf-8", *SCRIPTS]

    def narrow(self, name: bytes) -> None:
        for part in name.split(b"/"):  # no encoding has this byte within a letter
            if not part.isascii():
                self.left = [encoding for encoding in self.left if makes_sense(part, encoding)]

    @property
    def best(self) -> str | None:
        return self.left[0] if self.left else None


@lru_cache(maxsize=4096)  # folders come again with each of their files
def makes_sense(part: bytes, encoding: str) -> bool:
    try:
        text = part.decode(encoding)
        if text.encode(encoding) != part:
            return False
    except UnicodeError:
        return False
    if encoding == "utf-8":
        return True
    words = re.split(r"[\W\d_]+", text)
    return all(map(is_common_sign, text)) and all(
        scripts_of(word) <= {"LATIN"} or scripts_of(word) <= {*SCRIPTS[encoding]} for word in words
    )


def is_common_sign(sign: str) -> bool:
    """Whether it is a letter, ASCII or the punctuation of East Asia."""
    return sign.isascii() or sign.isalnum() or unicodedata.east_asian_width(sign) in ("W", "F")


def scripts_of(word: str) -> set[str]:
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in word}
