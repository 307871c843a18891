"""Where the time of this project's own training goes, by torch's own profiler: operations and their shares.

usage: python -m benchmarks.profile < JOB.json

On a CPU what is left of the clock's time is Python and what torch does between operations; on a GPU only its own time
is counted.
"""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from benchmarks.job import Stopwatch, read, tell
from benchmarks.trainer import fit, loaded
from pipeline.training.model import make_model

MOST = 6  # operations


def main() -> None:
    job = read()
    data = loaded(job)
    fit(job, data, make_model(data, job.seed, job.weights))  # the first run allocates what torch keeps
    model = make_model(data, job.seed, job.weights)
    cuda, watch = job.device.type == "cuda", Stopwatch(job.device)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found, watch:
        fit(job, data, model)
    spent = {
        event.key.removeprefix("aten::"): (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        for event in found.key_averages()
    }
    largest = sorted(spent, key=spent.__getitem__, reverse=True)[:MOST]
    whole = sum(spent.values()) if cuda else watch.seconds
    shares = {name: spent[name] / whole for name in largest}
    if not cuda:
        shares["Python"] = 1 - sum(spent.values()) / whole
    tell(job, shares=shares)


if __name__ == "__main__":
    main()
