"""Log results to MLflow: what it shows is a view of `reports/` and `dvc.lock`, and can be made again from them.

One result is one run: a run carries the hash of its report files, and logging a result twice adds nothing.
"""

from __future__ import annotations

from pipeline.system.entry import command_line, name_in

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from pipeline.config import params
from pipeline.registry.register import register
from pipeline.system.console import UserError, run, say
from pipeline.system.credentials import hide_in, redacted
from pipeline.tracking import database
from pipeline.tracking.results import Result, locked_experiments, read_result
from pipeline.tracking.server import tracking_uri
from pipeline.tracking.tracker import Deleted, Tracker, connected, pages_of

if TYPE_CHECKING:
    from mlflow.entities import Run


def main() -> int:
    parser = command_line("track", __doc__)
    parser.add_argument("experiments", nargs="*", type=name_in, metavar="EXPERIMENT", help="log these; none: log all")
    parser.add_argument("--pages", action="store_true", help="print where MLflow's page shows the runs, too")
    live = ("EXPERIMENT", "FINGERPRINT")
    parser.add_argument("--live", nargs=2, metavar=live, help="log epochs as they come, one JSON object a line")
    arguments = parser.parse_args()
    try:
        if arguments.live:
            log_live(*arguments.live)
        else:
            log_results(arguments.experiments, arguments.pages)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as raised:  # whatever a server, a network or a database does
        error = database.complaint(raised)
        reason = " ".join(redacted(error, tracking_uri()).split())[:200] or type(error).__name__
        say(
            f"warning: not logged to {hide_in(tracking_uri())}: {reason}; `python -m pipeline.track` logs it later",
            file=sys.stderr,
        )
        return 0 if "DVC_STAGE" in os.environ else 1  # an outage does not fail a stage
    return 0


def log_results(names: list[str], pages: bool = False) -> None:
    results = [result for name in names or locked_experiments() if (result := read_result(name))]
    if not results:
        say("nothing to log: no experiment has both an entry in dvc.lock and its reports on disk")
        return
    logged, runs, deleted = [], [], False
    with connected() as tracker:
        for result in results:
            try:
                found, is_new = log(tracker, result)
                runs.append((result, found))
                if is_new:
                    logged.append(result.experiment)
            except Deleted as gone:
                say(f"{result.experiment}: {gone}")
                deleted = True
        told = [*register(tracker.client, runs)]
        shown = [*pages_of(tracker, sorted({result.dataset for result in results}))] if pages else []
    place = hide_in(tracking_uri())
    if logged:
        say(f"logged to {place}: {', '.join(logged)}")
    elif not deleted:
        say(f"{place} has every result already")
    say(*told, *shown)


def log(tracker: Tracker, result: Result) -> tuple[Run, bool]:
    """Bring the run of this result to completion. Returns it, and whether there was anything to do. Raises Deleted."""
    from mlflow import MlflowException

    decision = str(result.metrics["parameters"])
    run = tracker.claim(result.dataset, result.experiment, result.hash, result.fingerprint, decision)
    if run.info.status == "FINISHED":
        return run, False
    for last in (False, False, True):
        try:
            with tracker.unless_deleted(run.info.run_id):
                complete(tracker, run.info.run_id, run.info.start_time, result)
            break
        except MlflowException as error:
            if last or error.error_code != "BAD_REQUEST":  # as when another process has just written the same
                raise
    return run, True


def complete(tracker: Tracker, run_id: str, milliseconds: int, result: Result) -> None:
    """Log what the run lacks. Others may do the same at this moment, or have died at it: all log the same."""
    tracker.tag(run_id, **{"dvc.stage": f"evaluate@{result.experiment}"})
    tracker.log_params(run_id, result.params)
    tracker.log_history(run_id, result.history, milliseconds)
    tracker.log_results(run_id, result.metrics, len(result.history), milliseconds)
    if result.digest:
        tracker.log_dataset(run_id, result.dataset, result.digest)
    tracker.log_files(run_id, result.files)
    tracker.complete(run_id)


def log_live(name: str, fingerprint: str) -> None:
    everything = params.load()
    experiment = everything.experiment(name)
    try:
        with connected() as tracker:
            run_id = tracker.live(experiment.dataset, name, fingerprint)
        if run_id is None:
            return
        config = experiment.model_dump(mode="json", exclude_unset=True)
        with tracker.unless_deleted(run_id):
            tracker.log_params(run_id, {**config, "seed": everything.seed_of(name)})
            for line in sys.stdin:
                tracker.log_history(run_id, [json.loads(line)], int(time.time() * 1000))
    except Deleted as gone:
        say(f"{name}: {gone}")


if __name__ == "__main__":
    run(main)
