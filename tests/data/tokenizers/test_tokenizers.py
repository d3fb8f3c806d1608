"""Each tokenizer gives back what it took, knows its vocabulary, and writes itself down."""

from typing import Any

import numpy as np
import pytest

from reformer_dist.data.tokenizers.bpe import BPETokenizer, train_bpe
from reformer_dist.data.tokenizers.choice import TOKENIZERS, make_tokenizer, read_tokenizer
from reformer_dist.data.tokenizers.pixels import PixelTokenizer
from reformer_dist.data.tokenizers.residues import AminoAcidTokenizer
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import BadDocument, Tokenizer

TEXT = "Twas brillig, and the slithy toves did gyre and gimble in the wabe: größer, 漢字.\n\n  <|document|>\n" * 3


PICTURES = list(np.random.default_rng(0).integers(0, 256, (3, 2, 5, 3), np.uint8))
DOCUMENTS: dict[str, list[Any]] = {
    "bytes": ["a", b"", TEXT],
    "amino_acids": ["MK v\n", b"", b"A"],
    "rgb": PICTURES,
    "grey": [picture[..., 0] for picture in PICTURES],
    "bpe": ["a", b"", TEXT],
}
"""Some that each tokenizer takes."""


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return train_bpe([TEXT], 300)


def all_tokenizers(bpe: BPETokenizer) -> list[Tokenizer]:
    return [*(make_tokenizer(name) for name in TOKENIZERS), bpe]


def test_each_is_read_back_from_what_it_writes(bpe: BPETokenizer) -> None:
    for tokenizer in all_tokenizers(bpe):
        copy = read_tokenizer(tokenizer.to_json())
        assert copy.to_json() == tokenizer.to_json()
        facts = [(t.name, t.vocab_size, t.boundary, t.dtype, t.takes) for t in (tokenizer, copy)]
        assert facts[0] == facts[1]
        assert len(set(copy.vocabulary)) == copy.vocab_size
        assert 0 <= copy.boundary < copy.vocab_size <= np.iinfo(copy.dtype).max + 1


def test_text_comes_back(bpe: BPETokenizer) -> None:
    for tokenizer in (BytesTokenizer(), bpe):
        for document in (TEXT, TEXT.encode()):
            ids = tokenizer.encode(document)
            assert ids.dtype == tokenizer.dtype
            assert tokenizer.boundary not in ids
            assert tokenizer.decode([tokenizer.boundary, *ids.tolist(), tokenizer.boundary]) == TEXT
    assert len(bpe.encode(TEXT)) < len(TEXT) * 2 / 3


def test_several_documents_are_what_each_is(bpe: BPETokenizer) -> None:
    for tokenizer in all_tokenizers(bpe):
        some = DOCUMENTS[tokenizer.name]
        each = [tokenizer.encode(document) for document in some]
        tokens, lengths = tokenizer.encode_all(some)
        assert tokens.dtype == tokenizer.dtype
        assert tokens.tolist() == np.concatenate(each).tolist()
        assert lengths.tolist() == [len(ids) for ids in each]
    with pytest.raises(BadDocument):
        AminoAcidTokenizer().encode_all(["MKV", "1"])


def test_what_is_no_token_is_left_out(bpe: BPETokenizer) -> None:
    """A model may know more tokens than its tokenizer, and draw one of those."""
    for tokenizer in all_tokenizers(bpe):
        ids = tokenizer.encode(DOCUMENTS[tokenizer.name][0]).tolist()
        drawn = [tokenizer.boundary, *ids, tokenizer.vocab_size, tokenizer.vocab_size + 99]
        assert tokenizer.decode(drawn) == tokenizer.decode(ids)


def test_tokens_stand_for_the_bytes_of_their_text(bpe: BPETokenizer) -> None:
    size = len(TEXT.encode())
    for tokenizer in (BytesTokenizer(), bpe):
        ids = [tokenizer.boundary, *tokenizer.encode(TEXT), tokenizer.boundary]
        assert tokenizer.num_bytes(np.array(ids)) == size + 2
        assert sum(tokenizer.num_bytes(np.array([token])) for token in ids) == size + 2


def test_a_number_has_the_same_tokens_wherever_it_stands() -> None:
    bpe = train_bpe(["the code is 48213.", "48213 of 48,213"] * 50, 300)
    digits = bpe.encode("48213").tolist()
    assert len(digits) == 5
    assert bpe.encode("is 48213.").tolist()[-6:-1] == digits


def test_bpe_takes_utf8_alone(bpe: BPETokenizer) -> None:
    for document in (b"\xff\xfe", "\ud800"):
        with pytest.raises(BadDocument, match="no UTF-8"):
            bpe.encode(document)


def test_bpe_of_other_makers_gets_a_boundary_and_refuses_what_it_lacks() -> None:
    from tokenizers import Tokenizer as Other
    from tokenizers import models

    other = BPETokenizer(Other(models.BPE({"a": 0, "b": 1, "?": 2, "ab": 3}, [("a", "b")], unk_token="?")).to_str())
    assert (other.boundary, other.vocab_size, other.vocabulary[-1]) == (4, 5, "<|document|>")
    assert other.encode("abba").tolist() == [3, 1, 0]
    assert other.num_bytes(np.array([4, 3, 1, 0, 4])) == len(other.decode([3, 1, 0])) + 2
    with pytest.raises(BadDocument, match="vocabulary lacks"):
        other.encode("abc")


def test_amino_acids_of_either_case() -> None:
    tokenizer = AminoAcidTokenizer()
    assert tokenizer.decode(tokenizer.encode("mkvB\nx*-\r\n")) == "MKVBX*-"
    with pytest.raises(BadDocument, match="'1' is no code of an amino acid"):
        tokenizer.encode(b"MK1V")


def test_pixels_row_after_row() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 3), np.uint8)
    rgb, grey = PixelTokenizer("rgb"), PixelTokenizer("grey")
    ids = rgb.encode(image)
    assert ids.tolist() == image.ravel().tolist()
    assert np.array_equal(rgb.image([256, *ids.tolist(), 256], 2, 5), image)
    assert np.array_equal(rgb.encode(rgb.decode(ids)), ids)
    assert np.array_equal(grey.image(grey.encode(image[..., 0]), 2, 5), image[..., 0])
    assert grey.image([256, 7], 1, 2).tolist() == [[7, 0]], "what is missing is black"


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (np.zeros((2, 2), np.uint8), r"shape \(2, 2\) is no rgb image; data\.tokenizer = grey works"),
        (np.zeros(4, np.uint8), r"shape \(4,\) is no rgb image$"),
        (np.full((1, 1, 3), 256), "from 256 to 256; whole numbers from 0 to 255 work"),
        (np.zeros((1, 1, 3)), "float64 levels"),
        ("1 x", "must be levels with spaces between"),
    ],
)
def test_what_is_no_image_is_refused(levels: object, message: str) -> None:
    with pytest.raises(BadDocument, match=message):
        make_tokenizer("rgb").encode(levels)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"name": "klingon"}', '{"name": "bytes", "vocabulary": [], "boundary": 0}']
)
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tokenizer|vocabulary"):
        read_tokenizer(text)
