"""The least that a training can be: a model, its loss, its gradient and an optimizer, in one process.

In: a configuration of one worker whose corpus is prepared. Out: tokens a second.

No Ray, no DeepSpeed, no checkpoints, and batches that were read before.
"""

import time
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch

from reformer_dist.config import load_config
from reformer_dist.data.feeding.loader import training_batches
from reformer_dist.model.choice import make_model
from reformer_dist.objectives.choice import make_objective
from reformer_dist.planning.preflight import Preflight

STEPS_BEFORE = 4
"""Not timed: they load code and start threads."""


def bare_tokens_per_second(values: dict[str, Any]) -> float:
    """The median over stretches of `train.log_every` steps, measured in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return float(median(pool.apply(speeds, (values,))))


def speeds(values: dict[str, Any]) -> list[float]:
    """Tokens a second of each stretch of `train.log_every` steps, but for the first ones."""
    preflight = Preflight(load_config(None, values))
    corpus, config = preflight.before_ray().run(), preflight.config
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
    objective = make_objective(config.objective)
    steps = list(training_batches(corpus, config, objective, 0, 0))
    model = make_model(config.model)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay
    )
    found, num_read, since = [], 0, 0.0
    for step, batches in enumerate(steps):
        if step >= STEPS_BEFORE and (step - STEPS_BEFORE) % config.train.log_every == 0:
            now = time.perf_counter()
            found.append(num_read / (now - since))
            num_read, since = 0, now
        count = sum(batch.num_tokens for batch in batches)
        for batch in batches:
            (objective.loss(model, batch, step) / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        num_read += sum(batch.num_read for batch in batches)
    return found[1:]
