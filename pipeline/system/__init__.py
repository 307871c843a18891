"""What every stage needs of the machine: entry point, console, atomic writes, locks, memory, devices, workers."""

import os

from pipeline.system.portable import pin_numpy

# OpenMP, which torch loads, reads this: how long threads that wait for each other spin before they sleep. With 10000,
# small steps were 1.2 times as fast on a quiet machine, but five times as slow beside a busy process on every core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Whether two images are copies is decided by NumPy's matrix products: every stage has the same ones everywhere
pin_numpy()
