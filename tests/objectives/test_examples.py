"""What each objective makes of a stretch of a document."""

import pickle

import numpy as np
import pytest

from reformer_dist.config import ObjectiveConfig
from reformer_dist.data.feeding.examples import HELD_OUT, Place, Stretch
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.objectives.choice import OBJECTIVES, make_objective
from reformer_dist.objectives.masked import Masked

TOKENIZER = BytesTokenizer()
MASK = TOKENIZER.vocab_size
PLACE = Place(seed=3, step=5, row=2)


def whole(document: bytes, first_position: int = 0) -> dict[str, Stretch]:
    """All of a document, and the document backwards as its labels."""
    entries = np.frombuffer(b"\0" + document + b"\0", np.uint8)
    place = (0, len(document) + 1, first_position, TOKENIZER)
    return {"text": Stretch(entries, *place), "labels": Stretch(entries[::-1], *place)}


def parts(document: bytes, cuts: list[int], first_position: int = 0) -> list[dict[str, Stretch]]:
    """The same cut at these positions, as shards cut it."""
    fields, size = whole(document, first_position), len(document) + 1
    bounds = zip([0, *cuts], [*cuts, size], strict=True)
    return [
        {
            name: Stretch(stretch.entries[a : b + 1], a, size, first_position + a, TOKENIZER)
            for name, stretch in fields.items()
        }
        for a, b in bounds
    ]


@pytest.fixture
def text() -> bytes:
    return np.random.default_rng(0).integers(1, 256, 40_000, np.uint8).tobytes()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_example_is_the_same_however_it_is_cut(name: str, text: bytes) -> None:
    objective = pickle.loads(pickle.dumps(make_objective(ObjectiveConfig(name=name))))
    expected = objective.example(whole(text[:999], first_position=17), PLACE)
    pieces = [objective.example(part, PLACE) for part in parts(text[:999], [1, 2, 300, 500, 999], first_position=17)]
    for index in range(2):
        assert np.array_equal(np.concatenate([piece[index] for piece in pieces]), expected[index])


def test_next_token_reads_each_entry_and_is_scored_on_the_one_behind() -> None:
    tokens, labels = make_objective(ObjectiveConfig()).example(whole(b"abc"), PLACE)
    assert tokens.tolist() == [0, *b"abc"]
    assert labels.tolist() == [*b"abc", 0]


def test_copy_is_scored_on_the_second_half() -> None:
    copy = make_objective(ObjectiveConfig(name="copy"))
    tokens, labels = copy.example(whole(b"abc_abc"), PLACE)
    assert tokens.tolist() == [0, *b"abc_abc"]
    assert labels.tolist() == [-100] * 4 + [*b"abc"] + [-100]
    assert copy.example(whole(b"abcabc"), PLACE)[1].tolist() == [-100] * 3 + [*b"abc"] + [-100]


def test_prefix_is_scored_on_the_text_and_its_end() -> None:
    prefix = make_objective(ObjectiveConfig(name="prefix"))
    entries = np.frombuffer(b"\0pre\0abc\0", np.uint8)
    stretch = Stretch(entries, 0, 8, 0, TOKENIZER, num_lead=4)
    tokens, labels = prefix.example({"text": stretch}, PLACE)
    assert tokens.tolist() == [0, *b"pre", 0, *b"abc"]
    assert labels.tolist() == [-100] * 4 + [*b"abc", 0]
    assert (prefix.others.names, prefix.fields) == (("prefix",), ("text",))


def test_masked_hides_a_share_of_the_tokens_as_bert_does(text: bytes) -> None:
    tokens, labels = make_objective(ObjectiveConfig(name="masked")).example(whole(text), PLACE)
    entries = np.frombuffer(b"\0" + text, np.uint8)
    scored = labels != -100
    assert np.array_equal(labels[scored], entries[scored])
    assert np.array_equal(tokens[~scored], entries[~scored])
    number = scored.sum()
    assert abs(number / len(text) - 0.15) < 0.007  # four deviations
    hidden, kept = tokens[scored] == MASK, tokens[scored] == entries[scored]
    changed = ~hidden & ~kept
    assert abs(hidden.mean() - 0.8) < 0.02
    assert abs(kept.mean() - 0.1) < 0.016
    assert abs(changed.mean() - 0.1) < 0.016
    assert len(np.unique(tokens[scored][changed])) > 200, "random tokens are of the whole vocabulary"


def test_masked_never_hides_a_boundary(text: bytes) -> None:
    always = Masked(ObjectiveConfig(masked_share=0.999, masked_hidden=1.0, masked_random=0.0))
    for row in range(50):
        tokens, labels = always.example(whole(text[:9]), Place(0, 0, row))
        assert (tokens[0], labels[0]) == (0, -100)
    assert (tokens[1:] == MASK).sum() >= 8


def test_masked_draws_follow_seed_step_row_and_position(text: bytes) -> None:
    masked = make_objective(ObjectiveConfig(name="masked"))

    def scored(place: Place, first_position: int = 0) -> list[bool]:
        return (masked.example(whole(text[:500], first_position), place)[1] != -100).tolist()

    assert scored(PLACE) == scored(Place(3, 5, 2))
    others = [scored(Place(*key)) for key in [(4, 5, 2), (3, 6, 2), (3, 5, 3), (3, HELD_OUT, 2)]]
    others.append(scored(PLACE, first_position=1000))
    assert len({tuple(x) for x in [scored(PLACE), *others]}) == 6
    late = masked.example(whole(text[:500], 20), PLACE)[1] != -100
    assert np.array_equal(late[1:480], (masked.example(whole(text[:500]), PLACE)[1] != -100)[21:500]), "by position"


def test_masked_shares_that_are_more_than_all_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.masked_hidden = 0\.95 .* 0\.8 and 0\.1 work"):
        ObjectiveConfig(masked_hidden=0.95)
