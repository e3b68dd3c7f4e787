"""Divergence curves: partners, lines, aggregation per context and paired statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import wilcoxon

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.divergence import CONTROLS, LINES, Divergence, adjusted, divergence, paired, paired_rows, partners
from brainlab.metrics.rollouts import DISTANCES, distances

N = 7


def planted(n=N, seed=0):
    """Sessions of different rhythm; each "generated" one has its session's rhythm and other noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(800) / 100.0
    rhythm = np.stack([np.sin(2 * np.pi * (4 + 3 * i) * time) for i in range(n)])[:, None]
    phase = rng.standard_normal((n, 3, 1))
    real = rhythm * phase + 0.5 * rng.standard_normal((n, 3, 800))
    generated = rhythm * phase + 0.5 * rng.standard_normal((n, 3, 800))
    return generated.astype(np.float32), real.astype(np.float32)


def test_partners_follow_the_documented_draw():
    kinds = [("a", "rest")] * 4 + [("b", "rest")] * 2 + [("a", "task")]
    generator = np.random.default_rng(5)
    expected = []
    for i, kind in enumerate(kinds):
        candidates = [j for j, other in enumerate(kinds) if other == kind and j != i]
        expected.append(generator.choice(candidates, 2, replace=len(candidates) < 2).tolist() if candidates else [])
    assert partners(kinds, 2, 5) == expected
    assert expected[-1] == []


def test_partners_are_other_contexts_of_the_same_kind_and_another_owner():
    kinds, owners = ["x"] * 6, [0, 0, 1, 1, 2, 2]
    for i, drawn in enumerate(partners(kinds, 4, 0, owners)):
        assert len(drawn) == len(set(drawn)) == 4
        assert all(owners[j] != owners[i] for j in drawn)
    with pytest.raises(InvalidValue, match="n_partners"):
        partners(kinds, 0, 0)
    with pytest.raises(ShapeMismatch, match="owners"):
        partners(kinds, 1, 0, [1])


def test_lines_are_means_over_the_pairs_that_they_name():
    generated, real = planted()
    found = divergence(generated, real, 100.0, [400, 800], ["k"] * N, n_partners=2, seed=3)
    assert list(found.lines) == list(LINES)
    i = 2
    j = list(found.partners[i])
    for line, a, b, pairs in (
        ("correct", generated, real, [(i, i)]),
        ("target_swap", generated, real, [(i, k) for k in j]),
        ("prompt_swap", generated, real, [(k, i) for k in j]),
        ("real_real", real, real, [(i, k) for k in j]),
    ):
        alone = distances(a[..., :400], b[..., :400], pairs, 100.0)
        for name in DISTANCES:
            values = found.lines[line][name]
            assert values.shape == (2, N)
            np.testing.assert_allclose(values[0, i], alone[name].mean(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_several_rollouts_of_a_context_are_averaged():
    generated, real = planted()
    twice = np.concatenate([generated, generated[::-1]])
    context_of = np.concatenate([np.arange(N), np.arange(N)[::-1]])
    once = divergence(generated, real, 100.0, [800], ["k"] * N)
    both = divergence(twice, real, 100.0, [800], ["k"] * N, context_of=context_of)
    for line in LINES:
        np.testing.assert_allclose(both.lines[line]["psd_jsd"], once.lines[line]["psd_jsd"], rtol=1e-5)


def test_planted_rhythm_is_closer_to_its_own_session_than_to_swaps():
    generated, real = planted()
    found = divergence(generated, real, 100.0, [400, 800], ["k"] * N, n_partners=3)
    statistics = found.statistics(n_bootstrap=500)
    assert list(statistics) == list(CONTROLS)
    for control in CONTROLS:
        for name in ("psd_jsd", "psd_corr", "covariance", "band_jsd"):
            last = statistics[control][name][-1]
            assert last["median"] > 0, (control, name)
            assert last["low"] > 0, (control, name)
            assert last["share_positive"] == 1.0
            assert last["p"] < 0.05
            assert last["p_adjusted"] >= last["p"]
            assert last["prefix_s"] == 8.0
    everything = {"curves": found.curves(), "statistics": statistics, "values": found.to_dict()}
    assert json.loads(json.dumps(everything, allow_nan=False)) == everything


def test_context_without_partner_has_no_control():
    generated, real = planted()
    found = divergence(generated, real, 100.0, [800], ["k"] * (N - 1) + ["alone"])
    assert np.isnan(found.lines["target_swap"]["covariance"][0, -1])
    assert np.isfinite(found.lines["correct"]["covariance"][0, -1])
    assert found.statistics(n_bootstrap=100)["target_swap"]["covariance"][0]["n"] == N - 1
    assert found.curves()["real_real"]["covariance"]["n"] == [N - 1]
    nobody = divergence(generated[:2], real[:2], 100.0, [800], ["a", "b"])
    assert nobody.statistics()["real_real"]["covariance"][0]["median"] is None
    assert nobody.curves()["real_real"]["covariance"]["mean"] == [None]


def test_similarity_counts_the_other_way_round():
    values = np.array([[0.1, 0.2, 0.3]])
    lines = {"correct": dict.fromkeys(DISTANCES, values), "target_swap": dict.fromkeys(DISTANCES, values + 0.5)}
    statistics = Divergence(100.0, (800,), lines).statistics(n_bootstrap=50)["target_swap"]
    assert statistics["psd_jsd"][0]["median"] == pytest.approx(0.5)
    assert statistics["psd_corr_alpha"][0]["median"] == pytest.approx(-0.5)


def test_curve_is_the_summary_of_contexts():
    values = np.array([[1.0, 2.0, 3.0, 6.0, np.nan]])
    curve = Divergence(10.0, (20,), {"correct": {"covariance": values}}).curves()["correct"]["covariance"]
    kept = values[0, :4]
    assert curve == {
        "mean": [3.0],
        "median": [2.5],
        "q25": [np.quantile(kept, 0.25)],
        "q75": [np.quantile(kept, 0.75)],
        "std": [kept.std()],
        "n": [4],
    }


def test_paired_statistics_are_those_of_scipy_and_an_independent_bootstrap():
    change = np.random.default_rng(0).standard_normal(40) + 0.4
    found = paired(change)
    assert found["p"] == pytest.approx(wilcoxon(change).pvalue)
    assert found["median"] == pytest.approx(np.median(change))
    assert found["share_positive"] == pytest.approx((change > 0).mean())
    rng = np.random.default_rng(99)
    draws = np.median(change[rng.integers(0, 40, (20000, 40))], axis=1)
    np.testing.assert_allclose([found["low"], found["high"]], np.quantile(draws, [0.025, 0.975]), atol=0.05)
    clustered = paired(change, clusters=np.repeat(np.arange(4), 10))
    assert clustered["high"] - clustered["low"] > 0
    assert paired(np.zeros(5))["p"] is None


def test_rows_together_are_each_row_alone():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((6, 15)) + 0.3
    rows[1, 3] = rows[2, 3] = rows[3, :] = np.nan
    rows[4, :2] = 0.0
    rows[5, 1] = -rows[5, 0]
    clusters = np.repeat(np.arange(5), 3)
    together = paired_rows(rows, 300, 2, clusters)
    for row, found in zip(rows, together, strict=True):
        assert found == paired(row, 300, 2, clusters)
        defined = np.isfinite(row)
        assert found["n"] == defined.sum()
        if defined.any():
            medians = [np.median(row[defined & (clusters == c)]) for c in np.unique(clusters[defined])]
            assert found["n_clusters"] == len(medians)
            assert found["p"] == pytest.approx(wilcoxon(medians).pvalue)


def test_a_pure_session_effect_is_no_finding():
    """16 contexts of 6 sessions, each with its session's luck: the test keeps its level, the interval is as wide."""
    rng = np.random.default_rng(0)
    sessions = np.arange(16) % 6
    change = rng.standard_normal((400, 6))[:, sessions] + 0.2 * rng.standard_normal((400, 16))
    single, clustered = paired_rows(change, 50), paired_rows(change, 50, clusters=sessions)
    assert np.mean([found["p"] < 0.05 for found in single]) > 0.15
    assert np.mean([found["p"] < 0.05 for found in clustered]) < 0.06
    width = [np.mean([found["high"] - found["low"] for found in each]) for each in (single, clustered)]
    assert width[1] > 1.2 * width[0]


def test_correction_for_many_tests():
    p = np.array([0.01, np.nan, 0.02, 0.03, 0.5])
    np.testing.assert_allclose(adjusted(p, "holm"), [0.04, np.nan, 0.06, 0.06, 0.5])
    np.testing.assert_allclose(adjusted(p, "benjamini_hochberg"), [0.04, np.nan, 0.04, 0.04, 0.5])
    np.testing.assert_array_equal(adjusted(p, "none"), p)
    with pytest.raises(InvalidValue, match="correction"):
        adjusted(p, "bonferoni")


def test_rollouts_must_belong_to_contexts():
    generated, real = planted()
    with pytest.raises(ShapeMismatch, match="kinds"):
        divergence(generated, real, 100.0, [800], ["k"])
    with pytest.raises(ShapeMismatch, match="generated"):
        divergence(generated[:-1], real, 100.0, [800], ["k"] * N)
