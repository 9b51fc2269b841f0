"""One scale for every feature, from the training rows alone."""

import numpy as np
from jaxtyping import Float, Float64

from mmim.errors import DataError


def standardise(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "t d"]
) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "t d"]]:
    """Zero mean and unit deviation over the training rows, applied to both parts.

    A column whose spread over the training rows is below the rounding of float32 says nothing and becomes zero in both.

    Raises:
        DataError: a value is NaN or infinite.
    """
    for name, rows in (("training", train), ("test", test)):
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            raise DataError(
                f"Can't compare the {name} vectors: {bad.sum()} of {len(rows)} hold NaN or infinity, the first is row "
                f"{bad.argmax()}. Drop these rows, or go back to a checkpoint that is sound."
            )
    mean, spread = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    flat = spread <= 8 * np.finfo(np.float32).eps * np.abs(mean)
    spread[flat] = np.inf
    return (train - mean) / spread, (test - mean) / spread
