"""Files beside each other whose lines belong together: found by any of them, read once, and never paired wrongly."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.parts import Part
from reformer_dist.data.preparing.preparation import Preparation, plan_preparation
from reformer_dist.errors import ConfigError
from tests.corpora import prepare_here, write_documents
from tests.data.preparing.test_fields import rows_of, texts_of

FIELDS = {"source": {"column": "en"}, "text": {"column": "es"}}
PAIRS = [(f"{i} apples", f"{i} manzanas, señor") for i in range(40)]
ENGLISH, SPANISH = ("".join(f"{line}\n" for line in side).encode() for side in zip(*PAIRS, strict=True))
CAPITALS = [(en.upper(), es.upper()) for en, es in PAIRS]
FILES = {"train.en": ENGLISH, "train.es": SPANISH}


def capitals(content: bytes) -> bytes:
    return content.decode().upper().encode()


def prepared(source: Path | str, folder: Path, **given: object) -> Corpus:
    return prepare_here(source, folder, 0.3, **{"fields": FIELDS, "format": "parallel", **given})


def planned(folder: Path, *sources: str, **given: object) -> Preparation:
    tree = {"sources": [f"{folder}/{each}" for each in sources], "fields": FIELDS, "format": "parallel", **given}
    return plan_preparation(DataConfig.model_validate(tree), str(folder / "runs"))


@pytest.mark.parametrize("source", ["train.en", "train.es", "", "*.en", "train.*", "train.es,train.en"])
def test_a_pair_of_files_is_found_by_either_and_read_once(source: str, tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "s", FILES)
    corpus = prepared("", tmp_path, sources=tuple(f"{folder}/{each}" for each in source.split(",")))
    assert rows_of(corpus) == sorted(PAIRS)
    assert texts_of(corpus, "text")["train.en#3"] == PAIRS[2][1], "named by the first field's file and the line"
    assert {each.removeprefix("train.en#") for each in texts_of(corpus, "source")} == {str(n) for n in range(1, 41)}


def test_pairs_of_a_folder_are_those_of_one_name(tmp_path: Path) -> None:
    files = {"a/part.en": ENGLISH, "a/part.es": SPANISH, "b/part.en": capitals(ENGLISH), "b/part.es": capitals(SPANISH)}
    source = write_documents(tmp_path / "s", {**files, "README.md": b"about", "a/part.fr": b"deux\n"})
    assert rows_of(prepared(source, tmp_path)) == sorted(PAIRS + CAPITALS)
    preparation = planned(tmp_path, "s")
    assert preparation.num_files == 4
    assert next(iter(preparation.summary())).startswith("parallel: 4 files")
    assert preparation.left.counts == {"files whose names end in no column": 2}


def test_names_of_a_glob_stay_relative_to_its_root(tmp_path: Path) -> None:
    write_documents(tmp_path / "s", {"a/train.en": ENGLISH, "a/train.es": SPANISH})
    assert "a/train.en#1" in texts_of(prepared(f"{tmp_path}/s/*/train.es", tmp_path), "text")


@pytest.mark.parametrize(
    "changed",
    [
        {"train.es.gz": gzip.compress(SPANISH)},
        {"train.en": b"\xef\xbb\xbf" + ENGLISH.replace(b"\n", b"\r\n"), "train.es": SPANISH[:-1]},
        {"train.es": SPANISH.decode().encode("utf-16")},
    ],
)
def test_each_file_is_decoded_by_itself(changed: dict[str, bytes], tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if f"{name}.gz" not in changed} | changed
    source = write_documents(tmp_path / "s", files) / "train.en"
    assert rows_of(prepared(source, tmp_path)) == sorted(PAIRS)


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    files = {"t.en": "".join(f"{i}\u2028more\x0b\x85\n" for i in range(40)), "t.es": "uno\n" * 40}
    source = write_documents(tmp_path / "s", {name: text.encode() for name, text in files.items()})
    assert len(rows_of(prepared(source, tmp_path))) == 40


def test_a_third_file_keeps_the_lines_of_a_document_in_one_split(tmp_path: Path) -> None:
    documents = b"".join(b"%d\n" % (i // 5) for i in range(40))
    source = write_documents(tmp_path / "s", {**FILES, "train.doc": documents}) / "train.en"
    corpus = prepared(source, tmp_path, split_by="doc")
    splits = [
        {(int(name.split("#")[1]) - 1) // 5 for name in corpus.document_names(s)} for s in ("train", "validation")
    ]
    assert not splits[0] & splits[1]
    assert len(splits[0] | splits[1]) == 8


def test_a_changed_sibling_makes_another_corpus(tmp_path: Path) -> None:
    folder = write_documents(tmp_path, FILES)
    before = planned(folder, "train.en").folder
    write_documents(folder, {"train.es": SPANISH + b"\n"})
    assert planned(folder, "train.en").folder != before


def test_a_part_is_written_down_with_its_siblings(tmp_path: Path) -> None:
    (part,) = planned(write_documents(tmp_path, FILES), "train.en").parts
    assert [piece.file.name for piece in part.slices[0].siblings] == ["train.es"]
    assert Part.from_json(part.to_json()) == part


def test_one_field_is_the_lines_of_one_file(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", {"train.en": ENGLISH}) / "train.en"
    corpus = prepare_here(source, tmp_path, 0.3, format="parallel", field="en")
    assert sorted(texts_of(corpus, "text").values()) == sorted(en for en, _ in PAIRS)


def without_line(content: bytes) -> bytes:
    return content.partition(b"\n")[2]


BAD: dict[str, tuple[Callable[[bytes], bytes], str, int]] = {
    "a line too few": (without_line, r"s/train\.en: it has 40 lines and train\.es 39", 0),
    "a line too many": (lambda es: es + b"fin", r"s/train\.en: it has 40 lines and train\.es 41", 0),
    "no line": (lambda _: b"", r"s/train\.en: it has 40 lines and train\.es 0", 0),
    "an empty line": (lambda es: b"\n" + without_line(es), r"s/train\.en#1: text is empty or only white space", 39),
    "a blank line": (lambda es: "\u3000\r\n".encode() + without_line(es), r"#1: text is empty or only white space", 39),
    "no UTF-8": (lambda es: b"a\xff\n" + without_line(es), r"#1: in train\.es byte 1 \(0xff\) is no UTF-8", 39),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_paired_is_named_or_left_out(case: str, tmp_path: Path) -> None:
    change, message, num_left = BAD[case]
    files = {
        "train.es": change(SPANISH),
        "train.en": ENGLISH,
        "good.en": capitals(ENGLISH),
        "good.es": capitals(SPANISH),
    }
    source = write_documents(tmp_path / "s", files)
    with pytest.raises(OSError, match=message) as caught:
        prepared(source, tmp_path)
    assert "\n" not in str(caught.value)
    assert "--data.on_bad skip leaves it out" in str(caught.value)
    corpus = prepared(source, tmp_path, on_bad="skip")
    assert corpus.manifest.bad == 1
    assert rows_of(corpus) == sorted(CAPITALS + PAIRS[len(PAIRS) - num_left :])


def test_lines_that_are_blank_in_every_file_are_no_records(tmp_path: Path) -> None:
    files = {"t.en": b"\n" + ENGLISH + b"\n", "t.es": b" \n" + SPANISH + b"\n"}
    corpus = prepared(write_documents(tmp_path / "s", files), tmp_path)
    assert rows_of(corpus) == sorted(PAIRS)
    assert corpus.manifest.bad == 0


@pytest.mark.parametrize(
    ("sources", "given", "message"),
    [
        (("t.en",), {}, r"t\.en has no t\.es beside it \(data\.fields\.text\.column = es\); there are t\.de, t\.en$"),
        (("",), {}, r"t\.en has no t\.es beside it"),
        (("t.de",), {}, r"t\.de holds no column; names that end in \.en \(data\.fields\.source\.column\) or \.es"),
        (("t.en",), {"split_by": "doc", "fields": {"a": {"column": "en"}, "b": {"column": "de"}}},
         r"t\.en has no t\.doc beside it \(data\.split_by = doc\)"),
        (("",), {"fields": {"a": {}, "b": {}}}, r"no files there whose names end in \.a \(data\.fields\.a\.column\) or \.b"),
        (("t.en",), {"fields": {"source": {"column": "en", "tokenizer": "rgb"}, "text": {"column": "de"}}},
         r"data\.fields\.source\.tokenizer = rgb, .* takes no parallel file"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_is_one_line_before_ray(
    sources: tuple[str, ...], given: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = write_documents(tmp_path, {"t.en": ENGLISH, "t.de": SPANISH})
    with pytest.raises(ConfigError, match=message) as caught:
        planned(folder, *sources, **given)
    assert "\n" not in str(caught.value)


def test_a_file_of_a_folder_without_its_sibling_is_left_where_what_is_bad_is_skipped(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "s", {**FILES, "lone.en": b"alone\n"})
    preparation = planned(tmp_path, "s", on_bad="skip")
    assert preparation.left.names == {"files without their siblings": ["lone.en"]}
    assert rows_of(prepared(folder, tmp_path, on_bad="skip")) == sorted(PAIRS)


def test_a_column_for_each_source(tmp_path: Path) -> None:
    write_documents(tmp_path, {**FILES, "more.fr": b"une pomme\n" * 9, "more.es": b"una manzana\n" * 9})
    fields = {"source": {"column": "en,fr"}, "text": {"column": "es"}}
    sources = (f"{tmp_path}/train.en", f"{tmp_path}/more.es")
    corpus = prepared("", tmp_path, sources=sources, fields=fields)
    assert rows_of(corpus) == sorted([*PAIRS, *[("une pomme", "una manzana")] * 9])
