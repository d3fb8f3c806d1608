"""Questions about planted facts, asked of trained models: files, pictures, going on, and what is refused."""

import csv
from pathlib import Path

import pytest

from reformer_dist import EncoderDecoder, ModelConfig, ReformerLM
from reformer_dist.benchmarks.learning.facts.asking import ask, main, questions
from reformer_dist.checkpoints import new_folder
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.errors import ConfigError
from tests.checkpoints.untrained import make_config, write

BOTH = {"encoder_layers": ("local",), "layers": ("local",), "positions": "none", "embed_dim": 32, "num_heads": 2}


def test_answers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = EncoderDecoder(ModelConfig(**BOTH, vocab_size=257, max_length=64))
    model.tokenizer = BytesTokenizer()
    asked = questions(2048, 0.5, 4)
    for others in (questions(2048, 0.25, 4), questions(8192, 0.5, 4)):
        assert [each.question for each in others] == [each.question for each in asked]
        assert all(other.document != each.document for other, each in zip(others, asked, strict=True))
    given: list[str] = []

    def answer(_: object, texts: list[str], **options: object) -> list[str]:
        given.extend(texts)
        return [asked[0].answer, f"the {asked[1].answer}.", f"{asked[2].answer} or not", "nothing"]

    monkeypatch.setattr("reformer_dist.benchmarks.learning.facts.asking.translate", answer)
    found = ask(model, asked)
    assert found.whole == 0.5
    assert 0.5 < found.part < 0.75
    assert given == [f"{question.question}\n{question.document}" for question in asked]


def test_models_that_cannot_read_such_documents_are_told() -> None:
    asked = questions(2048, 0.5, 1)
    with pytest.raises(ConfigError, match="a ReformerLM reads no document"):
        ask(ReformerLM(ModelConfig(layers=("local",), embed_dim=32, num_heads=2)), asked)
    model = EncoderDecoder(ModelConfig(**{**BOTH, "positions": "learned"}, vocab_size=257, max_length=64))
    model.tokenizer = BytesTokenizer()
    with pytest.raises(ConfigError, match=r"max_source_length = 2,\d+: .* needs weights of other shapes"):
        ask(model, asked)


@pytest.mark.usefixtures("one_worker")
def test_a_run_goes_on_where_its_file_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {f"model.{name}": ",".join(value) if isinstance(value, tuple) else value for name, value in BOTH.items()}
    config = make_config(str(tmp_path), **fields, **{"model.vocab_size": 257, "train.run_name": "reader"})
    write(new_folder(str(tmp_path), "reader"), 3, config)
    command = ["asking", "reader", "--storage", str(tmp_path), "--output", str(tmp_path / "out"), "--questions", "1"]
    monkeypatch.setattr("sys.argv", [*command, "--depths", "0", "1", "--lengths", "1024"])
    main()
    path = tmp_path / "out" / "answers.csv"
    first = path.read_text()
    command[1:2] = ["reader", "reader:cross_attention=lsh,num_hashes=2"]
    monkeypatch.setattr("sys.argv", [*command, "--depths", "0", "1", "--lengths", "1024", "2048"])
    main()
    rows = list(csv.DictReader(path.open()))
    assert path.read_text().startswith(first)
    assert [(row["model"], row["length"], row["depth"]) for row in rows] == [
        (model, length, depth)
        for model in ("reader", "reader, cross_attention lsh, num_hashes 2")
        for length in ("1024", "2048")
        for depth in ("0.0", "1.0")
    ]
    assert (tmp_path / "out" / "answers.png").stat().st_size > 1000
