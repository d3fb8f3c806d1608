"""Which tokenizer a preparation uses for a field: one that its name makes, one that is read, or a BPE that is trained.

Fields that share a vocabulary have one tokenizer; a BPE of theirs is trained on all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from reformer_dist.config import DataConfig
from reformer_dist.config.sections.data import TEXT, field_named
from reformer_dist.data.preparing.documents import splits_of
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.preparing.parts import Part
from reformer_dist.data.reading.choice import read_records
from reformer_dist.data.reading.columns import Wanted, wanted_of
from reformer_dist.data.reading.records import NotText, one_by_one
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.tokenizers.bpe import BPETokenizer, train_bpe
from reformer_dist.data.tokenizers.choice import TOKENIZERS, make_tokenizer, read_tokenizer
from reformer_dist.data.tokenizers.tokenizer import BadDocument, Content, Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import STORE_ERRORS, one_line, open_store, patiently

SAMPLE_BYTES = 32 << 20
"""Text that a BPE is trained on, spread over the corpus."""
SAMPLE_PIECE_BYTES = 1 << 20
TRAINED: Content = BPETokenizer.takes
"""What a tokenizer that is still to be trained will take."""


def chosen_tokenizer(data: DataConfig, field: str = TEXT) -> Tokenizer | None:
    """The tokenizer that `data` names for a field; None for a BPE that is still to be trained.

    Raises:
        ConfigError: the field's tokenizer_file cannot be read or is none, or there is no such field.
    """
    field = field_named(field, data.record_fields)
    if field not in data.record_fields:
        raise ConfigError(f"data.fields has no field {field}, which is needed; it has {', '.join(data.record_fields)}")
    chosen = data.record_fields[field]
    if chosen.tokenizer in TOKENIZERS:
        return make_tokenizer(chosen.tokenizer)
    if chosen.tokenizer_file is None:
        return None
    given = f"{data.setting_of(field, 'tokenizer_file')} = {chosen.tokenizer_file}"
    try:
        store = open_store(chosen.tokenizer_file)
        with patiently(lambda: store.filesystem.open_input_stream(store.path, compression=None)) as stream:
            tokenizer = read_tokenizer(stream.read().decode())
    except (*STORE_ERRORS, ValueError) as error:
        raise ConfigError(f"{given} cannot be read: {one_line(error)}") from None
    if tokenizer.name != chosen.tokenizer:
        works = f"{data.setting_of(field, 'tokenizer')} = {tokenizer.name}"
        raise ConfigError(f"{given} is of {works}, which works without it")
    return tokenizer


def chosen_tokenizers(data: DataConfig, tokenizer: Tokenizer | None = None) -> dict[str, Tokenizer | None]:
    """What `chosen_tokenizer` finds for every field.

    Args:
        data: the fields.
        tokenizer: what the field called text and all that share its vocabulary have, whatever `data` says.
    """
    text = field_named(TEXT, data.record_fields)
    given = {} if tokenizer is None or data.text is None else {data.vocabulary_field(text): tokenizer}
    return {name: given.get(data.vocabulary_field(name)) or chosen_tokenizer(data, name) for name in data.record_fields}


def planned_vocab_size(data: DataConfig, field: str = TEXT) -> int:
    """Tokens that the tokenizer of a field will have at most, known before it is made."""
    tokenizer = chosen_tokenizer(data, field)
    if tokenizer is not None:
        return tokenizer.vocab_size
    return data.record_fields[field_named(field, data.record_fields)].bpe_vocab_size


def trained_tokenizers(
    parts: Sequence[Part], data: DataConfig, tokenizers: Mapping[str, Tokenizer | None]
) -> dict[str, Tokenizer]:
    """The same tokenizers, those that are missing trained on their fields."""
    made: dict[str, Tokenizer] = {}  # by the field that describes them
    for name, tokenizer in tokenizers.items():
        owner = data.vocabulary_field(name)
        if owner not in made:
            made[owner] = tokenizer or trained_tokenizer(parts, data, owner)
    return {name: made[data.vocabulary_field(name)] for name in tokenizers}


def trained_tokenizer(parts: Sequence[Part], data: DataConfig, field: str = TEXT) -> Tokenizer:
    """A BPE trained on a sample of a field of the documents, and of those that share its vocabulary.

    It is a function of the sources alone. Documents that a hash of their name holds out are left out, unless there are no
    others.
    """
    fields = [name for name in data.record_fields if data.vocabulary_field(name) == field]
    slices = [piece for part in parts for piece in part.slices]
    texts = _sample(slices, data, fields, held_out=False)
    first = next(texts, None)
    texts = _sample(slices, data, fields, held_out=True) if first is None else chain([first], texts)
    return train_bpe(texts, data.record_fields[field].bpe_vocab_size)


def _sample(slices: Sequence[FileSlice], data: DataConfig, fields: Sequence[str], *, held_out: bool) -> Iterator[str]:
    """Texts of every so many slices, the first of each, SAMPLE_BYTES altogether."""
    sizes = [(piece.stop or piece.file.size or SAMPLE_PIECE_BYTES) - piece.start for piece in slices]
    total = sum(sizes)
    limit = total
    if total > SAMPLE_BYTES:
        limit = min(total // len(slices) + 1, max(SAMPLE_PIECE_BYTES, SAMPLE_BYTES // len(slices)))
    step = max(1, len(slices) * limit // SAMPLE_BYTES) if total > SAMPLE_BYTES else 1
    for piece in slices[::step]:
        wanted = wanted_of(data, piece.file.source, dict.fromkeys(fields, TRAINED))
        yield from _texts(piece, data, wanted, limit, held_out)


def _texts(piece: FileSlice, data: DataConfig, wanted: Wanted, limit: int, held_out: bool) -> Iterator[str]:
    """The texts of a slice, up to `limit` bytes; what is bad is found when it is tokenised."""
    taken = 0
    try:
        for record in one_by_one(read_records(piece, wanted)):
            is_train = splits_of([record.group or record.name], data)[0] == SPLITS.index("train")
            if record.problem or not (is_train or held_out):
                continue
            for text in map(_text_of, record.contents):
                yield text
                taken += len(text)
            if taken >= limit:
                return
    except (NotText, BadDocument, *STORE_ERRORS):
        return


def _text_of(content: str | bytes) -> str:
    """A text without what is no UTF-8."""
    return (
        content.decode("utf-8", "ignore") if isinstance(content, bytes) else content.encode("utf-8", "ignore").decode()
    )
