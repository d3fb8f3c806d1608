"""One thread for every process of the tests: their tensors are small, and two cores serve several processes at a time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
