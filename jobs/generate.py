"""Continue a prompt with a trained model: python jobs/generate.py --config FILE --generation.prompt TEXT."""

import sys

import torch

from reformer_dist.checkpoints import read_model, resolve
from reformer_dist.cli import run_job
from reformer_dist.config import Config
from reformer_dist.errors import ConfigError
from reformer_dist.generation.sampling import stream


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
    sampling = (options.temperature, options.top_k, options.top_p, options.seed)
    print(f"{path}, seed {options.seed}", file=sys.stderr)
    print(options.prompt, end="", flush=True)
    try:
        for tokens in stream(model.eval(), prompt, options.num_tokens, *sampling):
            print(tokenizer.decode(tokens.numpy()), end="", flush=True)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    print()


if __name__ == "__main__":
    run_job(main, __doc__)
