"""What ``sweep.html`` shows."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from brainlab.plot.svg import numeric_axis, ticks_of
from brainlab.run.sweep.curves import read_curves
from brainlab.run.sweep.page import render
from brainlab.run.sweep.rows import Found, JobRow
from brainlab.run.sweep.table import Entry

FACTS = {"metric": "val/loss", "mode": "min", "experiment": "mine", "folder": "/s", "collect": "brainlab job=collect"}


def entry(number: int, state: str = "COMPLETED", score: float | None = 1.0, reason=None, source=None, **settings):
    row = JobRow(number, (), state=state, score=score, reason=reason, run_dir=f"/s/{number}", log="/s/some.log")
    return Entry(row, settings, settings.get("seed"), Found(data_source=source))


def page(*entries: Entry, **more) -> str:
    return render(entries, list(entries[0].settings), FACTS, **more)


def charts(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r'<svg class="chart".*?</svg>', html, flags=re.DOTALL)]


def test_the_best_run_is_named_with_what_sets_it_apart():
    html = page(entry(0, score=0.5, lr="0.1"), entry(1, score=0.25, lr="0.2"))

    assert "Best: job 1" in html
    assert "<code>lr=0.2</code>" in html
    assert '<tr id="job-1" data-job="1" class="best">' in html


def test_the_largest_score_is_best_where_the_sweep_says_so():
    html = render([entry(0, score=0.5, lr=1), entry(1, score=0.25, lr=2)], ["lr"], {**FACTS, "mode": "max"})

    assert "Best: job 0" in html


def test_failures_have_their_sentence_and_their_log():
    html = page(entry(0, lr=1), entry(1, "LOST", None, reason="SLURM: NODE_FAIL", lr=2))

    assert "SLURM: NODE_FAIL" in html
    assert "/s/some.log" in html
    assert "What went wrong" in html


def test_seeds_are_shown_as_mean_and_spread():
    html = page(*[entry(seed, score=float(seed), lr="0.1", seed=seed) for seed in (1, 2, 3)])

    assert "Over its 3 seeds: 2 ± 1 (mean ± sd)" in html


def test_the_headline_is_the_best_mean_over_seeds():
    scores = {("0.1", 0): 0.1, ("0.1", 1): 9.0, ("0.2", 0): 2.0, ("0.2", 1): 1.0}
    html = page(*[entry(n, score=score, lr=lr, seed=seed) for n, ((lr, seed), score) in enumerate(scores.items())])

    assert '<div class="number">1.5</div>' in html
    assert "Its best seed: job 3" in html


def test_simulated_data_are_never_in_doubt():
    assert "SIMULATED DATA" in page(entry(0, source="synthetic", lr=1))
    assert "SIMULATED DATA" not in page(entry(0, source="files", lr=1))


def test_every_job_has_its_curve_and_its_point():
    curves = {number: {"val/loss": [(1, 2.0), (2, 1.0 + number)]} for number in (0, 1)}

    against, learned = charts(page(entry(0, lr="0.1"), entry(1, lr="0.2"), curves=curves))

    for chart in (against, learned):
        assert {mark.get("data-job") for mark in chart.iter("g")} - {None} == {"0", "1"}
    assert len(list(learned.iter("path"))) == 4  # a line, and a wide one to point at, for each job


def test_two_keys_make_a_table_of_means():
    html = page(*[entry(2 * a + b, score=a + b / 10, lr=f"0.{a + 1}", width=str(b)) for a in (0, 1) for b in (0, 1)])

    assert "Darker is better" in html
    assert re.search(r'<td class="cell"[^>]*>1.1</td>', html)


def test_what_comes_from_outside_is_escaped():
    html = page(entry(0, "FAILED", None, reason="<script>alert(1)</script>", model="<b>x</b>"), entry(1, model='"&'))

    assert "<script>alert" not in html
    assert "<b>x</b>" not in html
    charts(html)  # still well-formed


def test_a_page_is_one_file_that_loads_nothing():
    assert not re.search(r'(src|href)="(https?:|//)', page(entry(0, lr=1)))


def test_a_sweep_that_has_not_begun_and_one_without_keys_have_a_page():
    assert "No completed job has a score yet" in page(entry(0, "PENDING", None, lr=1))
    assert "Best: job 0" in render([entry(0)], [], FACTS)


def test_scores_that_are_no_numbers_break_no_chart():
    html = page(entry(0, score=float("nan"), lr="0.1"), entry(1, score=float("inf"), lr="0.2"), entry(2, lr="x"))

    assert "nan" not in "".join(re.findall(r'<svg class="chart".*?</svg>', html))


def test_long_histories_are_thinned_and_broken_lines_left_out(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    rows = [{"name": "val/loss", "step": step, "value": step / 2, "time_ms": 0} for step in range(1000)]
    rows += [{"name": "train/loss_step", "step": 1, "value": 1.0, "time_ms": 0}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"name": "val/lo')

    (points,) = read_curves(file).values()

    assert len(points) == 120
    assert (points[0], points[-1]) == ((0, 0.0), (999, 499.5))
    assert read_curves(tmp_path / "missing.jsonl") == {}


def test_axes_turn_logarithmic_where_values_span_decades():
    axis = numeric_axis("lr", [1e-5, 1e-3, 1e-1], margin=0)

    assert [axis.place(value) for value in (1e-5, 1e-3, 1e-1)] == [0, 0.5, 1]
    assert numeric_axis("x", [4.0, 4.0], margin=0).place(4.0) == 0.5
    assert ticks_of(0.5, 0.5) == [0.5]
