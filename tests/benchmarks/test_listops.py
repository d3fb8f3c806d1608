"""The ListOps suite: what an expression amounts to, how long they are, and that a training is told apart from a guess."""

import random
from pathlib import Path

import pytest
import torch

from reformer_dist.benchmarks.learning.listops import suite
from reformer_dist.benchmarks.learning.listops.suite import Size
from reformer_dist.benchmarks.learning.listops.task import (
    ASKED,
    CLOSED,
    OPERATORS,
    Expression,
    examples,
    expression,
    long_expression,
)
from reformer_dist.model.layers.output import IGNORED

WORDS = [*map(str, range(10)), *OPERATORS, "]"]


def value_of(words: list[str]) -> int:
    """Read an expression from its words with a stack, as a person would."""
    stack: list[list[str]] = [[]]
    for word in words:
        if word.startswith("["):
            stack.append([word])
        elif word != "]":
            stack[-1].append(word)
        else:
            name, *members = stack.pop()
            digits = sorted(map(int, members))
            middle = len(digits) // 2
            found = {
                "[MIN": digits[0],
                "[MAX": digits[-1],
                "[MED": digits[middle] if len(digits) % 2 else (digits[middle - 1] + digits[middle]) // 2,
                "[SM": sum(digits) % 10,
            }
            stack[-1].append(str(found[name]))
    (only,) = stack[0]
    return int(only)


def test_an_expression_amounts_to_what_its_words_say() -> None:
    draws = random.Random(0)
    values = set()
    for _ in range(300):
        drawn = expression(draws)
        assert drawn.value == value_of([WORDS[token] for token in drawn.tokens])
        values.add(drawn.value)
    assert values == set(range(10))


def test_members_are_lists_in_a_quarter_and_nest_up_to_ten_deep() -> None:
    drawn = [long_expression(random.Random(seed)).tokens for seed in range(12)]
    assert all(501 <= len(tokens) <= 1999 for tokens in drawn)
    lists = sum(token in range(10, 10 + len(OPERATORS)) for tokens in drawn for token in tokens)
    digits = sum(token < 10 for tokens in drawn for token in tokens)
    assert 0.15 < lists / (lists + digits) < 0.25, "a quarter, less what may be no list at the deepest place"
    deepest, depth = 0, 0
    for token in (token for tokens in drawn for token in tokens):
        depth += (10 <= token < CLOSED) - (token == CLOSED)
        deepest = max(deepest, depth)
    assert deepest == 9, "digits stand at the tenth place"


def test_examples_ask_at_their_own_end() -> None:
    short, long = Expression([10, 3, 4, CLOSED], 3), Expression([11, 5, 6, 2, CLOSED], 6)
    made = examples([short, long])
    assert made.tokens_BT.tolist() == [[10, 3, 4, CLOSED, ASKED, 0], [11, 5, 6, 2, CLOSED, ASKED]]
    assert made.labels_BT.tolist() == [[IGNORED] * 4 + [3, IGNORED], [IGNORED] * 5 + [6]]


def test_the_suite_beats_the_commonest_value_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"model.embed_dim": 32, "model.num_heads": 2, "model.feed_forward_dim": 64, "model.layers": "local,lsh"}
    monkeypatch.setattr(suite, "VARIANTS", {"local,lsh": tiny})
    size = Size(seconds=3, held_out=100, batch_size=32, shortest=4, longest=12)
    monkeypatch.setattr(suite, "SIZES", {"small": size})
    threads = torch.get_num_threads()
    suite.run("small", tmp_path)
    text = capsys.readouterr().out
    accuracy, commonest = (
        float(next(line for line in text.splitlines() if line.startswith(start)).split("%")[0].split()[-1])
        for start in ("local,lsh  ", "always")
    )
    assert accuracy > commonest + 10
    suite.run("small", tmp_path)
    assert "seed 0:" not in capsys.readouterr().out, "the finished training is a row of the file"
    torch.set_num_threads(threads)
