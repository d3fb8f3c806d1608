"""Memory that nobody has written, made visible: what a program that is right never reads."""

import torch


def poison() -> None:
    """Fill new tensors of this process with NaN, those of whole numbers with the largest one, in Python and in C++.

    That is a part of torch's deterministic algorithms. Where an operation has none, torch warns and goes on.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
