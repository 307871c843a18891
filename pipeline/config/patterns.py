"""Names of experiments on the command line, which may be patterns."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from pipeline.config.fields import hint
from pipeline.system.console import UserError


def matching(patterns: Collection[str], known: Collection[str], lacking: str, advice: str = "") -> list[str]:
    """The known names that any of the patterns matches, in their own order.

    Raises UserError for a pattern that matches none: `lacking` says what there is none of, `advice` what to do.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            there = ", ".join(known) or "none"
            raise UserError(f"{lacking} {pattern!r}{hint(pattern, known)}; it has: {there}{advice}")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
