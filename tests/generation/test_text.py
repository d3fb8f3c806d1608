"""Text that is shown token by token is the text of all tokens together, and never half a character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer_dist.data.tokenizers.bpe import train_bpe
from reformer_dist.data.tokenizers.residues import AminoAcidTokenizer
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.generation.text import BROKEN, TextStream

TEXT = "größe über 漢字 é; 👩‍🚀 ok "


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe([TEXT * 3], 270)


def shown(tokenizer: Tokenizer, prompt: list[int], ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer.decode, prompt)
    return [*(stream.take(token) for token in ids), stream.rest()]


@pytest.mark.parametrize("split", [0, 1, 7, 20])
def test_characters_come_whole(bpe: Tokenizer, split: int) -> None:
    for tokenizer in (BytesTokenizer(), bpe):
        prompt, ids = (tokenizer.encode(part).tolist() for part in (TEXT[:split], TEXT[split:]))
        parts = shown(tokenizer, [tokenizer.boundary, *prompt], ids)
        assert "".join(parts) == TEXT[split:]
        assert not any(BROKEN in part for part in parts)
        assert len([part for part in parts if part]) > 2, "it does not wait for the end"


@given(st.lists(st.integers(0, 255), max_size=60), st.binary(max_size=12))
def test_whatever_is_drawn_is_what_it_decodes_to_together(ids: list[int], prompt: bytes) -> None:
    tokenizer = BytesTokenizer()
    before = [token for token in prompt if token]
    parts = shown(tokenizer, before, ids)
    together = tokenizer.decode([*before, *ids])
    known = tokenizer.decode(before)
    if together.startswith(known):
        assert "".join(parts) == together[len(known) :]


def test_invalid_bytes_are_shown_before_the_end() -> None:
    parts = shown(BytesTokenizer(), [], [0xFF] * 40)
    assert "".join(parts) == BROKEN * 40
    assert sum(map(len, parts[:20])) > 0


def test_what_is_no_token_is_nothing() -> None:
    tokenizer = AminoAcidTokenizer()
    ids = [200, *tokenizer.encode("MKV").tolist(), 29, 0]
    assert "".join(shown(tokenizer, [], ids)) == "MKV"
