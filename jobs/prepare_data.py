"""Prepare a corpus: read documents, tokenise them, and write Parquet files and a manifest for training.

Prepares what `data.sources` names under `train.storage`, or verifies it when it is there already.
"""

import time

from reformer_dist.cli import run_job
from reformer_dist.config import Config
from reformer_dist.data.feeding.fields import split_summary
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.planning.places import check_storage
from reformer_dist.ray_session import ray_session

SHOWN = 5
"""Bad documents that are printed; the manifest names more."""


def main(config: Config, dry_run: bool = False) -> None:
    """Prepare the corpus and print where it is and what it holds; with `dry_run` print what would be read and stop."""
    preparation = plan_preparation(config.data, config.train.storage)
    if dry_run:
        print(*preparation.summary(), sep="\n")
        return
    if preparation.is_done:
        corpus = preparation.run()
    else:
        check_storage(config.train.storage)
        with ray_session():
            start = time.perf_counter()
            corpus = preparation.run()
            seconds = time.perf_counter() - start
        megabytes = preparation.num_bytes / 1e6
        print(f"prepared {megabytes:.1f} MB in {seconds:.1f} s, {megabytes / seconds:.1f} MB/s")
    print(f"corpus: {corpus.folder}")
    manifest = corpus.manifest
    if manifest.binary or manifest.bad:
        print(f"left out: {manifest.binary:,} binary files, {manifest.bad:,} bad documents")
        print(*(f"  {problem}" for problem in manifest.problems[:SHOWN]), sep="\n")
    for split in SPLITS:
        if manifest.split(split, corpus.fields[0]).documents:
            print(*split_summary(corpus, split, config.data), sep="\n")


if __name__ == "__main__":
    run_job(main, __doc__, switches={"dry_run": "list what would be read, by kind and size, and what would be left"})
