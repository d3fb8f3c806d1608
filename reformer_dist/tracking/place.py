"""Where MLflow keeps the runs: a configuration or a command line in, a tracking URI out. MLflow itself is not needed."""

import argparse
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from reformer_dist.config import Config, load_config
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store

CONNECT_SECONDS = 5.0
_ADDRESS = re.compile(r"[\w.-]+:\d+(/.*)?")


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
    """Fail within seconds for a place that MLflow cannot use.

    Raises:
        ConfigError: no URI that means a server or a database, a server that does not answer, a database that cannot be
            written.
    """
    if _ADDRESS.fullmatch(uri):
        raise ConfigError(f"tracking.uri = {uri} does not say how it is spoken to; http://{uri} works")
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        raise ConfigError(
            f"tracking.uri = {uri} is a folder, where MLflow keeps no runs any more; sqlite:///mlflow.db works, or a server"
        )
    if parts.scheme == "sqlite":
        _check_database(uri)
    if parts.scheme not in ("http", "https"):
        return
    try:
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    except ValueError as error:
        raise ConfigError(f"tracking.uri = {uri}: {error}; http://localhost:5000 works") from None
    try:
        socket.create_connection(address, timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"tracking.uri = {uri} does not answer ({error}); start it, or leave tracking.uri out for an SQLite file"
        ) from None


def database_file(uri: str) -> Path | None:
    """The file of an SQLite database that lies on this machine, None for other places."""
    path = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(path) if uri.startswith("sqlite:///") and path not in ("", ":memory:") else None


def _check_database(uri: str) -> None:
    file = database_file(uri)
    if file is None:
        raise ConfigError(f"tracking.uri = {uri} names no file; sqlite:///mlflow.db works, or sqlite:////tmp/mlflow.db")
    if file.is_dir():
        raise ConfigError(f"tracking.uri = {uri} is a folder; sqlite:///{file / 'mlflow.db'} works")
    folder = next(place for place in file.absolute().parents if place.exists())
    for place in (file, folder) if file.exists() else (folder,):
        if not os.access(place, os.W_OK):
            raise ConfigError(f"tracking.uri = {uri}: {place} cannot be written; sqlite:////tmp/mlflow.db works")


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
