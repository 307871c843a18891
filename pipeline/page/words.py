"""Numbers as a person reads them, for the templates."""

from __future__ import annotations

import math


def fixed(value: object) -> str:
    """A metric with four decimals, as in all tables of this project; a dash where there is none."""
    return f"{value:.4f}" if isinstance(value, float | int) and not isinstance(value, bool) else "–"


def signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def duration(seconds: object) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s"


def plural(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"
