"""Checkpoints of Hugging Face's Reformer with random settings, and what it and this package compute from them.

`CHECKPOINTS` is a list for `pytest.mark.parametrize`; `their_results` and `our_results` return the same kind of thing.
"""

import dataclasses
import math
import random
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ReformerConfig, ReformerForMaskedLM, ReformerModelWithLMHead
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

from reformer_dist import ReformerLM

TRANSLATIONS = [
    (r"^embedding\.", "reformer.embeddings.word_embeddings."),
    (r"^positions\.axis_", "reformer.embeddings.position_embeddings.weights."),
    (r"^positions\.weight", "reformer.embeddings.position_embeddings.embedding.weight"),
    (r"^output\.norm_", "reformer.encoder.layer_norm."),
    (r"^output\.bias", "lm_head.bias"),
    (r"^output\.weight", "lm_head.decoder.weight"),
    (r"^stack\.blocks", "reformer.encoder.layers"),
    (r"\.norm[._]", ".layer_norm."),
    (r"attention\.(query_key|query|key|value)_", r"attention.self_attention.\1."),
    (r"attention\.output_", "attention.output.dense."),
    (r"feed_forward\.inner_", "feed_forward.dense.dense."),
    (r"feed_forward\.output_", "feed_forward.output.dense."),
]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's settings that differ from `BASE`, and the input: its length and the layout of its padding."""

    length: int
    padding: str = "none"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __str__(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.length}-{self.padding}-{settings}".replace(" ", "")

    def model(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Return transformers' model, with weights far from their initial ones and large enough to matter."""
        config = ReformerConfig(**{**BASE, **self.settings})
        model = (ReformerModelWithLMHead if config.is_decoder else ReformerForMaskedLM)(config).to(dtype)
        generator = torch.Generator().manual_seed(self.seed)
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            if parameter.dim() == 1:
                parameter.data = 0.3 * noise + float("layer_norm.weight" in name)
            else:
                parameter.data = noise * (1.0 if "embeddings" in name else 0.7 * parameter.shape[1] ** -0.5)
        return model.eval()

    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return tokens, labels and the attention mask; padding is not scored."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = 2, self.length
        tokens, labels = torch.randint(BASE["vocab_size"], (2, *shape), generator=generator)
        mask = torch.ones(shape, dtype=torch.int64)
        if self.padding == "none":
            return tokens, labels, None
        if self.padding == "behind":
            mask[1, self.length - self.length // 3 :] = 0
        elif self.padding == "scattered":
            mask[torch.rand(shape, generator=generator) < 0.3] = 0
        return tokens, labels.where(mask == 1, -100), mask


BASE: dict[str, Any] = {
    "vocab_size": 19,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "attention_head_size": 5,
    "feed_forward_size": 11,
    "attn_layers": ["local", "lsh"],
    "axial_pos_shape": [8, 16],
    "axial_pos_embds_dim": [3, 5],
    "max_position_embeddings": 128,
    "num_hashes": 2,
    "num_buckets": 6,
    "lsh_attn_chunk_length": 4,
    "local_attn_chunk_length": 4,
    "is_decoder": True,
    "hash_seed": 7,
}


NO_CACHE = {ReformerModelWithLMHead: {"use_cache": False}, ReformerForMaskedLM: {}}
"""Arguments without which a padded sequence's buckets are cut short and the backward pass fails."""


def random_checkpoint(seed: int) -> Checkpoint:
    """Draw any mixture of settings."""
    draw = random.Random(seed)
    causal = draw.random() < 0.5
    width = draw.choice([6, 8, 12])
    first = draw.randint(1, width - 1)
    local, lsh = draw.randint(2, 7), draw.randint(2, 7)
    settings = {
        "hidden_size": width,
        "num_attention_heads": draw.randint(1, 3),
        "attention_head_size": draw.randint(1, 6),
        "feed_forward_size": draw.randint(1, 12),
        "attn_layers": draw.choices(["local", "lsh"], k=draw.randint(1, 4)),
        "axial_pos_embds": draw.random() < 0.7,
        "axial_pos_embds_dim": [first, width - first],
        "num_hashes": draw.randint(1, 5),
        "num_buckets": draw.choice([2, 4, 10, [4], [2, 4], [4, 6, 2]]),
        "lsh_attn_chunk_length": lsh,
        "local_attn_chunk_length": local,
        "lsh_num_chunks_before": draw.randint(0, 2),
        "local_num_chunks_before": draw.randint(0, 2),
        "lsh_num_chunks_after": 0 if causal else draw.randint(0, 2),
        "local_num_chunks_after": 0 if causal else draw.randint(0, 2),
        "is_decoder": causal,
        "hash_seed": draw.randint(0, 2**31),
        "hidden_act": draw.choice(["relu", "gelu", "gelu_new", "silu"]),
        "layer_norm_eps": draw.choice([1e-12, 1e-5, 1e-3]),
    }
    length = draw.choice([1, 2, min(local, lsh), max(local, lsh), math.lcm(local, lsh), draw.randint(3, 60)])
    return Checkpoint(length, draw.choice(["none", "behind", "scattered", "full"]), settings, seed)


CHECKPOINTS = [
    *(random_checkpoint(seed) for seed in range(60)),
    Checkpoint(1),
    Checkpoint(3, "behind", {"local_attn_chunk_length": 6}),
    Checkpoint(5, "none", {"lsh_attn_chunk_length": 6}),
    Checkpoint(17, "behind", {"num_buckets": 2, "num_hashes": 8}),
    Checkpoint(40, "none", {"num_attention_heads": 1, "attention_head_size": 3}),
    Checkpoint(8, "none", {"num_hashes": 1, "lsh_num_chunks_before": 2, "local_num_chunks_before": 2}),
    Checkpoint(33, "scattered", {"is_decoder": False, "attn_layers": ["lsh"], "num_hashes": 8}),
    Checkpoint(
        31, "behind", {"lsh_attn_chunk_length": 3, "local_attn_chunk_length": 7, "attn_layers": ["lsh", "local"]}
    ),
    Checkpoint(128, "none", {"attn_layers": ["local", "lsh"] * 3, "num_buckets": [4, 4]}),
    Checkpoint(50, "none", {"max_position_embeddings": 1000}),
    Checkpoint(50, "none", {"tie_word_embeddings": True, "chunk_size_lm_head": 1, "chunk_size_feed_forward": 1}),
]


def their_name(name: str) -> str:
    """Translate a parameter's name; a pattern at a time, to share nothing with the code under test."""
    for ours, theirs in TRANSLATIONS:
        name = re.sub(ours, theirs, name)
    return name


@dataclass(frozen=True)
class Results:
    """Logits [B, T, V], the buckets [B, H, R, T] of every layer that hashed, and gradients by transformers' names."""

    logits: Tensor
    buckets: dict[int, Tensor]
    gradients: dict[str, Tensor]


def their_results(model: PreTrainedModel, tokens: Tensor, labels: Tensor, mask: Tensor | None) -> Results:
    """Run transformers' model forwards and backwards; it pads the tokens where it must."""
    buckets = {}

    def keep(module: LSHSelfAttention, _: Any, output: Any) -> None:
        if output.buckets is not None:
            rounds = torch.arange(output.buckets.shape[2])[:, None]
            factors = module.num_buckets
            num_buckets = factors if isinstance(factors, int) else math.prod(factors)
            padded = int((output.buckets - rounds * num_buckets >= num_buckets).any())  # pads are one bucket more
            found = output.buckets - rounds * (num_buckets + padded)
            buckets[module.layer_idx] = found[..., : tokens.shape[1]]

    modules = [module for module in model.modules() if isinstance(module, LSHSelfAttention)]
    hooks = [module.register_forward_hook(keep) for module in modules]
    for layer in model.reformer.encoder.layers:
        layer.training = True  # of the layer alone: it refuses a backward pass otherwise, and dropout stays off
    logits = model(tokens, attention_mask=mask, **NO_CACHE[type(model)]).logits
    for hook in hooks:
        hook.remove()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return Results(logits.detach(), buckets, gradients)


def our_results(model: ReformerLM, tokens: Tensor, labels: Tensor, mask: Tensor | None) -> Results:
    """Run our model forwards and backwards."""
    buckets: dict[int, Tensor] = {}
    documents = None if mask is None else mask - 1

    def keep(module: Any, _: object, output: tuple[Tensor, list[Tensor]]) -> None:
        buckets[module.layer] = torch.cat(output[1], dim=1)

    layers = zip(model.stack.blocks, model.config.layers, strict=True)
    attentions = [block.attention for block, kind in layers if kind == "lsh"]
    hooks = [attention.register_forward_hook(keep) for attention in attentions]
    with torch.no_grad():
        logits = model(tokens, documents=documents)
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    model.loss(tokens, labels, documents=documents)[0].backward()
    gradients = {their_name(name): parameter.grad for name, parameter in model.named_parameters()}
    return Results(logits, buckets, gradients)
