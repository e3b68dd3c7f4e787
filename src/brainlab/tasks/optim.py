"""Optimisers and schedules: groups by learning rate and by decay, warm-up in steps or as a part of the training."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from brainlab.errors import InvalidValue

__all__ = [
    "build_optimizer",
    "build_scheduler",
    "cosine_with_warmup",
    "decay_groups",
    "decays",
    "two_rate_groups",
    "warmup_then",
]

_NEVER_DECAY = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    nn.modules.batchnorm._NormBase,
    nn.Embedding,
    nn.EmbeddingBag,
)


def decays(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay acts on ``module.name``.

    Matrices and filters decay. Biases, norms, embeddings, scalars and bare parameters that are vectors of the model's
    own (tokens, queries, position embeddings, masks) do not: pulling those to zero removes information, not capacity.
    """
    return parameter.ndim >= 2 and name.endswith("weight") and not isinstance(module, _NEVER_DECAY)


def two_rate_groups(
    encoder: nn.Module,
    rest: Iterable[nn.Module | nn.Parameter],
    lr: float,
    head_lr_scale: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Parameter groups ``encoder`` at ``lr`` and ``head`` at ``head_lr_scale · lr``, each split by weight decay.

    Frozen parameters are left out, shared ones appear once (in the encoder's group if it owns them), and empty groups
    are dropped. Each group carries a ``name``.

    Raises:
        InvalidValue: if a rate is negative, or nothing is left to train.
    """
    for name, rate in (("lr", lr), ("head_lr_scale", head_lr_scale), ("weight_decay", weight_decay)):
        if not 0 <= rate < math.inf:  # torch looks at the default rate only, not at those of groups
            raise InvalidValue(f"model.{name}", rate, "expected a finite number, at least 0")
    seen: set[int] = set()
    groups = []
    for label, parts, rate in (("encoder", [encoder], lr), ("head", list(rest), lr * head_lr_scale)):
        split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for part in parts:
            for decayed, parameter in _owned(part):
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    split[decayed].append(parameter)
        for decayed, parameters in split.items():
            if parameters:
                groups.append(
                    {
                        "name": label if decayed else f"{label}_no_decay",
                        "params": parameters,
                        "lr": rate,
                        "weight_decay": weight_decay if decayed else 0.0,
                    }
                )
    if not groups:
        raise InvalidValue("parameters", 0, "expected at least one trainable parameter", hint="unfreeze a part")
    return groups


def build_optimizer(
    groups: list[dict[str, Any]], name: str = "AdamW", options: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """An optimiser of ``torch.optim`` by its class name.

    Args:
        groups: parameter groups with their own ``lr`` and ``weight_decay``.
        name: class in ``torch.optim``.
        options: further keywords of that class, as ``{"betas": [0.9, 0.95]}``; lists become tuples.

    Raises:
        InvalidValue: for an unknown class or keyword.
    """
    known: dict[str, Callable[..., torch.optim.Optimizer]] = {
        key: value
        for key, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        # Those that step through a closure or take sparse gradients need another training loop.
        and key not in ("LBFGS", "SparseAdam")
    }
    if name not in known:
        raise InvalidValue("model.optimizer", name, "unknown class of torch.optim", hint=_did_you_mean(name, known))
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in (options or {}).items()}
    accepted = set(inspect.signature(known[name]).parameters) - {"params", "lr", "weight_decay"}
    for key in options:
        if key not in accepted:
            raise InvalidValue(
                f"model.optimizer_options.{key}",
                options[key],
                f"unknown keyword of torch.optim.{name}",
                hint=_did_you_mean(key, accepted),
            )
    if "weight_decay" not in inspect.signature(known[name]).parameters:
        groups = [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups]
    return known[name](groups, **options)


def cosine_with_warmup(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_fraction: float = 0.0, eta_min: float = 0.0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a cosine down to ``eta_min``, stepped once per optimiser step.

    The length is the real number of steps, not a constant. Every group ends at the same absolute ``eta_min``.

    Args:
        optimizer: its groups hold their peak rates.
        total_steps: optimiser steps of the whole training.
        warmup_fraction: part of ``total_steps`` that warms up, in [0, 1).
        eta_min: learning rate at the end.

    Raises:
        InvalidValue: if the length is unbounded or the fraction is out of range.
    """
    if not math.isfinite(total_steps) or total_steps < 1:
        raise InvalidValue(
            "trainer.max_epochs", total_steps, "expected a bounded training length", hint="set max_epochs or max_steps"
        )
    if not 0.0 <= warmup_fraction < 1.0:
        raise InvalidValue("model.warmup_fraction", warmup_fraction, "expected a number in [0, 1)")
    warmup = round(total_steps * warmup_fraction)
    span = max(total_steps - warmup, 1)

    def factor_for(peak: float) -> Callable[[int], float]:
        floor = min(eta_min / peak, 1.0) if peak > 0 else 1.0

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min((step - warmup) / span, 1.0)
            return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

        return factor

    return torch.optim.lr_scheduler.LambdaLR(optimizer, [factor_for(group["lr"]) for group in optimizer.param_groups])


def decay_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups ``decay`` and ``no_decay`` of a network trained from scratch; both learn at ``lr``.

    Unlike in :func:`two_rate_groups` tables of embeddings decay: those of a token model are its output layer as well,
    and nothing else keeps their logits from growing. Biases, norms and bare parameters do not decay. Frozen
    parameters are left out, tied ones appear once, and empty groups are dropped.

    Raises:
        InvalidValue: if a rate is negative, or nothing is left to train.
    """
    for name, rate in (("lr", lr), ("weight_decay", weight_decay)):
        if not 0 <= rate < math.inf:
            raise InvalidValue(f"model.{name}", rate, "expected a finite number, at least 0")
    split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    seen: set[int] = set()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                table = isinstance(owner, nn.Embedding | nn.EmbeddingBag) and name == "weight"
                split[table or decays(owner, name, parameter)].append(parameter)
    if not seen:
        raise InvalidValue("parameters", 0, "expected at least one trainable parameter", hint="unfreeze a part")
    return [
        {
            "name": "decay" if decayed else "no_decay",
            "params": parameters,
            "lr": lr,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for decayed, parameters in split.items()
        if parameters
    ]


_LENGTHS = ("T_max", "total_iters", "total_steps")
_NO_SCHEDULE = {
    "LRScheduler": "is the base of all others",
    "ReduceLROnPlateau": "needs a metric",
    "SequentialLR": "needs other schedules",
    "ChainedScheduler": "needs other schedules",
    "LambdaLR": "needs a function",
    "MultiplicativeLR": "needs a function",
}


def build_scheduler(
    optimizer: torch.optim.Optimizer, name: str, options: Mapping[str, Any] | None = None, n_steps: int | None = None
) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule of ``torch.optim.lr_scheduler`` by its class name.

    Args:
        optimizer: its groups hold their peak rates.
        name: class in ``torch.optim.lr_scheduler``.
        options: keywords of that class. A length (``T_max``, ``total_iters``, ``total_steps``) that is absent or null
            is the length of the training.
        n_steps: steps of the training that are left to the schedule.

    Raises:
        InvalidValue: for an unknown class or keyword, a class that needs more than numbers, a length that nobody knows,
            or a lowest rate above the peak.
    """
    known = {
        key: value
        for key, value in vars(torch.optim.lr_scheduler).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.lr_scheduler.LRScheduler)
        and key not in _NO_SCHEDULE
        and not key.startswith("_")
    }
    if name in _NO_SCHEDULE:
        expected = "expected a class of torch.optim.lr_scheduler that is complete with numbers; this one"
        raise InvalidValue("model.scheduler", name, f"{expected} {_NO_SCHEDULE[name]}")
    if name not in known:
        raise InvalidValue(
            "model.scheduler", name, "unknown class of torch.optim.lr_scheduler", hint=_did_you_mean(name, known)
        )
    accepted = set(inspect.signature(known[name]).parameters) - {"optimizer", "last_epoch", "verbose"}
    chosen = dict(options or {})
    for key in chosen:
        if key not in accepted:
            raise InvalidValue(
                f"model.scheduler_options.{key}",
                chosen[key],
                f"unknown keyword of torch.optim.lr_scheduler.{name}",
                hint=_did_you_mean(key, accepted),
            )
    lowest, peak = chosen.get("eta_min") or 0.0, min(group["lr"] for group in optimizer.param_groups)
    if lowest > peak:  # a default that belongs to another rate: what should fall would rise
        raise InvalidValue(
            "model.scheduler_options.eta_min",
            lowest,
            f"expected at most the peak rate model.lr={peak:g}",
            hint="lower it with the rate, or keep the rate with model.scheduler=null",
        )
    for key in _LENGTHS:
        if key in accepted and chosen.get(key) is None and not (key == "total_steps" and chosen.get("epochs")):
            if n_steps is None:
                raise InvalidValue(
                    f"model.scheduler_options.{key}", None, "expected a length", hint="or bound it by trainer.max_steps"
                )
            chosen[key] = max(1, n_steps)
    build: Callable[..., torch.optim.lr_scheduler.LRScheduler] = known[name]
    return build(optimizer, **chosen)


def warmup_then(
    optimizer: torch.optim.Optimizer, warmup_steps: int, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> torch.optim.lr_scheduler.LRScheduler:
    """Rates ``peak · (s + 1) / warmup_steps`` in step s of the warm-up, then ``scheduler`` from its step 0.

    Args:
        optimizer: the one that ``scheduler`` was built for.
        warmup_steps: steps of the warm-up; 0 for none.
        scheduler: what follows.

    Raises:
        InvalidValue: if the number of steps is negative.
    """
    if warmup_steps < 0:
        raise InvalidValue("model.warmup_steps", warmup_steps, "expected a number of steps, at least 0")
    if warmup_steps == 0:
        return scheduler
    for group in optimizer.param_groups:  # a schedule sets its first rate when it is built
        group["lr"] = group["initial_lr"]
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup_steps))
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, scheduler], [warmup_steps])


def _owned(part: nn.Module | nn.Parameter) -> Iterable[tuple[bool, nn.Parameter]]:
    if isinstance(part, nn.Parameter):
        yield False, part
        return
    for module in part.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield decays(module, name, parameter), parameter


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(choices)}"
