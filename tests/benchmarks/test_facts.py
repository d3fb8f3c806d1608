"""Questions about planted facts: the documents, where the facts lie in them, and the files."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from reformer_dist.benchmarks.learning.facts import filler
from reformer_dist.benchmarks.learning.facts.documents import make_question
from reformer_dist.benchmarks.learning.facts.kinds import KINDS, MOST_DISTRACTORS, WORDS

LONGEST_SENTENCE = 130
STATEMENTS = [
    re.compile(re.escape(kind.statement).replace(r"\{place\}", "(.+?)").replace(r"\{value\}", "(.+?)"))
    for kind in KINDS
]


def facts_of(document: str) -> list[tuple[int, str, str]]:
    """Kind, place and value of each fact of a document."""
    return [(kind, *found) for kind, pattern in enumerate(STATEMENTS) for found in pattern.findall(document)]


@pytest.mark.parametrize("length", [2048, 8192, 65_536])
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0, None])
def test_a_document_has_its_length_and_the_fact_its_depth(length: int, depth: float | None) -> None:
    for index in range(6):
        made = make_question(1, index, length, depth)
        assert length - LONGEST_SENTENCE < len(made.document) <= length == made.length
        assert depth in (None, made.depth)
        assert made.document.isascii()
        assert made.document.count(made.answer) == 1
        (statement,) = (each for each in re.split(r"(?<=\.)\s", made.document) if made.answer in each)
        place = made.document.index(statement) / (len(made.document) - len(statement))
        assert abs(place - made.depth) * len(made.document) < LONGEST_SENTENCE
        if depth in (0, 1):
            assert place == depth


def test_the_question_has_one_answer_among_many_facts() -> None:
    kinds: Counter[int] = Counter()
    for index in range(200):
        made = make_question(0, index, 2048, num_distractors=MOST_DISTRACTORS)
        facts = facts_of(made.document)
        assert len(facts) == 1 + MOST_DISTRACTORS
        assert len({(kind, place) for kind, place, _ in facts}) == len({value for *_, value in facts}) == len(facts)
        ((kind, place),) = ((kind, place) for kind, place, value in facts if value == made.answer)
        assert made.question == KINDS[kind].question.format(place=place)
        assert sum(other == kind for other, *_ in facts) > MOST_DISTRACTORS // 2, "other places"
        assert sum(other == place for _, other, _ in facts) >= 2, "another kind"
        assert len(re.findall(re.escape(made.answer), made.document, re.IGNORECASE)) == 1
        kinds[kind] += 1
    assert min(kinds.values()) > 40, "every kind is asked for"


def test_a_short_document_has_as_many_facts_as_fit() -> None:
    for index in range(100):
        made = make_question(0, index, 320, num_distractors=8)
        facts = facts_of(made.document)
        assert 3 <= len(facts) <= 6
        ((kind, place),) = ((kind, place) for kind, place, value in facts if value == made.answer)
        assert any(other == kind and there != place for other, there, _ in facts), "the same of another place"
        assert any(other != kind and there == place for other, there, _ in facts), "another fact of the place"
        assert len(make_question(0, index, 2048).document) > 2048 - LONGEST_SENTENCE


def test_fillers_have_no_words_of_the_facts() -> None:
    text = " ".join([*filler.TEMPLATES, *filler.WORDS.values()]).lower()
    assert not re.search(r"\d", text)
    assert not any(word.lower() in text for name in WORDS if name != "side" for word in WORDS[name].split())
    assert not any(word in text for word in ("access", "code", "keeper", "brick"))


def test_a_question_is_a_function_of_seed_and_index() -> None:
    made = make_question(3, 5, 2048)
    assert make_question(3, 5, 2048) == made
    others = [make_question(*place, 2048) for place in [(4, 5), (3, 6), (5, 3)]]
    assert len({each.document for each in (made, *others)}) == len({each.id for each in (made, *others)}) == 4
    assert made.id == "3-5"


def test_depths_are_drawn_evenly() -> None:
    depths = [make_question(0, index, 1024).depth for index in range(1000)]
    assert all(abs(count - 250) < 60 for count in Counter(int(4 * depth) for depth in depths).values())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"length": 100}, r"length = 100 has no room for 3 facts; 512 works"),
        ({"depth": 1.5}, r"depth = 1\.5 must be from 0 to 1; 0\.5 works"),
        ({"num_distractors": 21}, r"num_distractors = 21 must be from 0 to 20; 8 works"),
    ],
)
def test_what_cannot_be_planted_is_one_line(settings: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        make_question(**{"seed": 0, "index": 0, "length": 2048, **settings})  # type: ignore[arg-type]


def command(*options: str) -> subprocess.CompletedProcess[str]:
    module = [sys.executable, "-m", "reformer_dist.benchmarks.learning.facts", *options]
    return subprocess.run(module, check=False, capture_output=True, text=True)


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    options = ["--output", str(tmp_path), "--train", "7", "--questions", "2", "--lengths", "2048", "3000"]
    done = command(*options, "--depths", "0", "0.5", "1")
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[1].split(" about")[0] for line in done.stdout.splitlines()] == [
        "7 questions",
        "12 questions",
    ]
    train, held_out = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("train.jsonl", "held_out.jsonl")
    )
    assert [record["length"] for record in train] == [2048, 3000] * 3 + [2048]
    assert Counter((record["length"], record["depth"]) for record in held_out) == {
        (length, depth): 2 for length in (2048, 3000) for depth in (0, 0.5, 1)
    }
    assert set(train[0]) == {"id", "document", "question", "answer", "depth", "length"}
    assert not {record["id"] for record in train} & {record["id"] for record in held_out}
    before = (tmp_path / "train.jsonl").read_bytes()
    refused = command(*options, "--distractors", "30")
    assert (refused.returncode, refused.stderr) == (
        2,
        "reformer_dist.facts: num_distractors = 30 must be from 0 to 20; 8 works\n",
    )
    assert (tmp_path / "train.jsonl").read_bytes() == before, "a file is there whole or not at all"
