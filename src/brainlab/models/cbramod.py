"""CBraMod: a criss-cross transformer over one-second EEG patches (Wang et al., ICLR 2025, arXiv:2412.07236).

The network has no learned channel identity, so any number of channels and patches works. Three consequences:

* The position code is a depthwise convolution over 19 neighbouring channels, zero-padded at both ends: the **order**
  of the channels matters.
* The group norms of the patch embedding pool over all channels and patches of a sample: a patch's embedding depends
  on the other patches, padded dummy channels change the real ones, and the time branch ignores the amplitude, which
  enters through the spectral branch alone.
* With a single patch the temporal half attends over one token: its softmax is 1, its output is the projected value,
  and the query and key rows of its input projection get a zero gradient.

State-dict names and shapes are those of the published weights, whatever the forward pass fuses. Unlike the published
code, every layer draws its own attention projections: copying one layer leaves them identical across depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.nn.attention import AxialSelfAttention
from brainlab.nn.dropout import Dropout

__all__ = ["CBraMod", "WeightReport", "load_released_weights", "released_state_dict"]

_N_FILTERS = 25


class PatchEmbedding(nn.Module):
    """Turns each patch into a token: time branch + spectral branch + convolutional position code."""

    def __init__(self, in_dim: int, d_model: int, dropout: float) -> None:
        super().__init__()
        n_steps = (in_dim + 2 * 24 - 49) // 25 + 1
        if _N_FILTERS * n_steps != d_model:
            raise InvalidValue(
                "d_model",
                d_model,
                f"expected {_N_FILTERS * n_steps} = {_N_FILTERS} filters × {n_steps} steps of a patch"
                f" of in_dim={in_dim} samples",
            )
        self.mask_encoding = nn.Parameter(torch.zeros(in_dim), requires_grad=False)
        self.positional_encoding = nn.Sequential(
            nn.Conv2d(d_model, d_model, kernel_size=(19, 7), padding=(9, 3), groups=d_model)
        )
        self.proj_in = nn.Sequential(
            nn.Conv2d(1, _N_FILTERS, (1, 49), stride=(1, 25), padding=(0, 24)),
            nn.GroupNorm(5, _N_FILTERS),
            nn.GELU(),
            nn.Conv2d(_N_FILTERS, _N_FILTERS, (1, 3), padding=(0, 1)),
            nn.GroupNorm(5, _N_FILTERS),
            nn.GELU(),
            nn.Conv2d(_N_FILTERS, _N_FILTERS, (1, 3), padding=(0, 1)),
            nn.GroupNorm(5, _N_FILTERS),
            nn.GELU(),
        )
        self.spectral_proj = nn.Sequential(nn.Linear(in_dim // 2 + 1, d_model), Dropout(dropout))

    def forward(
        self,
        x: Float[Tensor, "batch channel patch time"],
        mask: Bool[Tensor, "batch channel patch"] | Int[Tensor, "batch channel patch"] | None = None,
    ) -> Float[Tensor, "batch channel patch width"]:
        """Embed patches; where ``mask`` is 1 the patch is replaced before both branches."""
        if mask is not None:
            x = torch.where(mask.bool().unsqueeze(-1), self.mask_encoding.to(x.dtype), x)
        embedding = self.time_branch(x) + self.spectral_branch(x)
        return embedding + self.position(embedding)

    def time_branch(self, x: Float[Tensor, "batch channel patch time"]) -> Float[Tensor, "batch channel patch width"]:
        """Three convolutions within each patch, flattened filter by filter."""
        batch, channel, patch, time = x.shape
        filtered = self.proj_in(x.reshape(batch, 1, channel * patch, time))
        return filtered.permute(0, 2, 1, 3).reshape(batch, channel, patch, -1)

    def spectral_branch(
        self, x: Float[Tensor, "batch channel patch time"]
    ) -> Float[Tensor, "batch channel patch width"]:
        """Linear map of each patch's amplitude spectrum |rfft(x)| / time."""
        # The transform has no half-precision form.
        return self.spectral_proj(torch.fft.rfft(x.float(), norm="forward").abs())

    def position(
        self, embedding: Float[Tensor, "batch channel patch width"]
    ) -> Float[Tensor, "batch channel patch width"]:
        """Depthwise convolution over neighbouring channels and patches."""
        convolution = self.positional_encoding[0]
        # Kernel entries that reach beyond a small grid only ever meet zero padding. Leaving them out changes nothing,
        # and for a single patch it turns a (19, 7) kernel into a (19, 1) one, whose backward pass is 60 × faster.
        rows, columns = (min(full, size - 1) for full, size in zip((9, 3), embedding.shape[1:3], strict=True))
        weight = convolution.weight[:, :, 9 - rows : 10 + rows, 3 - columns : 4 + columns]
        grid = embedding.permute(0, 3, 1, 2)
        coded = F.conv2d(grid, weight, convolution.bias, padding=(rows, columns), groups=len(weight))
        return coded.permute(0, 2, 3, 1)


class CrissCrossLayer(nn.Module):
    """Pre-norm layer: the first half of the width attends over channels, the second half over patches."""

    def __init__(self, d_model: int, dim_feedforward: int, nhead: int, dropout: float) -> None:
        super().__init__()
        self.self_attn_s = AxialSelfAttention(d_model // 2, nhead // 2, dropout)
        self.self_attn_t = AxialSelfAttention(d_model // 2, nhead // 2, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)
        self.activation = nn.GELU()

    def forward(self, x: Float[Tensor, "batch channel patch width"]) -> Float[Tensor, "batch channel patch width"]:
        """One criss-cross attention and one feed-forward step, each with a residual."""
        x = x + self.dropout(self._attend(self.norm1(x)))
        hidden = self.dropout(self.activation(self.linear1(self.norm2(x))))
        return x + self.dropout(self.linear2(hidden))

    def _attend(self, x: Tensor) -> Tensor:
        over_channels, over_patches = x.chunk(2, dim=-1)
        return torch.cat([self.self_attn_s(over_channels, axis=1), self.self_attn_t(over_patches, axis=2)], dim=-1)


class Encoder(nn.Module):
    """The stack of criss-cross layers; there is no final norm."""

    def __init__(self, n_layer: int, d_model: int, dim_feedforward: int, nhead: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrissCrossLayer(d_model, dim_feedforward, nhead, dropout) for _ in range(n_layer))

    def forward(self, x: Float[Tensor, "batch channel patch width"]) -> Float[Tensor, "batch channel patch width"]:
        """Apply every layer in turn."""
        for layer in self.layers:
            x = layer(x)
        return x


class CBraMod(nn.Module):
    """The official network when built without arguments (211 tensors, 4,924,000 values).

    Args:
        in_dim: samples per patch (200 = one second at 200 Hz).
        out_dim: width of the reconstruction.
        d_model: width of a token.
        dim_feedforward: hidden width of the feed-forward step.
        seq_len: patches per window in pretraining; any number works, the value is kept for the record.
        n_layer: number of criss-cross layers.
        nhead: heads of a layer; each half has ``nhead // 2``.
        dropout: probability of every dropout.

    Raises:
        InvalidValue: if the sizes do not fit together.

    Source: Wang et al. (2025), section 2.
    """

    def __init__(
        self,
        in_dim: int = 200,
        out_dim: int = 200,
        d_model: int = 200,
        dim_feedforward: int = 800,
        seq_len: int = 30,
        n_layer: int = 12,
        nhead: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if nhead < 2 or nhead % 2 or d_model % nhead:
            raise InvalidValue("nhead", nhead, f"expected an even divisor of d_model={d_model}")
        self.in_dim, self.out_dim, self.d_model, self.seq_len = in_dim, out_dim, d_model, seq_len
        self.patch_embedding = PatchEmbedding(in_dim, d_model, dropout)
        self.encoder = Encoder(n_layer, d_model, dim_feedforward, nhead, dropout)
        self.proj_out = nn.Sequential(nn.Linear(d_model, out_dim))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(
        self,
        x: Float[Tensor, "batch channel patch time"],
        mask: Bool[Tensor, "batch channel patch"] | Int[Tensor, "batch channel patch"] | None = None,
    ) -> Float[Tensor, "batch channel patch width"]:
        """Contextual token of every patch, before the reconstruction layer.

        Args:
            x: EEG in units of 100 µV, patches of one second at 200 Hz.
            mask: 1 where the patch is hidden from the network.

        Raises:
            ShapeMismatch: if a patch has not ``in_dim`` samples, or the mask another shape.
        """
        if x.ndim != 4 or x.shape[-1] != self.in_dim:
            raise ShapeMismatch("x", tuple(x.shape), f"expected (batch, channel, patch, {self.in_dim})")
        if mask is not None and mask.shape != x.shape[:3]:
            raise ShapeMismatch("mask", tuple(mask.shape), f"expected {tuple(x.shape[:3])}")
        return self.encoder(self.patch_embedding(x, mask))

    def forward(
        self,
        x: Float[Tensor, "batch channel patch time"],
        mask: Bool[Tensor, "batch channel patch"] | Int[Tensor, "batch channel patch"] | None = None,
    ) -> Float[Tensor, "batch channel patch out"]:
        """Reconstruction of every patch from its contextual token; arguments as in :meth:`features`."""
        return self.proj_out(self.features(x, mask))


_ANCHOR = "patch_embedding.proj_in.0.weight"
_PARTS = ("patch_embedding.", "encoder.", "proj_out.")
_ENVELOPES = ("eeg_encoder", "state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class WeightReport:
    """What :func:`load_released_weights` did.

    ``loaded`` are the network's tensors that were read, ``missing`` those that kept their initial value, ``ignored``
    the names in the file that belong to other modules or to dead copies.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The flat table of tensors inside a checkpoint's envelopes."""
    for envelope in _ENVELOPES:
        if isinstance(state.get(envelope), Mapping):
            return _tensors(state[envelope])
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _prefix(names: Mapping[str, Tensor]) -> str:
    """What stands before the network's own names, e.g. ``module.`` or ``backbone.``.

    A class that both inherits and wraps the network stores it twice, and only the wrapped copy is trained: of nested
    prefixes the longest is meant.
    """
    prefixes = sorted((name.removesuffix(_ANCHOR) for name in names if name.endswith(_ANCHOR)), key=len)
    if not prefixes:
        raise InvalidFile("state", f"{len(names)} tensors", f"expected CBraMod weights, found no {_ANCHOR}")
    if not all(prefixes[-1].startswith(prefix) for prefix in prefixes):
        raise InvalidFile("state", ", ".join(prefixes), "expected one network, found several side by side")
    return prefixes[-1]


def released_state_dict(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors under their official names.

    Accepts the published file, any prefix (``module.``, ``backbone.``, a task's ``encoder.``), braindecode's copy with
    its ``final_layer.*``, and dumps that hold the encoder beside a head.

    Args:
        state: a loaded checkpoint, flat or with the state dict under a key.

    Raises:
        InvalidFile: if it holds no such network, or several side by side.
    """
    tensors = _tensors(state)
    prefix = _prefix(tensors)
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return {name: value for name, value in own.items() if name.startswith(_PARTS)}


def load_released_weights(model: CBraMod, state: Mapping[str, Any]) -> WeightReport:
    """Load published, converted or dumped weights strictly; only the reconstruction layer may be absent.

    Args:
        model: network of the same size.
        state: as in :func:`released_state_dict`.

    Raises:
        InvalidFile: if a tensor is missing or unexpected; all their names are given, nothing is loaded.
        ShapeMismatch: if a tensor has another shape; nothing is loaded.
    """
    released, own = released_state_dict(state), model.state_dict()
    if not any(name.startswith("proj_out.") for name in own):  # a downstream encoder reconstructs nothing
        released = {name: value for name, value in released.items() if not name.startswith("proj_out.")}
    missing = [name for name in own if name not in released]
    unexpected = [name for name in released if name not in own]
    required = [name for name in missing if not name.startswith("proj_out.")]
    if required or unexpected:
        raise InvalidFile(
            "state",
            f"{len(released)} tensors",
            f"missing {required or 'nothing'}, unexpected {unexpected or 'nothing'}",
        )
    for name, value in released.items():
        if value.shape != own[name].shape:
            raise ShapeMismatch(name, tuple(value.shape), f"expected {tuple(own[name].shape)}")
    model.load_state_dict(released, strict=False)
    tensors = _tensors(state)
    used = {_prefix(tensors) + name for name in released}
    return WeightReport(tuple(released), tuple(missing), tuple(name for name in tensors if name not in used))
