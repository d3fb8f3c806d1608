"""Which tokenizer a name or a definition means: the one file that knows them all."""

import json

from reformer_dist.config.data import TokenizerName
from reformer_dist.data.tokenizers.pixels import PixelTokenizer
from reformer_dist.data.tokenizers.residues import AminoAcidTokenizer
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer


def make_tokenizer(name: TokenizerName) -> Tokenizer:
    """The tokenizer called `name` in the configuration; all but bpe, which is trained or read.

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case "bytes":
            return BytesTokenizer()
        case "amino_acids":
            return AminoAcidTokenizer()
        case "rgb" | "grey":
            return PixelTokenizer(name)
    raise ValueError(f"data.tokenizer = {name!r} is not known by its name alone; 'bytes' works")


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
