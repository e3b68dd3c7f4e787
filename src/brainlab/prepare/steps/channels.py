"""Steps over channels: which are kept, which are bad, and what becomes of those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.prepare.steps.session import DATA_KINDS, Discarded, RawSession

__all__ = ["BadChannels", "Interpolate", "Pick", "ZeroBads", "unlike_the_others"]

_LISTED = 5
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
            raise InvalidFile(
                "channels", ", ".join(sorted(set(found.values()))) or "none",
                f"expected at least one of type {' or '.join(self.kinds)}", where=session.source,
            )  # fmt: skip
        if len(kept) < len(found):
            session.dropped.update({name: kind for name, kind in found.items() if name not in set(kept)})
            session.raw.pick(kept, verbose="ERROR")
        session.note("Pick", kinds=list(self.kinds), kept=len(kept), dropped=len(found) - len(kept))


def unlike_the_others(amplitude: Float[np.ndarray, " channel"], threshold: float) -> Bool[np.ndarray, " channel"]:
    """Channels whose amplitude is an outlier among channels of their kind.

    The logarithm of the amplitude is compared with the median, in robust standard deviations (1.4826 × median absolute
    deviation, at least 5 %, so that very similar channels do not make each other outliers). A channel with less than a
    thousandth of the median amplitude is flat.

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
    return flat | (np.abs(level - centre) > threshold * spread)


@dataclass(frozen=True)
class BadChannels:
    """Find channels that are flat or far louder or quieter than others of their kind.

    The amplitude of a channel is the median, over windows of the training span, of its standard deviation, so that
    single artefacts do not make a channel bad. Channels that the file itself calls bad stay so.

    Args:
        threshold: in robust standard deviations of the log amplitude, within each kind.
        window_s: width of a window.
        max_share: a session with a larger share of bad channels is discarded.
        statistics: "training" looks at the training span only, "recording" at everything.
    """

    threshold: float = 5.0
    window_s: float = 2.0
    max_share: float = 0.1
    statistics: str = "training"

    def __post_init__(self) -> None:
        if not self.threshold > 0 or not self.window_s > 0:
            raise InvalidValue("threshold, window_s", (self.threshold, self.window_s), "expected positive numbers")
        if not 0 <= self.max_share <= 1:
            raise InvalidValue("max_share", self.max_share, "expected 0 to 1", where="BadChannels")
        if self.statistics not in ("training", "recording"):
            raise InvalidValue("statistics", self.statistics, "expected training or recording", where="BadChannels")

    def __call__(self, session: RawSession) -> None:
        start, stop = session.span(self.statistics)
        width = max(2, min(round(self.window_s * session.sfreq_hz), stop - start))
        kinds, names = np.array(session.kinds), session.ch_names
        found: list[str] = []
        for kind in DATA_KINDS:
            rows = np.flatnonzero(kinds == kind)
            if not len(rows):
                continue
            amplitude = np.array([_amplitude(session.samples[row, start:stop], width) for row in rows.tolist()])
            found += [names[row] for row in rows[unlike_the_others(amplitude, self.threshold)].tolist()]
        known = [name for name in session.raw.info["bads"] if name in names]
        bads = [name for name in names if name in {*known, *found}]
        session.raw.info["bads"] = bads
        n_data = int(np.isin(kinds, DATA_KINDS).sum())
        n_bad = sum(kind in DATA_KINDS for name, kind in zip(names, kinds.tolist(), strict=True) if name in set(bads))
        share = n_bad / max(1, n_data)
        session.note("BadChannels", bads=bads, marked_in_file=known, share=round(share, 4))
        if share > self.max_share:
            raise Discarded(
                f"bad_channels: {n_bad} of {n_data}, more than {100 * self.max_share:g} %",
                {"bads": bads, "share": round(share, 4)},
            )


def _amplitude(row: Float[np.ndarray, " time"], width: int) -> float:
    n_windows = max(1, len(row) // width)
    return float(np.median(row[: n_windows * width].reshape(n_windows, -1).std(axis=1)))


@dataclass(frozen=True)
class Interpolate:
    """Replace bad channels by what their neighbours say: spherical splines for EEG, a minimum-norm field for MEG."""

    def __call__(self, session: RawSession) -> None:
        bads = [name for name in session.raw.info["bads"] if name in session.ch_names]
        if not bads:
            session.note("Interpolate", channels=[])
            return
        self._expect_positions(session, bads)
        with session.listening():
            session.raw.interpolate_bads(reset_bads=True, verbose="ERROR")
        session.interpolated += bads
        session.note("Interpolate", channels=bads)

    def _expect_positions(self, session: RawSession, bads: list[str]) -> None:
        kinds = {kind for name, kind in zip(session.ch_names, session.kinds, strict=True) if name in bads}
        chs = session.raw.info["chs"]
        unplaced = [
            session.ch_names[row]
            for row in session.rows(tuple(kinds))
            if not np.isfinite(chs[row]["loc"][:3]).all() or not np.any(chs[row]["loc"][:3])
        ]
        if unplaced:
            more = f" and {len(unplaced) - _LISTED} more" if len(unplaced) > _LISTED else ""
            raise InvalidFile(
                "positions", f"missing for {', '.join(unplaced[:_LISTED])}{more}",
                f"expected the positions of all sensors to interpolate {', '.join(bads[:_LISTED])}",
                where=session.source,
                hint="data.steps.interpolate=null leaves bad channels as they are,"
                " brainlab.prepare.steps.channels.ZeroBads sets them to zero",
            )  # fmt: skip


@dataclass(frozen=True)
class ZeroBads:
    """Set bad channels to zero; they stay listed as bad."""

    def __call__(self, session: RawSession) -> None:
        bads = [name for name in session.raw.info["bads"] if name in session.ch_names]
        for name in bads:
            session.samples[session.ch_names.index(name)] = 0.0
        session.note("ZeroBads", channels=bads)
