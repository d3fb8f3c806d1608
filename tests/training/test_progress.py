"""What a training shows where a log is kept: plain lines, in the units of its objective."""

import io
import subprocess
import sys
from functools import partial

import pytest
from rich.console import Console

from reformer_dist.config import load_config
from reformer_dist.training.progress import Terminal

TRAINED = {"train/bits_per_token": 3.25, "train/tokens_per_second": 1234.0}


@pytest.mark.parametrize(
    ("fields", "unit"),
    [
        ({}, "byte"),
        ({"data.tokenizer": "bpe"}, "token"),
        ({"data.tokenizer": "grey"}, "pixel"),
        ({"objective.name": "masked", "model.causal": False}, "masked byte"),
    ],
)
def test_plain_lines_say_what_bits_are_of(fields: dict[str, object], unit: str) -> None:
    lines = io.StringIO()
    config = load_config(None, {"train.steps": 2, **fields})
    with Terminal(config, Console(file=lines, soft_wrap=True)) as terminal:
        terminal.restart(0)
        terminal.metrics(1, TRAINED)
        terminal.metrics(2, TRAINED | {"validation/bits_per_token": 3.5})
        terminal.line("a [line] as it is")
    first, validation, last, line = lines.getvalue().splitlines()
    assert first == f"step 1/2  3.250 bits/{unit}  1,234 tokens/s  time left unknown"
    assert validation == f"step 2/2  validation 3.500 bits/{unit}"
    assert last.startswith(f"step 2/2  3.250 bits/{unit}"), "the last step is shown however soon it comes"
    assert line == "a [line] as it is"


TALK = """
import sys
from reformer_dist.config import load_config
from reformer_dist.training.progress import Terminal
with Terminal(load_config(None, {"train.steps": 4})) as terminal:
    for number in range(3):
        sys.stdin.readline()
        terminal.line(f"line {number}")
        print(terminal.is_closed, file=sys.stderr, flush=True)
"""


def test_a_reader_that_goes_is_noticed_and_a_full_disk_is_not() -> None:
    """What cannot be printed is dropped: the training decides what becomes of it."""
    start = partial(subprocess.Popen, [sys.executable, "-c", TALK], stdin=-1, stderr=-1, text=True, bufsize=1)
    with start(stdout=subprocess.PIPE) as process:
        process.stdin.write("\n")
        assert process.stdout.readline() == "line 0\n"
        assert process.stderr.readline() == "False\n"
        process.stdout.close()
        process.stdin.write("\n\n")
        assert process.stderr.read() == "True\nTrue\n"
    assert process.returncode == 0
    with open("/dev/full", "wb") as full, start(stdout=full) as process:
        process.stdin.write("\n\n\n")
        assert process.stderr.read() == "False\nFalse\nFalse\n"
    assert process.returncode == 0
