"""Score a checkpoint on held-out documents: the metrics of its objective, such as bits a token, beside a baseline's.

By default the newest checkpoint of train.run_name under train.storage, on what its training held out.
"""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from reformer_dist.cli import run_job
from reformer_dist.config import Config
from reformer_dist.scoring.evaluation import Evaluation, evaluate


def main(config: Config) -> None:
    """Evaluate and print the figures."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    columns = (TextColumn("sequences"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        result = evaluate(config, lambda done, total: bar.update(task, completed=done, total=total))
    console.print(_table(result))
    print(f"checkpoint: {result.checkpoint}")
    print(f"corpus: {result.corpus}")


def _table(result: Evaluation) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row(f"{result.unit}s scored ({result.split})", f"{result.num_tokens:,}")
    table.add_row("sequences", f"{result.num_sequences:,} of {result.all_sequences:,}")
    labels = {"loss": f"nats a {result.unit}", "bits_per_token": f"bits a {result.unit}"}
    for name, value in result.metrics.items():
        table.add_row(labels.get(name, name), f"{value:.4f}")
    for name, value in result.baseline.items():
        table.add_row(f"{labels.get(name, name)} of {result.baseline_name}", f"{value:.4f}")
    return table


if __name__ == "__main__":
    run_job(main, __doc__)
