"""The same bytes on every x86-64 machine with AVX2, of whatever maker.

NumPy, torch and their libraries choose their code by the processor, and each choice rounds in its own way. Here they
are told to use AVX2. They read these variables of the environment when they are loaded, so they are set before.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.library import Library

NUMPY = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # all that NumPy has beyond AVX2
    "OPENBLAS_CORETYPE": "Haswell",  # the first processor with AVX2
    "OPENBLAS_NUM_THREADS": "1",
}
TORCH = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # MKL's own AVX2 mode is for Intel's processors only
}


@cache
def has_avx2() -> bool:
    """Whether this is Linux on an x86-64 processor with AVX2 and FMA."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return {"avx2", "fma"} <= set(flags.split())


def pin_numpy() -> None:
    """Hold NumPy to AVX2, and its matrix products to one thread, in this process and those that it starts."""
    if has_avx2():
        os.environ.update(NUMPY)


def pin_torch(experiment: str) -> None:
    """Hold torch to AVX2 in this process and those that it starts. Says so where the machine has no AVX2."""
    os.environ.update(TORCH)
    if not has_avx2():
        from pipeline.system.console import say

        say(f"{experiment}: portable results need Linux on x86-64 with AVX2: those of this machine will be others")


@cache
def pin_products() -> Library:
    """Let torch multiply matrices on the CPU by NumPy's OpenBLAS instead of MKL, which `pin_torch` makes slow.

    MKL's products in its COMPATIBLE mode take 2.4 times as long as without it, OpenBLAS's 1.0 times (AMD EPYC).
    Torch uses OpenBLAS as long as the object that is returned exists.
    """
    from torch.library import Library

    library = Library("aten", "IMPL")
    library.impl("mm", product, "CPU")
    library.impl("addmm", biased_product, "CPU")
    return library


def product(a: Tensor, b: Tensor) -> Tensor:
    """(M, K) times (K, N), as `torch.mm`."""
    import numpy as np

    if not a.is_floating_point() or a.itemsize < 4:  # such as bfloat16, which NumPy does not know
        return product(a.float(), b.float()).to(a.dtype)
    out = a.new_empty(a.shape[0], b.shape[1])
    np.matmul(a.detach().numpy(), b.detach().numpy(), out=out.numpy())
    return out


def biased_product(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`beta` times bias (N,) or (M, N), plus `alpha` times (M, K) times (K, N), as `torch.addmm`."""
    out = product(a, b)
    if alpha != 1:
        out.mul_(alpha)
    return out.add_(bias.detach(), alpha=beta)
