"""Which tokenizer a name or a definition means: the one file that knows them all."""

import json
from collections.abc import Callable
from functools import partial

from reformer_dist.config.sections.data import TokenizerName
from reformer_dist.data.tokenizers.pixels import PixelTokenizer
from reformer_dist.data.tokenizers.residues import AminoAcidTokenizer
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer

TOKENIZERS: dict[TokenizerName, Callable[[], Tokenizer]] = {
    "bytes": BytesTokenizer,
    "amino_acids": AminoAcidTokenizer,
    "rgb": partial(PixelTokenizer, "rgb"),
    "grey": partial(PixelTokenizer, "grey"),
}
"""Tokenizers that their name makes: all but bpe, which is trained or read."""


def make_tokenizer(name: TokenizerName) -> Tokenizer:
    """The tokenizer called `name` in the configuration; all but bpe, which is trained or read.

    Raises:
        ValueError: an unknown name.
    """
    if name not in TOKENIZERS:
        raise ValueError(f"data.tokenizer = {name!r} is not known by its name alone; 'bytes' works")
    return TOKENIZERS[name]()


def read_tokenizer(text: str) -> Tokenizer:
    """The tokenizer whose `to_json` gave `text`; what has no name of ours is a file of the tokenizers library.

    Raises:
        ValueError: the text is neither.
    """
    tree = json.loads(text)
    if not isinstance(tree, dict):
        raise ValueError("no tokenizer: a JSON object works")
    if "name" in tree:
        tokenizer = make_tokenizer(tree["name"])
        if tokenizer.vocabulary != tree["vocabulary"] or tokenizer.boundary != tree["boundary"]:
            raise ValueError(f"the vocabulary of {tokenizer.name} is another one in this release")
        return tokenizer
    from reformer_dist.data.tokenizers.bpe import BPETokenizer

    return BPETokenizer(text)
