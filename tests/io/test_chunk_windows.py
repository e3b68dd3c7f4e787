from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("chunk_windows", BENCHMARKS / "chunk_windows.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("side_by_side", None)


SMALL = ["--sessions", "2", "--samples", "5000", "--rates", "40", "80", "--batches", "1", "--repeats", "1"]


def test_both_sides_of_the_benchmark_read_the_same_windows(benchmark, tmp_path, capsys):
    assert benchmark.main([*SMALL, "--target", "0", "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "equal on both sides" in printed
    assert "ratio to ours" in printed
    assert list(tmp_path.iterdir()) == []


def test_the_target_is_asked_of_every_rate(benchmark, tmp_path, capsys):
    assert benchmark.main([*SMALL, "--target", "1e9", "--folder", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("target 1e+09x MISSED") == 2
    assert "reached at: no rate (of 40, 80 Hz)" in printed
