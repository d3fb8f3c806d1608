"""Train a Reformer: prepare the corpus if need be, run the workers, keep metrics in MLflow and checkpoints in storage."""

from collections.abc import Sequence

from reformer_dist.cli import run_job
from reformer_dist.config import Config


def main(config: Config) -> None:
    """Train and print where everything is."""
    from reformer_dist.training.launcher import launch

    result = launch(config)
    print(f"checkpoint: {result.checkpoint}")
    print(f"MLflow run {result.run_id} of {result.tracking_uri}")
    print(f"look at it: {result.url_hint}")


def further(config: Config, right: frozenset[str]) -> Sequence[str]:
    """What else is wrong, for a configuration of which only some parts are right."""
    from reformer_dist.planning.preflight import mistakes_before_ray

    return mistakes_before_ray(config, right)


if __name__ == "__main__":
    run_job(main, __doc__, further)
