"""Greedy generation with a key–value cache: ours and Hugging Face's Qwen2 of the same size and weights.

Run it with a Python that has both packages installed::

    python benchmarks/generation.py [--repeats 3] [--threads 1]

Both networks hold the same weights: with one site and one level per frame FlatGPT's positions are those of a text
model, and its layers are Qwen2's. Logits and drawn tokens are compared first. The peer runs twice: through its own
``generate``, and stripped to a loop over its forward pass with its cache. The exit status is 1 where a target is
missed or the tokens differ.
"""

from __future__ import annotations

import argparse
import os
import sys

# Threads that wait must not count as threads that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from side_by_side import environment, in_turns, report
from torch import Tensor

# transformers imports torchaudio where it lies about, for sounds; beside a CPU torch that import fails.
sys.modules["torchaudio"] = None  # type: ignore[assignment]

from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM  # noqa: E402
from transformers.utils import logging as peer_logging  # noqa: E402

from brainlab.models.flat_gpt import FlatGPT  # noqa: E402
from brainlab.nn.sampling import Sampler  # noqa: E402

# (width, layers, heads, key heads, feed-forward width, codes), (sequences, known tokens, new tokens); rollouts are
# several times longer than their context.
SIZES = {
    "the CPU default, 12 rollouts": ((128, 4, 4, 2, 384, 1024), (12, 64, 256)),
    "the CPU default, 1 rollout": ((128, 4, 4, 2, 384, 1024), (1, 128, 512)),
    "four times wider, 4 rollouts": ((512, 8, 8, 2, 1408, 4096), (4, 64, 64)),
}
# At the larger size both wait for the same weights to come from memory; its ratio is printed for the record.
TARGETS = {"the CPU default, 12 rollouts": 1.2, "the CPU default, 1 rollout": 1.2}
TOLERANCE = 1e-4


def pair(width: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int) -> tuple[FlatGPT, Qwen2ForCausalLM]:
    """Ours and the peer's network with the same random weights."""
    torch.manual_seed(0)
    half = width // heads // 2
    sizes = {"width": width, "n_layers": layers, "n_heads": heads, "n_kv_heads": kv_heads, "ffn_width": ffn}
    ours = FlatGPT(1, 1, vocab, **sizes, rope_sections=[half, 0, 0]).eval()
    for parameter in ours.parameters():
        if parameter.ndim == 2:  # larger than initial weights, so that greedy choices are no coin flips
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
        elif parameter.shape[0] != width:
            torch.nn.init.normal_(parameter, std=0.1)
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    peer = Qwen2ForCausalLM(config).eval()
    peer.load_state_dict(peer_weights(ours, heads * 2 * half, kv_heads * 2 * half), strict=True)
    return ours, peer


def peer_weights(ours: FlatGPT, q: int, kv: int) -> dict[str, Tensor]:
    """Our weights under the peer's names."""
    state = {"model.embed_tokens.weight": ours.embedding.weight, "lm_head.weight": ours.embedding.weight}
    state["model.norm.weight"] = ours.decoder.norm.weight
    for index, layer in enumerate(ours.decoder.layers):
        name = f"model.layers.{index}"
        for part, weight, bias in zip(
            "qkv",
            layer.attention.qkv.weight.split([q, kv, kv]),
            layer.attention.qkv.bias.split([q, kv, kv]),
            strict=True,
        ):
            state[f"{name}.self_attn.{part}_proj.weight"] = weight
            state[f"{name}.self_attn.{part}_proj.bias"] = bias
        gate, up = layer.gate_up.weight.chunk(2)
        state |= {
            f"{name}.self_attn.o_proj.weight": layer.attention.out.weight,
            f"{name}.mlp.gate_proj.weight": gate,
            f"{name}.mlp.up_proj.weight": up,
            f"{name}.mlp.down_proj.weight": layer.down.weight,
            f"{name}.input_layernorm.weight": layer.attention_norm.weight,
            f"{name}.post_attention_layernorm.weight": layer.ffn_norm.weight,
        }
    return {name: value.detach().clone() for name, value in state.items()}


@torch.no_grad()
def stripped(peer: Qwen2ForCausalLM, known: Tensor, n_new: int) -> Tensor:
    """The peer's forward pass and cache in a bare loop."""
    cache, tokens, drawn = DynamicCache(config=peer.config), known, []
    for _ in range(n_new):
        logits = peer(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        tokens = logits.argmax(-1, keepdim=True)
        drawn.append(tokens)
    return torch.cat(drawn, dim=1)


@torch.no_grad()
def generated(peer: Qwen2ForCausalLM, known: Tensor, n_new: int) -> Tensor:
    """The peer's own ``generate``."""
    mask = torch.ones_like(known)
    out = peer.generate(known, attention_mask=mask, do_sample=False, max_new_tokens=n_new, min_new_tokens=n_new)
    return out[:, known.shape[1] :]


def compare(name: str, repeats: int, threads: list[int]) -> bool:
    """Equality and speed for one size; true where both are as they should be."""
    size, (batch, n_known, n_new) = SIZES[name]
    ours, peer = pair(*size)
    known = torch.randint(size[-1], (batch, n_known))
    millions = sum(parameter.numel() for parameter in ours.parameters()) / 1e6
    print(f"{name}: {millions:.1f} M parameters, {batch} × {n_known} + {n_new} tokens")
    sampler = Sampler("argmax")

    def our_tokens() -> Tensor:
        return ours.generate(known[:, :, None, None], n_new, sampler).flatten(1)

    with torch.no_grad():
        a, b = ours(known[:, :, None, None])[0], peer(known[:, :-1]).logits
    difference = float((a - b).abs().max() / b.abs().max())
    tokens = our_tokens()
    equal = all(torch.equal(tokens, way(peer, known, n_new)) for way in (generated, stripped))
    print(f"  largest relative difference of logits {difference:.1e}; drawn tokens {'equal' if equal else 'DIFFER'}")
    reached = equal and difference < TOLERANCE
    ways = {
        "ours": our_tokens,
        "Qwen2, generate": lambda: generated(peer, known, n_new),
        "Qwen2, bare loop": lambda: stripped(peer, known, n_new),
    }
    for n in threads:
        torch.set_num_threads(n)
        print(f" {n} thread(s), milliseconds per token and rollout")
        times = in_turns(ways, repeats, per_call=batch * n_new)
        reached &= report(times, "ours", {"Qwen2, generate": TARGETS[name]} if name in TARGETS else {})
        print(f"  ours: {1e3 / sorted(times['ours'].wall)[repeats // 2]:,.0f} tokens/s", flush=True)
    return reached


def main() -> int:
    """Print equality and speed for each size and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--only", choices=list(SIZES), default=None)
    arguments = parser.parse_args()
    peer_logging.set_verbosity_error()
    print(environment("torch", "transformers"))
    names = [arguments.only] if arguments.only else list(SIZES)
    reached = [compare(name, arguments.repeats, arguments.threads) for name in names]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
