"""Rollout metrics: known answers, agreement with SciPy on awkward sampling rates, and what happens at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from scipy.spatial.distance import jensenshannon

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.metrics.features import features, prefix_features
from brainlab.metrics.rollouts import DISTANCES, SUMMARIES, distances, summaries
from brainlab.metrics.spectra import Grid

SIMILARITIES = [name for name in DISTANCES if name.startswith("psd_corr")]


def noise(n=4, channels=3, samples=900, seed=0):
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((n, channels, samples))
    slow = np.cumsum(rng.standard_normal((n, channels, samples)), axis=-1)
    mixing = np.eye(channels) + 0.3 * rng.standard_normal((n, channels, channels))
    return (mixing @ (white + 0.1 * slow)).astype(np.float32)


def test_direction_of_every_distance_is_stated():
    assert {name for name, d in DISTANCES.items() if d.better == "higher"} == set(SIMILARITIES)
    assert all(d.better in ("lower", "higher") and d.text for d in DISTANCES.values())
    assert all(d.better == "" and d.text for d in SUMMARIES.values())
    assert SUMMARIES["hurst_exponent"].label == DISTANCES["hurst_exponent"].label == "diffusion exponent"


@pytest.mark.parametrize("sfreq", [100.0, 90.0, 125.0, 33.3])
def test_spectra_agree_with_scipy_whatever_the_segment_length(sfreq):
    x = noise(n=2)[:, :, :801] + 3.0
    known = features(x, sfreq)
    n = max(8, round(sfreq))
    f, psd = scipy.signal.welch(x, sfreq, nperseg=n)
    inside = (f >= 0.5) & (f <= 0.95 * sfreq / 2)
    np.testing.assert_allclose(known.grid.frequencies, f[inside])
    np.testing.assert_allclose(known.psd, psd[..., inside], rtol=2e-4)
    plain = features(x, sfreq)
    plain.coherence(0)  # the transform of all frames gives the same power as the segments alone
    np.testing.assert_allclose(plain.psd, known.psd, rtol=2e-4)

    _, cross = scipy.signal.csd(x[0][:, None], x[0][None], sfreq, nperseg=n, detrend=False)
    power = np.einsum("iif->if", cross).real
    coherence = (np.abs(cross) ** 2 / (power[:, None] * power[None]))[..., inside]
    upper = np.triu_indices(3, k=1)
    np.testing.assert_allclose(known.coherence(0), coherence[upper].T, atol=2e-5)

    overlap = int(0.75 * n)
    _, _, frames = scipy.signal.stft(x[1], sfreq, nperseg=n, noverlap=overlap, boundary=None, padded=False)
    scale = np.hanning(n + 1)[:-1].sum()
    frames = frames[:, inside].transpose(0, 2, 1).reshape(3, -1) * scale
    polar = known.stft(1)
    np.testing.assert_allclose(
        polar.magnitude * np.exp(1j * polar.angle), frames, atol=1e-4 * float(np.abs(frames).max())
    )


def test_signal_is_at_no_distance_from_itself():
    x = noise()
    found = distances(x, x, sfreq_hz=100.0)
    assert list(found) == list(DISTANCES)
    for name, values in found.items():
        np.testing.assert_allclose(values, 1.0 if name in SIMILARITIES else 0.0, atol=1e-5, err_msg=name)


def test_distances_are_symmetric_and_bounded():
    x = noise(6)
    known = features(x, 100.0)
    pairs = np.array([(0, 1), (2, 3), (4, 5)])
    there, back = distances(known, known, pairs), distances(known, known, pairs[:, ::-1])
    for name in DISTANCES:
        np.testing.assert_allclose(there[name], back[name], rtol=1e-5, atol=1e-7, err_msg=name)
    for name in ("correlation", "psd_jsd", "band_jsd", "stft_angle", "fft_angle", "coherence"):
        assert ((there[name] > 0) & (there[name] < 1)).all(), name


def test_opposite_signal_has_correlation_distance_one_and_the_same_spectra():
    x = noise(1)
    found = distances(x, -x, sfreq_hz=100.0)
    np.testing.assert_allclose(found["correlation"], 1.0)
    np.testing.assert_allclose(found["covariance"], 0.0, atol=1e-12)
    np.testing.assert_allclose(found["stft_angle"], 1.0, atol=1e-5)
    np.testing.assert_allclose(found["psd_corr"], 1.0)


def test_known_exponents_come_out():
    rng = np.random.default_rng(1)
    white = rng.standard_normal((1, 6, 6000))
    walk = np.cumsum(white, axis=-1)
    of_white, of_walk = summaries(white, 100.0), summaries(walk, 100.0)
    assert abs(of_white["dfa_exponent"][0] - 0.5) < 0.05
    assert abs(of_white["one_over_f_exponent"][0]) < 0.05
    assert abs(of_white["hurst_exponent"][0]) < 0.02
    assert abs(of_walk["hurst_exponent"][0] - 0.5) < 0.06
    assert abs(of_walk["one_over_f_exponent"][0] - 2.0) < 0.3
    assert abs(of_white["amplitude_kurtosis"][0]) < 0.2
    assert abs(of_white["amplitude_tail_fraction"][0] - 0.0027) < 0.001
    assert of_white["psd_entropy"][0] > 0.99


def test_rhythm_stands_in_its_band():
    time = np.arange(2000) / 100.0
    x = np.sin(2 * np.pi * 10 * time)[None, None] + 0.01 * noise(1, 2, 2000)
    found = summaries(x, 100.0)
    assert found["bandpower_ratio_alpha"][0] > 0.95
    assert abs(found["psd_centroid"][0] - 10.0) < 0.5
    assert found["cov_eig_top_frac"][0] > 0.99
    assert found["spatial_connectivity"][0] > 0.99


def test_units_do_not_change_distances_nor_shares():
    x, y = noise(2, seed=1), noise(2, seed=2)
    tiny = np.float32(3e-14)
    one, other = distances(x, y, sfreq_hz=100.0), distances(x * tiny, y * tiny, sfreq_hz=100.0)
    for name in DISTANCES:
        np.testing.assert_allclose(one[name], other[name], rtol=2e-4, atol=1e-5, err_msg=name)
    shapes, small = summaries(x, 100.0), summaries(x * tiny, 100.0)
    for name in SUMMARIES:
        np.testing.assert_allclose(shapes[name], small[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_offset_changes_only_what_looks_at_it():
    x, y = noise(2, seed=1), noise(2, seed=2)
    one = distances(x, y, sfreq_hz=100.0, fmin_hz=4.0)
    far = distances(x + 1000, y + 1000, sfreq_hz=100.0, fmin_hz=4.0)
    blind = [n for n in DISTANCES if n not in ("amplitude_tail_fraction", "fft_magnitude", "fft_angle")]
    for name in blind:
        np.testing.assert_allclose(one[name], far[name], rtol=2e-2, atol=2e-3, err_msg=name)


def test_flat_channel_is_left_out_of_means_and_everything_flat_is_nan():
    x, y = noise(1, channels=4, seed=3), noise(1, channels=4, seed=4)
    flat = x.copy()
    flat[:, 3] = 7.0
    without, with_flat = (
        distances(x[:, :3], y[:, :3], sfreq_hz=100.0),
        distances(flat, np.concatenate([y[:, :3], flat[:, 3:]], axis=1), sfreq_hz=100.0),
    )
    for name in ("correlation", "dfa_exponent", "amplitude_kurtosis", "psd_jsd", "psd_corr", "spatial_connectivity"):
        np.testing.assert_allclose(with_flat[name], without[name], rtol=1e-5, err_msg=name)
    dead = np.full_like(x, 7.0)
    assert np.isnan(distances(dead, dead, sfreq_hz=100.0)["correlation"]).all()
    assert np.isnan(summaries(dead, 100.0)["dfa_exponent"]).all()


def test_a_band_without_a_frequency_has_no_share_and_nothing_else_to_compare():
    x, y = noise(2, seed=3), noise(2, seed=4)
    found, described = distances(x, y, sfreq_hz=50.0), summaries(x, 50.0)  # up to 23.75 Hz
    shares = features(x, 50.0).bandpower_ratios
    assert (shares[..., -1] == 0).all()
    assert (found["bandpower_ratio_gamma"] == 0).all()
    assert (described["bandpower_ratio_gamma"] == 0).all()
    for name in ("psd_jsd_gamma", "psd_corr_gamma", "coherence_gamma"):
        assert np.isnan(found[name]).all()
    p, q = (s / s.sum(axis=-1, keepdims=True) for s in (shares[..., :-1], features(y, 50.0).bandpower_ratios[..., :-1]))
    expected = jensenshannon(p, q, axis=-1) / np.sqrt(np.log(2))
    np.testing.assert_allclose(found["band_jsd"], expected.mean(axis=-1), rtol=1e-5)


def test_the_smallest_integer_is_as_far_out_as_the_largest():
    x = np.zeros((1, 2, 200), dtype=np.int8)
    x[:, 0, 7], x[:, 1, 7] = -128, 127
    np.testing.assert_array_equal(features(x, 100.0).amplitude_tail_fraction, 1 / 200)


@pytest.mark.parametrize("sfreq", [100.0, 90.0])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_spans_of_zeros_stay_exactly_zero_in_the_transforms(sfreq, offset):
    x = noise(1) + np.float32(offset)
    x[0, 0, 300:700] = 0
    x[0, 1, 450:] = x[0, 2, :200] = 0
    grid = Grid(sfreq, x.shape[-1])
    _, _, expected = scipy.signal.stft(
        x[0].astype(np.float64), sfreq, nperseg=grid.n_segment, noverlap=grid.n_segment - grid.stft_step,
        boundary=None, padded=False, scaling="psd",
    )  # fmt: skip
    expected = np.abs(expected[:, grid.kept]).transpose(0, 2, 1).reshape(3, -1)
    short, whole = prefix_features(x, sfreq, [180, 900])
    found = whole.stft(0)
    np.testing.assert_array_equal(found.magnitude == 0, expected == 0)
    assert (found.magnitude == 0).any(axis=-1).all()
    assert (found.angle[found.magnitude == 0] == 0).all()
    assert (short.fft(0).magnitude[2] == 0).all()
    assert (whole.fft(0).magnitude.max(axis=-1) > 0).all()


def test_short_signals_use_one_segment_of_their_own_length():
    x, y = noise(1)[..., :50], noise(1, seed=5)[..., :50]
    found = distances(x, y, sfreq_hz=100.0)
    assert np.isfinite(found["psd_jsd"]).all()
    grid = Grid(100.0, 50)
    assert (grid.n_segment, grid.n_segments(50), grid.scales.max()) == (50, 1, 25)
    assert np.isnan(distances(x[..., :10], y[..., :10], sfreq_hz=100.0)["dfa_exponent"]).all()


def test_tensors_and_integer_codes_are_accepted():
    x = noise(2)
    torch_values = summaries(torch.from_numpy(x), 100.0)
    for name, values in summaries(x, 100.0).items():
        np.testing.assert_array_equal(values, torch_values[name])
    assert np.isnan(torch_values["token_entropy"]).all()
    codes = np.random.default_rng(0).integers(0, 16, (2, 3, 300))
    found = summaries(codes, 100.0)
    assert (found["token_entropy"] > 1).all()
    np.testing.assert_allclose(found["token_unique_rate"], 16 / 900)


def test_threads_change_nothing():
    x = noise(3)
    one, many = features(x, 100.0, workers=1), features(x, 100.0, workers=3)
    pairs = [(0, 1), (1, 2), (2, 0)]
    for name, values in distances(one, one, pairs).items():
        np.testing.assert_array_equal(values, distances(many, many, pairs)[name])


def test_bad_signals_and_pairs_are_one_sentence():
    x = noise(2)
    broken = x.copy()
    broken[1, 0, 3] = np.inf
    with pytest.raises(InvalidValue, match="signal 1"):
        features(broken, 100.0)
    with pytest.raises(ShapeMismatch, match="signal, channel, time"):
        features(x[0], 100.0)
    with pytest.raises(InvalidValue, match="at least 8 samples"):
        features(x[..., :4], 100.0)
    with pytest.raises(InvalidValue, match="fmax_hz"):
        features(x, 100.0, 60.0)
    with pytest.raises(InvalidValue, match="sfreq_hz"):
        summaries(x)
    with pytest.raises(InvalidValue, match="pairs"):
        distances(x, x, [(0, 2)], sfreq_hz=100.0)
    with pytest.raises(ShapeMismatch, match="channel, time"):
        distances(x, x[:, :2], sfreq_hz=100.0)
