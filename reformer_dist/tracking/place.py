"""Where MLflow keeps the runs: a configuration or a command line in, a tracking URI out. MLflow itself is not needed."""

import argparse
import socket
from urllib.parse import urlsplit

from reformer_dist.config import Config, load_config
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store

CONNECT_SECONDS = 5.0


def tracking_uri(config: Config) -> str:
    """Where the runs are kept: `tracking.uri`, or an SQLite file under `train.storage`.

    Raises:
        ConfigError: neither is possible, since SQLite needs a local folder.
    """
    if config.tracking.uri is not None:
        return config.tracking.uri
    store = open_store(config.train.storage)
    if not store.is_local:
        raise ConfigError(
            f"tracking.uri is not given and an SQLite file cannot lie at train.storage = {config.train.storage};"
            " a server such as http://localhost:5000 works, or a file of this machine: sqlite:////tmp/mlflow.db"
        )
    return f"sqlite:///{store.child('mlflow.db')}"


def check_reachable(uri: str) -> None:
    """Fail within seconds when a tracking server does not answer.

    Raises:
        ConfigError: nothing listens at the server's address.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(address, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"tracking.uri = {uri} does not answer ({error}); start it, or leave tracking.uri out for an SQLite file"
        ) from None


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line say where runs are."""
    parser.add_argument("--experiment", default="reformer_dist", help="MLflow experiment (%(default)s)")
    parser.add_argument("--uri", help="MLflow's tracking URI (an SQLite file under --storage)")
    parser.add_argument("--storage", default="runs", help="train.storage of the runs (%(default)s)")


def place_of(arguments: argparse.Namespace) -> tuple[str, str]:
    """Tracking URI and experiment of a command line with those options."""
    overrides = {"train.storage": arguments.storage, "tracking.experiment": arguments.experiment}
    if arguments.uri:
        overrides["tracking.uri"] = arguments.uri
    config = load_config(None, overrides)
    return tracking_uri(config), config.tracking.experiment
