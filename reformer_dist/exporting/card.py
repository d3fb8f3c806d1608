"""A model card: what a checkpoint is, what it came to and what it was trained on, in huggingface_hub's form."""

from collections.abc import Mapping
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from reformer_dist.checkpoints import State
from reformer_dist.config import Config, ModelConfig
from reformer_dist.version import __version__

_TEXT = """
# {name}

A Reformer (Kitaev et al. 2020, arXiv 2001.04451) of reformer_dist {version}: {layers}, width {width},
{heads} heads, {parameters:,} weights; it {use} ({tokenizer}).

## Use

```python
from reformer_dist import {imports}

model = load_model("{folder}")
{example}
```

`python jobs/evaluate.py --evaluation.checkpoint {folder} --data.sources FILE --evaluation.split all` scores it on a
file{file}.

## Training

{steps:,} steps of {tokens} with the objective `{objective}`, in `{dtype}`, on the corpus with the content hash
`{corpus}` ({sources}). All settings are in `config.yaml`, all figures on the
way in `metrics.jsonl`, and MLflow has the run as `{run}`.

## Figures

{figures}

Of documents that were held out; loss is in nats. Nothing else was measured: how it does elsewhere, and what it must not be
used for, whoever trained it has to add here.
"""
_MEASURED = ("validation/loss", "validation/bits_per_token", "validation/accuracy")


def model_card(
    state: State, metrics: Mapping[str, float], num_parameters: int, name: str, license: str, folder: str
) -> str:
    """The card as Markdown with its metadata in front.

    Args:
        state: of the checkpoint.
        metrics: the last value of each metric.
        num_parameters: weights of the model.
        name: of the model.
        license: as Hugging Face calls it.
        folder: where the model lies, or is to lie.
    """
    config = state.config
    words = _words(config.model)
    measured = {metric: metrics[metric] for metric in _MEASURED if metric in metrics}
    data = ModelCardData(
        license=license,
        library_name="reformer_dist",
        pipeline_tag=words.task,
        tags=["reformer", "lsh-attention", "reversible", "long-context"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=words.task,
                dataset_type="held-out",
                dataset_name=f"corpus {state.corpus_hash}",
                dataset_split="validation",
                metric_type=metric.partition("/")[2],
                metric_value=value,
            )
            for metric, value in measured.items()
        ]
        or None,
    )
    lines = [f"| `{key}` | {value:.4f} |" for key, value in measured.items()]
    text = _TEXT.format(
        name=name,
        version=__version__,
        layers=words.layers,
        width=config.model.embed_dim,
        heads=config.model.num_heads,
        parameters=num_parameters,
        use=words.use,
        tokenizer=state.tokenizer,
        folder=folder,
        imports="generate, load_model" if "generate" in words.example else "load_model",
        example=words.example,
        file=words.file,
        steps=state.step,
        tokens=_tokens(config),
        objective=config.objective.name,
        dtype=config.train.dtype,
        corpus=state.corpus_hash,
        sources=", ".join(config.data.sources) or config.data.prepared,
        run=state.run_id,
        figures="\n".join(["| metric | value |", "|---|---|", *lines]) if lines else "None were logged.",
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))


class _Words(NamedTuple):
    """What a card says of a model."""

    task: str
    """As Hugging Face calls it."""
    layers: str
    """How many of which kinds."""
    use: str
    """What it does with which sequences."""
    example: str
    """A line of Python that uses it."""
    file: str = ""
    """What a file must have that it can be scored on."""


def _words(model: ModelConfig) -> _Words:
    layers, length = _layers(model.layers), f"sequences of up to {model.max_length:,} tokens"
    if model.encoder_layers:
        return _Words(
            "text2text-generation",
            f"an encoder of {_layers(model.encoder_layers)}, a decoder of {layers} with {model.cross_attention}"
            " cross-attention",
            f"reads sources of up to {model.encoder.max_length:,} tokens and writes {length}",
            "logits = model(source, tokens)  # [B, T, V] of [B, S] and [B, T]",
            " of sources and texts",
        )
    if model.causal:
        return _Words(
            "text-generation", layers, f"continues {length}", 'print(generate(model, "Once", num_tokens=100))'
        )
    return _Words("fill-mask", layers, f"reads from both sides {length}", "logits = model(tokens)  # [B, T, V]")


def _tokens(config: Config) -> str:
    """Tokens of a step."""
    rows, data = config.train.batch_size, config.data
    of_sources = f" and {rows * data.longest_source:,} of sources" if config.model.encoder_layers else ""
    return f"{rows * data.sequence_length:,} tokens{of_sources}"


def _layers(kinds: tuple[str, ...]) -> str:
    return f"{len(kinds)} layers ({', '.join(dict.fromkeys(kinds))})"
