"""Train a Reformer: prepare the corpus if need be, run the workers, keep metrics in MLflow and checkpoints in storage."""

from reformer_dist.cli import run_job
from reformer_dist.config import Config


def main(config: Config) -> None:
    """Train and print where everything is."""
    from reformer_dist.training.launcher import launch

    result = launch(config)
    print(f"checkpoint: {result.checkpoint}")
    print(f"MLflow run {result.run_id} of {result.tracking_uri}")
    print(f"look at it: {result.url_hint}")


if __name__ == "__main__":
    run_job(main, __doc__)
