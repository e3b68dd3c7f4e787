"""Steps over channels: which are kept, which are bad, and what becomes of those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.prepare.steps.session import DATA_KINDS, Discarded, RawSession

__all__ = ["BadChannels", "Interpolate", "Pick", "ZeroBads", "own_noise", "unlike_the_others"]

_LISTED = 5
_LEAST_CHANNELS = 8
_NO_VARIANCE = 1e-8
_QUIET = float(np.log(10))
_LOUD = float(np.log(3))
_NOISY = float(np.log(4))
_NORMAL_MAD = 1.4826
_LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class Pick:
    """Keep channels of some types. Reference channels go here, so gradient compensation must come before.

    Args:
        kinds: MNE's channel types: mag (also axial gradiometers), grad (planar), eeg, …; "meg" is mag and grad.
        exclude: names that are left out.
    """

    kinds: Sequence[str] = ("mag", "grad")
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        # Configurations give lists; a frozen step is a key, so it holds tuples.
        kinds = (self.kinds,) if isinstance(self.kinds, str) else tuple(self.kinds)
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "exclude", (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude))
        if not kinds:
            raise InvalidValue("kinds", kinds, "expected at least one channel type", where="Pick")

    def __call__(self, session: RawSession) -> None:
        wanted = {kind for name in self.kinds for kind in (("mag", "grad") if name == "meg" else (name,))}
        found = dict(zip(session.ch_names, session.kinds, strict=True))
        kept = [name for name, kind in found.items() if kind in wanted and name not in self.exclude]
        if not kept:
            there = sorted({kind for kind in found.values() if kind != "stim"})
            raise InvalidFile(
                "channels", ", ".join(sorted(set(found.values()))) or "none",
                f"expected at least one of type {' or '.join(self.kinds)}", where=session.source,
                hint=f"data.steps.pick.kinds=[{','.join(there)}] takes what the recording has" if there else None,
            )  # fmt: skip
        if len(kept) < len(found):
            session.dropped.update({name: kind for name, kind in found.items() if name not in set(kept)})
            session.raw.pick(kept, verbose="ERROR")
        session.note("Pick", kinds=list(self.kinds), kept=len(kept), dropped=len(found) - len(kept))


def unlike_the_others(amplitude: Float[np.ndarray, " channel"], threshold: float) -> Bool[np.ndarray, " channel"]:
    """Channels whose amplitude is an outlier among channels of their kind.

    The logarithm of the amplitude is compared with the median, in robust standard deviations (1.4826 × median absolute
    deviation, at least 5 %). So that similar channels do not make each other outliers, a loud one must also exceed
    three times the median, and a quiet one, which does little harm, fall below a tenth of it; below a thousandth it is
    flat.

    Args:
        amplitude: ≥ 0, one per channel.
        threshold: in robust standard deviations.

    >>> unlike_the_others(np.array([1.0, 1.1, 0.9, 1.05, 30.0, 0.0]), 5.0).tolist()
    [False, False, False, False, True, True]
    """
    alive = amplitude[amplitude > 0]
    if not len(alive):
        return np.ones(len(amplitude), dtype=bool)
    flat = amplitude < 1e-3 * np.median(alive)
    if flat.all() or (~flat).sum() < 3:
        return flat
    level = np.log(np.where(flat, 1.0, amplitude))
    centre = np.median(level[~flat])
    spread = max(_NORMAL_MAD * float(np.median(np.abs(level[~flat] - centre))), _LEAST_SPREAD)
    above = level - centre
    return flat | (above > max(threshold * spread, _LOUD)) | (-above > max(threshold * spread, _QUIET))


def own_noise(samples: Float[np.ndarray, "channel time"], width: int) -> Float[np.ndarray, " channel"]:
    """Amplitude of what a channel shares with no other: of the residual when all others explain it linearly.

    The residual of channel i is (Σ⁻¹x)ᵢ / (Σ⁻¹)ᵢᵢ for the covariance Σ, with the pseudo-inverse where channels depend
    on each other exactly (average reference, interpolation). Fields of the brain and of the environment reach many
    sensors and drop out. Its amplitude is the median over windows of the standard deviation; the covariance is that of
    the calmer half of the windows, in which no channel has an artefact if possible.

    Args:
        samples: channels that vary, with at least ten times more samples than channels.
        width: samples per window.
    """
    n_windows = samples.shape[1] // width
    windows = samples[:, : n_windows * width].reshape(len(samples), n_windows, width)
    power = windows.std(axis=2)
    calm = np.argsort((power / np.median(power, axis=1, keepdims=True)).max(axis=0))[: max(1, (n_windows + 1) // 2)]
    used = windows[:, calm].reshape(len(samples), -1)
    spread = used.std(axis=1)
    values, vectors = np.linalg.eigh(np.corrcoef(used))
    kept = values > _NO_VARIANCE * values[-1]
    precision = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    weights = precision / np.diag(precision)[:, None] * spread[:, None] / spread
    return np.array([_amplitude(row @ samples, width) for row in weights])


@dataclass(frozen=True)
class BadChannels:
    """Find channels that are flat, far louder or quieter than others of their kind, or noisy by themselves.

    The amplitude of a channel is the median, over windows of the training span, of its standard deviation, so that
    single artefacts do not make a channel bad; the noise of its own is what :func:`own_noise` says. Channels that the
    file itself calls bad, or that gradient compensation found flat, stay so.

    Args:
        threshold: for the amplitude, in robust standard deviations of its logarithm within each kind.
        noise_threshold: the same for a channel's own noise, where only more than four times the median is bad; null
            does without.
        window_s: width of a window.
        max_share: a session with a larger share of bad channels is discarded.
        statistics: "training" looks at the training span only, "recording" at everything.
    """

    threshold: float = 5.0
    noise_threshold: float | None = 3.5
    window_s: float = 2.0
    max_share: float = 0.1
    statistics: Literal["training", "recording"] = "training"

    def __post_init__(self) -> None:
        for name in ("threshold", "noise_threshold", "window_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidValue(name, value, "expected a positive number", where="BadChannels")
        if not 0 <= self.max_share <= 1:
            raise InvalidValue("max_share", self.max_share, "expected 0 to 1", where="BadChannels")
        if self.statistics not in ("training", "recording"):
            raise InvalidValue("statistics", self.statistics, "expected training or recording", where="BadChannels")

    def __call__(self, session: RawSession) -> None:
        start, stop = session.span(self.statistics)
        kinds, names = np.array(session.kinds), session.ch_names
        known = [name for name in session.raw.info["bads"] if name in names]
        unlike: list[str] = []
        noisy: list[str] = []
        for kind in DATA_KINDS:
            rows = np.flatnonzero(kinds == kind)
            if len(rows):
                bad = self._unlike(session, rows, start, stop)
                unlike += [names[row] for row in rows[bad].tolist()]
                good = np.array([row for row in rows[~bad].tolist() if names[row] not in known], dtype=int)
                noisy += [names[row] for row in self._noisy(session, good, start, stop)]
        bads = [name for name in names if name in {*known, *unlike, *noisy}]
        session.raw.info["bads"] = bads
        n_data = int(np.isin(kinds, DATA_KINDS).sum())
        n_bad = sum(kind in DATA_KINDS for name, kind in zip(names, kinds.tolist(), strict=True) if name in set(bads))
        share = n_bad / max(1, n_data)
        facts = {"bads": bads, "known": known, "unlike_the_others": unlike, "noisy": noisy, "share": round(share, 4)}
        session.note("BadChannels", **facts)
        if share > self.max_share:
            raise Discarded(
                f"bad_channels: {n_bad} of {n_data}, more than {100 * self.max_share:g} %", facts,
                hint=f"data.steps.bad_channels.max_share={np.ceil(100 * share) / 100:g}",
            )  # fmt: skip

    def _width(self, session: RawSession, n_samples: int) -> int:
        return max(2, min(round(self.window_s * session.sfreq_hz), n_samples))

    def _unlike(self, session: RawSession, rows: np.ndarray, start: int, stop: int) -> np.ndarray:
        width = self._width(session, stop - start)
        amplitude = np.array([_amplitude(session.samples[row, start:stop], width) for row in rows.tolist()])
        return unlike_the_others(amplitude, self.threshold)

    def _noisy(self, session: RawSession, rows: np.ndarray, start: int, stop: int) -> list[int]:
        if self.noise_threshold is None or len(rows) < _LEAST_CHANNELS or stop - start < 10 * len(rows):
            return []
        level = np.log(own_noise(session.samples[rows, start:stop], self._width(session, stop - start)))
        above = level - np.median(level)
        spread = max(_NORMAL_MAD * float(np.median(np.abs(above))), _LEAST_SPREAD)
        return [int(row) for row in rows[above > max(self.noise_threshold * spread, _NOISY)]]


def _amplitude(row: Float[np.ndarray, " time"], width: int) -> float:
    n_windows = max(1, len(row) // width)
    return float(np.median(row[: n_windows * width].reshape(n_windows, -1).std(axis=1)))


@dataclass(frozen=True)
class Interpolate:
    """Replace bad channels by what their neighbours say: spherical splines for EEG, a minimum-norm field for MEG.

    Args:
        missing: where sensors have no positions, "raise" ends in a sentence, "zero" sets the bad channels to zero
            instead, with a warning; they stay listed as bad.
    """

    missing: Literal["raise", "zero"] = "raise"

    def __post_init__(self) -> None:
        if self.missing not in ("raise", "zero"):
            raise InvalidValue("missing", self.missing, "expected raise or zero", where="Interpolate")

    def __call__(self, session: RawSession) -> None:
        bads = [name for name in session.raw.info["bads"] if name in session.ch_names]
        if not bads:
            session.note("Interpolate", channels=[])
            return
        unplaced = self._without_position(session, bads)
        if unplaced and self.missing == "zero":
            session.warn(f"bad channels {', '.join(bads)} are zero: sensors without positions cannot be interpolated")
            ZeroBads()(session)
            return
        if unplaced:
            more = f" and {len(unplaced) - _LISTED} more" if len(unplaced) > _LISTED else ""
            raise InvalidFile(
                "positions", f"missing for {', '.join(unplaced[:_LISTED])}{more}",
                f"expected the positions of all sensors to interpolate {', '.join(bads[:_LISTED])}",
                where=session.source,
                hint="the step's missing=zero makes bad channels zero instead, data.steps.interpolate=null leaves them",
            )  # fmt: skip
        origin = session.head_origin()
        with session.listening():
            session.raw.interpolate_bads(reset_bads=True, origin=origin, verbose="WARNING")
        session.interpolated += bads
        session.note("Interpolate", channels=bads, origin=origin)

    def _without_position(self, session: RawSession, bads: list[str]) -> list[str]:
        kinds = {kind for name, kind in zip(session.ch_names, session.kinds, strict=True) if name in bads}
        places = {row: session.raw.info["chs"][row]["loc"][:3] for row in session.rows(tuple(kinds))}
        return [session.ch_names[row] for row, at in places.items() if not np.isfinite(at).all() or not np.any(at)]


@dataclass(frozen=True)
class ZeroBads:
    """Set bad channels to zero; they stay listed as bad."""

    def __call__(self, session: RawSession) -> None:
        bads = [name for name in session.raw.info["bads"] if name in session.ch_names]
        for name in bads:
            session.samples[session.ch_names.index(name)] = 0.0
        session.note("ZeroBads", channels=bads)
