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
from pipeline.system.credentials import hide_in
from pipeline.tracking import database, origin, server, view
from pipeline.tracking.complaint import reason
from pipeline.tracking.connection import connected
from pipeline.tracking.content import COUNTS, PARTIAL, RunContent
from pipeline.tracking.description import description
from pipeline.tracking.results import Result, locked_experiments, locked_stages, read_result
from pipeline.tracking.server import tracking_uri
from pipeline.tracking.tracker import Refused, Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run


def main() -> int:
    parser = command_line("track", __doc__)
    parser.add_argument("experiments", nargs="*", type=name_in, metavar="EXPERIMENT", help="log these; none: log all")
    pages = "print where MLflow shows the runs, too: on the server that is tracked to, else at ADDRESS"
    parser.add_argument("--pages", metavar="ADDRESS", help=pages)
    live = ("EXPERIMENT", "FINGERPRINT", "START")
    parser.add_argument("--live", nargs=3, metavar=live, help="log epochs as they come, one JSON object a line")
    arguments = parser.parse_args()
    try:
        if arguments.live:
            name, fingerprint, start = arguments.live
            log_live(name, fingerprint, float(start))
        else:
            log_results(arguments.experiments, arguments.pages)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as raised:  # whatever a server, a network or a database does
        told = f"not logged to {hide_in(tracking_uri())}: {reason(raised)}; `python -m pipeline.track` logs it later"
        say(f"warning: {told}", file=sys.stderr)
        return 0 if "DVC_STAGE" in os.environ else 1  # an outage does not fail a stage
    return 0


def log_results(names: list[str], pages: str | None) -> None:
    stages, results, damaged = locked_stages(), [], []
    for name in names or locked_experiments(stages):
        try:
            if result := read_result(name, stages):
                results.append(result)
        except UserError as error:  # the others are logged first
            damaged.append(str(error))
    if damaged and pages:  # which are opened with the others
        say(*(f"warning: {each}" for each in damaged), file=sys.stderr)
        damaged = []
    if damaged and not results:
        raise UserError("; ".join(damaged))
    if not results:
        say("nothing to log: no experiment has both an entry in dvc.lock and its reports on disk")
        file = database.file_of(tracking_uri())
        if file is not None and not file.exists():
            return
    logged, runs, refused, start = [], [], False, time.monotonic()
    with connected() as client:
        connection = time.monotonic() - start  # nearly all of it imports MLflow, or makes tables
        tracker = Tracker(client)
        for result in results:
            try:
                found, is_new = log(tracker, result)
                runs.append((result, found))
                if is_new:
                    logged.append(result.experiment)
            except Refused as refusal:
                say(f"{result.experiment}: {refusal}")
                refused = True
        tracker.end_killed()
        told = [*register(client, runs)]
    place = hide_in(tracking_uri())
    if logged:
        seconds = time.monotonic() - start - connection
        say(f"logged to {place}: {', '.join(logged)} ({seconds:.1f} s, and {connection:.1f} s to start MLflow)")
    elif results and not refused:
        say(f"{place} has every result already")
    say(*told)
    if pages:
        base = hide_in(tracking_uri().rstrip("/")) if server.is_server(tracking_uri()) else pages
        say(*(f"{dataset}: {view.page(base, number)}" for dataset, number in sorted(tracker.experiments.items())))
    if damaged:
        raise UserError("; ".join(damaged))


def log(tracker: Tracker, result: Result) -> tuple[Run, bool]:
    """Bring the run of this result to completion. Returns it, and whether there was anything to do. Raises Refused."""
    from mlflow import MlflowException

    run = tracker.claim(result)
    if run.info.status == "FINISHED" and not (PARTIAL in run.data.tags and result.is_whole):
        return run, False
    for last in (False, False, True):
        try:
            with tracker.unless_deleted(run.info.run_id):
                complete(tracker, run, result)
            break
        except MlflowException as error:
            if last or error.error_code != "BAD_REQUEST":  # as when another process has just written the same
                raise
    return run, True


def complete(tracker: Tracker, run: Run, result: Result) -> None:
    """Log what the run lacks. Others may do the same at this moment, or have died at it: all log the same."""
    content, trained = RunContent(tracker.client, run.info.run_id), result.origin.time
    partial = None if result.is_whole else "files that were not pulled"
    content.log_tags({**result.origin.tags(), "mlflow.note.content": description(result), PARTIAL: partial})
    content.log_params({**result.params, **{key: result.metrics[key] for key in COUNTS}})
    content.log_history(result.history, trained.epochs if trained else [])
    content.log_results(result)
    if result.digest:
        content.log_dataset(result.dataset, result.digest)
    content.log_files(result.folder, result.files)
    content.log_images(result.folder)
    content.finish(trained, result.is_whole)


def log_live(name: str, fingerprint: str, start: float) -> None:
    """Log the epochs of a training that goes on, which come as lines on standard input, and how it ended."""
    everything = params.load()
    experiment = everything.experiment(name)
    try:
        with connected() as client:
            tracker = Tracker(client)
            run_id = tracker.live(experiment.dataset, name, fingerprint, origin.here(start))
        if run_id is None:
            return
        config = experiment.model_dump(mode="json", exclude_unset=True)
        with tracker.unless_deleted(run_id):
            RunContent(client, run_id).log_params({**config, "seed": everything.seed_of(name)})
            end = "KILLED"  # unless training has the time to say how it ended
            for line in sys.stdin:
                value = json.loads(line)
                if isinstance(value, str):
                    end = value
                else:
                    seconds = value.pop("seconds")
                    RunContent(client, run_id).log_history([value], [seconds])
            client.set_terminated(run_id, end)
    except Refused as refusal:
        say(f"{name}: {refusal}")


if __name__ == "__main__":
    run(main)
