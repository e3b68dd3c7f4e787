"""Figures say where their data came from and what they show, and cope with small galleries."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from brainlab.errors import InvalidValue
from brainlab.plot import embedding, gallery, ranks, similarity
from brainlab.plot.figure import save_figure
from brainlab.plot.gallery import RetrievedRow


@pytest.fixture
def texts(monkeypatch):
    """Every text of the figures that are saved."""
    from matplotlib.text import Text

    found: list[str] = []

    def keep(figure, path, **keywords):
        found.extend(text.get_text() for text in figure.findobj(Text))
        return save_figure(figure, path, **keywords)

    for module in (similarity, ranks, embedding, gallery):
        monkeypatch.setattr(module, "save_figure", keep)
    return found


@pytest.mark.parametrize("source", ["synthetic", "files"])
def test_every_title_states_the_source_of_the_data(tmp_path, texts, source):
    words = {"synthetic": "simulated data", "files": "recorded data"}[source]
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(6, 8))
    picture = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    similarity.similarity_matrix(tmp_path / "a.png", rows @ rows.T, np.arange(6) % 2, source)
    ranks.rank_histogram(tmp_path / "b.png", {"single trial": np.arange(1.0, 7)}, 6, source)
    embedding.joint_embedding(tmp_path / "c.png", rows, rows + 0.1, source)
    row = RetrievedRow(picture, [picture] * 3, [False, True, False], 2.0, "a concept with a very long name")
    gallery.retrieved_pictures(tmp_path / "d.png", [row], 6, source)
    assert sum(words in text for text in texts) == 4
    for name in "abcd":
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.format == "PNG"
            assert image.width >= 600


def test_rank_figure_names_chance_and_ceiling(tmp_path, texts):
    ranks.rank_histogram(
        tmp_path / "a.png", {"single trial": np.array([1.0, 1, 2, 140])}, 140, "synthetic", {"single trial": 0.8}
    )
    joined = "\n".join(texts)
    assert "chance (first: 0.007)" in joined
    assert "best possible first, single trial: 0.80" in joined
    assert "single trial (first: 0.50)" in joined


def test_hits_are_marked_by_a_word_not_only_by_a_colour(tmp_path, texts):
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    gallery.retrieved_pictures(
        tmp_path / "a.png", [RetrievedRow(picture, [picture] * 2, [False, True], 2.0)], 9, "synthetic"
    )
    assert "2: hit" in texts
    assert "1" in texts


def test_similarity_figure_prints_right_pairs_against_others(tmp_path, texts):
    similarity.similarity_matrix(tmp_path / "a.png", np.eye(3) * 0.5, None, "synthetic")
    assert any("right pairs 0.500, others 0.000" in text for text in texts)


def test_two_pictures_are_enough_and_identical_embeddings_do_no_harm(tmp_path):
    rows = np.ones((2, 4))
    similarity.similarity_matrix(tmp_path / "a.png", rows @ rows.T, np.zeros(2, dtype=int), "files")
    ranks.rank_histogram(tmp_path / "b.png", {"single trial": np.array([1.5, 1.5])}, 2, "files")
    assert embedding.joint_embedding(tmp_path / "c.png", rows, rows, "files").exists()


def test_a_sheet_without_rows_is_refused(tmp_path):
    with pytest.raises(InvalidValue, match="query"):
        gallery.retrieved_pictures(tmp_path / "a.png", [], 5, "files")
