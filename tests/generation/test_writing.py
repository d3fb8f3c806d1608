"""Prompts from a file become texts in a file, and a stop ends a text, however its tokens are cut."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer_dist.config import GenerationConfig, load_config
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.generation.text import UntilStop
from reformer_dist.generation.writing import Written, lines_in, read_prompts, write
from reformer_dist.model.reformer import ReformerLM
from tests.model.models import make_model


@pytest.fixture(scope="module")
def model() -> ReformerLM:
    return make_model(vocab_size=256)


def written(model: ReformerLM, prompts: list[str], **options: object) -> tuple[list[Written], str]:
    shown: list[str] = []
    texts = list(write(model, BytesTokenizer(), prompts, GenerationConfig(**options), shown.append))
    return texts, "".join(shown)


@given(st.text("ab\n"), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3), st.data())
def test_text_ends_before_the_first_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    until, shown, place = UntilStop(stops), "", 0
    while place < len(text):
        piece = data.draw(st.integers(1, len(text) - place))
        shown += until.take(text[place : place + piece])
        place += piece
        held = len(text[:place]) - len(shown)
        assert until.is_stopped or held < max(map(len, stops), default=1), "no more is held back than must be"
    shown += until.rest()
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert until.is_stopped == bool(places)
    if places:
        assert not any(stop in shown for stop in stops)
        assert text.startswith(shown)
    else:
        assert shown == text


def test_batches_change_nothing(model: ReformerLM) -> None:
    prompts = ["a", "longer than the first", "b", "größe"]
    texts, _ = written(model, prompts, num_tokens=20, batch_size=3)
    assert [text.prompt for text in texts] == prompts
    for text in texts:
        ((alone,), shown) = written(model, [text.prompt], num_tokens=20)
        assert alone == text
        assert shown == text.prompt + text.text


def test_a_stop_ends_each_text_by_itself(model: ReformerLM) -> None:
    prompts = ["a", "bcd"]
    (first, second), _ = written(model, prompts, num_tokens=40)
    stop = first.text[3:5]
    (cut, other), shown = written(model, prompts, num_tokens=40, stop=(stop,))
    assert cut.text == first.text[: first.text.index(stop)]
    assert cut.num_tokens < 40
    assert second.text.startswith(other.text)
    assert shown == "a" + cut.text


def test_prompts_come_from_files(tmp_path: Path) -> None:
    lines, records = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_text("def f(\n\nimport ü\n")
    records.write_text('{"prompt": "two\\nlines", "other": 1}\n\n{"prompt": ""}\n')
    assert read_prompts(GenerationConfig(prompts=str(lines))) == ["def f(", "", "import ü"]
    assert read_prompts(GenerationConfig(prompts=str(records))) == ["two\nlines", ""]
    assert read_prompts(GenerationConfig(prompt="x")) == ["x"]


def test_a_prompt_may_be_a_record_of_what_sources_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"document": "It is 3.", "question": "What?", "answer": "3"}\n{"prompt": "a"}\n')
    assert read_prompts(GenerationConfig(prompts=str(path)), ("question", "document")) == ["What?\nIt is 3.", "a"]
    with pytest.raises(ConfigError, match='line 1 has no text "prompt", nor headline and document;'):
        read_prompts(GenerationConfig(prompts=str(path)), ("headline", "document"))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("none.txt", None, "No such file"),
        ("empty.txt", b"", "is empty; a file of a prompt a line works"),
        ("latin.txt", b"gr\xfc\xdfe", "is no UTF-8 at byte 2; a text file works"),
        ("a.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', 'line 2 has no text "prompt"'),
        ("b.jsonl", b'{"prompt": 3}\n', 'line 1 has no text "prompt"'),
        ("c.jsonl", b"{\n", 'line 1 has no text "prompt"'),
    ],
)
def test_a_file_that_holds_no_prompts_is_told(tmp_path: Path, name: str, content: bytes | None, line: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^generation.prompts = {path}.*{line}"):
        read_prompts(GenerationConfig(prompts=str(path)))


def test_a_file_of_texts_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    with lines_in(str(path)) as take:
        take(Written("a", "ü\n", 2))
        assert not path.exists()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"prompt": "a", "text": "ü\n", "num_tokens": 2}
    ]
    with pytest.raises(ZeroDivisionError), lines_in(str(path)) as take:
        take(Written("b", "", 1 // 0))
    assert '"a"' in path.read_text(), "what was there stays"
    assert [*tmp_path.iterdir()] == [path]
    with (
        pytest.raises(ConfigError, match=r"^generation\.output = .*No such file.* works$"),
        lines_in(str(tmp_path / "none/texts.jsonl")),
    ):
        pass


def test_a_prompt_that_is_too_long_is_told_by_its_beginning(model: ReformerLM) -> None:
    longest = model.config.max_length
    with pytest.raises(ConfigError, match=r"^generation\.prompt = 'xxxxx.*x\.\.\.': .* a shorter one works"):
        written(model, ["short", "x" * longest], num_tokens=1)


@pytest.mark.parametrize("changes", [{"causal": False}, {"lsh_mode": "chunked"}], ids=str)
def test_a_model_that_cannot_be_decoded_is_told(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^model\.\w+ = .* works"):
        written(make_model(vocab_size=256, **changes), ["a"], num_tokens=1)


def test_options_that_do_not_go_together_are_told() -> None:
    with pytest.raises(ConfigError, match=r"^generation\.prompts = b stands instead of generation\.prompt"):
        load_config(None, {"generation.prompt": "a", "generation.prompts": "b"})
    with pytest.raises(ConfigError, match=r"^generation\.stop has an empty text"):
        load_config(None, {"generation.stop": "a,"})
