"""Where the windows of every part lie in the prepared recordings of a data module."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int64

from brainlab.data.recording_split import Assignment, Member
from brainlab.data.splits import PARTS
from brainlab.data.stretches import bad_spans, inside, usable_segments, without
from brainlab.data.token_windows import TokenWindows, on_frames
from brainlab.data.windows import (
    RandomWindows,
    Sessions,
    SignalWindows,
    WindowGroups,
    Windows,
    regular_windows,
    samples_of,
)
from brainlab.errors import InvalidValue, LeakError

if TYPE_CHECKING:
    from brainlab.data.recordings import MixedRecordings

__all__ = ["assign", "find_stretches", "place_windows", "window_lengths"]

log = logging.getLogger(__name__)


def window_lengths(data: MixedRecordings) -> tuple[int, int]:
    """Samples of a window, and from the start of one to the next.

    Raises:
        InvalidValue: if either is below one sample, or no whole number of the tokenizer's frames.
    """
    n_samples = samples_of(data.window_s, data.sfreq_hz)
    stride = n_samples - samples_of(data.overlap_s, data.sfreq_hz)
    if n_samples < 1 or stride < 1:
        raise InvalidValue(
            "data.overlap_s", data.overlap_s, f"expected less than data.window_s={data.window_s:g} by a sample"
        )
    hop = 1 if data.tokenizer is None else data.tokenizer.hop
    for key, seconds, number in (("window_s", data.window_s, n_samples), ("overlap_s", data.overlap_s, stride)):
        if number % hop:
            what = "a window" if key == "window_s" else "the step from window to window"
            raise InvalidValue(
                f"data.{key}", seconds,
                f"expected {what}, now {number} samples, to be a multiple of the tokenizer's hop of {hop}",
            )  # fmt: skip
    return n_samples, stride


def assign(data: MixedRecordings) -> tuple[Assignment, dict[str, str]]:
    """The split, drawn or from the file that was given, and name → why a recording is in no part.

    Raises:
        InvalidValue: if the file's kind of split is another, or no recording has room for all parts.
        LeakError: if the file's blocks of one recording lie closer than a window is long.
    """
    members = [
        Member(s.name, str(s.attrs.get("subject", s.name)), str(s.attrs.get("dataset", "")), s.n_samples)
        for s in data.store.sessions
    ]
    if data.split_file is not None:
        found = Assignment.load(data.split_file, members)
        if (found.kind == "time") != (data.split_kind == "time"):
            raise InvalidValue(
                "data.split", data.split_kind,
                f"expected time with a split in time, and only with one; data.split_file holds one by {found.kind}",
            )  # fmt: skip
        if found.kind == "time" and found.guard < data.n_samples:
            has_s, needs_s = found.guard / data.sfreq_hz, data.n_samples / data.sfreq_hz
            raise LeakError(
                "data.split_file", data.split_file,
                f"expected a guard of at least data.window_s={needs_s:g} between the parts of a recording, found one of"
                f" {has_s:g} s", hint=f"data.window_s={has_s:g} at most, or data.split_file=null, which draws another",
            )  # fmt: skip
        return found, {m.name: "no part in data.split_file" for n, m in enumerate(members) if not any(
            found.rows[part][n] for part in PARTS)}  # fmt: skip
    drawn, left_out = Assignment.draw(
        members, data.split_kind, data.fractions, data.seed,
        sfreq_hz=data.sfreq_hz, guard_s=data.guard_s, heldout_dataset=data.heldout_dataset,
    )  # fmt: skip
    if left_out and len(left_out) == len(members):
        name, reason = next(iter(left_out.items()))
        raise InvalidValue(
            "data.guard_s", data.guard_s, f"expected room for all parts in a recording; {name}: {reason}",
            hint="a smaller guard, or data.fractions with 0 for a part that is not needed",
        )  # fmt: skip
    return drawn, left_out


def find_stretches(
    data: MixedRecordings, segments: Sequence[Sequence[tuple[int, int]]]
) -> dict[str, Int64[np.ndarray, "stretch 3"]]:
    """Part → rows (session, start, stop) inside the usable segments of every session that windows may lie in."""
    bad = [bad_spans(session) if data.avoid_bad else [] for session in data.store.sessions]
    found = {part: without(inside(data.assignment.rows[part], segments), bad) for part in PARTS}
    if data.tokenizer is None:
        return found
    hop = data.tokenizer.hop
    return {part: on_frames(rows, segments, hop) for part, rows in found.items()}


def place_windows(data: MixedRecordings, part: str, canonical: Sessions) -> WindowGroups:
    """The windows in the stretches of a part, of codes where there are some.

    Args:
        data: its stretches are known.
        part: train, val or test.
        canonical: the store with all channels in their common order.

    Raises:
        InvalidValue: if the part is meant to hold windows and no stretch has room for one.
    """
    rows = data.stretches[part]
    if not len(rows) and not _is_wanted(data, part):
        return WindowGroups([])
    usable = rows[rows[:, 2] - rows[:, 1] >= data.n_samples]
    if not len(usable):
        raise _nothing_in(data, part, rows)
    if len(usable) < len(rows):
        short = len(rows) - len(usable)
        log.info("%s: %d of %d stretches are shorter than a window", part, short, len(rows))
    n_random = data.windows_per_epoch if part == "train" else None
    if (codes := data.code_store) is not None:
        n_frames, step = data.n_samples // codes.hop, data.stride // codes.hop
        return WindowGroups([TokenWindows(codes, usable, n_frames, step=step, n_windows=n_random, seed=data.seed)])
    if data.layout_kind == "canonical":
        present = torch.from_numpy(np.stack([data.present(n) for n in range(len(data.store.sessions))]))
        return SignalWindows([_cut(data, canonical, usable, n_random, 0)], present)
    sets = np.array(data.channel_sets)[usable[:, 0]]
    room = usable[:, 2] - usable[:, 1]
    groups = []
    for number in np.unique(sets).tolist():
        # Every channel set has its share of the time, and at least one window.
        share = None if n_random is None else max(1, round(n_random * room[sets == number].sum() / room.sum()))
        groups.append(_cut(data, data.store, usable[sets == number], share, number))
    return SignalWindows(groups, None)


def _cut(
    data: MixedRecordings, store: Sessions, rows: np.ndarray, n_random: int | None, number: int
) -> Windows | RandomWindows:
    if n_random is None:
        return regular_windows(store, rows, data.n_samples, data.stride)
    return RandomWindows(store, rows, data.n_samples, n_random, seed=data.seed + 7919 * number)


def _is_wanted(data: MixedRecordings, part: str) -> bool:
    """Whether this part is meant to hold anything."""
    if data.split_file is not None:
        return any(data.assignment.rows[part])
    return data.split_kind == "dataset" or data.fractions[PARTS.index(part)] > 0


def _nothing_in(data: MixedRecordings, part: str, rows: np.ndarray) -> InvalidValue:
    held = sum(bool(own) for own in data.assignment.rows[part])
    if not held:
        members = data.assignment.members
        n = len({{"subject": m.subject, "dataset": m.dataset}.get(data.split_kind, m.name) for m in members})
        return InvalidValue(
            "data.split", data.split_kind,
            f"expected recordings in every part, but {n} {data.split_kind}s leave none for {part}",
            hint="data.split=time cuts every recording into three parts; data.fractions gives larger shares",
        )  # fmt: skip
    sessions, blocks = data.store.sessions, data.assignment.rows[part]
    drawn = inside(blocks, [[(0, session.n_samples)] for session in sessions])
    cleaned = inside(blocks, [usable_segments(session) for session in sessions])
    total, longest = int((drawn[:, 2] - drawn[:, 1]).sum()) / data.sfreq_hz, _longest(rows) / data.sfreq_hz
    left = f"no stretch of more than {longest:g} s" if longest else "nothing"
    cause = ""
    if _longest(drawn) >= data.n_samples > _longest(cleaned):
        cause, hint = "cleaning", "data.steps.clean=null or other thresholds there keep more"
    elif data.avoid_bad and _longest(cleaned) >= data.n_samples:
        uncut = without(cleaned, [bad_spans(session) for session in sessions])
        if _longest(uncut) < data.n_samples:
            cause, hint = "keeping clear of bad annotations and boundaries", "data.avoid_bad=false takes them along"
    if cause:
        return InvalidValue(
            "data.window_s", data.window_s, f"expected room in {part}, but of its {total:g} s {cause} left {left}",
            hint=f"{hint}; other data.fractions take other stretches",
        )  # fmt: skip
    return InvalidValue(
        "data.window_s", data.window_s, f"expected at most the {longest:g} s of the longest {part} stretch",
        hint="shorter windows, longer recordings, or other data.fractions and data.guard_s",
    )  # fmt: skip


def _longest(rows: np.ndarray) -> int:
    return int((rows[:, 2] - rows[:, 1]).max(initial=0))
