"""Which pairs of pictures train, validate and test: by concept or by picture, and no picture in two parts."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool

from brainlab.data.splits import Split, group_split
from brainlab.errors import InvalidValue, LeakError
from brainlab.prepare.match import MultiMatching

__all__ = ["PictureSplitKind", "split_pairs"]

PictureSplitKind = Literal["concept", "image", "sklearn"]


def split_pairs(
    pairs: MultiMatching,
    concepts: tuple[str, ...],
    kind: PictureSplitKind,
    fractions: tuple[float, float, float],
    seed: int,
) -> Split:
    """Split pairs so that nothing leaks: a pair that shares a picture of either side with another goes to training.

    Args:
        pairs: one THINGS picture each, one NSD picture per subject.
        concepts: of the THINGS pictures.
        kind: ``concept`` keeps each concept in one part; ``image`` splits pictures; ``sklearn`` splits pictures by two
            draws of scikit-learn's ``train_test_split``, as published code does.
        fractions: of all pairs.
        seed: of the draws.

    Raises:
        InvalidValue: with too few concepts or pictures for the parts.
    """
    shared = _shares_a_picture(pairs)
    if kind == "sklearn":
        split = _sklearn_split(len(pairs), shared, fractions, seed).check(pairs.left)
    else:
        groups = np.asarray(concepts) if kind == "concept" else pairs.left
        try:
            split = group_split(groups, fractions, seed, kind=kind, only_train=shared)
        except InvalidValue as error:
            raise InvalidValue(
                f"number of {kind}s that may be held out", error.value, "expected at least one for each part of "
                f"data.fractions; {int(shared.sum())} of {len(pairs)} pairs share a picture and can only train",
                hint="choose data.split=image, or raise data.top_k",
            ) from error  # fmt: skip
    _check_pictures(pairs, split)
    return split


def _shares_a_picture(pairs: MultiMatching) -> Bool[np.ndarray, " pair"]:
    """Pairs with a picture that also stands in another pair, on either side and for any subject."""
    shared = _repeated(pairs.left)[:, 0]
    return shared | _repeated(np.stack(list(pairs.right.values()), axis=1)).any(axis=1)


def _check_pictures(pairs: MultiMatching, split: Split) -> None:
    """No picture of either side in two parts.

    Raises:
        LeakError: naming the picture.
    """
    parts = split.parts()
    for side, tables in (("THINGS picture", [pairs.left]), ("NSD picture", list(pairs.right.values()))):
        seen: dict[str, set[int]] = {
            part: {int(i) for table in tables for i in table[rows]} for part, rows in parts.items()
        }
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            both = seen[one] & seen[other]
            if both:
                raise LeakError(side, min(both), f"expected it in one part only, found it in {one} and {other}")


def _repeated(ids: np.ndarray) -> np.ndarray:
    """Which entries of (pair, subject) occur in another pair; twice in one pair is no repetition."""
    table = ids.reshape(len(ids), -1)
    pair = np.repeat(np.arange(len(table)), table.shape[1])
    once = np.unique(np.stack([table.ravel(), pair], axis=1), axis=0)
    names, count = np.unique(once[:, 0], return_counts=True)
    return np.isin(table, names[count > 1])


def _sklearn_split(n: int, shared: np.ndarray, fractions: tuple[float, float, float], seed: int) -> Split:
    from sklearn.model_selection import train_test_split

    free = np.flatnonzero(~shared)
    held = min(len(free), round((fractions[1] + fractions[2]) * n))
    if held < 2 or len(free) - held < (0 if shared.any() else 1):
        raise InvalidValue("data.split=sklearn: number of pictures", len(free), "expected at least one for each part")
    if held == len(free):
        train, rest = np.empty(0, dtype=np.int64), free
    else:
        train, rest = train_test_split(free, test_size=held, random_state=seed)
    val, test = train_test_split(rest, test_size=fractions[2] / (fractions[1] + fractions[2]), random_state=seed)
    return Split(np.concatenate([np.flatnonzero(shared), train]), val, test, kind="image", seed=seed)
