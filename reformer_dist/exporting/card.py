"""A model card: what a checkpoint is, what it came to and what it was trained on, in huggingface_hub's form."""

from collections.abc import Mapping

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from reformer_dist.checkpoints import State
from reformer_dist.version import __version__

_TEXT = """
# {name}

A Reformer (Kitaev et al. 2020, arXiv 2001.04451) of reformer_dist {version}: {layers} layers ({kinds}), width {width},
{heads} heads, {parameters:,} weights; it {use} sequences of up to {max_length:,} tokens ({tokenizer}).

## Use

```python
from reformer_dist import generate, load_model

model = load_model("{folder}")
{example}
```

`python jobs/evaluate.py --evaluation.checkpoint {folder} --data.sources FILE --evaluation.split all` scores it on a file.

## Training

{steps:,} steps of {tokens:,} tokens with the objective `{objective}`, in `{dtype}`, on the corpus with the content hash
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
    model, causal = config.model, config.model.causal
    measured = {metric: metrics[metric] for metric in _MEASURED if metric in metrics}
    task = "text-generation" if causal else "fill-mask"
    data = ModelCardData(
        license=license,
        library_name="reformer_dist",
        pipeline_tag=task,
        tags=["reformer", "lsh-attention", "reversible", "long-context"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task,
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
        layers=len(model.layers),
        kinds=", ".join(dict.fromkeys(model.layers)),
        width=model.embed_dim,
        heads=model.num_heads,
        parameters=num_parameters,
        use="continues" if causal else "reads from both sides",
        max_length=model.max_length,
        tokenizer=state.tokenizer,
        folder=folder,
        example='print(generate(model, "Once", num_tokens=100))' if causal else "logits = model(tokens)  # [B, T, V]",
        steps=state.step,
        tokens=config.train.batch_size * config.data.sequence_length,
        objective=config.objective.name,
        dtype=config.train.dtype,
        corpus=state.corpus_hash,
        sources=", ".join(config.data.sources) or config.data.prepared,
        run=state.run_id,
        figures="\n".join(["| metric | value |", "|---|---|", *lines]) if lines else "None were logged.",
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))
