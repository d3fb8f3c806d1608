"""Continue a prompt with a trained model: python jobs/generate.py --config FILE --generation.prompt TEXT."""

import sys

import torch

from reformer_dist.checkpoints import read_model, resolve
from reformer_dist.cli import run_job
from reformer_dist.config import Config
from reformer_dist.errors import ConfigError
from reformer_dist.generation.sampling import stream
from reformer_dist.generation.text import TextStream


def main(config: Config) -> None:
    """Print the prompt and, token by token, its continuation."""
    options = config.generation
    path = resolve(options.checkpoint, config.train.storage, config.train.run_name)
    model, _, tokenizer = read_model(path)
    try:
        ids = tokenizer.encode(options.prompt)
    except ValueError as error:
        raise ConfigError(f"generation.prompt = {options.prompt!r}: {error}") from None
    prompt = torch.tensor([[tokenizer.boundary, *ids]], dtype=torch.int64)
    sampling = (options.temperature, options.top_k, options.top_p, options.seed, tokenizer.vocab_size)
    try:
        steps = stream(model.eval(), prompt, options.num_tokens, *sampling)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    print(f"{path}, seed {options.seed}", file=sys.stderr)
    print(options.prompt, end="", flush=True)
    text = TextStream(tokenizer.decode, prompt[0].tolist())
    for tokens in steps:
        print(text.take(int(tokens)), end="", flush=True)
    print(text.rest())


if __name__ == "__main__":
    run_job(main, __doc__)
