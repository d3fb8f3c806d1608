"""Compressing a file and getting it back.

In: a file, a model and where to write. Out: the other file, and what it came to. A file that is longer than the model's
longest sequence is cut into stretches, of which each is told from its own beginning.
"""

import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from reformer_dist.compression import container
from reformer_dist.compression.coding import BEGINNING, Coded, Progress, decode, encode, probe
from reformer_dist.errors import ConfigError
from reformer_dist.model.backends.backend import Work
from reformer_dist.model.backends.choice import explain
from reformer_dist.model.reformer import ReformerLM

GROUP = 16
"""Stretches that share a stream of code, whose end costs some bytes."""
Start = Callable[[int], Progress]
"""Is told how many bytes there are, and gives what is told of those that are done."""


@dataclass(frozen=True)
class Outcome:
    """What a compression came to."""

    num_bytes: int
    """Of the original."""
    compressed_bytes: int
    """Of the file that was written."""
    model_bits: float
    """What the model says: the sum of -log2 of its probabilities."""
    num_stretches: int
    beginnings_bits: float
    """About what beginning anew costs: what first bytes of all stretches but the first take more than later ones."""


def compress(
    model: ReformerLM,
    checkpoint: str,
    source: Path,
    target: Path,
    stretch: int,
    batch: int,
    start: Start,
) -> Outcome:
    """Compress a file.

    Args:
        model: one that `load_model` gave, of bytes.
        checkpoint: its name, for people who find the file.
        source: any file.
        target: file to write.
        stretch: bytes of a stretch at most; 0 for as many as the model's longest sequence has tokens.
        batch: stretches that are coded beside each other; changes nothing but time and memory.
        start: see `Start`.

    Raises:
        ConfigError: a model that is not of bytes, or a stretch that is longer than its longest sequence.

    """
    check_model(model)
    longest = model.config.max_length
    if stretch > longest:
        raise ConfigError(f"--stretch {stretch} is more than model.max_length = {longest}; {longest} works")
    content = source.read_bytes()
    _check_folder(target)
    progress, parts, boundary = start(len(content)), cut(len(content), stretch or longest), model.tokenizer.boundary
    coded = [encode(model, boundary, [content[part] for part in group], batch, progress) for group in _groups(parts)]
    streams = [group.stream for group in coded]
    header = container.Header(
        num_bytes=len(content),
        num_stretches=len(parts),
        content=container.digest_of(content),
        model=digest(model),
        probe=probe(model, boundary),
        checkpoint=checkpoint,
        machine=machine(model),
        sizes=tuple(map(len, streams)),
    )
    written = container.write(target, header, streams)
    model_bits = math.fsum(bits for group in coded for bits in group.bits)
    return Outcome(len(content), written, model_bits, len(parts), _of_beginnings(coded, len(content), model_bits))


def decompress(model: ReformerLM, source: Path, target: Path, batch: int, start: Start) -> int:
    """Get a file back; returns its bytes. Arguments as of `compress`.

    Raises:
        ConfigError: a file that is damaged, of another model, or of a machine whose sums differ from this one's.

    """
    header, streams = container.read(source)
    check_model(model)
    if digest(model) != header.model:
        raise ConfigError(
            f"{source} was compressed by another model, of {header.checkpoint} (digest {header.model.hex()[:12]}, not "
            f"{digest(model).hex()[:12]}); --checkpoint with that one works"
        )
    if probe(model, model.tokenizer.boundary) != header.probe:
        raise ConfigError(
            f"{source} was compressed on another kind of machine ({header.machine}), whose sums differ from this one's "
            f"({machine(model)}) in their last bits; one of that kind works"
        )
    _check_folder(target)
    parts = cut(header.num_bytes, -(-header.num_bytes // max(1, header.num_stretches)))
    progress, stretches = start(header.num_bytes), list[bytes]()
    for stream, group in zip(streams, _groups(parts), strict=True):
        lengths = [part.stop - part.start for part in group]
        stretches += decode(model, model.tokenizer.boundary, stream, lengths, batch, progress)
    content = b"".join(stretches)
    if container.digest_of(content) != header.content:
        raise ConfigError(
            f"{source} does not give its original here, though the first sums agree; a machine of the kind that "
            f"compressed it ({header.machine}) works"
        )
    container.write_whole(target, content)
    return len(content)


def cut(num_bytes: int, longest: int) -> list[slice]:
    """As few stretches as can be, none longer than that; their lengths differ by one at most, the longer ones first."""
    number = -(-num_bytes // max(1, longest))
    shorter, num_longer = divmod(num_bytes, max(1, number))
    lengths = [shorter + (index < num_longer) for index in range(number)]
    return [slice(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]


def _groups(parts: Sequence[slice]) -> Iterator[Sequence[slice]]:
    """Stretches that share a stream of code."""
    for first in range(0, len(parts), GROUP):
        yield parts[first : first + GROUP]


def digest(model: ReformerLM) -> bytes:
    """Of the weights and the settings that go with them."""
    parts = [model.config.model_dump_json().encode()]
    for name, weight in sorted(model.state_dict().items()):
        parts += [f"{name} {tuple(weight.shape)} {weight.dtype}".encode(), weight.contiguous().numpy().tobytes()]
    return container.digest_of(*parts)


def machine(model: ReformerLM) -> str:
    """What computes here, for people."""
    config, weight = model.config, model.embedding.weight
    work = Work(weight.device, weight.dtype, config.head_width, kernel=config.attention_kernel)
    return f"{platform.machine()}, {explain(work)}, torch {torch.__version__}"


def check_model(model: ReformerLM) -> None:
    """Raise ConfigError for a model that cannot tell bytes one by one."""
    if model.tokenizer.name != "bytes":
        raise ConfigError(f"data.tokenizer = {model.tokenizer.name} of the checkpoint; a model of bytes works")
    if not model.config.causal or model.config.lsh_mode != "window":
        raise ConfigError(
            "the checkpoint's model sees what is ahead; one with model.causal and lsh_mode = window works"
        )


def _check_folder(target: Path) -> None:
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"{target}: there is no folder {target.absolute().parent}; one that is there works")
    if target.is_dir() or not os.access(target.absolute().parent, os.W_OK):
        raise ConfigError(f"{target} cannot be written; a file in a folder of yours works")


def _of_beginnings(coded: Sequence[Coded], num_bytes: int, model_bits: float) -> float:
    """See `Outcome`."""
    beginnings = [bits for group in coded for bits in group.beginning_bits]
    num_stretches = len(beginnings)
    if num_stretches < 2:
        return 0.0
    length = min(BEGINNING, num_bytes // num_stretches)
    later_bytes = num_bytes - length * num_stretches
    mean = (model_bits - math.fsum(beginnings)) / later_bytes if later_bytes > 0 else 0.0
    return math.fsum(bits - length * mean for bits in beginnings[1:])
