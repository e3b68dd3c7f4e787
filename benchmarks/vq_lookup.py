"""Nearest codes and their vectors in evaluation: ours, the one-hot form, and vector-quantize-pytorch where installed.

Run it with a Python that has brainlab, and the peer if it is to be measured as well::

    python benchmarks/vq_lookup.py [--repeats 7] [--threads 1]

K = N = 8192 codes and vectors of 64 numbers. Codes and vectors of all ways are compared; then the ways take turns in
this process. Peak memory is measured for each way in a process of its own, as the growth of the resident set above
what was there before the call. The lookup of four levels in one offset table stands beside a loop over the levels.
The exit status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Threads that wait must not count as threads that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from side_by_side import environment, in_turns, report
from torch import Tensor

from brainlab.nn.quantise import ResidualVectorQuantiser, VectorQuantiser

N_CODES, N_VECTORS, WIDTH = 8192, 8192, 64
FASTER, SMALLER = 2.0, 4.0
ONE_HOT, PEER = "one-hot form", "vector-quantize-pytorch"
Way = Callable[[], tuple[Tensor, Tensor]]


def data() -> tuple[Tensor, Tensor]:
    """Vectors and a codebook."""
    torch.manual_seed(0)
    return torch.randn(N_VECTORS, WIDTH), torch.randn(N_CODES, WIDTH)


def ours() -> Way:
    """Codes, then vectors, as in evaluation."""
    x, codebook = data()
    quantiser = VectorQuantiser(WIDTH, N_CODES).eval()
    quantiser.codebooks[0] = codebook

    def way() -> tuple[Tensor, Tensor]:
        codes = quantiser.encode(x)
        return codes[:, 0], quantiser.decode(codes)

    return way


def one_hot() -> Way:
    """All distances at once, and vectors by a product with a one-hot matrix."""
    x, codebook = data()

    def way() -> tuple[Tensor, Tensor]:
        distance = x.square().sum(1, keepdim=True) - 2 * x @ codebook.t() + codebook.square().sum(1)
        codes = distance.argmin(dim=1)
        chosen = F.one_hot(codes, N_CODES).to(x.dtype)
        return codes, chosen @ codebook

    return way


def peer() -> Way:
    """The codebook module of vector-quantize-pytorch in evaluation."""
    from vector_quantize_pytorch import VectorQuantize

    x, codebook = data()
    module = VectorQuantize(dim=WIDTH, codebook_size=N_CODES, decay=0.99).eval()
    module._codebook.embed.data.copy_(codebook[None])

    def way() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values, codes, _ = module(x[None])
        return codes[0], values[0]

    return way


WAYS: dict[str, Callable[[], Way]] = {"ours": ours, ONE_HOT: one_hot, PEER: peer}


def installed() -> list[str]:
    """The ways that can be measured here."""
    try:
        import vector_quantize_pytorch  # noqa: F401
    except ImportError:
        return ["ours", ONE_HOT]
    return list(WAYS)


def memory_kb(field: str) -> int:
    """A line of this process's memory in /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def growth_mb(name: str) -> float:
    """Peak of the resident set during one call above what was resident before it, in this process."""
    way = WAYS[name]()
    torch.randn(64, 64) @ torch.randn(64, 64)  # what a first product loads is no memory of the search
    before = memory_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    way()
    return (memory_kb("VmHWM") - before) / 1024


def peak_mb(name: str) -> float:
    """:func:`growth_mb` in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def compare_levels(repeats: int) -> None:
    """Vectors of residual codes: one offset table, a loop over levels, and tables stacked at every call."""
    torch.manual_seed(0)
    quantiser = ResidualVectorQuantiser(256, 16384, 4).eval()
    codes = torch.randint(16384, (1024, 4))
    tables = list(quantiser.codebooks)

    def loop() -> Tensor:
        return torch.stack([F.embedding(codes[:, level], tables[level]) for level in range(4)]).sum(dim=0)

    def stacked() -> Tensor:
        return torch.stack([torch.stack(tables)[level][codes[:, level]] for level in range(4)]).sum(dim=0)

    difference = float((quantiser.decode(codes) - stacked()).abs().max())
    print(f"4 levels x 16384 codes x 256, 1024 frames: largest difference {difference:.1e}")
    ways = {"one offset table": lambda: quantiser.decode(codes), "loop over levels": loop}
    report(in_turns({**ways, "tables stacked per call": stacked}, repeats), "one offset table", {})


def main() -> int:
    """Print equality, speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(growth_mb(arguments.memory_of)))
        return 0

    print(environment("torch", "vector-quantize-pytorch"))
    names = installed()
    ways = {name: WAYS[name]() for name in names}
    codes, values = ways["ours"]()
    reached = True
    for name in names[1:]:
        other, vectors = ways[name]()
        same = float((codes == other).float().mean())
        # Two codes at the same distance up to rounding may be told apart differently.
        equal = same >= 0.999 and bool(torch.allclose(values[codes == other], vectors[codes == other], atol=1e-4))
        reached &= equal
        print(f"same codes as the {name}: {same:.2%}, vectors equal: {equal}")
    print(f"K = N = {N_CODES}, d = {WIDTH}, {arguments.threads} thread(s)")
    start = time.perf_counter()
    reached &= report(in_turns(ways, arguments.repeats), "ours", {ONE_HOT: FASTER})
    print(f"  ({time.perf_counter() - start:.0f} s)")
    print("peak memory of one call, each in its own process (median of 3)")
    peaks = {name: float(np.median([peak_mb(name) for _ in range(3)])) for name in names}
    for name, peak in peaks.items():
        ratio = peak / max(peaks["ours"], 1e-3)
        line = f"  {name:<48s} {peak:9.1f} MB"
        if name != "ours":
            line += f"   {ratio:6.2f}x ours"
        if name == ONE_HOT:
            reached &= ratio >= SMALLER
            line += f"   target {SMALLER:g}x {'reached' if ratio >= SMALLER else 'MISSED'}"
        print(line)
    compare_levels(arguments.repeats)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
