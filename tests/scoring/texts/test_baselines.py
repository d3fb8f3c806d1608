"""Texts that are written without a model."""

import pytest

from reformer_dist.scoring.texts.baselines import sentences
from reformer_dist.scoring.texts.choice import BASELINES

TRAINED = ["yes", "no", "no", "yes", "maybe"]


def test_baselines_write_a_text_for_each_source() -> None:
    sources = ["One. Two! Three? Four.", "Only one"]
    assert {name: write(sources, TRAINED) for name, write in BASELINES.items()} == {
        "copy": sources,
        "lead_3": ["One.\nTwo!\nThree?", "Only one"],
        "most_frequent": ["yes", "yes"],
    }


def test_most_frequent_needs_answers() -> None:
    with pytest.raises(ValueError, match="most_frequent of no answers of training; one works"):
        BASELINES["most_frequent"](["who?"], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A title\n\nA first. A second one.\n  A third.\n", ["A title", "A first.", "A second one.", "A third."]),
        ('"Go away!" Then (in 3.5 s, i.e. soon) he did.', ['"Go away!"', "Then (in 3.5 s, i.e. soon) he did."]),
        ("Wait... what? Yes… 3 of them.", ["Wait... what?", "Yes…", "3 of them."]),
        ("これはペンです。「はい\uff01」いいえ。", ["これはペンです。", "「はい\uff01」", "いいえ。"]),
        ("Dr. Smith left.", ["Dr.", "Smith left."]),
        (" \n ", []),
    ],
)
def test_sentences_end_at_lines_and_marks(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected
