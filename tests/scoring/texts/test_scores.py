"""Scores of written texts, each against figures worked out by hand."""

import math
import subprocess
import sys
from collections.abc import Sequence

import pytest

from reformer_dist.scoring.texts.choice import TEXT_SCORES

Texts = Sequence[str]


def figures(name: str, hypotheses: Texts, references: Sequence[Texts]) -> dict[str, float]:
    return dict(TEXT_SCORES[name].score(hypotheses, references).figures)


def test_every_score_is_among_its_figures_by_its_name() -> None:
    for name, score in TEXT_SCORES.items():
        assert score.name == name
        assert figures(name, ["These are four words.", "one"], [["These are four words."], ["one"]])[
            name
        ] == pytest.approx(100)


def test_bleu_is_that_of_all_texts_together() -> None:
    hypotheses = ["the cat sat on the mat", "a dog"]
    references = [["the cat sat on a mat"], ["a dog ran"]]
    # 8 words for 9. Right are 5 + 2 of 6 + 2 words, 3 + 1 of 5 + 1 pairs, 2 of 4 triples and 1 of 3 fours.
    precisions = (7 / 8, 4 / 6, 2 / 4, 1 / 3)
    expected = 100 * math.exp(1 - 9 / 8) * math.prod(precisions) ** 0.25
    assert figures("bleu", hypotheses, references)["bleu"] == pytest.approx(expected)


def test_chrf_counts_runs_of_characters() -> None:
    # "abc" for "abd": two of three characters and one of two pairs are right, of the triples none; F2 equals both shares.
    assert figures("chrf", ["abc"], [["abd"]])["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_signatures_tell_version_and_settings() -> None:
    found = {name: TEXT_SCORES[name].score(["a"], [["a"]]).signature for name in TEXT_SCORES}
    assert found["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert found["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.")
    assert {name for name, signature in found.items() if not signature} == {"rouge_l", "exact_match", "f1"}


def test_a_text_may_have_any_number_of_references() -> None:
    hypotheses, references = ["the cat sat on it", "some dogs run by here"], [["no", "the cat sat on it"], ["a cow"]]
    found = TEXT_SCORES["bleu"].score(hypotheses, references)
    assert found.figures["bleu"] > 40
    assert found.signature.startswith("nrefs:var|")
    for name in ("rouge_l", "exact_match", "f1"):
        assert figures(name, hypotheses, references)[name] == 50


def test_rouge_is_a_mean_of_f_measures_over_documents() -> None:
    # Words a, b, c, d for a, c, b, e: three are shared, two in order; no pair is.
    found = figures("rouge_l", ["a b c d", "x"], [["A, c b e!"], ["y"]])
    assert found == {"rouge_1": 37.5, "rouge_2": 0, "rouge_l": 25, "rouge_l_sum": 25}


def test_rouge_cuts_off_english_endings() -> None:
    assert figures("rouge_l", ["jumping houses"], [["jumped house"]])["rouge_l"] == 100


def test_the_sum_of_rouge_goes_sentence_by_sentence() -> None:
    found = figures("rouge_l", ["one two\nthree four"], [["three four\none two"]])
    assert (found["rouge_l"], found["rouge_l_sum"]) == (50, 100)


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("The Beatles!", ["beatles"], 100, 100),
        ("an  apple, a day", ["apple day"], 100, 100),
        ("in the year 1912", ["1912"], 0, 50),  # of in, year, 1912 one is right: 2 * 1 / (3 + 1)
        ("paris paris rome", ["Paris"], 0, 50),  # a word counts as often as the reference has it
        ("rome", ["paris", "Rome, Italy"], 0, 200 / 3),
        ("oslo", ["paris"], 0, 0),
        ("", ["paris"], 0, 0),
        ("the", ["a"], 100, 0),  # nothing is left of either
        ("theatre", ["atre"], 0, 0),  # an article is a word of its own
    ],
)
def test_answers_are_compared_as_squad_does(answer: str, references: Texts, exact: float, f1: float) -> None:
    assert figures("exact_match", [answer], [references]) == {"exact_match": exact}
    assert figures("f1", [answer], [references]) == {"f1": pytest.approx(f1)}


@pytest.mark.parametrize(
    ("hypotheses", "references", "line"),
    [
        ([], [], "f1 of no texts; one with a reference works"),
        (["a", "b"], [["a"]], "f1 of 2 texts with references for 1; as many work"),
        (["a", "b"], [["a"], []], "f1: text 1 has no list of references; a list of one works"),
        (["a"], ["a"], "f1: text 0 has no list of references; a list of one works"),
    ],
)
def test_what_cannot_be_scored_is_one_line(hypotheses: Texts, references: Sequence[Texts], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        TEXT_SCORES["f1"].score(hypotheses, references)


def test_the_libraries_are_loaded_by_the_first_score() -> None:
    code = (
        "import sys, reformer_dist.scoring.texts.choice; sys.exit(any(x in sys.modules for x in ('sacrebleu', 'nltk')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
