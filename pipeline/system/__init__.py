"""What every stage needs of the machine: entry point, console, atomic writes, locks, memory, devices, workers."""

import os

from pipeline.system.portable import pin_numpy

# Read when torch loads OpenMP: threads that wait for each other sleep instead of spinning. On a machine that does other
# work too, spinning made training up to fifty times slower; on a quiet one the difference is not measurable.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# Whether two images are copies is decided by NumPy's matrix products: every stage has the same ones everywhere
pin_numpy()
