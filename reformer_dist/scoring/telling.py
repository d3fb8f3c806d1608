"""What an evaluation found, as tables for the terminal, as CSV and as a run of MLflow."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table

from reformer_dist import checkpoints
from reformer_dist.reports.scores import scores_picture
from reformer_dist.scoring.results import Evaluation, Share
from reformer_dist.tracking import runs

KIND = "evaluation"
"""Of the run in MLflow."""


def tables(found: Evaluation) -> Group:
    """The figures; then, where there is more than one, those by settings, by context and by source."""
    scores = found.scores
    groups = [
        ("attention", [Share(name, each.num_tokens, each.metrics) for name, each in found.settings.items()]),
        (f"{found.unit}s before", scores.by_context),
        ("source", scores.by_source),
    ]
    return Group(_summary(found), *(_shares(found, title, some) for title, some in groups if len(some) > 1))


def _labels(found: Evaluation) -> dict[str, str]:
    return {"loss": f"nats a {found.unit}", "bits_per_token": f"bits a {found.unit}"}


def _summary(found: Evaluation) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row(f"{found.unit}s scored ({found.split})", f"{found.num_tokens:,}")
    table.add_row("sequences", f"{found.num_sequences:,} of {found.all_sequences:,}")
    table.add_row("told from", found.context)
    labels = _labels(found)
    for name, value in found.metrics.items():
        table.add_row(labels.get(name, name), f"{value:.4f}")
        if name == "bits_per_token" and found.scores.num_bytes != found.num_tokens:
            table.add_row("bits a byte", f"{found.scores.bits_per_byte:.4f}")
    for name, value in found.baseline.items():
        table.add_row(f"{labels.get(name, name)} of {found.baseline_name}", f"{value:.4f}")
    if (written := found.written) is not None:
        table.add_row("texts written", f"{len(written.texts):,} of {written.all_texts:,}")
        for name, value in written.figures.items():
            table.add_row(name, f"{value:.2f}")
        for name, value in written.baseline.items():
            table.add_row(f"{name} of {written.baseline_name}", f"{value:.2f}")
        for name, signature in written.signatures.items():
            table.add_row(f"{name}'s signature", signature)
    return table


def _shares(found: Evaluation, title: str, shares: Sequence[Share]) -> Table:
    labels = _labels(found)
    table = Table(title, f"{found.unit}s", *(labels.get(name, name) for name in shares[0].metrics))
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for share in shares:
        table.add_row(share.name, f"{share.num_tokens:,}", *(f"{value:.4f}" for value in share.metrics.values()))
    return table


def rows(found: Evaluation) -> Iterator[tuple[str, str, Share]]:
    """Every figure: setting of attention, what is told apart (all, context, source), and the share."""
    for name, scores in found.settings.items():
        yield name, "all", Share("all", scores.num_tokens, scores.metrics)
        yield from ((name, "context", share) for share in scores.by_context)
        yield from ((name, "source", share) for share in scores.by_source)


def to_csv(found: Evaluation) -> str:
    """`rows` as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["attention", "by", "name", "tokens", *found.metrics])
    for setting, by, share in rows(found):
        writer.writerow([setting, by, share.name, share.num_tokens, *share.metrics.values()])
    return text.getvalue()


def record(found: Evaluation) -> str:
    """Keep all of it in MLflow, as a child of the training's run; returns how to look at it.

    Metrics are `SPLIT/NAME` for the model as it is configured, `SPLIT/SETTING/NAME` for others, `SPLIT/SOURCE/NAME`, at the
    checkpoint's step. The table is scores.csv, the picture scores.png.
    """
    state = checkpoints.read_state(found.checkpoint)
    train = found.config.train
    config = found.config.model_copy(
        update={"train": train.model_copy(update={"run_name": f"{train.run_name} evaluated"})}
    )
    with runs.open_experiment(config).start(config, parent_run=state.run_id, kind=KIND) as run:
        run.log(state.step, _metrics(found))
        run.log_text("scores.csv", to_csv(found))
        if found.written is not None:
            run.log_table("texts.json", found.written.columns)
        baseline = (found.baseline_name, found.baseline["bits_per_token"]) if found.baseline else None
        bits = "bits_per_token"
        picture = scores_picture(
            {
                name: {share.name: share.metrics[bits] for share in each.by_context}
                for name, each in found.settings.items()
            },
            {name: each.metrics[bits] for name, each in found.settings.items()},
            {share.name: share.metrics[bits] for share in found.scores.by_source},
            baseline,
            found.unit,
        )
        run.log_figure("scores.png", picture)
        return run.url_hint()


def _metrics(found: Evaluation) -> dict[str, float]:
    first, *_ = found.settings
    metrics: dict[str, float] = {}
    for name, scores in found.settings.items():
        folder = found.split if name == first else f"{found.split}/{name}"
        values = {**scores.metrics, "bits_per_byte": scores.bits_per_byte}
        metrics |= {f"{folder}/{metric}": value for metric, value in values.items()}
    if found.written is not None:
        metrics |= {f"{found.split}/{name}": value for name, value in found.written.figures.items()}
        metrics |= {f"baseline/{name}": value for name, value in found.written.baseline.items()}
    for share in found.scores.by_source:
        folder = f"{found.split}/{_plain(share.name)}"
        metrics |= {f"{folder}/{metric}": value for metric, value in share.metrics.items()}
    return metrics


def _plain(name: str) -> str:
    """A name in the letters that MLflow allows."""
    return re.sub(r"[^\w\-. ]", "_", name)
