"""All randomness of mmim: numbers that are a pure function of who asks.

A sample gets the same draws whatever the number of processes, workers or restarts, because a draw depends only on
(seed, epoch, sample, repeat), which `visit_key` folds into one number in the loader, and on the names and indices it
is asked with. The hash is the 32-bit finaliser of MurmurHash3 (Appleby 2011, public domain) on int64 tensors, with
every product kept below 63 bits so that CPU, GPU and compiled graphs agree to the bit.
"""

import hashlib
import math
import zlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt64
from torch import Tensor

_MASK = 0xFFFFFFFF
_INDEX = 0x5BD1E995  # so that index 0 is mixed too
TRIES = 10  # of a gamma number; at the worst alpha, 1, one in twenty fails


Whole = TypeVar("Whole", int, Tensor)
"""Tensors for a batch, plain Python for the few numbers of a loader's worker, where tensors would cost more."""


def _times(x: Whole, factor: int) -> Whole:
    """Multiply a number below 2 ** 32 modulo 2 ** 32, through two 16-bit halves."""
    return ((x & 0xFFFF) * factor + ((((x >> 16) * factor) & 0xFFFF) << 16)) & _MASK


def mix(x: Whole) -> Whole:
    """A bijection of [0, 2 ** 32) in which every input bit reaches every output bit."""
    x = _times(x ^ (x >> 16), 0x85EBCA6B)
    x = _times(x ^ (x >> 13), 0xC2B2AE35)
    return x ^ (x >> 16)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _name_hash(name: str) -> int:
    return zlib.crc32(name.encode())


def _word(keys: Whole, name: str) -> Whole:
    """32 bits from a 63-bit key and a name."""
    low, high = keys & _MASK, (keys >> 32) & _MASK
    salt: int = _name_hash(name)
    return mix(mix(high ^ salt) ^ low)


@dataclass(frozen=True, eq=False)
class Draw:
    """The random numbers of each sample of a batch.

    keys: int64 `[b]`, one per visit of a sample (`visit_key`). Equal keys draw equal numbers.
    """

    keys: Int64[Tensor, " b"]

    def named(self, name: str) -> "Draw":
        """The draws of one part (a modality, a view, a policy), independent of those of other names."""
        word = _word(self.keys, name)
        return Draw((word << 31) ^ mix(word ^ 0x9E3779B9))

    def uniform(self, name: str, n: int) -> Float[Tensor, "b {n}"]:
        """Uniform numbers in [0, 1) with 24 bits. They tie in about one row of ten at n = 1568: sort stably."""
        index = mix(torch.arange(n, device=self.keys.device) ^ _INDEX)
        return (mix(_word(self.keys, name)[:, None] ^ index) >> 8).to(torch.float32) * 2.0**-24

    def log_gamma(self, name: str, alphas: Float[Tensor, " k"]) -> Float[Tensor, "b k"]:
        """Logarithms of numbers from Gamma(alpha, 1), which normalised are a Dirichlet's; -inf where alpha is 0.

        Marsaglia and Tsang 2000, A simple method for generating gamma variables, with a fixed number of tries (all fail
        less than once in 10 ** 10, and give the mode then), in logarithms, so that an alpha of 0.01 does not vanish.
        """
        k = len(alphas)
        shape = torch.where(alphas < 1, alphas + 1, alphas)
        scaled = (shape - 1 / 3)[:, None]  # k 1
        numbers = self.uniform(name, (3 * TRIES + 1) * k).unflatten(1, (3 * TRIES + 1, k)).transpose(1, 2)  # b k tries
        numbers = numbers + 2.0**-25  # above 0
        first, second, third = numbers[..., : 3 * TRIES].chunk(3, dim=-1)
        normal = (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()
        root = 1 + normal / (9 * scaled).sqrt()
        log_cube = 3 * root.clamp(min=1e-12).log()
        bound = normal.square() / 2 + scaled * (1 - root**3 + log_cube)
        taken = (root > 0) & (third.log() < bound)
        at = taken.to(torch.uint8).argmax(dim=-1, keepdim=True)  # the first, as argmax of ties is
        chosen = torch.where(taken.any(dim=-1), log_cube.gather(-1, at)[..., 0], 0.0)
        boost = numbers[..., -1].log() / alphas.clamp(min=1e-30)
        found = scaled[:, 0].log() + chosen + torch.where(alphas < 1, boost, 0.0)
        return torch.where(alphas > 0, found, -torch.inf)

    def floats(self, name: str, n: int) -> list[float]:
        """The same numbers for a draw with one key, in plain Python: faster for the few that a crop needs."""
        (key,) = self.keys.tolist()
        word = _word(key, name)
        return [(mix(word ^ mix(i ^ _INDEX)) >> 8) * 2.0**-24 for i in range(n)]


def stable_hash(*parts: object) -> int:
    """A 63-bit number from any parts, the same in every process and version."""
    text = "\x1f".join(str(part) for part in parts)
    return (
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little") >> 1
    )


def mix64(x: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """SplitMix64's finaliser (Steele et al. 2014) on uint64 arrays: a bijection, for orders of whole data sets."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def visit_key(seed: int, epoch: int, sample: int, repeat: int) -> int:
    """The key of one visit of a sample: the only way in which a seed reaches a draw."""
    return stable_hash(seed, epoch, sample, repeat)
