"""Seeds and permutations as functions of the run's seed and the step, and the state of the global generators."""

import random
from functools import lru_cache
from typing import Any

import numpy as np
import torch


def seed_of(*parts: int) -> int:
    """A 63-bit seed that depends on all parts, for instance on the run's seed, a stream number and a step."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def shuffled(size: int, start: int, count: int, seed: tuple[int, ...]) -> list[int]:
    """`count` indices from position `start` of an endless sequence: one permutation of range(size) after another."""
    return [int(_permutation(size, (*seed, i // size))[i % size]) for i in range(start, start + count)]


@lru_cache(maxsize=8)
def _permutation(size: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(size)


def random_state() -> dict[str, Any]:
    """The state of this process's global generators (Python, numpy, torch, CUDA), as tensors and JSON values."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy = [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest]
    return {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Sets the global generators to a state from `random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
