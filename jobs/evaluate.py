"""Score a checkpoint on held-out documents: the metrics of its objective, such as bits a token, beside a baseline's.

By default the newest checkpoint of train.run_name under train.storage, on what its training held out. A file that it never
saw: --data.sources FILE --evaluation.split all. More rounds of hashing, in the same weights: --evaluation.rounds 1,2,4,8,16.
What is found is printed and kept in MLflow beside the training.
"""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reformer_dist.cli import run_job
from reformer_dist.config import Config
from reformer_dist.scoring.evaluation import evaluate
from reformer_dist.scoring.telling import record, tables


def main(config: Config) -> None:
    """Evaluate and print the figures."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    columns = (TextColumn("sequences"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        result = evaluate(config, lambda done, total: bar.update(task, completed=done, total=total))
    console.print(tables(result))
    print(f"checkpoint: {result.checkpoint}")
    print(f"corpus: {result.corpus}")
    if config.evaluation.track:
        print(f"look at it: {record(result)}")


if __name__ == "__main__":
    run_job(main, __doc__)
