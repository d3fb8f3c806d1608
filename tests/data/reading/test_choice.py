"""Every kind of file and every tokenizer that the configuration names is there, and says what it is."""

from typing import get_args

from reformer_dist.config.sections.data import FormatName, TokenizerName
from reformer_dist.data.reading.choice import READERS, SUFFIXES, format_named
from reformer_dist.data.reading.contents import CONTENTS
from reformer_dist.data.tokenizers.bpe import BPETokenizer
from reformer_dist.data.tokenizers.choice import TOKENIZERS


def test_the_configuration_names_what_there_is() -> None:
    assert set(READERS) == set(get_args(FormatName))
    assert {*TOKENIZERS, BPETokenizer.name} == set(get_args(TokenizerName))


def test_each_says_what_it_reads() -> None:
    for reader in READERS.values():
        assert reader.contents
        assert {*reader.contents, *reader.beside} <= set(CONTENTS)
        assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in reader.suffixes)
    assert len(SUFFIXES) == sum(len(reader.suffixes) for reader in READERS.values()), "no two have a suffix in common"
    for name, make in TOKENIZERS.items():
        assert make().name == name
        assert any(make().takes.kind in reader.contents for reader in READERS.values())


def test_names_say_what_a_file_is() -> None:
    names = {
        "a.FASTA.gz": "fasta",
        "a.npy": "array",
        "a.JPG": "image",
        "a.tsv.zst": "tsv",
        "a.jsonl.bz2": "jsonl",
        "a.csv.xz": "csv",
        "a.py": "text",
        "gz": "text",
    }
    assert {name: format_named(name) for name in names} == names
