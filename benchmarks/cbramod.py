"""Forward + backward of CBraMod, ours and braindecode's, in CPU-seconds of one process.

Run it with a Python that has both packages installed::

    python benchmarks/cbramod.py [--repeats 7] [--threads 1 2]

Both networks hold the same weights. With dropout 0 their outputs and all gradients are compared; then both train with
dropout 0.1 in turns, and the median ratio is printed beside the share that our matrix products take of the fp32
matmul rate measured in the same turns. The exit status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable

# Threads that wait must not count as threads that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from side_by_side import environment, stub_module
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from brainlab.models.cbramod import CBraMod

# braindecode imports torchaudio for filters that are not used here, and torchaudio fails beside a CPU torch.
stub_module("torchaudio.functional")
stub_module("torchaudio.transforms")
warnings.simplefilter("ignore")
from braindecode.models import CBraMod as PeerCBraMod  # noqa: E402

TARGETS = {(16, 63, 1): 1.15, (4, 19, 30): 1.05}
TOLERANCE = 1e-4
N_MATMUL = 1024


def pair(channels: int, patches: int, dropout: float) -> tuple[nn.Module, nn.Module]:
    """Ours and the peer's network with the same weights, in training mode."""
    torch.manual_seed(0)
    ours = CBraMod(dropout=dropout)
    peer = PeerCBraMod(
        n_chans=channels, n_times=200 * patches, n_outputs=2, return_encoder_output=True, drop_prob=dropout
    )
    peer.load_state_dict(ours.state_dict(), strict=True)
    return ours.train(), peer.train()


def step(model: nn.Module, x: Tensor) -> Tensor:
    """One forward and backward pass; the gradients stay in the parameters."""
    for parameter in model.parameters():
        parameter.grad = None
    out = model(x)
    out.square().mean().backward()
    return out.detach()


def largest_difference(ours: nn.Module, peer: nn.Module, x: Tensor) -> tuple[float, str]:
    """Largest |ours − peer| of outputs and parameter gradients, relative to the tensor's largest value, and where."""
    a, b = step(ours, x), step(peer, x.flatten(2))
    differences = {"output": ((a - b).abs().max() / b.abs().max()).item()}
    theirs = dict(peer.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            reference = theirs[name].grad
            differences[name] = ((parameter.grad - reference).abs().max() / reference.abs().max()).item()
    where = max(differences, key=lambda name: differences[name])
    return differences[where], where


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of all threads of this process during ``work``."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(shape: tuple[int, int, int], dropout: float, repeats: int) -> tuple[float, str]:
    """Median ratio peer / ours over turns, and one line about it."""
    ours, peer = pair(*shape[1:], dropout)
    x = torch.randn(*shape, 200)
    flat = x.flatten(2)
    square = torch.randn(N_MATMUL, N_MATMUL)
    with FlopCounterMode(display=False) as counter:
        step(ours, x)
    step(peer, flat)
    times: dict[str, list[float]] = {"ours": [], "peer": [], "matmul": []}
    for _ in range(repeats):
        times["peer"].append(cpu_seconds(lambda: step(peer, flat)))
        times["ours"].append(cpu_seconds(lambda: step(ours, x)))
        times["matmul"].append(cpu_seconds(lambda: [square @ square for _ in range(5)]) / 5)
    turns = np.array(times["peer"]) / np.array(times["ours"])
    median = {name: float(np.median(values)) for name, values in times.items()}
    peak = 2 * N_MATMUL**3 / median["matmul"]
    # Convolutions are left out: the counter takes the backward pass of a depthwise one for a dense one.
    work = sum(n for operation, n in counter.get_flop_counts()["Global"].items() if "conv" not in str(operation))
    line = (
        f"ours {median['ours']:.3f} s, braindecode {median['peer']:.3f} s, "
        f"ratio {np.median(turns):.2f} (turns {turns.min():.2f}–{turns.max():.2f}); "
        f"{work / 1e9:.1f} GFLOP of matrix products = {work / median['ours'] / peak:.0%} of the matmul rate "
        f"({peak / 1e9:.0f} GFLOP/CPU-s)"
    )
    return float(np.median(turns)), line


def main() -> int:
    """Print equality and speed for each shape and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    print(environment("torch", "braindecode"))
    reached = True
    for shape, target in TARGETS.items():
        print(f"(batch, channel, patch, time) = {(*shape, 200)}")
        torch.set_num_threads(1)
        difference, where = largest_difference(*pair(*shape[1:], 0.0), torch.randn(*shape, 200))
        reached &= difference <= TOLERANCE
        print(f"  dropout 0: largest relative difference of outputs and gradients {difference:.1e} ({where})")
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            ratio, line = compare(shape, 0.1, arguments.repeats)
            verdict = ""
            if threads == 1:
                reached &= ratio >= target
                verdict = f"  target {target}: {'reached' if ratio >= target else 'MISSED'}"
            print(f"  dropout 0.1, {threads} thread(s): {line}{verdict}", flush=True)
        torch.set_num_threads(1)
        print(f"  dropout 0,   1 thread(s): {compare(shape, 0.0, arguments.repeats)[1]}", flush=True)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
