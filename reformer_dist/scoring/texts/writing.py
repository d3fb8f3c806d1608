"""What a model writes from held-out sources, scored against the texts of their records, beside a trivial baseline.

In: an encoder-decoder, a corpus with sources, the evaluation and generation sections. Out: figures by name, the baseline's
of the same names, and the texts themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reformer_dist.config import Config
from reformer_dist.config.sections.data import SOURCE, TEXT
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import ScopeName
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.generation.translating import search_of, written
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.scoring.texts.choice import BASELINES, TEXT_SCORES

Progress = Callable[[int, int], None]
"""Takes the number of texts written, and of all that will be."""


@dataclass(frozen=True)
class WrittenText:
    """What was written from one source."""

    name: str
    """Of the document."""
    source: str
    reference: str
    """The text of the record."""
    text: str
    """What the model wrote."""


@dataclass(frozen=True)
class WrittenTexts:
    """Texts and their scores.

    Attributes:
        texts: what was written.
        all_texts: documents of the split.
        figures: by name, from 0 to 100.
        baseline: of the baseline's texts, by the same names; empty without one.
        baseline_name: as in `evaluation.text_baseline`.
        signatures: what a paper must say of the settings of a score, by its name.
    """

    texts: Sequence[WrittenText]
    all_texts: int
    figures: Mapping[str, float]
    baseline: Mapping[str, float]
    baseline_name: str | None
    signatures: Mapping[str, str]

    def told(self, split: str) -> str:
        """The figures in a line."""
        ours = ", ".join(f"{name} {value:.1f}" for name, value in self.figures.items())
        others = ", ".join(f"{name} {value:.1f}" for name, value in self.baseline.items())
        beside = f"; {self.baseline_name}: {others}" if others else ""
        return f"{len(self.texts):,} of {self.all_texts:,} texts written ({split}): {ours}{beside}"

    @property
    def columns(self) -> dict[str, list[str]]:
        """The texts as a table."""
        names = ("name", "source", "reference", "text")
        return {name: [getattr(text, name) for text in self.texts] for name in names}


def write_and_score(
    config: Config,
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    corpus: Corpus,
    split: ScopeName,
    progress: Progress = lambda done, total: None,
) -> WrittenTexts:
    """Write from sources of a split, evenly spread, and score what `evaluation.text_scores` names.

    Sources that are longer than the model reads are left out.
    """
    options, most = config.evaluation, model.encoder.config.max_length
    names, lengths = corpus.document_names(split), corpus.document_lengths(split, SOURCE)
    fitting = [index for index in range(len(names)) if lengths[index] + 1 <= most]
    number = min(len(fitting), options.max_texts)
    chosen = [fitting[index * len(fitting) // number] for index in range(number)]
    sources, references = (list(_texts(corpus, split, field, chosen)) for field in (SOURCE, TEXT))
    texts = []
    for text in written(
        model, tokenizer, sources, search_of(config.generation, tokenizer.vocab_size), config.generation.batch_size
    ):
        texts.append(text)
        progress(len(texts), number)
    scored = [TEXT_SCORES[name].score(texts, [[each] for each in references]) for name in options.text_scores]
    baseline: dict[str, float] = {}
    if options.text_baseline is not None:
        every = range(len(corpus.document_names("train")))
        ours = BASELINES[options.text_baseline](sources, list(_texts(corpus, "train", TEXT, every)))
        for name in options.text_scores:
            baseline |= TEXT_SCORES[name].score(ours, [[each] for each in references]).figures
    rows = zip([names[index] for index in chosen], sources, references, texts, strict=True)
    return WrittenTexts(
        texts=[WrittenText(*row) for row in rows],
        all_texts=len(names),
        figures={name: value for each in scored for name, value in each.figures.items()},
        baseline=baseline,
        baseline_name=options.text_baseline,
        signatures={
            name: each.signature for name, each in zip(options.text_scores, scored, strict=True) if each.signature
        },
    )


def _texts(corpus: Corpus, split: ScopeName, field: str, documents: Sequence[int]) -> Iterator[str]:
    """A field of some documents of a split."""
    starts, lengths = corpus.document_starts(split, field), corpus.document_lengths(split, field)
    tokenizer = corpus.tokenizer_of(field)
    for document in documents:
        start = int(starts[document])
        yield tokenizer.decode(corpus.read(start, start + int(lengths[document]), field).tolist())
