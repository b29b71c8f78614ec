"""One random generator per purpose, so that drawing more of one thing never changes another."""

import zlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """Make the generator of a purpose, for example `generator(seed, "sound")`; equal keys give equal draws."""
    return np.random.default_rng([zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key])
