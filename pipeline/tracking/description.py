"""The description of a run: how to repeat it, and what it reaches, val first."""

from __future__ import annotations

from pipeline.tracking.content import METRICS
from pipeline.tracking.origin import Origin
from pipeline.tracking.results import Result


def description(result: Result) -> str:
    """Markdown, which MLflow's page shows on top of a run."""
    splits = [split for split in ("val", "test") if split in result.metrics]
    lines = ["```", *commands(result.experiment, result.origin), "```", ""]
    lines += [f"| | {' | '.join(splits)} |", "| --- |" + " ---: |" * len(splits)]
    for key in METRICS:
        values = [result.metrics[split].get(key) for split in splits]
        if any(value is not None for value in values):
            cells = ["" if value is None else f"{value:.4f}" for value in values]
            lines.append(f"| {key.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def commands(experiment: str, origin: Origin) -> list[str]:
    """The commands that repeat a result."""
    if origin.dvc_experiment:
        before = [f"dvc exp apply {origin.dvc_experiment}"]
    elif origin.commit:
        uncommitted = "  # and changes that were not committed" if origin.dirty == "true" else ""
        before = [f"git checkout {origin.commit[:10]}{uncommitted}"]
    else:
        before = []
    return [*before, f"dvc repro evaluate@{experiment}"]
