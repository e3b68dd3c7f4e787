"""What a network costs in memory and work, found out without either: its operations run on tensors that hold nothing.

Operations are counted as they are called, so that whatever a network does is in the numbers, and tensors that the
backward pass needs are counted where autograd keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Footprint", "count_flops", "footprint", "n_bytes"]


@dataclass(frozen=True)
class Footprint:
    """Cost of one training step: floating-point operations, and bytes that are held at the same time.

    ``activations`` are the tensors that the forward pass keeps for the backward pass.
    """

    parameters: int
    weights: int
    gradients: int
    activations: int
    forward_flops: int
    backward_flops: int

    @property
    def flops(self) -> int:
        """Operations of a whole step, a multiplication and an addition counted as two."""
        return self.forward_flops + self.backward_flops


def n_bytes(tensor: Tensor) -> int:
    """Memory of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    # Query · key and weights · value over all pairs: what a causal kernel may skip is not subtracted.
    batch, heads, n, dim = query
    return 2 * batch * heads * n * key[2] * (dim + value[3])


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    return 5 * _attention(query, key, value) // 2  # five products instead of two


def _counter() -> FlopCounterMode:
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        },
    )


def footprint(
    build: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], low_precision: torch.dtype | None = None
) -> Footprint:
    """Cost of one training step of the network that ``build`` makes.

    Args:
        build: makes the network; it is called where tensors hold nothing.
        loss: its loss on a batch that is made there as well; values cannot be read.
        low_precision: type of matrix products under autocast; None computes in the type of the weights.
    """
    kept: dict[int, Tensor] = {}
    with FakeTensorMode():
        module = build().train()
        own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            place = tensor.untyped_storage()._cdata
            if place not in own:
                kept[place] = tensor  # held, so that no later storage takes its number
            return tensor

        low = torch.autocast("cpu", dtype=low_precision) if low_precision is not None else nullcontext()
        with _counter() as forward, low, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(module)
        with _counter() as backward:
            value.backward()
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return Footprint(
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            weights=sum(map(n_bytes, module.parameters())),
            gradients=sum(map(n_bytes, trained)),
            activations=sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
            forward_flops=forward.get_total_flops(),
            backward_flops=backward.get_total_flops(),
        )


def count_flops(build: Callable[[], nn.Module], work: Callable[[nn.Module], Any]) -> int:
    """Operations of ``work`` on the network that ``build`` makes, without gradients."""
    with FakeTensorMode(), torch.no_grad():
        module = build().eval()
        with _counter() as counter:
            work(module)
        return counter.get_total_flops()
