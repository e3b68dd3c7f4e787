from __future__ import annotations

import numpy as np
import pytest

from brainlab.data.picture_split import split_pairs
from brainlab.errors import InvalidValue
from brainlab.prepare.match import MultiMatching

FRACTIONS = (0.8, 0.1, 0.1)


def pairs(n: int = 200, shared: int = 0) -> tuple[MultiMatching, tuple[str, ...]]:
    right = {"subj01": np.arange(n) + 1000, "subj02": np.arange(n) + 5000}
    # Picture 1000 + i stands in pair i for one subject and in pair n − 1 − i for the other.
    right["subj02"][n - 1 - np.arange(shared)] = 1000 + np.arange(shared)
    similarity = {name: np.linspace(1, 0, n) for name in right}
    return MultiMatching(np.arange(n), right, similarity), tuple(f"concept{i // 10}" for i in range(n))


@pytest.mark.parametrize("kind", ["concept", "image", "sklearn"])
def test_parts_have_the_wanted_sizes(kind: str) -> None:
    matched, concepts = pairs()
    split = split_pairs(matched, concepts, kind, FRACTIONS, 42)  # type: ignore[arg-type]
    assert [len(rows) for rows in split.parts().values()] == [160, 20, 20]
    again = split_pairs(matched, concepts, kind, FRACTIONS, 42)  # type: ignore[arg-type]
    assert np.array_equal(split.test, again.test)


def test_no_concept_stands_in_two_parts() -> None:
    matched, concepts = pairs()
    split = split_pairs(matched, concepts, "concept", FRACTIONS, 0)
    parts = [{concepts[row] for row in rows} for rows in split.parts().values()]
    assert not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])


@pytest.mark.parametrize("kind", ["image", "sklearn"])
def test_pairs_that_share_a_picture_train(kind: str) -> None:
    matched, concepts = pairs(shared=30)
    split = split_pairs(matched, concepts, kind, FRACTIONS, 42)  # type: ignore[arg-type]
    train = set(split.train.tolist())
    assert set(range(30)) <= train
    assert set(range(170, 200)) <= train
    assert [len(rows) for rows in split.parts().values()] == [160, 20, 20]


def test_sklearn_split_is_two_draws_of_scikit_learn() -> None:
    from sklearn.model_selection import train_test_split

    matched, concepts = pairs()
    train, rest = train_test_split(np.arange(200), test_size=40, random_state=42)
    val, test = train_test_split(rest, test_size=0.5, random_state=42)
    split = split_pairs(matched, concepts, "sklearn", FRACTIONS, 42)
    assert np.array_equal(split.train, np.sort(train))
    assert np.array_equal(split.val, np.sort(val))
    assert np.array_equal(split.test, np.sort(test))


def test_too_few_concepts_are_refused() -> None:
    matched, _ = pairs(20)
    with pytest.raises(InvalidValue, match="number of concepts that may be held out=2"):
        split_pairs(matched, ("a",) * 10 + ("b",) * 10, "concept", FRACTIONS, 0)
    matched, concepts = pairs(20, shared=10)
    with pytest.raises(InvalidValue, match="20 of 20 pairs share a picture"):
        split_pairs(matched, concepts, "image", FRACTIONS, 0)
