"""Building and loading the C++ operators.

In: the sources beside this file. Out: `torch.ops.reformer_dist`, or a reason why it isn't there. The library lies in
the user's cache, under a name that holds the sources' hash, torch's version and the processor's kind, so that neither an
old build nor another machine's is ever loaded. Nothing is compiled but by `build`, which `make setup` calls.
"""

import functools
import hashlib
import logging
import os
import sys
from pathlib import Path

import torch
from torch.utils import cpp_extension

COMMAND = "python -m reformer_dist.model.backends.native"
"""Builds them."""

_FOLDER = Path(__file__).parent
_SOURCES = ("attend.cpp", "buckets.cpp", "convolution.cpp", "decoding.cpp", "routed.cpp", "plan.cpp")
_HEADERS = ("backward.h", "decoding.h", "forward.h", "panels.h", "products.h", "ring.h", "vectors.h")
_FLAGS = ["-O3", "-fopenmp", "-DNDEBUG", "-fno-math-errno", "-Wno-psabi"]
_FLAGS_FOR = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=256"],
    "AVX2": ["-mavx2", "-mfma"],
}


def build() -> Path:
    """Compile what isn't compiled yet and return the library's path; raises RuntimeError where that fails."""
    path = library()
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    os.environ["PATH"] = os.pathsep.join(folders)  # torch calls the ninja that was installed beside this interpreter
    cpp_extension.load(
        name=path.stem,
        sources=[str(_FOLDER / name) for name in _SOURCES],
        extra_cflags=[*_FLAGS, *_FLAGS_FOR.get(capability(), [])],
        extra_ldflags=["-fopenmp"],
        build_directory=str(path.parent),
        is_python_module=False,
    )
    return path


@functools.cache
def is_loaded() -> bool:
    """Load the operators if they are built; says once if not."""
    path = library()
    if not path.exists():
        logging.getLogger(__name__).warning(
            "The compiled attention isn't built, attention is several times slower: %s", COMMAND
        )
        return False
    torch.ops.load_library(path)
    return True


def library() -> Path:
    """Where the library of these sources lies for this machine, built or not."""
    digest = hashlib.sha256(repr((_FLAGS, _FLAGS_FOR, torch.__version__)).encode())
    for name in (*_SOURCES, *_HEADERS):
        digest.update((_FOLDER / name).read_bytes())
    name = f"reformer_dist_{capability().lower()}_{digest.hexdigest()[:12]}"
    return Path.home() / ".cache" / "reformer_dist" / name / f"{name}.so"


def capability() -> str:
    """The instructions that this processor has for vectors, as torch names them: AVX512."""
    return torch.backends.cpu.get_cpu_capability()
