"""Deltas of every representation beside their whole matrices, and cosines computed from those in float64."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsteer.deltas.delta import Delta

Whole = dict[str, np.ndarray]
SHAPES = {"model.layers.0.mlp.up_proj.weight": (12, 7), "model.layers.1.mlp.up_proj.weight": (5, 9)}
FIRST = next(iter(SHAPES))
BIASES = {f"model.layers.{block}.mlp.down_proj.bias": (7,) for block in range(2)}


def whole_of(factors: dict[str, tuple[Tensor, Tensor]]) -> Whole:
    """The change as float64 matrices."""
    return {name: b.double().numpy() @ a.double().numpy() for name, (b, a) in factors.items()}


def cosine_of(a: Whole, b: Whole) -> float:
    """The cosine over the whole vectors, in numpy's float64; what one side leaves alone is 0 on it."""
    shapes = {name: matrix.shape for side in (a, b) for name, matrix in side.items()}
    x, y = (
        np.concatenate([side.get(name, np.zeros(shape)).ravel() for name, shape in shapes.items()]) for side in (a, b)
    )
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def shared_cosine_of(a: Whole, b: Whole) -> float:
    """The cosine over the parameters that both change, in numpy's float64."""
    both = a.keys() & b.keys()
    return cosine_of(*({name: side[name] for name in both} for side in (a, b)))


def low_rank(seed: int, rank: int, std: float = 1.0) -> dict[str, tuple[Tensor, Tensor]]:
    """Random factors of every shape."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (std * torch.randn(out, rank, generator=generator), torch.randn(rank, into, generator=generator))
        for name, (out, into) in SHAPES.items()
    }


def drawn(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random tensors of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def of_factors(factors: dict[str, tuple[Tensor, Tensor]]) -> tuple[Delta, Whole]:
    """The low-rank delta beside its matrices."""
    return Delta.of_factors(factors), whole_of(factors)


def of_tensors(tensors: dict[str, Tensor]) -> tuple[Delta, Whole]:
    """The dense delta beside its matrices."""
    return Delta.of_tensors(tensors), {name: tensor.double().numpy() for name, tensor in tensors.items()}


def of_vectors(biases: dict[str, Tensor]) -> tuple[Delta, Whole]:
    """An activation delta beside the biases that it equals."""
    vectors = {f"blocks.{block}": vector for block, vector in enumerate(biases.values())}
    return Delta.of_tensors(vectors, "activation"), of_tensors(biases)[1]


# every representation, in families whose members have parameters in common: each test builds what it names
Builder = Callable[[], tuple[Delta, Whole]]
OF_MATRICES: dict[str, Builder] = {
    "r2": lambda: of_factors(low_rank(1, 2)),
    "r3": lambda: of_factors(low_rank(2, 3)),
    "partly": lambda: of_factors({FIRST: low_rank(1, 2)[FIRST]}),
    "dense": lambda: of_tensors(drawn(3, SHAPES)),
    "wide": lambda: of_tensors(drawn(4, {**SHAPES, "model.norm.weight": (7,)})),
}
OF_BIASES: dict[str, Builder] = {
    "bias": lambda: of_tensors(drawn(5, BIASES)),
    "vector": lambda: of_vectors(drawn(6, BIASES)),
}
REPRESENTATIONS = {**OF_MATRICES, **OF_BIASES}


def saved(folder: Path, deltas: dict[str, Delta]) -> list[Path]:
    """The files of these deltas."""
    for name, delta in deltas.items():
        delta.save(folder / f"{name}.safetensors")
    return [folder / f"{name}.safetensors" for name in deltas]
