"""Export a trained model as one folder: weights (safetensors), settings, tokenizer and a model card.

By default the newest checkpoint of train.run_name under train.storage. `load_model(FOLDER)` reads it, and every job takes it
as a checkpoint. --export.register_as NAME puts it into MLflow's registry, from where `mlflow models serve` serves it.
"""

from reformer_dist.checkpoints import read_state, resolve
from reformer_dist.cli import run_job
from reformer_dist.config import Config
from reformer_dist.exporting.folder import export, export_to_huggingface, folder_of
from reformer_dist.exporting.served import check_servable, register
from reformer_dist.tracking.place import tracking_uri


def main(config: Config) -> None:
    """Write the folder and say where it is."""
    options = config.export
    checkpoint = resolve(options.checkpoint, config.train.storage, config.train.run_name)
    output = folder_of(config, checkpoint)
    if options.format == "huggingface":
        export_to_huggingface(checkpoint, output)
        print(output)
        return
    if options.register_as is not None:
        check_servable(read_state(checkpoint).config.model, output)
    state = export(checkpoint, output, options.name or config.train.run_name, options.license)
    print(output)
    if options.register_as is not None:
        address = register(config, state, output)
        print(
            f"{address}; to serve it: MLFLOW_TRACKING_URI={tracking_uri(config)} mlflow models serve -m {address}"
            " --env-manager local"
        )


if __name__ == "__main__":
    run_job(main, __doc__)
