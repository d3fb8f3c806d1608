"""Which tokenizer a preparation uses: one that is known by its name, one that is read, or a BPE trained on its corpus."""

from collections.abc import Iterator, Sequence
from itertools import chain

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.documents import read_records, splits_of
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.preparing.parts import Part
from reformer_dist.data.reading.formats import FileSlice
from reformer_dist.data.reading.records import NotText, one_by_one
from reformer_dist.data.tokenizers.bpe import train_bpe
from reformer_dist.data.tokenizers.choice import make_tokenizer, read_tokenizer
from reformer_dist.data.tokenizers.tokenizer import BadDocument, Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import STORE_ERRORS, one_line, open_store, patiently

SAMPLE_BYTES = 32 << 20
"""Text that a BPE is trained on, spread over the corpus."""
SAMPLE_PIECE_BYTES = 1 << 20


def chosen_tokenizer(data: DataConfig) -> Tokenizer | None:
    """The tokenizer that `data` names; None for a BPE that is still to be trained.

    Raises:
        ConfigError: `data.tokenizer_file` cannot be read or is none.
    """
    if data.tokenizer != "bpe":
        return make_tokenizer(data.tokenizer)
    if data.tokenizer_file is None:
        return None
    try:
        store = open_store(data.tokenizer_file)
        with patiently(lambda: store.filesystem.open_input_stream(store.path, compression=None)) as stream:
            tokenizer = read_tokenizer(stream.read().decode())
    except (*STORE_ERRORS, ValueError) as error:
        raise ConfigError(f"data.tokenizer_file = {data.tokenizer_file} cannot be read: {one_line(error)}") from None
    if tokenizer.name != "bpe":
        raise ConfigError(
            f"data.tokenizer_file = {data.tokenizer_file} is of data.tokenizer = {tokenizer.name}, which works without it"
        )
    return tokenizer


def planned_vocab_size(data: DataConfig) -> int:
    """Tokens that the tokenizer of a corpus will have at most, known before it is made."""
    tokenizer = chosen_tokenizer(data)
    return tokenizer.vocab_size if tokenizer else data.bpe_vocab_size


def trained_tokenizer(parts: Sequence[Part], data: DataConfig) -> Tokenizer:
    """A BPE trained on a sample of the documents, a function of the sources alone.

    Documents that a hash of their name holds out are left out, unless there are no others.
    """
    slices = [piece for part in parts for piece in part.slices]
    texts = _sample(slices, data, held_out=False)
    first = next(texts, None)
    texts = _sample(slices, data, held_out=True) if first is None else chain([first], texts)
    return train_bpe(texts, data.bpe_vocab_size)


def _sample(slices: Sequence[FileSlice], data: DataConfig, *, held_out: bool) -> Iterator[str]:
    """Texts of every so many slices, the first of each, SAMPLE_BYTES altogether."""
    sizes = [(piece.stop or piece.file.size or SAMPLE_PIECE_BYTES) - piece.start for piece in slices]
    total = sum(sizes)
    limit = total
    if total > SAMPLE_BYTES:
        limit = min(total // len(slices) + 1, max(SAMPLE_PIECE_BYTES, SAMPLE_BYTES // len(slices)))
    step = max(1, len(slices) * limit // SAMPLE_BYTES) if total > SAMPLE_BYTES else 1
    for piece in slices[::step]:
        yield from _texts(piece, data, limit, held_out)


def _texts(piece: FileSlice, data: DataConfig, limit: int, held_out: bool) -> Iterator[str]:
    """The texts of a slice, up to `limit` bytes; what is bad is found when it is tokenised."""
    taken = 0
    try:
        for record in one_by_one(read_records(piece, data, "text")):
            is_train = splits_of([record.group or record.name], data)[0] == SPLITS.index("train")
            if record.problem or not (is_train or held_out):
                continue
            text = record.content
            text = (
                text.decode("utf-8", "ignore") if isinstance(text, bytes) else text.encode("utf-8", "ignore").decode()
            )
            yield text
            taken += len(text)
            if taken >= limit:
                return
    except (NotText, BadDocument, *STORE_ERRORS):
        return
