from __future__ import annotations

import pytest
import torch

from brainlab.errors import ShapeMismatch
from brainlab.models.query_alignment import QueryAlignment, QueryAlignmentHead


@pytest.mark.parametrize("query", ["learned", "target"])
@pytest.mark.parametrize("n_tokens", [1, 4])
def test_permuting_the_fmri_at_inference_does_not_change_the_eeg_embedding(query, n_tokens):
    torch.manual_seed(0)
    align = QueryAlignment(16, query=query).eval()
    tokens, target = torch.randn(6, n_tokens, 16), torch.randn(6, 16)
    torch.testing.assert_close(align(tokens, target), align(tokens, target.flip(0)), rtol=0, atol=0)
    torch.testing.assert_close(align(tokens, target), align(tokens), rtol=0, atol=0)


def test_the_head_passes_no_fmri_through_at_inference():
    torch.manual_seed(0)
    head = QueryAlignmentHead(5, 1, 16, width=20, query="target").eval()
    features, target = torch.randn(6, 5, 1, 20), torch.randn(6, 16)
    torch.testing.assert_close(head(features, target), head(features, target.flip(0)), rtol=0, atol=0)


def test_the_fmri_is_read_in_training_when_asked_for():
    tokens, target = torch.randn(6, 4, 16), torch.randn(6, 16)

    def change(query: str) -> float:
        torch.manual_seed(0)
        align = QueryAlignment(16, query=query, target_share=0.9)
        torch.manual_seed(1)
        one = align(tokens, target)
        torch.manual_seed(1)
        return (one - align(tokens, target.flip(0))).abs().max().item()

    assert change("target") > 0
    assert change("learned") == 0


def test_a_single_token_makes_the_query_irrelevant():
    torch.manual_seed(0)
    align = QueryAlignment(16, query="target", target_share=0.9)
    tokens, target = torch.randn(6, 1, 16), torch.randn(6, 16)
    torch.testing.assert_close(align(tokens, target), align(tokens, 5 * target.flip(0)))


def test_the_learned_query_is_trained_also_when_the_fmri_asks():
    torch.manual_seed(0)
    align = QueryAlignment(16, query="target")
    align(torch.randn(32, 4, 16), torch.randn(32, 16)).square().sum().backward()
    assert align.learned_query.grad.abs().max() > 0


def test_sizes_that_do_not_fit_are_refused():
    align = QueryAlignment(16, query="target")
    with pytest.raises(ShapeMismatch, match="tokens"):
        align(torch.zeros(2, 4, 15))
    with pytest.raises(ShapeMismatch, match="target"):
        align(torch.zeros(2, 4, 16), torch.zeros(2, 1, 16))
