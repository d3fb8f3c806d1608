"""What a finished training keeps beside its metrics: the configuration, pictures and a sample."""

import torch

from reformer_dist import checkpoints
from reformer_dist.config import Config
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.generation import generate
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.objectives.choice import make_objective
from reformer_dist.scoring.texts.writing import write_and_score
from reformer_dist.tracking import runs
from reformer_dist.training.meter import in_split


def keep_results(config: Config, corpus: Corpus, run: runs.Run, path: str) -> None:
    """Log the artifacts of a run whose last checkpoint is at `path`; a sample only of a model that can continue a text."""
    from reformer_dist.reports.hash_health import LAYER, health_picture
    from reformer_dist.reports.learning_curve import learning_curve

    objective = make_objective(config.objective)
    curve = learning_curve(
        run.history("train/bits_per_token"),
        run.history("validation/bits_per_token"),
        (objective.baseline_name, objective.baseline(corpus, "validation")["bits_per_token"]),
        config.train.batch_size * config.data.sequence_length,
        objective.unit(corpus.tokenizer_of().unit),
    )
    run.log_figure("learning_curve.png", curve)
    if layers := [name for name in run.last_metrics() if LAYER.match(name)]:
        run.log_figure("hash_health.png", health_picture({name: run.history(name) for name in layers}))
    run.log_text("config.yaml", checkpoints.to_yaml(config))
    num_tokens = min(config.tracking.sample_tokens, config.model.max_length - 2)
    if num_tokens and objective.continues and config.model.causal and config.model.lsh_mode == "window":
        run.log_text("sample.txt", sample(path, num_tokens))
    if config.evaluation.text_scores:
        _keep_texts(config, corpus, run, path)


def _keep_texts(config: Config, corpus: Corpus, run: runs.Run, path: str) -> None:
    """Write from held-out sources, and keep the texts, their scores and the baseline's."""
    model, _, tokenizer = checkpoints.read_model(path)
    assert isinstance(model, EncoderDecoder), "preflight lets no other model pass"
    found = write_and_score(config, model, tokenizer, corpus, "validation")
    run.log(config.train.steps, in_split("validation", dict(found.figures)))
    if run.last_step(f"baseline/{config.evaluation.text_scores[0]}") < 0:
        run.log(0, in_split("baseline", dict(found.baseline)))
    run.log_table("texts.json", found.columns)
    print(found.told("validation"))


def sample(path: str, num_tokens: int) -> str:
    """Text that a checkpoint's model writes from nothing but the start of a document, with an empty prefix."""
    model, config, tokenizer = checkpoints.read_language_model(path)
    num_boundaries = 1 if make_objective(config.objective).others.lead is None else 2
    start_T = torch.tensor([tokenizer.boundary] * num_boundaries)
    tokens_T = generate(model, start_T, num_tokens, temperature=0.8, top_p=0.95, num_symbols=tokenizer.vocab_size)
    return tokenizer.decode(tokens_T[num_boundaries:].tolist())
