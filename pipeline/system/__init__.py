"""What every stage needs of the machine: entry point, console, atomic writes, locks, memory, devices, workers."""

import os

from pipeline.system.portable import pin_numpy

# Read when torch loads OpenMP: threads that wait for each other spin for a moment, then sleep. Beside a process that
# spins on every core, small steps took five times as long with 10000, which was 1.2 times as fast on a quiet machine.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Whether two images are copies is decided by NumPy's matrix products: every stage has the same ones everywhere
pin_numpy()
