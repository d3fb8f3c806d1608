"""One thread for every process of the tests: their tensors are small, and two cores serve several processes at a time.

Without a GPU, Triton's kernels run in its interpreter, which must be asked for before Triton is imported.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
