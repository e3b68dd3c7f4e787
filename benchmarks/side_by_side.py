"""Timing of several ways to do the same work, in turns and in one process."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

__all__ = ["Times", "environment", "in_turns", "report", "stub_module"]


def environment(*packages: str) -> str:
    """One line on machine, Python and package versions."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as stream:
            model = next(line.split(":")[1].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    known = []
    for package in packages:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            known.append(f"{package} (not installed)")
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} CPUs, {load}, Python {platform.python_version()}, {', '.join(known)}"


@dataclass
class Times:
    """Milliseconds per unit of work, one entry per turn."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def in_turns(ways: Mapping[str, Callable[[], Any]], repeats: int, per_call: int = 1) -> dict[str, Times]:
    """Time each way; the ways take turns so that all see the same machine.

    Args:
        ways: name → function.
        repeats: timed calls of each, after one untimed.
        per_call: units of work in one call.
    """
    for way in ways.values():
        way()
    times = {name: Times() for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            times[name].cpu.append((time.process_time() - cpu) * 1e3 / per_call)
            times[name].wall.append((time.perf_counter() - wall) * 1e3 / per_call)
    return times


def report(times: Mapping[str, Times], ours: str, targets: Mapping[str, float]) -> bool:
    """Print medians and ratios to ``ours``; true when every target is reached.

    A ratio is the median over the turns of peer / ours within the turn, in wall-clock time. The same in processor
    seconds stands beside it: on an idle machine the two agree, on a busy one the latter is the steadier.
    """
    reached = True
    print(
        f"  {'median of ' + str(len(times[ours].wall)) + ' turns':<48s} {'wall ms':>9s} {'CPU ms':>9s}   ratio to ours"
    )
    for name, values in times.items():
        line = f"  {name:<48s} {np.median(values.wall):9.3f} {np.median(values.cpu):9.3f}"
        if name != ours:
            ratio = float(np.median(np.divide(values.wall, times[ours].wall)))
            cpu_ratio = float(np.median(np.divide(values.cpu, times[ours].cpu)))
            line += f"   {ratio:6.2f}x wall {cpu_ratio:6.2f}x CPU"
            if name in targets:
                good = ratio >= targets[name]
                reached &= good
                line += f"   target {targets[name]:g}x {'reached' if good else 'MISSED'}"
            elif targets:
                line += "   no target"
        print(line)
    return reached


def stub_module(name: str) -> None:
    """Put an empty stand-in where a peer imports a package that it does not need for this measurement."""
    import types

    class Anything(types.ModuleType):
        def __getattr__(self, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return type(attribute, (), {})

    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        full = ".".join(parts[:depth])
        if full not in sys.modules:
            module = Anything(full)
            module.__path__ = []
            module.__spec__ = None
            sys.modules[full] = module
            if depth > 1:
                setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], module)
