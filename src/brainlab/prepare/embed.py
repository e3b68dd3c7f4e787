"""Picture embeddings: a built-in descriptor that needs nothing, a precomputed file, or an open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch

__all__ = ["DESCRIPTOR_DIM", "Descriptor", "Encoder", "OpenClipEncoder", "describe_images", "read_embedding"]

_GRID = 16
DESCRIPTOR_DIM = _GRID * _GRID * 3


class Encoder(Protocol):
    """Pictures in, rows out; ``name`` says in reports and cache keys which embedding it is."""

    name: str

    def __call__(self, images: UInt8[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "n dim"]: ...


class Descriptor:
    """:func:`describe_images` as an encoder."""

    name = "descriptor-16x16-rgb"

    def __call__(self, images: UInt8[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "n dim"]:
        return describe_images(images)


def describe_images(images: UInt8[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "n 768"]:
    """What is where in which colour, coarsely: mean colour of 16 × 16 cells.

    A stand-in for a learned embedding that is linear in the pixels and the same on every machine.

    Args:
        images: RGB pictures of one size, at least 1 × 1; a cell that cuts through pixels weighs them by area.

    Returns:
        cell row, cell column and colour flattened; values from −0.5 to 0.5, 0 is mid-grey.

    Raises:
        ShapeMismatch: if it is not a stack of RGB pictures.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise ShapeMismatch(
            "images", f"{images.dtype} {images.shape}", "expected uint8 pictures of shape (n, height, width, 3)"
        )
    n, height, width = images.shape[:3]
    if height % _GRID == 0 and width % _GRID == 0:
        # Whole pixels per cell: plain sums, exact in integers.
        lines = images.reshape(n, _GRID, height // _GRID, width * 3).sum(axis=2, dtype=np.uint32)
        cells = lines.reshape(n, _GRID, _GRID, width // _GRID, 3).sum(axis=3, dtype=np.uint32)
        mean = cells / np.float64(255 * (height // _GRID) * (width // _GRID)) - 0.5
        return mean.reshape(n, DESCRIPTOR_DIM).astype(np.float32)
    rows, columns = _area_weights(height), _area_weights(width)
    result = np.empty((n, _GRID, _GRID, 3), dtype=np.float32)
    for index in range(n):
        # (cell row, width × colour), then (cell row, cell column, colour)
        weighed = rows @ images[index].reshape(height, width * 3).astype(np.float32)
        result[index] = np.einsum("jw,iwc->ijc", columns, weighed.reshape(_GRID, width, 3), optimize=True)
    return (result / np.float32(255) - np.float32(0.5)).reshape(n, DESCRIPTOR_DIM)


def _area_weights(size: int) -> Float[np.ndarray, "cell pixel"]:
    """Share of each pixel in each cell; rows sum to 1."""
    edges = np.arange(_GRID + 1) * (size / _GRID)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0.0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


class OpenClipEncoder:
    """Image features of an open_clip model (un-normalised), computed in batches.

    Args:
        model: open_clip architecture, e.g. ``ViT-L-14``.
        pretrained: its weights' tag, e.g. ``openai``, or a file of weights.
        batch_size: pictures per forward pass.
        device: torch device.

    Raises:
        InvalidValue: if the ``clip`` extra is not installed, or the weights cannot be had.
    """

    def __init__(
        self, model: str = "ViT-L-14", pretrained: str = "openai", batch_size: int = 64, device: str = "cpu"
    ) -> None:
        self.model, self.pretrained, self.batch_size, self.device = model, pretrained, batch_size, device
        self.name = f"open_clip-{model}-{pretrained}"
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, images: UInt8[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "n dim"]:
        import torch
        from PIL import Image

        network, transform = self._load()
        rows = []
        with torch.inference_mode():
            for start in range(0, len(images), self.batch_size):
                batch = torch.stack(
                    [transform(Image.fromarray(image)) for image in images[start : start + self.batch_size]]
                )
                rows.append(network.encode_image(batch.to(self.device)).float().cpu().numpy())
        return np.concatenate(rows).astype(np.float32)

    def _load(self) -> Any:
        if self._loaded is None:
            try:
                import open_clip
            except ImportError as error:
                raise InvalidValue(
                    "data.embedding", "open_clip", "expected the package open_clip, which is not installed",
                    hint="pip install 'brainlab[clip]', or use data.embedding=descriptor or a file of embeddings",
                ) from error  # fmt: skip
            try:
                network, _, transform = open_clip.create_model_and_transforms(self.model, pretrained=self.pretrained)
            except (RuntimeError, OSError, ValueError) as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise InvalidValue(
                    "data.embedding", self.name, f"expected weights that open_clip can load ({first})",
                    hint="offline, set data.clip_pretrained to a file of weights",
                ) from error  # fmt: skip
            self._loaded = network.eval().to(self.device), transform
        return self._loaded


def read_embedding(
    path: Path | str, side: str, ids: Int[np.ndarray, " n"] | Sequence[int]
) -> Float[np.ndarray, "n dim"]:
    """Rows of a file of precomputed embeddings.

    Args:
        path: an ``.npz`` with one float array per side (``things``: a row per picture in index order; ``nsd``: a row
            per 73k id), each optionally with ``<side>_ids`` that name its rows; or a folder with ``<side>.npy``.
        side: ``things`` or ``nsd``.
        ids: the wanted pictures.

    Raises:
        InvalidFile: if the file, the array or a wanted picture is missing, or a value is not finite.
    """
    path, wanted = Path(path), np.asarray(ids, dtype=np.int64)
    try:
        if path.is_dir():
            names = [side, f"{side}_ids"]
            arrays = {n: np.load(path / f"{n}.npy", mmap_mode="r") for n in names if (path / f"{n}.npy").is_file()}
        else:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {n: stored[n] for n in (side, f"{side}_ids") if n in stored.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise InvalidFile(
            "data.embedding_file", path, f"expected an .npz or a folder of .npy arrays ({error})"
        ) from error
    if side not in arrays or arrays[side].ndim != 2:
        raise InvalidFile("data.embedding_file", path, f"expected an array {side!r} of shape (picture, dim)")
    table = arrays[side]
    if f"{side}_ids" in arrays:
        known = np.asarray(arrays[f"{side}_ids"], dtype=np.int64)
        order = np.argsort(known, kind="stable")
        place = np.minimum(np.searchsorted(known[order], wanted), max(0, len(known) - 1))
        rows = order[place] if len(known) else np.full(len(wanted), -1)
        missing = wanted[known[rows] != wanted] if len(known) else wanted
    else:
        rows = wanted
        missing = wanted[(wanted < 0) | (wanted >= len(table))]
    if len(missing):
        raise InvalidFile(
            "data.embedding_file", path, f"expected a row of {side!r} for each picture, {len(missing)} are missing, "
            f"first {missing[0]}",
        )  # fmt: skip
    result = np.asarray(table[rows], dtype=np.float32)
    if not np.isfinite(result).all():
        raise InvalidFile("data.embedding_file", path, f"expected finite values in {side!r}")
    return result
