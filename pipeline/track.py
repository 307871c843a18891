"""Log results to MLflow: what it shows is a view of `reports/` and `dvc.lock`, and can be made again from them.

usage: python -m pipeline.track [EXPERIMENT ...]    log what MLflow lacks, of these experiments or of all
       python -m pipeline.track --live EXPERIMENT FINGERPRINT    log epochs as they come, one JSON object a line

One result is one run: a run carries the hash of its report files, and logging a result twice adds nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from pipeline import params
from pipeline.console import UserError, run, say
from pipeline.credentials import hide_in, told
from pipeline.results import Result, locked_experiments, read_result
from pipeline.tracker import Tracker, connected, tracking_uri


def main() -> int:
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["--live"]:
            log_live(arguments[1], arguments[2])
        else:
            log_results(arguments)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a server, a network or a database does
        reason = " ".join(told(error, tracking_uri()).split())[:200] or type(error).__name__
        say(
            f"warning: not logged to {hide_in(tracking_uri())}: {reason}; `python -m pipeline.track` logs it later",
            file=sys.stderr,
        )
        return 0 if "DVC_STAGE" in os.environ else 1  # an outage does not fail a stage
    return 0


def log_results(names: list[str]) -> None:
    results = [result for name in names or locked_experiments() if (result := read_result(name))]
    if not results:
        say("nothing to log: no experiment has both an entry in dvc.lock and its reports on disk")
        return
    with connected() as tracker:
        logged = [result.experiment for result in results if log(tracker, result)]
    place = hide_in(tracking_uri())
    say(f"logged to {place}: {', '.join(logged)}" if logged else f"{place} has every result already")


def log(tracker: Tracker, result: Result) -> bool:
    """Bring the run of this result to completion. Returns whether there was anything to do."""
    found = tracker.find(result.dataset, result=result.hash, fingerprint=result.fingerprint)
    if found is not None and tracker.is_complete(found):
        return False
    run_id = found or tracker.create(result.dataset, result.experiment)
    tracker.tag(run_id, result=result.hash, **{"dvc.stage": f"evaluate@{result.experiment}"})
    tracker.log_params(run_id, result.params)
    tracker.log_history(run_id, result.history)
    tracker.log_test_metrics(run_id, result.metrics)
    if result.digest:
        tracker.log_dataset(run_id, result.dataset, result.digest)
    tracker.log_files(run_id, result.files)
    tracker.complete(run_id)
    return True


def log_live(name: str, fingerprint: str) -> None:
    everything = params.load()
    experiment = everything.experiment(name)
    with connected() as tracker:
        run_id = tracker.find(experiment.dataset, fingerprint=fingerprint)
        if run_id is not None and tracker.is_complete(run_id):
            return
        if run_id is None:
            run_id = tracker.create(experiment.dataset, name)
            tracker.tag(run_id, fingerprint=fingerprint, **{"dvc.stage": f"train@{name}"})
    tracker.log_params(
        run_id, {**experiment.model_dump(mode="json", exclude_unset=True), "seed": everything.seed_of(name)}
    )
    for row in rows_of(sys.stdin):
        tracker.log_history(run_id, [row])


def rows_of(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        yield json.loads(line)


if __name__ == "__main__":
    run(main)
