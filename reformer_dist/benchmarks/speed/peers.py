"""What the Reformer is measured against: other implementations, exact attention by torch's fused operator, RACE attention.

In: a number of tokens. Out: a training step on them, forward and backward, batch 1, float32; `sizes` below are all the
same. Hugging Face's and lucidrains' packages are imported only where a step is made (extra `bench`).
"""

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from reformer_dist.benchmarks.race import RaceAttention
from reformer_dist.benchmarks.speed.measuring import Case, Step

EMBED_DIM, NUM_HEADS, HEAD_DIM, FEED_FORWARD_DIM, VOCAB_SIZE = 256, 4, 64, 1024, 256
NUM_HASHES, CHUNK, NUM_LAYERS = 4, 64, 6
WHAT_THEY_LACK: dict[str, Any] = {"rotary": False, "convolution": 0, "lsh_values": "own"}
"""Fields of ours without what no peer has, so that the same is measured."""


def has(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def installed(peers: Iterable[tuple[str, str, Callable[[int], Step]]], length: int, keys: str = "") -> list[Case]:
    """Cases of (name, package, make) whose package is installed; the others are named."""
    found = []
    for name, package, make in peers:
        if has(package):
            found.append(Case(name, length, make, keys))
        else:
            print(f"{name} is left out: {package} is not installed (extra `bench`)")
    return found


def layer_step(layer: Any, length: int) -> Step:
    """A step of an attention layer: random input, sum of the output as the loss; gives the input and the weights."""
    x_BTE = torch.randn(1, length, EMBED_DIM, requires_grad=True)

    def step() -> list[Tensor]:
        trained: list[Tensor] = [x_BTE, *layer.parameters()]
        _clear(trained)
        layer(x_BTE).sum().backward()
        return trained

    return step


def model_step(model: nn.Module, loss: Any, length: int) -> Step:
    """A step of a language model on random bytes; `loss(tokens, labels)` is the mean or the sum. It gives the weights."""
    tokens_BT = torch.randint(VOCAB_SIZE, (1, length))
    labels_BT = tokens_BT.roll(-1, dims=1)

    def step() -> list[Tensor]:
        trained: list[Tensor] = list(model.parameters())
        _clear(trained)
        loss(tokens_BT, labels_BT).backward()
        return trained

    return step


def _clear(tensors: Iterable[Tensor]) -> None:
    for x in tensors:
        x.grad = None


def mean_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Cross entropy of the labels."""
    return cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten())


class ExactAttention(nn.Module):
    """LayerNorm, projections and exact causal attention by torch's fused operator (flash attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(EMBED_DIM)
        self.projection = nn.Linear(EMBED_DIM, 3 * EMBED_DIM, bias=False)
        self.output = nn.Linear(EMBED_DIM, EMBED_DIM, bias=False)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """Attend, [B, T, E] to [B, T, E]."""
        q, k, v = self.projection(self.norm(x_BTE)).unflatten(-1, (3, NUM_HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        out_BHTD = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(out_BHTD.transpose(1, 2).flatten(2))


class ExactTransformer(nn.Module):
    """A pre-norm transformer of ordinary residual layers, with learned positions, trained by plain autograd."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, EMBED_DIM)
        self.positions = nn.Parameter(torch.randn(length, EMBED_DIM) * 0.02)
        self.attention = nn.ModuleList(ExactAttention() for _ in range(NUM_LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(EMBED_DIM) for _ in range(NUM_LAYERS + 1))
        self.inner = nn.ModuleList(nn.Linear(EMBED_DIM, FEED_FORWARD_DIM) for _ in range(NUM_LAYERS))
        self.outer = nn.ModuleList(nn.Linear(FEED_FORWARD_DIM, EMBED_DIM) for _ in range(NUM_LAYERS))
        self.logits = nn.Linear(EMBED_DIM, VOCAB_SIZE)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        x_BTE = self.embedding(tokens_BT) + self.positions[: tokens_BT.shape[1]]
        for attention, norm, inner, outer in zip(self.attention, self.norms[:-1], self.inner, self.outer, strict=True):
            x_BTE = x_BTE + attention(x_BTE)
            x_BTE = x_BTE + outer(gelu(inner(norm(x_BTE))))
        return self.logits(self.norms[-1](x_BTE))


def exact_layer(length: int) -> Step:
    """An exact attention layer."""
    return layer_step(ExactAttention(), length)


def race_layer(length: int, num_tables: int, num_planes: int, keeps: bool) -> Step:
    """A layer of RACE attention; see `RaceAttention`."""
    sizes = {"num_tables": num_tables, "num_planes": num_planes}
    return layer_step(RaceAttention(EMBED_DIM, NUM_HEADS, **sizes, seed=0, keeps=keeps), length)


def exact_model(length: int) -> Step:
    """The exact transformer."""
    model = ExactTransformer(length)
    return model_step(model, lambda tokens, labels: mean_loss(model(tokens), labels), length)


def hugging_face_config(length: int, *, use_cache: bool = False) -> Any:
    """Its configuration of the same sizes, for sequences up to a length."""
    from transformers import ReformerConfig

    rows = 2 ** ((length.bit_length() - 1) // 2)
    return ReformerConfig(
        attn_layers=["lsh"] * NUM_LAYERS,
        hidden_size=EMBED_DIM,
        num_attention_heads=NUM_HEADS,
        attention_head_size=HEAD_DIM,
        feed_forward_size=FEED_FORWARD_DIM,
        vocab_size=VOCAB_SIZE,
        num_hashes=NUM_HASHES,
        lsh_attn_chunk_length=CHUNK,
        max_position_embeddings=length,
        axial_pos_shape=(rows, length // rows),
        axial_pos_embds_dim=(EMBED_DIM // 2, EMBED_DIM // 2),
        hidden_dropout_prob=0.0,
        lsh_attention_probs_dropout_prob=0.0,
        hidden_act="gelu",
        is_decoder=True,
        use_cache=use_cache,
    )


def hugging_face_layer(length: int) -> Step:
    """Hugging Face's LSH layer: LayerNorm, projections, attention, output."""
    from transformers.models.reformer.modeling_reformer import ReformerAttention

    layer = ReformerAttention(hugging_face_config(length)).train()

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x_BTE: Tensor) -> Tensor:
            return self.layer(x_BTE).hidden_states

    return layer_step(Layer(), length)


def hugging_face_model(length: int) -> Step:
    """Hugging Face's language model, all layers LSH."""
    from transformers import ReformerModelWithLMHead

    model = ReformerModelWithLMHead(hugging_face_config(length)).train()
    return model_step(model, lambda tokens, labels: mean_loss(model(tokens).logits, labels), length)


def lucidrains_layer(length: int) -> Step:
    """The LSH layer of reformer-pytorch, with a LayerNorm before it."""
    from reformer_pytorch import LSHSelfAttention

    attention = LSHSelfAttention(
        EMBED_DIM, heads=NUM_HEADS, dim_head=HEAD_DIM, bucket_size=CHUNK, n_hashes=NUM_HASHES, causal=True
    )
    return layer_step(nn.Sequential(nn.LayerNorm(EMBED_DIM), attention).train(), length)


def lucidrains_model(length: int) -> Step:
    """The language model of reformer-pytorch, all layers LSH."""
    from reformer_pytorch import ReformerLM

    model = ReformerLM(
        VOCAB_SIZE,
        EMBED_DIM,
        NUM_LAYERS,
        length,
        heads=NUM_HEADS,
        dim_head=HEAD_DIM,
        bucket_size=CHUNK,
        n_hashes=NUM_HASHES,
        causal=True,
        ff_chunks=1,
        axial_position_emb=True,
    ).train()
    return model_step(model, lambda tokens, labels: mean_loss(model(tokens), labels), length)
