"""Linear maps from voxels to an embedding space: fitted in closed form, or imported from MindEye2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.torch_file import load_torch

__all__ = ["Ridge", "check_betas", "fit_ridge", "import_mindeye2_ridge", "load_ridge"]

_PENALTIES = np.logspace(-4, 4, 25)
_MINDEYE2_KEYS = ("ridge.linears.0.weight", "ridge.linears.0.bias")


@dataclass(frozen=True)
class Ridge:
    """``y = x Wᵀ + b``.

    ``penalty`` and ``cv_score`` (variance of the target explained on left-out pictures) are NaN for an imported map.
    """

    weight: Float[np.ndarray, "target voxel"]
    bias: Float[np.ndarray, " target"]
    name: str
    penalty: float = float("nan")
    cv_score: float = float("nan")
    n_fitted: int = 0

    @property
    def n_voxels(self) -> int:
        """Width of its input."""
        return self.weight.shape[1]

    def project(self, betas: Float[np.ndarray, "*rows voxel"], block: int = 4096) -> Float[np.ndarray, "*rows target"]:
        """Embedding of each row of voxels, in blocks of ``block`` rows.

        Raises:
            ShapeMismatch: if the voxel count is not the ridge's.
        """
        if betas.shape[-1] != self.n_voxels:
            raise ShapeMismatch(
                "betas", f"{betas.shape[-1]} voxels", f"expected {self.n_voxels}, the width of the ridge {self.name}"
            )
        rows = betas.reshape(-1, self.n_voxels)
        result = np.empty((len(rows), len(self.bias)), dtype=np.float32)
        for start in range(0, len(rows), block):
            part = np.asarray(rows[start : start + block], dtype=np.float32)
            np.matmul(part, self.weight.T, out=result[start : start + block])
            result[start : start + block] += self.bias
        return result.reshape(*betas.shape[:-1], len(self.bias))

    def save(self, path: Path) -> None:
        """Write safetensors with the facts as text metadata."""
        from safetensors.numpy import save_file

        facts = {
            "name": self.name,
            "penalty": repr(float(self.penalty)),
            "cv_score": repr(float(self.cv_score)),
            "n_fitted": str(int(self.n_fitted)),
        }
        tensors = {"weight": np.ascontiguousarray(self.weight), "bias": np.ascontiguousarray(self.bias)}
        # One entry: several would come in a random order, and equal ridges in unequal files.
        save_file(tensors, path, metadata={"ridge": json.dumps(facts)})


def load_ridge(path: Path) -> Ridge:
    """Read what :meth:`Ridge.save` wrote.

    Raises:
        InvalidFile: if it is not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            facts = json.loads((stored.metadata() or {})["ridge"])
            return Ridge(
                stored.get_tensor("weight"),
                stored.get_tensor("bias"),
                facts["name"],
                float(facts["penalty"]),
                float(facts["cv_score"]),
                int(facts["n_fitted"]),
            )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InvalidFile("ridge", path, f"expected weight and bias in safetensors ({error})") from error


def fit_ridge(
    betas: Float[np.ndarray, "row voxel"],
    target: Float[np.ndarray, "row target"],
    *,
    name: str = "ridge",
    groups: Shaped[np.ndarray, " row"] | None = None,
    penalties: Sequence[float] | None = None,
    n_folds: int = 5,
    standardise: bool = True,
) -> Ridge:
    """Ridge regression of all targets at once, with one penalty chosen on left-out pictures.

    One eigendecomposition of the smaller Gram matrix serves every penalty. Where each row is a picture of its own the
    left-out error is exact leave-one-out (residual / (1 − leverage)); rows that share a picture are left out together
    in ``n_folds`` folds.

    Args:
        betas: voxels of each row; finite.
        target: embedding of the picture that was seen; finite.
        name: what reports call this map.
        groups: picture of each row; default all different.
        penalties: candidates, in units of the mean squared singular value of the centred betas; default 10⁻⁴ … 10⁴.
        n_folds: used where pictures repeat.
        standardise: map to targets of mean 0 and standard deviation 1 over these rows (constant ones stay 0).

    Raises:
        ShapeMismatch: if the row counts differ.
        InvalidValue: for fewer than 3 rows or pictures, NaN, or a penalty that is not positive.

    Source: Hastie, Tibshirani & Friedman (2009), eq. 3.41, 7.64.
    """
    x, y = np.asarray(betas, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if len(x) != len(y) or x.ndim != 2 or y.ndim != 2:
        raise ShapeMismatch("target", y.shape, f"expected a row for each of the {len(x)} rows of betas")
    if len(x) < 3:
        raise InvalidValue("rows", len(x), "expected at least 3 pictures to fit a ridge on")
    for label, values in (("betas", x), ("target", y)):
        if not np.isfinite(values).all():
            raise InvalidValue(label, f"{int((~np.isfinite(values)).sum())} NaN or infinite values", "expected none")
    scale_grid = np.asarray(_PENALTIES if penalties is None else penalties, dtype=np.float64)
    if scale_grid.ndim != 1 or len(scale_grid) == 0 or (scale_grid <= 0).any():
        raise InvalidValue("penalties", scale_grid.tolist(), "expected positive numbers")
    if standardise:
        spread = y.std(axis=0)
        y = (y - y.mean(axis=0)) / np.where(spread > 1e-12 * max(1.0, float(np.abs(y).max())), spread, np.inf)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    left, value, right = _decompose(x - x_mean)
    grid = scale_grid * float((value**2).mean())
    total = float(((y - y_mean) ** 2).sum())
    if groups is None or len(np.unique(groups)) == len(x):
        error = _leave_one_out(left, value, y - y_mean, grid)
    else:
        error = _leave_groups_out(x, y, np.asarray(groups), grid, n_folds)
    best = int(np.argmin(error))
    weight = ((left.T @ (y - y_mean)) * (value / (value**2 + grid[best]))[:, None]).T @ right
    return Ridge(
        weight.astype(np.float32),
        (y_mean - weight @ x_mean).astype(np.float32),
        name,
        penalty=float(grid[best]),
        cv_score=1.0 - float(error[best]) / total if total > 0 else float("nan"),
        n_fitted=len(x),
    )


def _decompose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition (left (row, k), values (k,), right (k, voxel)) by the smaller Gram matrix."""
    n, width = x.shape
    wide = width > n
    gram = x @ x.T if wide else x.T @ x
    square, vectors = np.linalg.eigh(gram)
    keep = square > max(float(square[-1]), 0.0) * max(n, width) * np.finfo(np.float64).eps
    if not keep.any():
        raise InvalidValue("betas", "constant", "expected at least one voxel that varies over pictures")
    value, vectors = np.sqrt(square[keep]), vectors[:, keep]
    if wide:
        return vectors, value, (vectors / value).T @ x
    return x @ (vectors / value), value, vectors.T


def _leave_one_out(left: np.ndarray, value: np.ndarray, y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    rotated = left.T @ y
    error = np.empty(len(grid))
    for place, penalty in enumerate(grid):
        shrink = value**2 / (value**2 + penalty)
        # 1/n is the leverage of the intercept.
        leverage = (left**2) @ shrink + 1.0 / len(y)
        residual = y - left @ (shrink[:, None] * rotated)
        error[place] = float(((residual / np.maximum(1.0 - leverage, 1e-9)[:, None]) ** 2).sum())
    return error


def _leave_groups_out(
    x: np.ndarray, y: np.ndarray, groups: Int[np.ndarray, " row"], grid: np.ndarray, n_folds: int
) -> np.ndarray:
    names, member = np.unique(groups, return_inverse=True)
    folds = min(n_folds, len(names))
    if folds < 2:
        raise InvalidValue("groups", len(names), "expected at least 2 different pictures to choose a penalty on")
    # Pictures are dealt out in turn: their numbers carry no order that could favour a fold.
    fold_of = (np.arange(len(names)) % folds)[member]
    error = np.zeros(len(grid))
    for fold in range(folds):
        held, rest = fold_of == fold, fold_of != fold
        x_mean, y_mean = x[rest].mean(axis=0), y[rest].mean(axis=0)
        left, value, right = _decompose(x[rest] - x_mean)
        rotated, scores = left.T @ (y[rest] - y_mean), (x[held] - x_mean) @ right.T
        for place, penalty in enumerate(grid * rest.mean()):
            guess = scores @ ((value / (value**2 + penalty))[:, None] * rotated) + y_mean
            error[place] += float(((y[held] - guess) ** 2).sum())
    return error


def check_betas(
    betas: Float[np.ndarray, "row voxel"],
    n_voxels: int,
    *,
    ridge: str,
    where: str | None = None,
    tolerance: float = 0.25,
) -> None:
    """Refuse betas that an imported ridge was not made for.

    Published ridges were trained on single-trial betas, z-scored per voxel; on other scales they return confident
    nonsense.

    Args:
        betas: single-trial rows.
        n_voxels: the ridge's input width.
        ridge: its name or file, for the message.
        where: the betas' file.
        tolerance: allowed distance of the median voxel's mean from 0 and standard deviation from 1.

    Raises:
        ShapeMismatch: for another voxel count.
        InvalidValue: for a mean or standard deviation that does not fit, or NaN.
    """
    if betas.shape[1] != n_voxels:
        raise ShapeMismatch(
            "betas", f"{betas.shape[1]} voxels", f"expected {n_voxels}, the input width of the ridge {ridge}",
            where=where,
            hint="the nsdgeneral mask must be that of the subject the ridge was trained on",
        )  # fmt: skip
    mean = np.asarray(betas, dtype=np.float32).mean(axis=0, dtype=np.float64)
    spread = np.asarray(betas, dtype=np.float32).std(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise InvalidValue("betas", "NaN", "expected finite numbers", where=where)
    off, wide = float(np.median(np.abs(mean))), float(np.median(spread))
    if off > tolerance or abs(wide - 1.0) > tolerance:
        raise InvalidValue(
            "betas", f"median |mean| {off:.3g} and standard deviation {wide:.3g} per voxel",
            f"expected about 0 and 1, which the ridge {ridge} was trained on", where=where,
            hint="set data.beta_normalisation to train or session",
        )  # fmt: skip


def import_mindeye2_ridge(path: Path | str, *, cached: Path | None = None) -> Ridge:
    """The first subject's ridge of a MindEye2 checkpoint; nothing else of the file is kept.

    Args:
        path: ``last.pth`` with ``model_state_dict``, a plain state dict, or a safetensors file of ours.
        cached: where to keep the two tensors, so that the multi-gigabyte checkpoint is opened once.

    Raises:
        InvalidFile: if the tensors are missing, of odd shape or not finite.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_ridge(path)
    if cached is not None and cached.is_file():
        return load_ridge(cached)
    content = load_torch(path)
    state = content.get("model_state_dict", content) if isinstance(content, dict) else {}
    missing = [key for key in _MINDEYE2_KEYS if not hasattr(state.get(key), "numpy")]
    if missing:
        raise InvalidFile("ridge", path, f"missing the tensor {missing[0]}", hint="expected MindEye2's last.pth")
    weight, bias = (state[key].float().numpy() for key in _MINDEYE2_KEYS)
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise InvalidFile(
            "ridge", path, f"expected weight (target, voxel) and bias (target,), found {weight.shape} and {bias.shape}"
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise InvalidFile("ridge", path, "expected finite weights")
    ridge = Ridge(np.array(weight), np.array(bias), f"mindeye2:{path.parent.name}/{path.name}")
    if cached is not None:
        ridge.save(cached)
    return ridge
