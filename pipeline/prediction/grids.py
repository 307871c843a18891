"""Grids of images with what a model says of them, plain or explained."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.prediction.classify import Answer
from pipeline.prediction.explain import Explain
from pipeline.system.console import say

MOST = 240  # images: more can't be looked at, and take minutes to draw


class Grid:
    """The first images of all answers."""

    def __init__(self, path: Path, explain: Explain | None = None) -> None:
        self.path, self.explain = path, explain
        self.answers: list[Answer] = []
        self.seen = 0

    def add(self, answer: Answer) -> None:
        if answer.top:
            self.seen += 1
            if len(self.answers) < MOST:
                self.answers.append(answer)

    def draw(self) -> None:
        from pipeline.evaluation import grid, pictures

        if self.seen > MOST:
            say(f"{self.path}: only the first {MOST} images", file=sys.stderr)
        tiles = []
        for answer in self.answers:
            assert answer.pixels is not None
            best = answer.top[0]
            name, label = grid.short(Path(answer.path).name, 22), grid.short(best.label, 18)
            image = self.explain(answer.pixels, best.label) if self.explain else answer.pixels
            tiles.append(grid.Tile(image, f"{name}\n{label} {best.probability:.0%}", "black"))
        grid.draw_grid(self.path, tiles, software=pictures.MARK)
