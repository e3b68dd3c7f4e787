from __future__ import annotations

import copy
import os
import urllib.error
import urllib.request

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.models.cbramod import CBraMod, load_released_weights, released_state_dict

SMALL = {"dim_feedforward": 32, "n_layer": 2, "nhead": 4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CBraMod(**SMALL).eval()


def eeg(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 200, generator=torch.Generator().manual_seed(seed))


class TestShapes:
    @pytest.mark.parametrize("shape", [(1, 1, 1), (1, 63, 1), (2, 19, 30), (3, 4, 2), (2, 1, 9), (2, 25, 3)])
    def test_any_number_of_channels_and_patches_works(self, model, shape):
        x = eeg(*shape)
        assert model(x).shape == x.shape
        assert model.features(x).shape == (*shape, 200)

    def test_a_sample_does_not_depend_on_its_batch(self, model):
        x = eeg(3, 5, 2)
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("shape", [(2, 5, 2, 199), (2, 5, 200)])
    def test_input_of_another_layout_is_refused(self, model, shape):
        with pytest.raises(ShapeMismatch, match="200"):
            model(torch.zeros(shape))

    def test_mask_of_another_shape_is_refused(self, model):
        with pytest.raises(ShapeMismatch, match="mask"):
            model(eeg(2, 5, 2), torch.zeros(2, 5, 3))

    @pytest.mark.parametrize("settings", [{"nhead": 3}, {"nhead": 0}, {"d_model": 100}, {"dropout": 1.5}])
    def test_sizes_that_do_not_fit_are_refused(self, settings):
        with pytest.raises(InvalidValue):
            CBraMod(**{**SMALL, **settings})

    def test_the_reconstruction_may_be_wider_than_a_token(self):
        assert CBraMod(**SMALL, out_dim=50)(eeg(1, 2, 1)).shape == (1, 2, 1, 50)


class TestMask:
    def test_a_masked_patch_is_replaced_before_both_branches(self, model):
        with torch.no_grad():
            model.patch_embedding.mask_encoding.normal_(generator=torch.Generator().manual_seed(1))
        x, mask = eeg(2, 4, 3), torch.zeros(2, 4, 3, dtype=torch.long)
        mask[0, 1, 2] = mask[1, 3, 0] = 1
        replaced = x.clone()
        replaced[mask == 1] = model.patch_embedding.mask_encoding.data
        torch.testing.assert_close(model(x, mask), model(replaced), rtol=0, atol=0)
        torch.testing.assert_close(model(x, mask.bool()), model(replaced), rtol=0, atol=0)

    def test_what_stands_under_the_mask_cannot_be_seen(self, model):
        x, mask = eeg(1, 4, 3), torch.zeros(1, 4, 3)
        mask[0, 2, 1] = 1
        other = x.clone()
        other[0, 2, 1] = 100
        torch.testing.assert_close(model(x, mask), model(other, mask), rtol=0, atol=0)

    def test_the_mask_encoding_is_not_trained(self, model):
        model(eeg(1, 4, 3), torch.ones(1, 4, 3)).sum().backward()
        assert not model.patch_embedding.mask_encoding.requires_grad
        assert model.patch_embedding.mask_encoding.grad is None
        assert model.patch_embedding.mask_encoding.abs().sum() == 0


class TestDocumentedConsequences:
    def test_channel_order_matters(self, model):
        x = eeg(1, 6, 1)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        assert not torch.allclose(model(x)[:, order], model(x[:, order]), atol=1e-3)

    def test_without_the_position_code_channel_order_does_not_matter(self, model):
        with torch.no_grad():
            for parameter in model.patch_embedding.positional_encoding.parameters():
                parameter.zero_()
        x = eeg(1, 6, 2)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        torch.testing.assert_close(model(x)[:, order], model(x[:, order]), rtol=1e-4, atol=1e-4)

    def test_group_norm_couples_patches_and_padding_channels_change_real_ones(self, model):
        time_branch = model.patch_embedding.time_branch
        x = eeg(1, 3, 2)
        padded = torch.cat([x, torch.zeros(1, 2, 2, 200)], dim=1)
        assert not torch.allclose(time_branch(x), time_branch(padded)[:, :3], atol=1e-3)

    def test_amplitude_enters_through_the_spectral_branch_only(self, model):
        embedding = model.patch_embedding
        with torch.no_grad():
            for layer in (0, 3, 6):
                embedding.proj_in[layer].bias.zero_()
        x = eeg(1, 3, 2)
        torch.testing.assert_close(embedding.time_branch(x), embedding.time_branch(7 * x), rtol=1e-3, atol=1e-3)
        bias = embedding.spectral_proj[0].bias
        torch.testing.assert_close(
            7 * (embedding.spectral_branch(x) - bias), embedding.spectral_branch(7 * x) - bias, rtol=1e-4, atol=1e-4
        )


class TestOnePatch:
    def test_the_kernel_is_folded_without_changing_the_position_code(self, model):
        embedding = model.patch_embedding
        for shape in ((2, 63, 1), (2, 4, 2), (1, 1, 1), (2, 12, 5)):
            e = eeg(*shape).requires_grad_()
            g = eeg(*shape, seed=1)
            full = embedding.positional_encoding(e.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            weights = tuple(embedding.positional_encoding.parameters())
            expected = torch.autograd.grad(full, (e, *weights), g)
            folded = embedding.position(e)
            torch.testing.assert_close(folded, full, rtol=1e-5, atol=1e-5)
            for ours, theirs in zip(torch.autograd.grad(folded, (e, *weights), g), expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    def test_temporal_query_and_key_get_a_zero_gradient(self, model):
        (model.train()(eeg(2, 5, 1)) ** 2).mean().backward()
        for layer in model.encoder.layers:
            for gradient in (layer.self_attn_t.in_proj_weight.grad, layer.self_attn_t.in_proj_bias.grad):
                assert gradient[:200].abs().max() == 0
                assert gradient[200:].abs().min() > 0


class TestInitialisation:
    def test_layers_draw_their_attention_independently(self):
        layers = CBraMod(**SMALL).encoder.layers
        assert not torch.equal(layers[0].self_attn_s.in_proj_weight, layers[1].self_attn_s.in_proj_weight)

    def test_linear_layers_are_kaiming_normal_and_attention_projections_are_not(self):
        torch.manual_seed(0)
        model = CBraMod(n_layer=1)
        layer = model.encoder.layers[0]
        for linear in (layer.linear1, layer.linear2, layer.self_attn_t.out_proj, model.proj_out[0]):
            assert linear.weight.std().item() == pytest.approx((2 / linear.out_features) ** 0.5, rel=0.03)
        assert layer.self_attn_s.in_proj_weight.abs().max() <= (6 / 400) ** 0.5
        assert layer.self_attn_s.in_proj_bias.abs().max() == 0

    def test_the_same_seed_gives_the_same_network_and_the_same_training_pass(self):
        def run() -> torch.Tensor:
            torch.manual_seed(3)
            return CBraMod(**SMALL)(eeg(2, 4, 3))

        torch.testing.assert_close(run(), run(), rtol=0, atol=0)


class TestTraining:
    def test_every_trainable_parameter_gets_a_finite_gradient(self, model):
        (model.train()(eeg(2, 5, 3)) ** 2).mean().backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().max() > 0, name

    def test_parameters_are_the_sum_of_the_parts(self, model):
        class Downstream(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = model
                self.head = nn.Linear(200, 3)

        def count(module: nn.Module) -> int:
            return sum(p.numel() for p in module.parameters())

        whole = Downstream()
        assert count(whole) == count(whole.encoder) + count(whole.head)
        assert sum(v.numel() for v in whole.state_dict().values()) == count(whole)

    def test_bfloat16_autocast_agrees_with_float32(self, model):
        x = eeg(2, 5, 3)
        with torch.no_grad():
            expected = model(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = model(x)
        assert F.cosine_similarity(out.float().flatten(), expected.flatten(), dim=0) > 0.99
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model.train()(x, torch.ones(2, 5, 3)) ** 2).mean()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    @pytest.mark.parametrize("patches", [1, 3])
    def test_dropout_keeps_the_attention_output_unbiased(self, model, patches):
        layer = model.encoder.layers[0]
        x = eeg(1, 4, patches)
        with torch.no_grad():
            expected = layer._attend(x)
            layer.train()
            torch.manual_seed(0)
            samples = torch.stack([layer._attend(x) for _ in range(4000)])
        error = (samples.mean(0) - expected) / (samples.std(0) / 4000**0.5).clamp_min(1e-6)
        assert error.abs().mean() < 1.2

    def test_runs_on_the_meta_device(self):
        with torch.device("meta"):
            assert CBraMod(**SMALL).eval()(torch.empty(2, 3, 1, 200)).shape == (2, 3, 1, 200)

    def test_can_be_copied(self, model):
        x = eeg(1, 3, 1)
        torch.testing.assert_close(copy.deepcopy(model)(x), model(x), rtol=0, atol=0)


class TestReleasedWeights:
    @pytest.fixture
    def source(self):
        torch.manual_seed(1)
        return CBraMod(**SMALL).eval()

    def forms(self, source):
        state = source.state_dict()
        dead = {name: torch.zeros_like(value) for name, value in state.items()}
        head = {"head.0.weight": torch.zeros(3), "mlp.0.bias": torch.zeros(2)}
        return {
            "plain": state,
            "data parallel": {f"module.{k}": v for k, v in state.items()},
            "backbone": {f"backbone.{k}": v for k, v in state.items()},
            "both": {f"module.backbone.{k}": v for k, v in state.items()},
            "braindecode": {**state, "final_layer.1.weight": torch.zeros(2, 5)},
            "half precision": {k: v.half() for k, v in state.items()},
            "encoder dump with dead copies": {
                "eeg_encoder": {**dead, **{f"backbone.{k}": v for k, v in state.items()}},
                "projection_head": head,
                "parameters": {"seed": 648},
            },
            "trained task": {"state_dict": {**{f"encoder.{k}": v for k, v in state.items()}, **head}, "epoch": 3},
        }

    @pytest.mark.parametrize(
        "form",
        [
            "plain",
            "data parallel",
            "backbone",
            "both",
            "braindecode",
            "half precision",
            "encoder dump with dead copies",
            "trained task",
        ],
    )
    def test_every_form_gives_the_same_network(self, model, source, form):
        report = load_released_weights(model, self.forms(source)[form])
        tolerance = 1e-2 if form == "half precision" else 0.0
        torch.testing.assert_close(model(eeg(1, 3, 2)), source(eeg(1, 3, 2)), rtol=tolerance, atol=tolerance)
        assert set(report.loaded) == set(model.state_dict())
        assert report.missing == ()
        assert bool(report.ignored) == (form in {"braindecode", "encoder dump with dead copies", "trained task"})

    def test_an_absent_reconstruction_layer_keeps_its_initial_value(self, model, source):
        state = {k: v for k, v in source.state_dict().items() if not k.startswith("proj_out.")}
        before = model.proj_out[0].weight.clone()
        report = load_released_weights(model, state)
        assert report.missing == ("proj_out.0.weight", "proj_out.0.bias")
        torch.testing.assert_close(model.proj_out[0].weight, before)

    def test_missing_and_unexpected_tensors_are_named_and_nothing_is_loaded(self, model, source):
        state = source.state_dict()
        state["encoder.layers.0.gate"] = state.pop("encoder.layers.0.linear1.weight")
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(InvalidFile, match=r"missing.*layers\.0\.linear1\.weight.*unexpected.*layers\.0\.gate"):
            load_released_weights(model, state)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

    def test_a_tensor_of_another_shape_is_named(self, model):
        with pytest.raises(ShapeMismatch, match=r"encoder\.layers\.0\.linear1"):
            load_released_weights(model, CBraMod(**{**SMALL, "dim_feedforward": 48}).state_dict())

    @pytest.mark.parametrize("state", [{}, {"head.weight": torch.zeros(2)}, {"epoch": 3}])
    def test_a_file_without_the_network_is_refused(self, state):
        with pytest.raises(InvalidFile, match="CBraMod"):
            released_state_dict(state)

    def test_two_networks_side_by_side_are_refused(self, source):
        state = source.state_dict()
        both = {**{f"student.{k}": v for k, v in state.items()}, **{f"teacher.{k}": v for k, v in state.items()}}
        with pytest.raises(InvalidFile, match="side by side"):
            released_state_dict(both)

    @pytest.mark.network
    def test_the_published_weights_load_strictly(self, tmp_path):
        if not os.environ.get("BRAINLAB_NETWORK"):
            pytest.skip("BRAINLAB_NETWORK is not set: the published weights are read from the internet")
        url = "https://huggingface.co/weighting666/CBraMod/resolve/main/pretrained_weights.pth"
        try:
            path, _ = urllib.request.urlretrieve(url, tmp_path / "pretrained_weights.pth")
        except urllib.error.URLError as error:
            pytest.skip(f"the published weights cannot be reached: {error}")
        report = load_released_weights(CBraMod(), torch.load(path, weights_only=True, map_location="cpu"))
        assert len(report.loaded) == 211
        assert report.missing == report.ignored == ()
