"""What every stage needs of the machine: entry point, console, atomic writes, locks, memory, devices, workers."""

import os

from pipeline.system.portable import pin_numpy

# How long torch's threads, which are OpenMP's, wait for each other in a busy loop before they sleep. With 10000, small
# steps were 1.2 times as fast on a quiet machine, but five times as slow beside a busy process on every core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# NumPy's matrix products decide whether two images are copies, so they have to give the same bits on every machine
pin_numpy()
