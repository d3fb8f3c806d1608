"""Hash health equals what the attention itself shows, key by key."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist import EncoderDecoder, ModelConfig, ReformerLM
from reformer_dist.model.attention.exchange import NoExchange
from reformer_dist.model.attention.lsh import hash_health
from reformer_dist.model.attention.lsh.attention import lsh_attention
from reformer_dist.model.attention.lsh.hashing import hash_buckets
from reformer_dist.model.attention.lsh.kind import Hashed, LSHKind
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context


def visible(
    qk_BTHD: Tensor, buckets_BHRT: Tensor, num_buckets: Sequence[int], documents: Tensor | None, **settings: Any
) -> Tensor:
    """Whether a query sees a key in one round, [H, T, T]: unit vectors as values show the weights one by one."""
    T, H = qk_BTHD.shape[1:3]
    weights_BTHT = lsh_attention(
        torch.zeros(1, T, H, T, dtype=torch.float64),
        torch.eye(T, dtype=torch.float64)[None, :, None].expand(-1, -1, H, -1),
        torch.empty(T, 1, sum(n // 2 for n in num_buckets)),
        num_buckets=num_buckets,
        buckets_BHRT=buckets_BHRT,
        documents_BT=documents,
        kernel="plain",
        **settings,
    )
    seen = weights_BTHT[0].transpose(0, 1) > 0
    return seen & ~torch.eye(T, dtype=torch.bool)


def expected(
    qk_BTHD: Tensor, rounds: Sequence[Tensor], num_buckets: Sequence[int], window: int, causal: bool, documents: Tensor
) -> dict[str, float]:
    """Of every query and head, of turned queries-keys, with the buckets [B, H, 1, T] of each round."""
    T = qk_BTHD.shape[1]
    settings = {"window": window, "causal": causal}
    seen = torch.stack([visible(qk_BTHD, buckets, num_buckets, documents, **settings) for buckets in rounds]).sum(0)
    mass, valid = 0.0, 0
    for head, query in itertools.product(range(qk_BTHD.shape[2]), range(T)):
        keys = [k for k in range(T) if k != query and (k < query or not causal)]
        keys = [k for k in keys if documents[0, k] == documents[0, query] != -1]
        if not keys:
            continue
        vectors = qk_BTHD[0, :, head]
        lengths = (vectors.square().sum(1) + 1e-6 * vectors.shape[1]).sqrt()
        scores = torch.stack([vectors[query] @ vectors[k] / lengths[k] for k in keys])
        weights = scores.softmax(0)
        mass += sum(float(w) for k, w in zip(keys, weights, strict=True) if seen[head, query, k])
        valid += 1
    return {
        "caught": mass / valid,
        "keys_seen": float((seen > 0).sum()) / valid,
        "met_again": float((seen > 1).sum()) / float((seen > 0).sum()),
    }


def measure(config: ModelConfig, qk_BTHD: Tensor, documents: Tensor) -> tuple[dict[str, float], Hashed, LSHKind]:
    """What is measured of queries-keys, and what led there."""
    kind = LSHKind(config, 1, Budget())
    rotations = kind.rotations(0, torch.float64)
    buckets = hash_buckets(qk_BTHD, rotations, config.bucket_factors)
    hashed = Hashed(qk_BTHD, kind.turned(qk_BTHD, 0), buckets, rotations, Context(documents), NoExchange().gather)
    health = hash_health.HashHealth(2)
    health.see(kind, hashed)
    found = hash_health.metrics(health.sums())
    return {k.rpartition("/")[2]: v for k, v in found.items() if k.startswith("hashing/layer_1/")}, hashed, kind


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("num_buckets", "hash_seed"), [((8,), None), ((4, 4), None), ((2,), 5), ((1,), None)])
def test_equals_brute_force(causal: bool, num_buckets: tuple[int, ...], hash_seed: int | None) -> None:
    config = ModelConfig(
        embed_dim=12,
        num_heads=2,
        layers=("local", "lsh"),
        num_hashes=3,
        num_buckets=num_buckets,
        lsh_window=3,
        causal=causal,
        hash_seed=hash_seed,
    )
    T = 47  # fewer than the queries that are sampled, so that each is measured
    qk_BTHD = 3 * torch.randn(2, T, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    documents = (torch.arange(T) > 20).long().repeat(2, 1)
    documents[:, 44:] = -1
    found, hashed, _ = measure(config, qk_BTHD, documents)
    own = hashed.buckets_BHRT[:1].split(1, dim=2)
    arguments = (num_buckets, 3, causal, documents[:1])
    attended_BTHD = hashed.turned_BTHD[:1]
    for name, value in expected(attended_BTHD, own, *arguments).items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    less = expected(attended_BTHD, own[:-1], *arguments)["caught"]
    assert found["caught_one_round_less"] == pytest.approx(less, rel=1e-9)
    for name, window in (("twice", 6), ("half", 1)):
        other = expected(attended_BTHD, own, num_buckets, window, causal, documents[:1])["caught"]
        assert found[f"caught_{name}_the_window"] == pytest.approx(other, rel=1e-9)
    if num_buckets != (1,):
        counts = torch.stack([torch.bincount(b[0, h, 0, :44].long()) for b in own for h in range(2)])
        shares = counts.double() / 44
        assert found["largest_bucket"] == pytest.approx(float(shares.amax(1).mean()))
        entropy = -(shares.clamp(min=1e-300).log() * shares).sum(1).mean() / math.log(min(math.prod(num_buckets), 44))
        assert found["occupancy_entropy"] == pytest.approx(float(entropy))


def test_other_hashings_are_those_of_a_model_that_has_them() -> None:
    """Half the buckets are those of half the rotations' columns; a further round only adds to what is caught."""
    config = ModelConfig(embed_dim=12, num_heads=2, layers=("local", "lsh"), num_hashes=2, num_buckets=8, lsh_window=4)
    qk_BTHD = torch.randn(1, 40, 2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    documents = torch.zeros(1, 40, dtype=torch.int64)
    found, hashed, kind = measure(config, qk_BTHD, documents)
    others = hash_health._other_buckets(kind, hashed)
    shapes = {name: tuple(buckets.shape) for name, buckets in others.items()}
    assert shapes == {
        "one_round_more": (2, 1, 40),
        "half_the_buckets": (2, 2, 40),
        "twice_the_buckets": (2, 2, 40),
    }
    assert {name: int(buckets.max()) for name, buckets in others.items()} == {
        "one_round_more": 7,
        "half_the_buckets": 3,
        "twice_the_buckets": 15,
    }
    halved = hash_buckets(qk_BTHD, hashed.rotations[..., :2], (4,))[0]
    assert torch.equal(halved, others["half_the_buckets"])
    for name, num_buckets in (("half_the_buckets", 4), ("twice_the_buckets", 16)):
        rounds = [buckets[None] for buckets in others[name].split(1, dim=1)]
        value = expected(hashed.turned_BTHD, rounds, (num_buckets,), 4, True, documents)["caught"]
        assert found[f"caught_{name}"] == pytest.approx(value, rel=1e-9)
    rounds = [*hashed.buckets_BHRT.split(1, dim=2), others["one_round_more"][None]]
    value = expected(hashed.turned_BTHD, rounds, (8,), 4, True, documents)["caught"]
    assert found["caught_one_round_more"] == pytest.approx(value, rel=1e-9)
    assert found["caught_one_round_less"] < found["caught"] < found["caught_one_round_more"]


def test_a_model_is_observed_without_being_changed() -> None:
    """All LSH layers in window mode, each once, in an evaluation; a layer of padding says nothing."""
    config = ModelConfig(embed_dim=16, num_heads=2, feed_forward_dim=16, layers=("local", "lsh", "full", "lsh"))
    model = ReformerLM(config).eval()
    tokens = torch.randint(256, (2, 200), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = model(tokens)
        with hash_health.observed(model) as health:
            during = model(tokens)
            first = health.sums().clone()
            model(tokens.flip(1))
        assert torch.equal(health.sums(), first)
        assert torch.equal(before, during)
        with hash_health.observed(model) as nothing:
            model(tokens, documents=torch.full_like(tokens, -1))
    found = hash_health.metrics(health.sums())
    assert {name.split("/")[1] for name in found if name.count("/") == 2} == {"layer_1", "layer_3"}
    both = [found[f"hashing/layer_{layer}/caught"] for layer in (1, 3)]
    counts = health.sums()[
        0, [1, 3], hash_health.NAMES.index("caught"), 1
    ].tolist()  # a query that sees nothing is left out
    mean = sum(value * count for value, count in zip(both, counts, strict=True)) / sum(counts)
    assert found["hashing/caught"] == pytest.approx(mean, rel=1e-12)
    assert hash_health.metrics(nothing.sums()) == {}
    model(tokens)
    assert torch.equal(health.sums(), first)


def test_layers_of_an_encoder_are_told_apart() -> None:
    """What is measured of each is what the model measures of it when it is the only one that is observed."""
    config = ModelConfig(
        embed_dim=16, num_heads=2, feed_forward_dim=16, layers=("lsh", "lsh"), encoder_layers=("local", "lsh")
    )
    model = EncoderDecoder(config).eval()
    source, tokens = torch.randint(256, (2, 1, 150), generator=torch.Generator().manual_seed(4))
    parts = {"": model, "encoder_": model.encoder}
    found = {}
    for name, part in parts.items():
        with torch.no_grad(), hash_health.observed(part) as health:
            model(source, tokens)
        found[name] = hash_health.metrics(health.sums())
    together = {name for name in found[""] if name.count("/") == 2}
    assert {name.split("/")[1] for name in together} == {"layer_0", "layer_1", "encoder_layer_1"}
    layer = found["encoder_"]["hashing/layer_1/caught"]
    assert found[""]["hashing/encoder_layer_1/caught"] == layer != found[""]["hashing/layer_1/caught"]


def test_chunked_layers_are_not_measured() -> None:
    model = ReformerLM(ModelConfig(embed_dim=16, num_heads=2, layers=("lsh",), lsh_mode="chunked")).eval()
    with torch.no_grad(), hash_health.observed(model) as health:
        model(torch.zeros(1, 130, dtype=torch.int64))
    assert hash_health.metrics(health.sums()) == {}


def test_one_bucket_whose_window_holds_everything_catches_everything() -> None:
    config = ModelConfig(embed_dim=16, num_heads=2, layers=("lsh",), num_buckets=1, num_hashes=1, lsh_window=300)
    model = ReformerLM(config).eval()
    with torch.no_grad(), hash_health.observed(model) as health:
        model(torch.randint(256, (1, 300)))
    found = hash_health.metrics(health.sums())
    assert found["hashing/caught"] == pytest.approx(1.0)
    assert "hashing/caught_one_round_less" not in found
    assert "hashing/occupancy_entropy" not in found
