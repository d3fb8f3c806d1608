"""How often float32 hashes a token differently when it is decoded alone than within its whole sequence.

In: a size. Out: a table of bucket choices that differ, and the largest difference of logits, for random weights and tokens.
"""

from pathlib import Path

import torch
from torch import Tensor

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention import Attention, LSHCore
from reformer_dist.model.decoding import Decoder
from reformer_dist.model.reformer import ReformerLM

LENGTHS = {"small": 1024, "paper": 8192}


def run(size: str, output: Path) -> None:
    """Print the table; nothing is written to `output`."""
    print(f"{'seed':>4} {'choices':>9} {'differ':>6} {'largest change of a logit':>26}")
    for seed in range(3):
        choices, differ, change = compare(LENGTHS[size], seed)
        print(f"{seed:4} {choices:9,} {differ:6,} {change:26.1e}")


def compare(length: int, seed: int) -> tuple[int, int, float]:
    """Bucket choices made, how many of them differ between the two paths, and the largest change of a logit."""
    torch.manual_seed(seed)
    model = ReformerLM(ModelConfig(layers=("local", "lsh") * 3, max_length=length, seed=seed)).eval()
    tokens = torch.randint(256, (1, length))
    with torch.no_grad():
        at_once, logits = _watched(model, [tokens])
        one_by_one, step_logits = _watched(model, list(tokens.split(1, dim=1)))
    differ = sum(int((x != y).sum()) for x, y in zip(at_once, one_by_one, strict=True))
    return sum(x.numel() for x in at_once), differ, float((logits - step_logits).abs().max())


def _watched(model: ReformerLM, stretches: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Buckets of each LSH layer, [B, H, R, T], and logits, when the stretches are read one after the other."""
    cores = [m.core for m in model.modules() if isinstance(m, Attention) and isinstance(m.core, LSHCore)]
    found: list[list[Tensor]] = [[] for _ in cores]
    hooks = [_record(core, buckets) for core, buckets in zip(cores, found, strict=True)]
    decoder = Decoder(model)
    logits = torch.cat([decoder.read(stretch) for stretch in stretches], dim=1)
    for core in hooks:
        del core.hash  # type: ignore[method-assign]
    return [torch.cat(buckets, dim=-1) for buckets in found], logits


def _record(core: LSHCore, buckets: list[Tensor]) -> LSHCore:
    plain = core.hash

    def hash_and_keep(*arguments: object) -> Tensor:
        result = plain(*arguments)  # type: ignore[arg-type]
        buckets.append(result)
        return result

    core.hash = hash_and_keep  # type: ignore[method-assign]
    return core
