"""Steps for what only MEG systems have: CTF's gradient compensation, Elekta's signal space separation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainlab.errors import InvalidFile, InvalidValue
from brainlab.prepare.steps.session import RawSession

__all__ = ["GradientCompensation", "Maxwell"]


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


@dataclass(frozen=True)
class GradientCompensation:
    """Synthetic gradiometers of a grade, from CTF's reference channels, which must still be there.

    A file without compensation matrices is left as it is, with a warning. Flat sensors are marked as bad.

    Args:
        grade: 0 (none) to 3.
        statistics: "training" looks for flat sensors in the training span only, "recording" everywhere.
    """

    grade: int = 3
    statistics: Literal["training", "recording"] = "training"

    def __post_init__(self) -> None:
        if self.grade not in (0, 1, 2, 3):
            raise InvalidValue("grade", self.grade, "expected 0, 1, 2 or 3", where="GradientCompensation")
        if self.statistics not in ("training", "recording"):
            raise InvalidValue(
                "statistics", self.statistics, "expected training or recording", where="GradientCompensation"
            )

    def __call__(self, session: RawSession) -> None:
        raw = session.raw
        before = raw.compensation_grade
        if before != self.grade and "ref_meg" in session.dropped.values():
            raise InvalidFile(
                "compensation grade", self.grade, "expected the reference channels, which Pick has dropped",
                where=session.source, hint="data.steps: the compensation comes before Pick",
            )  # fmt: skip
        if before == self.grade or not raw.info["comps"]:
            if session.system == "ctf275" and before != self.grade:
                session.warn("no gradient compensation: the file holds no compensation matrices")
            session.note("GradientCompensation", grade=before, was=before)
            return
        # A dead sensor would get the references' signal and look alive from here on.
        rows = session.rows(("mag",))
        start, stop = session.span(self.statistics)
        spread = session.samples[rows, start:stop].std(axis=1)
        dead = [session.ch_names[row] for row, one in zip(rows, spread, strict=True) if one < 1e-3 * np.median(spread)]
        raw.info["bads"] = [*raw.info["bads"], *(name for name in dead if name not in raw.info["bads"])]
        try:
            raw.apply_gradient_compensation(self.grade, verbose="ERROR")
        except ValueError as error:
            raise InvalidFile(
                "compensation grade", self.grade,
                f"expected its matrices and reference channels ({_first_line(error)})", where=session.source,
                hint="the step must come before Pick, which drops the reference channels",
            ) from error  # fmt: skip
        session.note("GradientCompensation", grade=self.grade, was=before, flat=dead)


@dataclass(frozen=True)
class Maxwell:
    """Signal space separation (tSSS) of Elekta/MEGIN recordings in FIF, before any filter.

    Projectors are removed, noisy and flat channels found, the head position followed where the recording has
    continuous head-position coils (a failure is a warning, the filter then goes without), and the recording rotated to
    its own device-to-head transform.

    Args:
        calibration: fine-calibration file, or null.
        crosstalk: cross-talk file, or null.
        st_duration_s: buffer of the temporal extension, null for plain SSS.
        find_bads: look for bad channels first.
        statistics: "training" looks for them in the training span only, "recording" everywhere.
        movement: compensate head movement where the coils were on.

    Source: Taulu & Simola (2006), through MNE.
    """

    calibration: str | None = None
    crosstalk: str | None = None
    st_duration_s: float | None = 10.0
    find_bads: bool = True
    movement: bool = True
    statistics: Literal["training", "recording"] = "training"

    def __post_init__(self) -> None:
        if self.st_duration_s is not None and not self.st_duration_s > 0:
            raise InvalidValue(
                "st_duration_s", self.st_duration_s, "expected a positive number or null", where="Maxwell"
            )
        if self.statistics not in ("training", "recording"):
            raise InvalidValue("statistics", self.statistics, "expected training or recording", where="Maxwell")
        for name in ("calibration", "crosstalk"):
            path = getattr(self, name)
            if path is not None and not Path(path).expanduser().is_file():
                raise InvalidFile(name, path, "expected an existing file", where="Maxwell")

    @property
    def files(self) -> tuple[Path, ...]:
        """Files whose content the result depends on."""
        return tuple(Path(path).expanduser() for path in (self.calibration, self.crosstalk) if path is not None)

    def __call__(self, session: RawSession) -> None:
        import mne

        raw = session.raw
        if session.system not in ("vectorview306", "neuromag122") or raw.info["comps"]:
            raise InvalidFile(
                "system", session.system or "unknown", "expected Elekta/MEGIN MEG in FIF for Maxwell filtering",
                where=session.source, hint="data.steps.maxwell=null leaves the step out",
            )  # fmt: skip
        tuned: dict[str, Any] = {
            "calibration": str(Path(self.calibration).expanduser()) if self.calibration else None,
            "cross_talk": str(Path(self.crosstalk).expanduser()) if self.crosstalk else None,
        }
        head = raw.info["dev_head_t"]
        if head is None:
            session.warn("Maxwell filter in device coordinates: the file holds no device-to-head transform")
            tuned.update(coord_frame="meg", origin=(0.0, 0.0, 0.0))
        else:
            tuned.update(origin=session.head_origin())
        noisy: list[str] = []
        flat: list[str] = []
        with session.listening():
            raw.del_proj()
            try:
                if self.find_bads:
                    judged = self._judged(session)
                    noisy, flat = mne.preprocessing.find_bad_channels_maxwell(judged, verbose="ERROR", **tuned)
                    raw.info["bads"] = sorted({*raw.info["bads"], *noisy, *flat})
                followed = self._head_position(session) if self.movement and head is not None else None
                session.raw = mne.preprocessing.maxwell_filter(
                    raw, st_duration=self._buffer(session), head_pos=followed, destination=head, mag_scale="auto",
                    verbose="ERROR", **tuned,
                )  # fmt: skip
            except (ValueError, RuntimeError) as error:
                raise InvalidFile(
                    "recording", session.file.path, f"expected one that can be Maxwell-filtered ({_first_line(error)})"
                ) from error  # fmt: skip
        session.note(
            "Maxwell", noisy=list(noisy), flat=list(flat), st_duration_s=self._buffer(session),
            movement_compensation=followed is not None,
        )  # fmt: skip

    def look_ahead_s(self, sfreq_hz: float) -> float:
        """How far ahead of itself a sample of the result knows: the buffer of the temporal extension."""
        return self.st_duration_s or 0.0

    def _judged(self, session: RawSession) -> Any:
        """The part of the recording in which bad channels are looked for."""
        start, stop = session.span(self.statistics)
        if stop - start == session.n_samples:
            return session.raw
        return session.raw.copy().crop(start / session.sfreq_hz, (stop - 1) / session.sfreq_hz)

    def _buffer(self, session: RawSession) -> float | None:
        """The buffer must fit into the recording, with an even number of samples for its overlapping windows."""
        if self.st_duration_s is None:
            return None
        longest = session.n_samples // 2 * 2 / session.sfreq_hz
        if self.st_duration_s > longest:
            session.warn(f"tSSS buffer of {longest:g} s: the recording is shorter than {self.st_duration_s:g} s")
        return min(self.st_duration_s, longest)

    def _head_position(self, session: RawSession) -> Any:
        import mne

        raw = session.raw
        try:
            amplitudes = mne.chpi.compute_chpi_amplitudes(raw, verbose="ERROR")
            places = mne.chpi.compute_chpi_locs(raw.info, amplitudes, verbose="ERROR")
            followed = mne.chpi.compute_head_pos(raw.info, places, verbose="ERROR")
        except (ValueError, RuntimeError, KeyError) as error:
            session.warn(f"no movement compensation: {_first_line(error)}")
            return None
        if not len(followed):
            session.warn("no movement compensation: no head position could be computed")
            return None
        return followed
