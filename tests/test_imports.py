"""The house's rules of import: layers point one way, and each large library stays behind one file, or few."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "reformer_dist"
FILES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
LAYERS = (
    ("errors", "version"),
    ("config", "ray_session"),
    ("cli", "storage"),
    ("data", "model"),
    ("parallel", "objectives", "tracking"),
    ("generation",),
    ("checkpoints", "reports"),
    ("planning",),
    ("scoring",),
    ("training", "compression", "exporting"),
    ("tuning", "benchmarks"),
    ("jobs",),
)
"""A module imports its own name in this table and names of lines above it, never one beside or below it."""
HOMES: dict[str, tuple[str, ...]] = {
    "deepspeed": ("reformer_dist/training/engine/deepspeed_setup.py",),
    "mlflow": (
        "reformer_dist/tracking/client.py",
        "reformer_dist/tracking/registry.py",
    ),
    "ray.train": ("reformer_dist/training/ray_train/trainer.py", "reformer_dist/training/ray_train/controller.py"),
    "optuna": ("reformer_dist/tuning/search.py",),
    "constriction": ("reformer_dist/compression/coding.py",),
    "ray.tune": ("reformer_dist/tuning/ray_tune.py",),
    "rouge_score": ("reformer_dist/scoring/texts/summaries.py",),
    "sacrebleu": ("reformer_dist/scoring/texts/translations.py",),
}
ALLOWED = {
    "reformer_dist/model/": ("torch", "reformer_dist.config", "reformer_dist.errors", "reformer_dist.model"),
    "reformer_dist/parallel/": ("torch", "reformer_dist.config", "reformer_dist.model", "reformer_dist.parallel"),
}
EXCEPTIONS = {
    "reformer_dist/model/huggingface/weights.py": ("safetensors",),
    "reformer_dist/model/backends/triton/kernels.py": ("triton",),
}
MAX_JOB_LINES = 60


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(source: str) -> Iterator[str]:
    """Dotted names of everything that is imported anywhere in a file: "ray.tune" for `from ray import tune`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def layer_of(module: str) -> tuple[int, str]:
    """(line of LAYERS, name there) of a dotted name; what is not in the table, such as `reformer_dist.Config`, is below."""
    name = module.removeprefix(f"{PACKAGE}.").split(".")[0]
    return next((level for level, names in enumerate(LAYERS) if name in names), len(LAYERS)), name


def module_of(path: Path) -> str:
    return name_of(path).removesuffix(".py").replace("/", ".")


def is_standard(name: str) -> bool:
    return name.split(".")[0] in sys.stdlib_module_names


def wrong_direction(module: str, source: str) -> list[str]:
    level, own = layer_of(module)
    found = []
    for name in imports(source):
        if not inside(name, PACKAGE):
            continue
        other_level, other = layer_of(name)
        if other != own and other_level >= level:
            found.append(f"{module} imports {name}")
    return found


def away_from_home(path: str, source: str) -> list[str]:
    return [
        f"{path} imports {name}"
        for name in imports(source)
        for library, homes in HOMES.items()
        if inside(name, library) and path not in homes
    ]


def not_allowed(path: str, source: str) -> list[str]:
    folder = next((folder for folder in ALLOWED if path.startswith(folder)), None)
    if folder is None:
        return []
    allowed = (*ALLOWED[folder], *EXCEPTIONS.get(path, ()))
    names = [name for name in imports(source) if not is_standard(name)]
    found = [name for name in names if not any(inside(name, parent) for parent in allowed)]
    if folder == "reformer_dist/model/":
        found += [name for name in names if inside(name, "torch.distributed")]
    return [f"{path} imports {name}" for name in found]


def undocumented(path: str, source: str) -> Iterator[str]:
    """Public functions, classes and methods without a docstring, and the module itself unless it is empty."""
    tree = ast.parse(source)
    if tree.body and not ast.get_docstring(tree):
        yield path
    scopes: list[ast.Module | ast.ClassDef] = [tree]
    while scopes:
        for node in scopes.pop().body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                yield f"{path}: {node.name}"
            if isinstance(node, ast.ClassDef):
                scopes.append(node)


def test_layers_are_imported_from_above_alone() -> None:
    package = [path for path in FILES if path.name != "__init__.py"]
    assert [name_of(path) for path in package if layer_of(module_of(path))[0] == len(LAYERS)] == []
    assert [problem for path in package for problem in wrong_direction(module_of(path), path.read_text())] == []


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that need each other, by the names that are left when those that need nothing are taken away."""
    graph = dict(graph)
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    while unused := [name for name in graph if not any(name in needs for needs in graph.values())]:
        for name in unused:
            del graph[name]
    return sorted(graph)


def test_no_modules_import_each_other() -> None:
    files = {module_of(path): path for path in FILES if path.name != "__init__.py"}
    every = {module: set(imports(path.read_text())) for module, path in files.items()}
    needs = {
        module: {other for other in files if other != module and any(inside(name, other) for name in names)}
        for module, names in every.items()
    }
    assert circles(needs) == []


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c"]


def test_large_libraries_stay_at_home() -> None:
    assert [problem for path in FILES for problem in away_from_home(name_of(path), path.read_text())] == []
    for library, home in ((library, home) for library, homes in HOMES.items() for home in homes):
        assert any(inside(name, library) for name in imports((ROOT / home).read_text())), f"{home} has no {library}"


def test_model_and_parallel_need_torch_alone() -> None:
    assert [problem for path in FILES for problem in not_allowed(name_of(path), path.read_text())] == []


def test_what_is_public_is_documented() -> None:
    assert [problem for path in FILES for problem in undocumented(name_of(path), path.read_text())] == []


def test_what_reads_and_prepares_data_starts_without_torch() -> None:
    """Ray starts a process for it, which would take seconds longer."""
    feeding = "reformer_dist.data.feeding.sequences, reformer_dist.data.streaming, reformer_dist.objectives.choice"
    code = f"import sys, {feeding}, reformer_dist.data.preparing.parts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_job_imports_no_large_library_before_it_uses_it() -> None:
    """DeepSpeed is the workers', and MLflow is imported while Ray starts; each would make a mistake's line wait."""
    code = "import sys, reformer_dist.training.launcher; print([n for n in sys.argv[1:] if n in sys.modules])"
    late = ["deepspeed", "mlflow", "ray.tune", "matplotlib", "torch._dynamo", "sympy", "transformers", "optuna"]
    ended = subprocess.run([sys.executable, "-c", code, *late], check=True, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "[]\n"


def test_jobs_are_thin() -> None:
    jobs = [path for path in FILES if path.parent.name == "jobs"]
    assert {path.name for path in jobs if len(path.read_text().splitlines()) >= MAX_JOB_LINES} == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reformer_dist.config", "from reformer_dist.cli import run_job"),
        ("reformer_dist.data.feeding.loader", "import reformer_dist.model.reformer"),
        ("reformer_dist.parallel.topology", "def f():\n    from reformer_dist.training import loop"),
        ("reformer_dist.training.loop", "from reformer_dist.tuning.runner import sweep"),
        ("reformer_dist.tuning.runner", "from reformer_dist import Config"),
    ],
)
def test_a_wrong_direction_is_seen(module: str, source: str) -> None:
    assert len(wrong_direction(module, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("reformer_dist/tracking.py", "from ray import tune"),
        ("reformer_dist/training/worker.py", "def f():\n    import ray.train.torch as t"),
        ("jobs/train.py", "import mlflow"),
        ("reformer_dist/model/hashing.py", "from torch import distributed"),
        ("reformer_dist/model/hashing.py", "from safetensors.torch import load"),
        ("reformer_dist/parallel/topology.py", "import numpy as np"),
    ],
)
def test_a_library_out_of_place_is_seen(path: str, source: str) -> None:
    assert len(away_from_home(path, source) + not_allowed(path, source)) == 1
