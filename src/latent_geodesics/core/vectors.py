"""Lengths, directions and normal parts of vectors, along the last axis."""

import torch
from jaxtyping import Float
from torch import Tensor


def norm(v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
    """`|v|`, the Euclidean norm."""
    size: Tensor = torch.linalg.vector_norm(v, dim=-1)
    return size


def unit(v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """`v / |v|`, and zero for zero."""
    size = norm(v).unsqueeze(-1)
    return v / torch.where(size > 0, size, 1.0)


def normal_to(v: Float[Tensor, "*b d"], a: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """`P_v a`, the part of `a` orthogonal to `v`."""
    direction = unit(v)
    return a - direction * (direction * a).sum(-1, keepdim=True)
