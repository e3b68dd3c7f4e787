"""Rollouts: who is nearer to what, honestly, with planted recordings whose sessions differ."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.evaluation.rollout_divergence import compare, kinds_and_owners
from brainlab.evaluation.rollout_generation import RealSignals, continue_contexts, load_rollouts, read_places
from brainlab.evaluation.rollout_notes import _sign
from brainlab.evaluation.rollout_tokens import in_frames, linear_bits, training_unigram
from brainlab.evaluation.rollouts import Rollouts
from brainlab.evaluation.session_sampler import Place
from brainlab.io.cache import Cache
from brainlab.metrics.divergence import paired
from brainlab.models.var_baseline import SeasonalNaive, VectorAutoregression
from brainlab.nn.sampling import Sampler
from brainlab.plot import rollout_signals, rollouts

SFREQ = 100.0


def session_signal(number: int, n_time: int, step_hz: float = 3.0, n_channels: int = 4, seed: int = 0) -> np.ndarray:
    """(channel, time) float32: resonances at a frequency of the session's own, mixed in its own way."""
    rng = np.random.default_rng([seed, number])
    frequency = 2 * np.pi * (6.0 + step_hz * number) / SFREQ
    poles = [1.0, -2 * 0.96 * np.cos(frequency), 0.96**2]
    sources = lfilter([1.0], poles, rng.standard_normal((n_channels, n_time + 200)))[:, 200:]
    mixing = np.eye(n_channels) + 0.8 * rng.standard_normal((n_channels, n_channels))
    mixed = mixing @ sources
    return (mixed / mixed.std()).astype(np.float32)


class Recordings:
    """A data module in memory: train sessions first, the rest are tested."""

    source = "synthetic"
    sfreq_hz = SFREQ
    tokenizer: Any = None

    def __init__(
        self,
        n_train: int = 3,
        n_test: int = 4,
        seconds: float = 40.0,
        step_hz: float = 3.0,
        absent: dict[int, list[int]] | None = None,
    ):
        n, length = n_train + n_test, round(seconds * SFREQ)
        self.signals = [session_signal(number, length, step_hz) for number in range(n)]
        self.masks = [np.ones(4, dtype=bool) for _ in range(n)]
        for number, rows in (absent or {}).items():
            self.masks[number][rows] = False
            self.signals[number][rows] = 0.0
        rows = [(number, 0, length) for number in range(n)]
        self.stretches = {part: np.array(some, dtype=np.int64).reshape(-1, 3) for part, some in
                          (("train", rows[:n_train]), ("val", []), ("test", rows[n_train:]))}  # fmt: skip
        self.ch_names = ["A", "B", "C", "D"]

    def session(self, number: int) -> Any:
        return SimpleNamespace(
            name=f"sub-{number:02d}", attrs={"dataset": "toy", "task": "rest", "subject": str(number)}
        )

    def signal(self, session: int, start: int, length: int) -> np.ndarray:
        return self.signals[session][:, start : start + length]

    def present(self, session: int) -> np.ndarray:
        return self.masks[session]

    def training_signals(self, max_s: float | None = None):
        for session, start, stop in self.stretches["train"].tolist():
            yield session, self.signal(session, start, stop - start)


class Task(torch.nn.Module):
    """Whatever continues contexts, as a task."""

    def __init__(self, forecast: Any) -> None:
        super().__init__()
        self._forecast = forecast

    def forecaster(self, data: Any) -> Any:
        return SimpleNamespace(forecast=self._forecast)


def oracle(data: Recordings) -> Task:
    """Continues a context with an equally long, later or earlier piece of the same session."""

    def forecast(context: torch.Tensor, steps: int, sampler: Any, generator: Any = None) -> torch.Tensor:
        found = []
        for row in context.numpy():
            for signal in data.signals:
                same = np.flatnonzero(signal[0, : signal.shape[1] - row.shape[1]] == row[0, 0])
                if len(same) and np.array_equal(signal[:, same[0] : same[0] + 10], row[:, :10]):
                    elsewhere = (same[0] + 2 * row.shape[1]) % (signal.shape[1] - steps)
                    found.append(signal[:, elsewhere : elsewhere + steps])
                    break
        return torch.from_numpy(np.stack(found))

    return Task(forecast)


def noise(context: torch.Tensor, steps: int, sampler: Any, generator: Any = None) -> torch.Tensor:
    return torch.randn(*context.shape[:2], steps, generator=generator)


def protocol(**settings: Any) -> Rollouts:
    plain = {
        "context_s": 4.0, "total_s": 10.0, "n_contexts": 8, "n_bootstrap": 100, "n_partners": 2, "window_s": 2.0,
        "sampler": Sampler(), "baselines": {"var": functools.partial(VectorAutoregression, order=4)},
        "prefixes_s": [2.0, 4.0],
    }  # fmt: skip
    return Rollouts(**{**plain, **settings})


@pytest.fixture(autouse=True)
def few_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time and are looked at where they are the question."""
    if "figure" not in request.node.name:
        monkeypatch.setattr("brainlab.evaluation.rollouts.draw_figures", lambda *args, **kwargs: [])


@pytest.fixture(scope="module")
def data() -> Recordings:
    return Recordings()


@pytest.fixture(scope="module")
def judged(data: Recordings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("run")
    return protocol()(oracle(data), data, out), out


def test_a_forecaster_that_knows_the_session_beats_swaps_and_the_pooled_baseline(judged: tuple[Any, Path]) -> None:
    found, _ = judged
    assert found.headline == "psd_distance"
    for short in ("psd", "covariance"):
        own = found.metric(f"{short}_distance")
        assert own.low <= own.value <= own.high < own.control
        assert own.chance is None  # real–real is no guess: it stands for itself
        assert own.value < found.metric(f"{short}_real_real").value
        assert "real–real" in own.note
        for line in ("target_swap", "prompt_swap", "var"):
            gain = found.metric(f"{short}_gain_over_{line}")
            assert gain.low > 0, line
            assert gain.value == pytest.approx(
                np.median(np.array(_values(judged[1], line, short)) - np.array(_values(judged[1], "correct", short)))
            )
    assert any("closer to their own session's real continuation" in note for note in found.notes)


def _values(out: Path, line: str, short: str) -> list[float]:
    content = json.loads((out / "rollouts" / "divergence.json").read_text())
    return content["lines"][line][{"psd": "psd_jsd"}.get(short, short)][-1]


def test_noise_is_not_closer_to_its_own_continuation_and_the_notes_say_so(tmp_path: Path) -> None:
    found = protocol()(Task(noise), Recordings(step_hz=0.0), tmp_path)
    assert found.metric("psd_gain_over_target_swap").low <= 0
    assert found.metric("psd_gain_over_var").high < 0
    assert any("not distinguishably closer" in note for note in found.notes)
    assert any("PSD: the model is farther than the baseline var" in note for note in found.notes)
    assert found.metric("outside_real_range").value > found.metric("outside_real_range_var").value


def test_report_has_every_panel_and_file(judged: tuple[Any, Path]) -> None:
    found, out = judged
    assert [figure.name for figure in found.figures] == [
        "divergence", "drift", "distances", "effects", "psd", "covariance", "coherence", "traces", "stft", "windows",
    ]  # fmt: skip
    for figure in found.figures:
        assert figure.path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert figure.path.parent == out / "figures"
    assert [path.name for path in (out / "figures").glob("*.pdf")] == ["divergence.pdf"]
    assert (out / "figures" / "divergence.pdf").read_bytes()[:5] == b"%PDF-"
    names = {path.name for path in (out / "rollouts").iterdir()}
    assert names == {
        "contexts.json",
        "divergence.json",
        "statistics.json",
        "statistics.md",
        "windows.json",
        "rollouts.npz",
        "rollouts.json",
        "drift.json",
    }
    table = next(table for table in found.tables if table.name == "distances")
    assert len(table.rows) == 36
    content = json.loads((out / "rollouts" / "statistics.json").read_text())
    statistics = content["controls"]["target_swap"]["psd_jsd"]
    assert [record["prefix_s"] for record in statistics] == [2.0, 4.0, 6.0]
    assert (content["unit"], content["n_units"]) == ("sessions", 4)
    assert (statistics[-1]["n"], statistics[-1]["n_clusters"]) == (8, 4)
    assert content["controls_by_context"]["target_swap"]["psd_jsd"][-1]["n_clusters"] == 8


def test_statistics_are_a_table_to_read_with_the_same_numbers(judged: tuple[Any, Path], tmp_path: Path) -> None:
    folder = judged[1] / "rollouts"
    content, text = json.loads((folder / "statistics.json").read_text()), (folder / "statistics.md").read_text()
    assert re.findall("## First (.*) s", text) == ["6", "4", "2"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    header, body = rows[0], [row for row in rows if row[0] not in ("metric", "---")]
    assert header[2:] == ["n", "median Δ", "share Δ > 0", "sessions", "95 % low", "95 % high", "p", "p corrected",
                          "contexts", "95 % low", "95 % high", "p", "p corrected"]  # fmt: skip
    assert len(body) == 3 * 36 * 3
    for row in body[: 36 * 3]:
        record, by_context = (content[table][row[1]][row[0]][-1] for table in ("controls", "controls_by_context"))
        expected = [record[key] for key in ("n", "median", "share_positive")]
        for each in (record, by_context):
            expected += [each[key] for key in ("n_clusters", "low", "high", "p", "p_adjusted")]
        assert [None if cell == "–" else float(cell) for cell in row[2:]] == pytest.approx(expected, rel=1e-5)
    protocol(n_contexts=1)(Task(noise), Recordings(n_train=1, n_test=1, seconds=12.0), tmp_path)
    alone = (tmp_path / "rollouts" / "statistics.md").read_text()
    assert "over contexts; correction" in alone
    assert "| psd_jsd | target_swap | 0 | – |" in alone


def test_intervals_and_tests_are_over_sessions(judged: tuple[Any, Path]) -> None:
    """8 contexts of 4 sessions: no test over 4 units reaches p below 1/8, however alike the contexts are."""
    found, out = judged
    sessions = [place["session"] for place in json.loads((out / "rollouts" / "contexts.json").read_text())["contexts"]]
    for line in ("target_swap", "prompt_swap", "real_real", "var"):
        gain = found.metric(f"psd_gain_over_{line}")
        change = np.array(_values(out, line, "psd")) - np.array(_values(out, "correct", "psd"))
        again = paired(change, 100, 0, np.array(sessions))
        assert (gain.low, gain.high) == (again["low"], again["high"])
        assert "Wilcoxon over 4 sessions p = 0.12" in gain.note or again["p"] != 0.125
    text = " ".join(found.notes)
    assert "tests are over the medians of the 4 sessions" in text
    assert "4 sessions are few: no test over them can reach p below 0.12" in text
    assert "of 36 distances, 0 are significantly smaller" in text.lower()
    assert "4 sessions cannot show more" in text
    assert "too few to be sure" in text


def test_an_interval_of_few_sessions_is_no_finding_without_its_test() -> None:
    gain = {"low": 0.01, "high": 0.1, "n_clusters": 6}
    assert _sign({**gain, "p": 0.031}) == 1
    assert _sign({**gain, "p": 0.31}) == 0
    assert _sign({**gain, "p": None}) == 0
    assert _sign({"low": -0.2, "high": -0.1, "n_clusters": 4, "p": 0.125}) == -1  # the note adds "too few to be sure"


def test_a_perfect_generator_lies_outside_as_often_as_real_recordings(judged: tuple[Any, Path]) -> None:
    found = judged[0].metric("outside_real_range")
    assert found.n == 8
    assert 0.15 < found.ceiling < 0.4
    assert found.low < found.ceiling < found.high
    assert judged[0].metric("diversity_error").better == "lower"
    assert judged[0].metric("diversity_error").ceiling == 0.0


def test_the_rate_outside_of_the_written_protocol_stands_beside_the_one_without_the_own_context(
    judged: tuple[Any, Path],
) -> None:
    found, out = judged
    windows = json.loads((out / "rollouts" / "windows.json").read_text())
    for suffix, name in (("", "model"), ("_var", "var")):
        by_window = np.mean([[np.nan if v is None else v for v in row] for row in windows[name]["outside"].values()], 0)
        rate = found.metric(f"outside_rate{suffix}")
        assert rate.value == pytest.approx(by_window.mean())
        assert rate.value < found.metric(f"outside_real_range{suffix}").value  # a narrower range: seven of eight
        assert (rate.better, rate.low, rate.n) == ("lower", None, 8)
        assert "outside_real_range" in rate.note


def test_two_contexts_with_different_channels_have_no_control_and_the_notes_say_why(tmp_path: Path) -> None:
    data = Recordings(n_test=2, seconds=12.0, absent={3: [2, 3]})
    found = protocol(n_contexts=2, min_contexts=1)(Task(noise), data, tmp_path)
    assert found.metric("psd_distance").control is None
    text = " ".join(found.notes)
    assert "No context has another one of its data set, task and channels" in text
    assert "other stretches of the same session" not in text
    assert "largest group of contexts with the same channels: 1 of 2 contexts, 2 channels" in text
    with pytest.raises(KeyError):
        found.metric("outside_real_range")


def test_the_one_distance_between_two_recordings_has_no_interval(tmp_path: Path) -> None:
    found = protocol(n_contexts=2, min_contexts=1)(Task(noise), Recordings(n_test=2, seconds=12.0), tmp_path)
    assert found.metric("psd_real_real").low is None
    assert found.metric("psd_distance").low is not None


def test_windows_longer_than_those_trained_on_are_said(tmp_path: Path) -> None:
    task = CodeTask()
    task.n_frames = 30
    found = protocol()(task, CodedRecordings(), tmp_path)
    assert any("reads up to 2 s at once, but was trained on windows of 1.2 s" in note for note in found.notes)


def test_drift_of_one_long_window_is_the_divergence_of_everything(data: Recordings, tmp_path: Path) -> None:
    protocol(window_s=6.0, rollouts_per_context=2)(Task(noise), data, tmp_path)
    drifted, diverged = (
        json.loads((tmp_path / "rollouts" / f"{name}.json").read_text()) for name in ("drift", "divergence")
    )
    assert drifted["times_s"] == [3.0]
    assert [line for line in diverged["lines"] if line in drifted["lines"]] == list(drifted["lines"])
    for line in ("correct", "target_swap", "real_real", "var"):
        for distance in ("psd_jsd", "covariance", "coherence"):
            np.testing.assert_allclose(
                drifted["lines"][line][distance][-1], diverged["lines"][line][distance][-1], rtol=1e-5
            )


def test_saved_signals_are_those_that_were_judged(judged: tuple[Any, Path], data: Recordings) -> None:
    arrays, facts = load_rollouts(judged[1] / "rollouts")
    assert set(arrays) == {"context", "target", "present", "generated_model", "generated_var"}
    assert arrays["target"].shape == (8, 4, 600)
    for row, place in enumerate(facts["contexts"]):
        whole = np.concatenate([arrays["context"][row], arrays["target"][row]], axis=1)
        assert np.array_equal(whole, data.signal(place["session"], place["start"], 1000))
    assert facts["data_source"] == "synthetic"


def test_rollouts_are_paired_and_repeat_with_their_seed(
    data: Recordings, judged: tuple[Any, Path], tmp_path: Path
) -> None:
    """The baseline continues the model's contexts, and its rollouts do not depend on which model was judged."""
    protocol()(Task(noise), data, tmp_path)
    again, first = (load_rollouts(out / "rollouts")[0] for out in (tmp_path, judged[1]))
    assert np.array_equal(again["context"], first["context"])
    assert np.array_equal(again["generated_var"], first["generated_var"])


def test_another_protocol_takes_the_rollouts_that_were_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Recordings()
    data.cache = Cache(tmp_path / "cache")
    model = VectorAutoregression(4, order=4).fit(signal for _, signal in data.training_signals())
    task = Task(None)
    task.forecaster = lambda data: model
    first = protocol(baselines=None)(task, data, tmp_path / "first")
    monkeypatch.setattr(VectorAutoregression, "forecast", None)
    again = protocol(baselines=None)(task, data, tmp_path / "again")
    assert [metric.to_dict() for metric in again.metrics] == [metric.to_dict() for metric in first.metrics]
    assert again.details == first.details
    longer = protocol(baselines=None, prefixes_s=[3.0], window_s=3.0)(task, data, tmp_path / "longer")
    assert longer.details["prefixes_s"] == [3.0, 6.0]
    for out in ("again", "longer"):
        arrays, before = (load_rollouts(tmp_path / name / "rollouts")[0] for name in (out, "first"))
        assert np.array_equal(arrays["generated_model"], before["generated_model"])
    with pytest.raises(TypeError, match="not callable"):
        protocol(baselines=None, cache=False)(task, data, tmp_path / "drawn")


def test_a_model_that_is_its_own_baseline_gains_nothing(data: Recordings, tmp_path: Path) -> None:
    model = VectorAutoregression(4, order=4).fit(signal for _, signal in data.training_signals())
    found = protocol()(Task(model.forecast), data, tmp_path)
    for short in ("psd", "covariance"):
        assert found.metric(f"{short}_gain_over_var").value == 0.0
        assert found.metric(f"{short}_distance").value == found.metric(f"{short}_var").value


def test_one_session_swaps_with_its_own_other_stretches_and_says_so(tmp_path: Path) -> None:
    data = Recordings(n_train=1, n_test=1, seconds=60.0)
    found = protocol()(oracle(data), data, tmp_path)
    assert found.details["sessions"] == 1
    assert found.details["contexts"] == 6
    assert any("other stretches of the same session" in note for note in found.notes)
    assert any("do not generalise beyond this recording" in note for note in found.notes)
    assert found.metric("psd_target_swap").n == 6


def test_contexts_of_several_sessions_never_swap_within_a_session() -> None:
    places = [Place(session, start, dataset="d") for session in (1, 2) for start in (0, 100)]
    kinds, owners = kinds_and_owners([*places, Place(3, 0, dataset="e"), Place(3, 50, dataset="e")])
    assert kinds[0] == ("d", "")
    assert owners == [1, 1, 2, 2, (3, 4), (3, 5)]


def test_any_other_context_of_the_data_set_and_task_may_be_a_partner(data: Recordings, tmp_path: Path) -> None:
    places = [Place(1, 0, dataset="d"), Place(1, 9, dataset="d"), Place(2, 0, dataset="d", task="rest")]
    assert kinds_and_owners(places, "any") == ([("d", ""), ("d", ""), ("d", "rest")], None)
    found = {}
    for partners in ("other_session", "any"):
        notes = protocol(partners=partners, n_partners=7)(Task(noise), data, tmp_path / partners).notes
        content = json.loads((tmp_path / partners / "rollouts" / "divergence.json").read_text())
        found[partners] = content["partners"], any("other stretches of the same session" in note for note in notes)
    sessions = [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(set(others) == set(range(8)) - {row} for row, others in enumerate(found["any"][0]))
    assert found["any"][1]
    assert not found["other_session"][1]
    for row, others in enumerate(found["other_session"][0]):
        assert sessions[row] not in {sessions[other] for other in others}


def test_a_single_context_is_compared_without_controls(tmp_path: Path) -> None:
    data = Recordings(n_train=1, n_test=1, seconds=12.0)
    found = protocol(n_contexts=1)(oracle(data), data, tmp_path)
    assert found.details["contexts"] == 1
    assert found.metric("psd_distance").control is None
    assert any("at least 2" in note for note in found.notes)


@pytest.mark.parametrize("coded", [False, True])
def test_a_single_context_has_neither_intervals_nor_tests(tmp_path: Path, coded: bool) -> None:
    data = CodedRecordings() if coded else Recordings(n_train=1, n_test=1, seconds=12.0)
    found = protocol(n_contexts=1)(CodeTask() if coded else Task(noise), data, tmp_path)
    assert {(metric.low, metric.high) for metric in found.metrics} == {(None, None)}
    text = " ".join([*found.notes, *(metric.note for metric in found.metrics)])
    assert text.startswith("1 context of 4 s from 1 of ")
    assert "the baseline var" in text
    assert not re.search(r"\[|Wilcoxon|p = |\b1 (contexts|sessions)|interval.*draw", text)
    assert found.metric("psd_gain_over_var").value != 0.0


def test_intervals_of_two_contexts_are_kept_but_said_to_say_little(tmp_path: Path) -> None:
    found = protocol(n_contexts=2, min_contexts=1)(Task(noise), Recordings(n_test=2, seconds=12.0), tmp_path)
    gain = found.metric("psd_gain_over_var")
    assert gain.low < gain.value < gain.high
    assert any("Intervals over fewer than 6 say little" in note for note in found.notes)


def test_short_recordings_shorten_everything_and_say_so(tmp_path: Path) -> None:
    data = Recordings(n_train=2, n_test=2, seconds=5.0)
    found = protocol(window_s=4.0)(Task(noise), data, tmp_path)
    assert found.details["continuation_s"] == pytest.approx(3.0)
    assert found.details["prefixes_s"] == [2.0, 3.0]
    text = " ".join(found.notes)
    assert "shortened to 5 s" in text
    assert "Prefixes of 4 s" in text
    assert "sliding window of 4 s was shortened" in text
    with pytest.raises(
        InvalidValue, match=r"fits into a session of the test part; no usable stretch of 10 s \(longest 1.2 s\)"
    ):
        protocol()(Task(noise), Recordings(n_train=2, n_test=2, seconds=1.2), tmp_path)


def test_sessions_with_other_channels_are_compared_on_those_they_have(tmp_path: Path) -> None:
    """Channels 2 and 3 are missing in two sessions: nothing of the zeros that fill them enters a distance."""
    data = Recordings(absent={3: [2, 3], 4: [2, 3]})
    found = protocol()(Task(noise), data, tmp_path)
    partners = json.loads((tmp_path / "rollouts" / "divergence.json").read_text())["partners"]
    contexts = json.loads((tmp_path / "rollouts" / "contexts.json").read_text())["contexts"]
    few = {row for row, place in enumerate(contexts) if place["session"] in (3, 4)}
    for row, others in enumerate(partners):
        assert others
        assert {other in few for other in others} == {row in few}
    arrays, _ = load_rollouts(tmp_path / "rollouts")
    assert not arrays["generated_model"][sorted(few)][:, :, 2:].any()
    assert np.isfinite(found.metric("covariance_distance").value)


def test_several_rollouts_of_a_context_count_as_one_context(data: Recordings, tmp_path: Path) -> None:
    found = protocol(rollouts_per_context=3, n_contexts=4)(Task(noise), data, tmp_path)
    assert found.metric("psd_distance").n == 4
    assert load_rollouts(tmp_path / "rollouts")[0]["generated_model"].shape == (4, 3, 4, 600)


def test_values_that_are_not_finite_are_counted(data: Recordings, tmp_path: Path) -> None:
    def broken(context: torch.Tensor, steps: int, sampler: Any, generator: Any = None) -> torch.Tensor:
        made = noise(context, steps, sampler, generator)
        made[0, 0, -7:] = float("nan")
        return made

    found = protocol(baselines=None)(Task(broken), data, tmp_path)
    assert any(note.startswith("7 values of model were not finite") for note in found.notes)
    assert any("No baseline" in note for note in found.notes)


def test_a_forecaster_sees_the_context_alone(data: Recordings) -> None:
    sampled = protocol().places(data)
    real = read_places(data, sampled)
    seen = []

    def forecast(context: torch.Tensor, steps: int, sampler: Any, generator: Any = None) -> torch.Tensor:
        seen.append(context.clone())
        return torch.zeros(*context.shape[:2], steps)

    made, facts = continue_contexts(SimpleNamespace(forecast=forecast), real, None, per_context=2, batch_size=3)
    assert np.array_equal(torch.cat(seen).numpy()[::2], real.signal[..., :400])
    assert made.shape == (8, 2, 4, 600)
    assert facts["rollouts"] == 16
    with pytest.raises(ShapeMismatch, match="expected \\(8, 4, 600\\)"):
        continue_contexts(SimpleNamespace(forecast=lambda c, n, s, g: c), real, None)


def test_seasonal_baseline_and_dropped_entries(data: Recordings, tmp_path: Path) -> None:
    baselines = {"season": functools.partial(SeasonalNaive, period=50), "var": None}
    found = protocol(baselines=baselines)(Task(noise), data, tmp_path)
    assert found.metric("psd_season").n == 8
    with pytest.raises(KeyError):
        found.metric("psd_var")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prefixes_s": [0.0]}, r"evaluation\.prefixes_s=0.0: expected a positive number of seconds"),
        ({"window_s": -1.0}, r"evaluation\.window_s=-1.0: expected a positive number of seconds"),
        ({"n_partners": 0}, r"evaluation\.n_partners=0: expected at least 1"),
        ({"baselines": {"model": VectorAutoregression}}, r"evaluation\.baselines=model"),
        ({"partners": "all"}, r"evaluation\.partners=all: expected other_session or any"),
        ({"correction": "bonferroni"}, r"evaluation\.correction=bonferroni: expected holm"),
        ({"window_stride_s": 0.0}, r"evaluation\.window_stride_s=0.0"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        protocol(**wrong)


def test_prefixes_and_windows_of_eight_samples_are_compared(data: Recordings, tmp_path: Path) -> None:
    found = protocol(prefixes_s=[0.08, 0.5], window_s=0.08, window_stride_s=2.0)(Task(noise), data, tmp_path)
    assert found.details["prefixes_s"] == [0.08, 0.5, 6.0]
    content = json.loads((tmp_path / "rollouts" / "divergence.json").read_text())["lines"]["correct"]
    for distance in ("psd_jsd", "covariance", "stft_magnitude", "coherence"):
        assert np.isfinite(np.array(content[distance], dtype=float)).all(), distance
    windows = json.loads((tmp_path / "rollouts" / "windows.json").read_text())
    assert windows["times_s"] == [0.04, 2.04, 4.04]
    assert np.isfinite(windows["model"]["outside_rate"]).all()


@pytest.mark.parametrize(
    ("short", "message"),
    [
        ({"prefixes_s": [0.07, 2.0]}, r"evaluation\.prefixes_s=0.07 s: expected at least 8 samples, 0.08 s"),
        ({"window_s": 0.07}, r"evaluation\.window_s=0.07 s: expected at least 8 samples"),
        (
            {"context_steps": 400, "total_steps": 407},
            r"evaluation\.total_s=0.07 s after the context: expected at least 8",
        ),
    ],
)
def test_fewer_samples_than_a_spectrum_needs_are_refused_before_anything_is_drawn(
    data: Recordings, tmp_path: Path, short: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        protocol(**short)(Task(None), data, tmp_path)


# -- codes -----------------------------------------------------------------------------------------------------------


class Sign:
    """Two codes per channel: whether its mean over a frame of 4 samples is positive."""

    hop, n_sites, n_levels, vocab_size, receptive_field, fingerprint = 4, 4, 1, 2, 0, "sign"

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        means = signal.unflatten(-1, (-1, 4)).mean(dim=-1)
        return (means > 0).long().transpose(1, 2)[..., None]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes[..., 0].transpose(1, 2).float() * 2 - 1).repeat_interleave(4, dim=-1)


class CodeTask(torch.nn.Module):
    """Pays one nat for every code but those of the first frame; expects the last frame, and repeats it for ever."""

    n_frames = 200

    def forecaster(self, data: Any) -> Any:
        def forecast(context: torch.Tensor, steps: int, sampler: Any, generator: Any = None) -> torch.Tensor:
            return data.tokenizer.decode(data.tokenizer.encode(context)[:, -1:].repeat(1, steps // 4, 1, 1))

        return SimpleNamespace(forecast=forecast, max_context=50)

    def forward(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        targets = codes.flatten(1)[:, 4:]
        return torch.nn.functional.one_hot(codes.flatten(1)[:, :-4], 2).float(), targets

    def scores(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        targets = codes.flatten(1)[:, 4:]
        return torch.ones(targets.shape), targets == 1


class CodedRecordings(Recordings):
    tokenizer = Sign()

    def training_codes(self, max_s: float | None = None):
        for session, signal in self.training_signals():
            share = signal[:, : int(min(signal.shape[1], (max_s or np.inf) / 3 * SFREQ)) // 4 * 4]
            yield session, self.tokenizer.encode(torch.from_numpy(share)[None])[0].numpy()


def test_codes_are_priced_along_the_context(tmp_path: Path) -> None:
    found = protocol()(CodeTask(), CodedRecordings(), tmp_path)
    bits = found.metric("bits_per_token")
    assert bits.value == pytest.approx(1 / np.log(2))
    assert (bits.low, bits.high) == pytest.approx((bits.value, bits.value))
    assert bits.chance == 1.0
    assert bits.control == pytest.approx(1.0, abs=0.02)
    assert found.metric("perplexity").value == pytest.approx(np.e)
    tokens = json.loads((tmp_path / "rollouts" / "tokens.json").read_text())
    assert tokens["frames_read"] == 200
    assert tokens["frames_judged"] == 199
    assert tokens["tokens_per_second"] == 100.0
    assert tokens["time_s"][0] == pytest.approx(0.04)
    assert found.metric("bits_per_second").value == pytest.approx(100 / np.log(2))
    assert any("reads at most 2 s at once" in note for note in found.notes)
    arrays, _ = load_rollouts(tmp_path / "rollouts")
    signal = np.concatenate([arrays["context"], arrays["target"]], axis=-1)[..., :800]
    codes = Sign().encode(torch.from_numpy(signal))
    late = Sign().decode(codes)[..., : 199 * 4].numpy()
    error = found.metric("next_code_mse")
    assert error.value == pytest.approx(np.square(late - signal[..., 4:]).mean(), rel=1e-4)
    assert error.ceiling == pytest.approx(np.square(Sign().decode(codes).numpy() - signal)[..., 4:].mean(), rel=1e-4)


def test_the_frequencies_of_codes_are_counted_without_a_loader() -> None:
    """A loader made here would replace the one whose place in the epoch a checkpoint keeps."""
    everything, n = training_unigram(CodedRecordings())
    assert n == everything.counts.sum() == 3 * 1000 * 4
    assert training_unigram(CodedRecordings(), most_tokens=3000)[1] == 3000


def test_codes_have_a_figure(tmp_path: Path) -> None:
    found = protocol()(CodeTask(), CodedRecordings(), tmp_path)
    assert found.figures[-1].name == "tokens"
    assert found.figures[-1].path.stat().st_size > 10_000


def test_two_contexts_have_figures_of_what_can_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> Path:
        drawn[path.stem] = figure
        return path

    for module in (rollouts, rollout_signals):
        monkeypatch.setattr(module, "save_figure", keep)
    found = protocol(n_contexts=2)(CodeTask(), CodedRecordings(), tmp_path)
    for name in ("psd", "coherence"):
        (legend,) = drawn[name].legends
        assert [text.get_text() for text in legend.get_texts()][-1] == "tokenizer's reconstruction"
    assert [axis.get_title() for axis in drawn["covariance"].axes[:3]] == ["real", "model", "baseline var"]
    assert not drawn["windows"].axes[-1].axison
    assert (
        "2 contexts: medians; thin lines: each context of model and target swap" in drawn["divergence"].get_suptitle()
    )
    assert found.metric("diversity_error_var").note.endswith("that of 2 contexts says little")


def test_a_silent_rollout_has_the_largest_distance_and_is_counted(tmp_path: Path) -> None:
    """It repeats one frame for ever: a constant has no spectrum."""
    found = protocol()(CodeTask(), CodedRecordings(), tmp_path)
    assert found.metric("psd_distance").value == 1.0
    assert any("8 contexts" in note and "silent" in note for note in found.notes)


def test_prices_come_back_as_frames_in_both_orders_of_prediction() -> None:
    """Two sites, two levels, three frames; the first frame is not predicted whole."""
    tokenizer = SimpleNamespace(n_sites=2, n_levels=2)
    table = np.arange(12).reshape(1, 3, 2, 2)
    by_frame = in_frames(table.reshape(1, -1)[:, 3:], tokenizer, "frames")
    np.testing.assert_array_equal(by_frame, table[:, 1:])
    by_site = in_frames(table.transpose(0, 2, 1, 3).reshape(1, 2, -1)[..., 1:].reshape(1, -1), tokenizer, "sites")
    np.testing.assert_array_equal(by_site, table[:, 1:])


class Rounded:
    """512 codes per sample and channel, bins of width 0.05."""

    hop, n_sites, n_levels, vocab_size, receptive_field, fingerprint = 1, 4, 1, 512, 0, "rounded"

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        return (signal / 0.05).round().long().add(256).clamp(0, 511).transpose(1, 2)[..., None]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes[..., 0].transpose(1, 2) - 256) * 0.05


def test_a_linear_model_prices_the_codes_of_single_samples(data: Recordings) -> None:
    """Against the exact probability of every bin, summed up from the Gaussian."""
    model = VectorAutoregression(4, order=3).fit(signal for _, signal in data.training_signals())
    model.noise.copy_(torch.eye(4))  # independent channels, whose bins can be summed up exactly
    real = read_places(data, protocol().places(data))
    found = linear_bits(model, Rounded(), real, 300)
    signal = torch.from_numpy(real.signal[..., :300]).double()
    error = model._errors(signal)
    mean = signal[..., 3:] - error
    centre = Rounded().decode(Rounded().encode(signal[..., 3:])).double()
    normal = torch.distributions.Normal(mean, model.noise.diagonal().double()[:, None])
    exact = -(normal.cdf(centre + 0.025) - normal.cdf(centre - 0.025)).log2().mean(dim=(1, 2))
    np.testing.assert_allclose(found, exact.numpy(), rtol=0.01)
    assert linear_bits(model, Sign(), real, 300) is None


def test_the_tokenizer_is_the_ceiling(tmp_path: Path) -> None:
    found = protocol()(CodeTask(), CodedRecordings(), tmp_path)
    distance = found.metric("psd_distance")
    assert distance.ceiling == found.metric("psd_tokenizer").value
    assert distance.ceiling < distance.value


def test_a_band_without_a_frequency_is_no_agreement() -> None:
    signal = np.random.default_rng(0).standard_normal((4, 2, 300)).astype(np.float32)
    real = RealSignals(signal, np.ones((4, 2), bool), 100)
    compared = compare(
        signal[:, None, :, 50:250], real, {}, [Place(number, 0) for number in range(4)], sfreq_hz=50.0, prefixes=[200],
        n_partners=2, seed=0, fmin_hz=1.0, fmax_hz=None,
    )  # fmt: skip
    for line in compared.at_the_end().values():
        assert np.isnan(line["bandpower_ratio_gamma"]).all()  # 30 to 45 Hz, of which 50 Hz hold nothing
        assert np.isfinite(line["bandpower_ratio_beta"]).all()
        assert np.isfinite(line["band_jsd"]).all()
