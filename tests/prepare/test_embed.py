from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.prepare.embed import OpenClipEncoder, describe_images, read_embedding


def pictures(size: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [16, 64, 224])
def test_descriptor_is_the_mean_colour_of_each_cell(size: int) -> None:
    images = pictures(size)
    cell = size // 16
    expected = images.reshape(3, 16, cell, 16, cell, 3).mean(axis=(2, 4)) / 255 - 0.5
    assert np.allclose(describe_images(images), expected.reshape(3, 768), atol=1e-6)


@pytest.mark.parametrize("size", [8, 40, 425])
def test_descriptor_keeps_the_mean_colour_of_sizes_that_do_not_divide(size: int) -> None:
    images = pictures(size)
    colours = describe_images(images).reshape(3, 256, 3).mean(axis=1)
    assert np.allclose(colours, images.reshape(3, -1, 3).mean(axis=1) / 255 - 0.5, atol=1e-5)


def test_grey_is_the_origin() -> None:
    assert np.abs(describe_images(np.full((1, 20, 30, 3), 128, np.uint8))).max() < 0.003


def test_descriptor_refuses_what_is_no_picture() -> None:
    for wrong in (pictures(16).astype(np.float32), pictures(16)[..., :1], pictures(16)[0]):
        with pytest.raises(ShapeMismatch, match="uint8"):
            describe_images(wrong)


def test_precomputed_rows_are_found_by_id(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.savez(tmp_path / "e.npz", things=table, nsd=table, nsd_ids=np.array([70, 3, 9, 1, 20]))
    assert np.array_equal(read_embedding(tmp_path / "e.npz", "things", [4, 0]), table[[4, 0]])
    assert np.array_equal(read_embedding(tmp_path / "e.npz", "nsd", [3, 20]), table[[1, 4]])
    np.save(tmp_path / "things.npy", table)
    assert np.array_equal(read_embedding(tmp_path, "things", [2]), table[[2]])


def test_a_missing_row_or_array_names_the_file(tmp_path: Path) -> None:
    table = np.ones((5, 4), np.float32)
    np.savez(tmp_path / "e.npz", nsd=table, nsd_ids=np.arange(5))
    with pytest.raises(InvalidFile, match=r"e\.npz.*1 are missing, first 8"):
        read_embedding(tmp_path / "e.npz", "nsd", [3, 8])
    with pytest.raises(InvalidFile, match="'things'"):
        read_embedding(tmp_path / "e.npz", "things", [0])
    with pytest.raises(InvalidFile, match=r"none\.npz"):
        read_embedding(tmp_path / "none.npz", "things", [0])


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is not None, reason="open_clip is installed")
def test_missing_clip_extra_is_named() -> None:
    with pytest.raises(InvalidValue, match=r"brainlab\[clip\]"):
        OpenClipEncoder()(pictures(16))
