"""Random numbers that are a function of a name alone."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(name: str) -> torch.Generator:
    """A generator on the CPU, seeded by `name`: no other draw, device or process changes it."""
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
