"""CBraMod: a criss-cross transformer over one-second EEG patches (Wang et al., ICLR 2025, arXiv:2412.07236).

The network has no learned channel identity, so any number of channels and patches works. Three consequences:

* The position code is a depthwise convolution over 19 neighbouring channels, zero-padded at both ends: the **order**
  of the channels matters.
* The group norms of the patch embedding pool over all channels and patches of a sample: a patch's embedding depends
  on the other patches, padded dummy channels change the real ones, and the time branch ignores the amplitude, which
  enters through the spectral branch alone.
* With a single patch the temporal half attends over one token: its softmax is 1, its output is the projected value,
  and the query and key rows of its input projection get a zero gradient.

State-dict names and shapes are those of the published weights. Unlike the published code, every layer draws its own
attention projections: copying one layer leaves them identical across depth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.attention import AxialSelfAttention
from brainlab.nn.dropout import Dropout

__all__ = ["CBraMod"]

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
        embedding = self._time(x) + self._spectrum(x)
        return embedding + self._position(embedding.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _position(self, embedding: Tensor) -> Tensor:
        # Kernel entries that reach beyond a small grid only ever meet zero padding. Leaving them out changes nothing,
        # and for a single patch it turns a (19, 7) kernel into a (19, 1) one, whose backward pass is 60 × faster.
        convolution = self.positional_encoding[0]
        rows, columns = (min(full, size - 1) for full, size in zip((9, 3), embedding.shape[2:], strict=True))
        weight = convolution.weight[:, :, 9 - rows : 10 + rows, 3 - columns : 4 + columns]
        return F.conv2d(embedding, weight, convolution.bias, padding=(rows, columns), groups=len(weight))

    def _time(self, x: Tensor) -> Tensor:
        batch, channel, patch, time = x.shape
        filtered = self.proj_in(x.reshape(batch, 1, channel * patch, time))
        return filtered.permute(0, 2, 1, 3).reshape(batch, channel, patch, -1)

    def _spectrum(self, x: Tensor) -> Tensor:
        # The transform has no half-precision form.
        return self.spectral_proj(torch.fft.rfft(x.float(), norm="forward").abs())


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
