"""Chooses real contexts and their real continuations: seeded, inside one stretch, nothing dropped silently.

A context and its continuation lie in one usable stretch of one session (no border of a cleaned segment, of a split or
of a bad annotation is crossed), and the continuation begins after the samples that the session's scalers were taken
from, so that no statistic of the target has entered what the model sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from brainlab.errors import InvalidValue

_SHARES = tuple(share / 20 for share in range(20, 0, -1))

__all__ = ["Place", "SampledPlaces", "SessionSampler"]


@dataclass(frozen=True)
class Place:
    """Where a context and its continuation lie: samples ``[start, start + total)`` of a session of the store."""

    session: int
    start: int
    name: str = ""
    dataset: str = ""
    subject: str = ""
    task: str = ""


@dataclass(frozen=True)
class SampledPlaces:
    """Contexts in the order of sessions and time, and what was left out.

    ``dropped`` lists sessions of the part that give no context, each with its reason; ``notes`` are sentences for the
    report.
    """

    places: tuple[Place, ...]
    context_steps: int
    total_steps: int
    sfreq_hz: float
    n_sessions: int
    dropped: tuple[dict[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def target_steps(self) -> int:
        """Samples of the continuation."""
        return self.total_steps - self.context_steps

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "context_s": self.context_steps / self.sfreq_hz,
            "total_s": self.total_steps / self.sfreq_hz,
            "sfreq_hz": self.sfreq_hz,
            "sessions_of_the_part": self.n_sessions,
            "sessions_used": len({place.session for place in self.places}),
            "dropped": list(self.dropped),
            "contexts": [{**asdict(place), "start_s": place.start / self.sfreq_hz} for place in self.places],
        }


class SessionSampler:
    """Draws contexts from the sessions of one part of a split.

    Args:
        context_s: length of a context in seconds; ``context_steps`` in samples wins.
        total_s: context and continuation together; ``total_steps`` wins.
        n_contexts: most contexts in all; sessions take turns, so that they are shared out evenly, and where there are
            more of them than contexts, they are drawn at random. None: no limit.
        contexts_per_session: most contexts of one session. None: as many as fit.
        min_contexts: where fewer fit, lengths are shortened, to no less than half. Below two contexts, and where none
            fits, they are shortened further. 1 keeps them wherever a single context fits.
        stride_s: time from one possible context of a session to the next; None: ``total_s``, so that none overlap.
        place: which of the possible contexts are taken first: the earliest, ones at random, or evenly spread ones.
        part: train, val or test.
        dataset: only sessions of this data set.
        task: only sessions whose task holds this text.
        num_sessions: only so many sessions, drawn at random. None: all.
        seed: of the drawing.
    """

    def __init__(
        self,
        *,
        context_s: float = 8.0,
        total_s: float = 20.0,
        context_steps: int | None = None,
        total_steps: int | None = None,
        n_contexts: int | None = None,
        contexts_per_session: int | None = None,
        min_contexts: int = 6,
        stride_s: float | None = None,
        place: Literal["start", "random", "spread"] = "spread",
        part: Literal["train", "val", "test"] = "test",
        dataset: str | None = None,
        task: str | None = None,
        num_sessions: int | None = None,
        seed: int = 0,
    ) -> None:
        if part not in ("train", "val", "test"):
            raise InvalidValue("evaluation.part", part, "expected train, val or test")
        if place not in ("start", "random", "spread"):
            raise InvalidValue("evaluation.place", place, "expected start, random or spread")
        for name, value in (
            ("context_s", context_s),
            ("total_s", total_s),
            ("stride_s", stride_s),
            ("context_steps", context_steps),
            ("total_steps", total_steps),
            ("n_contexts", n_contexts),
            ("contexts_per_session", contexts_per_session),
            ("num_sessions", num_sessions),
            ("min_contexts", min_contexts),
        ):
            if value is not None and not value > 0:
                raise InvalidValue(f"evaluation.{name}", value, "expected a positive number")
        self.context_s, self.total_s, self.stride_s = context_s, total_s, stride_s
        self.context_steps, self.total_steps = context_steps, total_steps
        self.n_contexts, self.contexts_per_session = n_contexts, contexts_per_session
        self.place, self.part, self.dataset, self.task = place, part, dataset, task
        self.min_contexts = min_contexts
        self.num_sessions, self.seed = num_sessions, seed

    def __call__(self, data: Any, multiple: int = 1) -> SampledPlaces:
        """Contexts of ``data``.

        Args:
            data: a data module with ``stretches``, ``session`` and ``sfreq_hz``.
            multiple: context and continuation are shortened to whole multiples of so many samples (the frames of a
                tokenizer).

        Raises:
            InvalidValue: where the part, or what is asked for of it, has no session at all.
        """
        sfreq = float(data.sfreq_hz)
        notes: list[str] = []
        context, target = self._lengths(sfreq, multiple, notes)
        rows = np.asarray(data.stretches.get(self.part, np.empty((0, 3), np.int64)), dtype=np.int64).reshape(-1, 3)
        chosen = self._sessions(data, rows)
        asked = context + target
        context, target = self._fitting(data, rows, chosen, context, target, multiple)
        total = context + target
        if total < asked:
            notes.append(
                f"Recordings are too short for {self.min_contexts} contexts of {asked / sfreq:g} s: context and "
                f"continuation were shortened to {total / sfreq:g} s ({context / sfreq:g} s of it context)."
            )
        stride = self._stride(total, sfreq)
        if stride < total:
            notes.append(f"Contexts of a session overlap: they start every {stride / sfreq:g} s.")
        dropped, starts = [], {}
        for session in chosen:
            mine = rows[rows[:, 0] == session, 1:]
            found = self._starts(data, session, rows, context, total, stride)
            if len(found):
                starts[session] = found
            else:
                most = (mine[:, 1] - mine[:, 0]).max() / sfreq
                why = f"no usable stretch of {total / sfreq:g} s (longest {most:g} s)"
                if most * sfreq >= total:
                    why = "no room for a continuation after the samples that its scalers were taken from"
                dropped.append({"session": _name(data, session), "reason": why})
        if self.n_contexts is not None and self.n_contexts < len(starts):  # the first ones may be all of one data set
            order = np.random.default_rng([self.seed, 3]).permutation(list(starts))
            starts = {session: starts[session] for session in order.tolist()}
        places = sorted(
            (session, start) for session, start in _in_turns(starts, self.n_contexts, self.contexts_per_session)
        )
        if dropped:
            notes.append(
                f"{len(dropped)} of {len(chosen)} sessions of the {self.part} part give no context: "
                + "; ".join(sorted({each["reason"] for each in dropped}))
                + "."
            )
        if self.n_contexts is not None and len(places) < self.n_contexts:
            notes.append(f"{len(places)} contexts fit where {self.n_contexts} were asked for.")
        return SampledPlaces(
            places=tuple(_place(data, session, start) for session, start in places),
            context_steps=context,
            total_steps=total,
            sfreq_hz=sfreq,
            n_sessions=len(chosen),
            dropped=tuple(dropped),
            notes=tuple(notes),
        )

    def _lengths(self, sfreq_hz: float, multiple: int, notes: list[str]) -> tuple[int, int]:
        context = self.context_steps or round(self.context_s * sfreq_hz)
        total = self.total_steps or round(self.total_s * sfreq_hz)
        if not 0 < context < total:
            raise InvalidValue(
                "evaluation.total_s",
                f"{total / sfreq_hz:g}",
                f"expected more than the context of {context / sfreq_hz:g} s",
            )
        whole = context // multiple * multiple, (total - context) // multiple * multiple
        if min(whole) == 0:
            raise InvalidValue(
                "evaluation.context_s",
                f"{context / sfreq_hz:g}",
                f"expected context and continuation of at least one frame of {multiple / sfreq_hz:g} s",
            )
        if whole != (context, total - context):
            notes.append(
                f"Context and continuation were shortened to whole frames of {multiple} samples: "
                f"{whole[0] / sfreq_hz:g} s and {whole[1] / sfreq_hz:g} s."
            )
        return whole

    def _stride(self, total: int, sfreq_hz: float) -> int:
        return total if self.stride_s is None else max(1, round(self.stride_s * sfreq_hz))

    def _fitting(
        self, data: Any, rows: np.ndarray, sessions: Sequence[int], context: int, target: int, multiple: int
    ) -> tuple[int, int]:
        """The asked lengths where enough contexts fit, else as little less as needed.

        Half of them at least for ``min_contexts``; less only for two, since one has nothing to be swapped with, or one.
        """
        enough = min(self.min_contexts, self.n_contexts or self.min_contexts)
        for wanted, least in ((enough, 0.5), (min(2, enough), 0.0), (1, 0.0)):
            for share in _SHARES:
                lengths = int(context * share) // multiple * multiple, int(target * share) // multiple * multiple
                if share < least or min(lengths) == 0 or (share < 1 and lengths[1] < data.sfreq_hz):
                    break
                stride = self._stride(sum(lengths), float(data.sfreq_hz))
                counts = [len(self._starts(data, each, rows, lengths[0], sum(lengths), stride)) for each in sessions]
                if sum(min(count, self.contexts_per_session or count) for count in counts) >= wanted:
                    return lengths
        return context, target

    def _sessions(self, data: Any, rows: np.ndarray) -> list[int]:
        present = [int(session) for session in dict.fromkeys(rows[:, 0].tolist())]
        if not present:
            raise InvalidValue(
                f"data.stretches.{self.part}", "empty", f"expected usable stretches in the {self.part} part"
            )
        kept = [
            session
            for session in present
            if (self.dataset is None or _fact(data, session, "dataset") == self.dataset)
            and (self.task is None or self.task in _fact(data, session, "task"))
        ]
        if not kept:
            wish = {"dataset": self.dataset, "task": self.task}
            name = next(key for key, value in wish.items() if value is not None)
            there = sorted({_fact(data, session, name) for session in present})
            raise InvalidValue(f"evaluation.{name}", wish[name], f"expected one of the {self.part} part: {there}")
        if self.num_sessions is not None and self.num_sessions < len(kept):
            generator = np.random.default_rng([self.seed, 1])
            kept = [kept[index] for index in sorted(generator.permutation(len(kept))[: self.num_sessions])]
        return kept

    def _starts(self, data: Any, session: int, rows: np.ndarray, context: int, total: int, stride: int) -> list[int]:
        """Possible starts in one session, those to be taken first in front."""
        stretches = rows[rows[:, 0] == session, 1:]
        fitted_until = _span(data, session)[1]
        found: list[int] = []
        for low, high in stretches[np.argsort(stretches[:, 0])].tolist():
            first = max(low, fitted_until - context)
            found += range(first, high - total + 1, stride)
        if self.place == "random":
            generator = np.random.default_rng([self.seed, 2, session])
            return [found[index] for index in generator.permutation(len(found))]
        return _spread(found) if self.place == "spread" else found


def _spread(values: Sequence[int]) -> list[int]:
    """The same values, ordered so that any first few of them are spread over all.

    >>> _spread([0, 1, 2, 3, 4])
    [2, 0, 4, 1, 3]
    """
    if not len(values):
        return []
    index = np.arange(len(values))
    taken = [len(values) // 2]
    distance = np.abs(index - taken[0])
    while len(taken) < len(values):
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, np.abs(index - taken[-1]))
    return [values[place] for place in taken]


def _in_turns(starts: dict[int, list[int]], most: int | None, each: int | None) -> list[tuple[int, int]]:
    taken: list[tuple[int, int]] = []
    turns = max((len(found) for found in starts.values()), default=0)
    for turn in range(turns if each is None else min(each, turns)):
        for session, found in starts.items():
            if turn < len(found) and (most is None or len(taken) < most):
                taken.append((session, found[turn]))
    return taken


def _place(data: Any, session: int, start: int) -> Place:
    facts = {key: _fact(data, session, key) for key in ("dataset", "subject", "task")}
    return Place(session, start, _name(data, session), **facts)


def _name(data: Any, session: int) -> str:
    return str(data.session(session).name)


def _fact(data: Any, session: int, key: str) -> str:
    return str(data.session(session).attrs.get(key) or "")


def _span(data: Any, session: int) -> tuple[int, int]:
    """Samples that the session's scalers were taken from."""
    start, stop = data.session(session).attrs.get("span") or (0, 0)
    return int(start), int(stop)
