"""Cluster files that agree with the project: Ray's schema, versions, GPUs, commands that parse, and nothing open but ssh."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from reformer_dist import Config, __version__, load_config
from reformer_dist.config import parse_command_line

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER_FILES = ("aws.yaml", "gcp.yaml")
KUBERNETES_FILES = ("rayjob.yaml", "raycluster.yaml")


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def training() -> Config:
    return load_config(ROOT / "jobs/configs/cluster.yaml")


def ray_version() -> str:
    (version,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


def ray_cluster(name: str) -> Any:
    document = read(name)
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


def commands(text: str) -> list[list[str]]:
    """Arguments of every job in a text; a command goes on over lines that end in a backslash."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(r"python \S*jobs/.*", joined)]


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_files_pass_rays_schema_and_hold_a_training(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    (worker,) = (node for key, node in config["available_node_types"].items() if key != config["head_node_type"])
    assert worker["resources"]["GPU"] * worker["min_workers"] == training().train.workers
    assert worker["min_workers"] <= worker["max_workers"] <= config["max_workers"]
    assert "spot" in str(worker["node_config"]).lower()
    assert all(image.startswith(f"rayproject/ray:{ray_version()}-py311") for image in images(config["docker"]))
    (install,) = config["setup_commands"]
    assert (
        install.split().count(
            f"https://raw.githubusercontent.com/CHANGE_ME/reformer_dist/v{__version__}/constraints.txt"
        )
        == 1
    )
    assert install.endswith(f"/v{__version__}.tar.gz")


def images(docker: dict[str, Any]) -> list[str]:
    return [value for key, value in docker.items() if key.endswith("image")]


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_files_open_nothing_but_ssh(name: str) -> None:
    config = prepare_config(read(name))
    assert "security_group" not in config["provider"]
    assert not config["file_mounts"]
    starts = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts
    assert "0.0.0.0" not in (CLUSTER / name).read_text()


@pytest.mark.parametrize("name", KUBERNETES_FILES)
def test_kubernetes_files_hold_a_training(name: str) -> None:
    document = read(name)
    assert document["apiVersion"] == "ray.io/v1"
    spec = ray_cluster(name)
    assert spec["rayVersion"] == ray_version()
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["authOptions"] == {"mode": "token"}
    (group,) = spec["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    (worker,) = group["template"]["spec"]["containers"]
    gpus = int(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert gpus * group["minReplicas"] == training().train.workers
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["image"] == worker["image"] == f"registry.example.com/reformer-dist:{__version__}"


def test_both_kubernetes_files_describe_the_same_cluster() -> None:
    assert ray_cluster("rayjob.yaml") == ray_cluster("raycluster.yaml")


def test_the_jobs_command_is_one_of_ours() -> None:
    _, script, *arguments = shlex.split(read("rayjob.yaml")["spec"]["entrypoint"])
    home = re.search(r"^WORKDIR (\S+)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert home is not None
    inside = [argument.replace(home.group(1), str(ROOT)) for argument in arguments]
    config = parse_command_line("", inside)
    assert Path(script.replace(home.group(1), str(ROOT))).is_file()
    assert config.train.workers == training().train.workers
    assert config.train.storage.startswith("s3://")
    assert config.tracking.uri is not None


def test_the_image_has_the_tested_versions() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray_version()}-py311-gpu" in text
    assert f"reformer-dist:{__version__} ." in text
    kept = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = {name for line in re.findall(r"^COPY --\S+ (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert kept == copied == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "reformer_dist", "jobs"}


@pytest.mark.parametrize("page", ["docs/running_on_a_cluster.md", "cluster/README.md"])
def test_documented_commands_parse(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for _, script, *arguments in commands((ROOT / page).read_text()):
        assert Path(script).is_file()
        parse_command_line("", arguments)
