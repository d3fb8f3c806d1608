"""The two `chunked` references are what Hugging Face's Reformer computes: outputs and gradients of whole layers.

Rows of padding are left out: Hugging Face lets them attend to real tokens, and no one reads them.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ReformerConfig
from transformers.models.reformer.modeling_reformer import LocalSelfAttention, LSHSelfAttention

from tests.model.cases import Case, outputs_and_gradients
from tests.model.references import hash_buckets, local_chunked, lsh_chunked

CASES = [
    (Case(24, window, factors, rounds, causal, layout, seed=seed), chunks_after)
    for causal in (True, False)
    for chunks_after in (0, 1)
    for layout in ("none", "padded", "scattered")
    for seed, (window, factors, rounds) in enumerate([(4, (4,), 1), (6, (4, 2), 3), (12, (4,), 4)])
]


def config(case: Case, chunks_after: int) -> ReformerConfig:
    """The case as a checkpoint would say it."""
    width = case.num_heads * case.head_dim
    return ReformerConfig(
        attn_layers=["lsh", "local"],
        hidden_size=width,
        num_attention_heads=case.num_heads,
        attention_head_size=case.head_dim,
        axial_pos_embds_dim=[1, width - 1],
        num_hashes=case.num_rounds,
        num_buckets=list(case.num_buckets),
        lsh_attn_chunk_length=case.window,
        local_attn_chunk_length=case.window,
        lsh_num_chunks_after=chunks_after,
        local_num_chunks_after=chunks_after,
        is_decoder=case.causal,
        hash_seed=case.seed,
        lsh_attention_probs_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
    )


def assert_same(case: Case, chunks_after: int, module: LSHSelfAttention | LocalSelfAttention) -> None:
    """Compare the layer's output and its gradients, by its input and its weights, with the reference's."""
    x = case.inputs()
    mask = None if x.documents is None else x.documents >= 0
    documents = None if mask is None else mask.long() - 1  # a mask knows padding, and no packing
    real = torch.ones(case.batch, case.num_tokens, 1) if mask is None else mask[:, :, None]
    reference = lsh_reference if isinstance(module, LSHSelfAttention) else local_reference
    names = [name for name, _ in module.named_parameters()]

    def theirs(hidden_BTE: Tensor, *weights: Tensor) -> Tensor:
        arguments = {"hidden_states": hidden_BTE, "attention_mask": mask}
        result = torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (), arguments)
        out_BTE: Tensor = result.hidden_states
        return out_BTE * real

    def ours(hidden_BTE: Tensor, *weights: Tensor) -> Tensor:
        projected = [(hidden_BTE @ weight.T).view(x.qk.shape) for weight in weights]
        return reference(case, chunks_after, documents, *projected).flatten(2) * real

    tensors = [x.qk.flatten(2), *module.parameters()]
    for a, b in zip(outputs_and_gradients(ours, tensors), outputs_and_gradients(theirs, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def lsh_reference(case: Case, chunks_after: int, documents: Tensor | None, qk: Tensor, v: Tensor) -> Tensor:
    torch.manual_seed(case.seed)
    columns = sum(case.num_buckets) // 2
    rotations = torch.randn(case.num_heads, case.head_dim, case.num_rounds, columns, dtype=torch.float64)
    buckets = hash_buckets(qk, rotations, case.num_buckets)
    options: dict[str, Any] = {"causal": case.causal, "chunks_after": chunks_after}
    return lsh_chunked(qk, v, buckets, case.window, documents_BT=documents, **options)


def local_reference(case: Case, chunks_after: int, documents: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    options: dict[str, Any] = {"causal": case.causal, "chunks_after": chunks_after, "circular": True}
    return local_chunked(q, k, v, case.window, documents_BT=documents, **options)


Layer = Callable[[ReformerConfig], LSHSelfAttention | LocalSelfAttention]


@pytest.mark.parametrize("layer", [LSHSelfAttention, LocalSelfAttention])
@pytest.mark.parametrize(("case", "chunks_after"), CASES, ids=str)
def test_chunked_is_what_hugging_face_computes(case: Case, chunks_after: int, layer: Layer) -> None:
    torch.manual_seed(case.seed + 1)
    assert_same(case, chunks_after, layer(config(case, chunks_after)).double())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("layer", [LSHSelfAttention])
def test_up_to_one_chunk_hugging_face_does_not_hash_and_the_result_is_the_same(causal: bool, layer: Layer) -> None:
    """The list then holds the one chunk once a round; every key is met twice, which changes no weight."""
    case = Case(7, window=8, num_rounds=3, causal=causal)
    assert_same(case, 0, layer(config(case, 0)).double())
