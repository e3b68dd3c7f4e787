"""The weight recipe that reference values of several modules share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch


def _recipe(name: str, value: torch.Tensor) -> torch.Tensor:
    h = 0
    for character in name:
        h = (131 * h + ord(character)) % 1_000_003
    a = np.sin(12.9898 * (np.arange(value.numel()) + 1.0) + 0.001 * h) * 43758.5453
    v = 2 * (a - np.floor(a)) - 1
    if name.endswith("weight"):
        v = v * math.sqrt(3 * value.shape[0] / value.numel()) if value.ndim >= 2 else 1 + 0.1 * v
    else:
        v = 0.05 * v
    return torch.from_numpy(v.astype(np.float32)).view(value.shape)


@pytest.fixture(scope="session")
def recipe_weights():
    """Fill a state dict by the reference's formula of each tensor's name and flat index."""
    return lambda state: {name: _recipe(name, value) for name, value in state.items()}
