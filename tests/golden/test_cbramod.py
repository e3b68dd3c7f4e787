"""CBraMod against reference values of the published module."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from brainlab.models.cbramod import CBraMod


@pytest.fixture(scope="module")
def small(golden_dir):
    return torch.load(golden_dir / "align" / "03_cbramod_small_weights_io.pt", weights_only=True)


def _load(small) -> CBraMod:
    model = CBraMod(**small["config"]).eval()
    model.load_state_dict({name: value.float() for name, value in small["state_dict"].items()}, strict=True)
    return model


def test_default_network_has_the_official_names_and_shapes(golden_dir):
    reference = json.loads((golden_dir / "align" / "01_cbramod_state_dict_keys.json").read_text())
    model = CBraMod()
    state = model.state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == reference["keys"]
    assert len(state) == reference["n_tensors"]
    assert sum(p.numel() for p in model.parameters()) == reference["n_params_total"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == reference["n_trainable"]


def test_forward_equals_the_reference(small):
    model = _load(small)
    with torch.no_grad():
        torch.testing.assert_close(model.features(small["x"]), small["features"], rtol=1e-4, atol=5e-4)
        torch.testing.assert_close(model(small["x"]), small["y"], rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("explicit_attention", [False, True])
def test_gradients_equal_the_reference(small, explicit_attention):
    model = _load(small)
    if explicit_attention:
        # A negligible probability takes the training path without dropping anything.
        model.train()
        for module in model.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 1e-9
            if hasattr(module, "p"):
                module.p = 0.0
    x = small["x"].clone().requires_grad_()
    loss = (model(x) ** 2).mean()
    loss.backward()
    assert loss.item() == pytest.approx(float(small["loss"]), rel=1e-5)
    torch.testing.assert_close(x.grad, small["grad_x"], rtol=1e-3, atol=1e-3 * small["grad_x"].abs().max().item())
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.requires_grad}
    assert norms == pytest.approx({name: float(norm) for name, norm in small["grad_norms"].items()}, rel=1e-3)
    assert len(norms) == 50


def test_every_step_of_the_patch_embedding_equals_the_reference(golden_dir, recipe_weights):
    reference = {
        k: torch.from_numpy(v) for k, v in np.load(golden_dir / "align" / "04_patch_embedding_steps.npz").items()
    }
    embedding = CBraMod(n_layer=1).eval().patch_embedding
    embedding.load_state_dict(recipe_weights(embedding.state_dict()))
    spectra: list[torch.Tensor] = []
    embedding.spectral_proj.register_forward_pre_hook(lambda _, args: spectra.append(args[0]))
    x = reference["x"]
    with torch.no_grad():
        steps = {
            "conv_out": embedding.proj_in(x.reshape(1, 1, 6, 200)),
            "time_emb": embedding.time_branch(x),
            "spectral_emb": embedding.spectral_branch(x),
            "spectral": spectra[0],
            "pos": embedding.position(reference["summed"]),
            "out": embedding(x),
        }
        steps["summed"] = steps["time_emb"] + steps["spectral_emb"]
    for name, value in steps.items():
        torch.testing.assert_close(
            value, reference[name], rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
