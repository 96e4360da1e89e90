r"""Arrays as bytes that can be kept and checked: a JSON line, then the arrays, packed together.

Examples
--------
>>> data = pack_arrays({"kind": "squares"}, {"n": np.arange(3), "of": np.arange(3) ** 2.0})
>>> about, arrays = unpack_arrays(data)
>>> about["kind"], arrays["of"].tolist()
('squares', [0.0, 1.0, 4.0])
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_arrays", "unpack_arrays"]

_DTYPES = ("int8", "uint8", "bool", "int16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def pack_arrays(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays and a JSON mapping about them as bytes, compressed for speed rather than for size."""
    # Plain bytes and a description of them: unlike pickle or npz with objects, reading them can run no code.
    layout = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    head = json.dumps({"about": about, "arrays": layout}, separators=(",", ":")).encode()
    return zlib.compress(b"\n".join([head, b"".join(array.tobytes() for array in arrays.values())]), 1)


def unpack_arrays(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what was packed, as arrays that can be written to.

    Raises
    ------
    ValueError
        The bytes are damaged.
    """
    try:
        head, _, body = zlib.decompress(data).partition(b"\n")
        layout = json.loads(head)
        arrays, at = {}, 0
        for name, dtype, shape in layout["arrays"]:
            # Of the types that are written only: an object array would be a way to run code.
            if dtype not in _DTYPES:
                raise ValueError(f"unknown dtype {dtype}")
            array = np.frombuffer(body, dtype, int(np.prod(shape)), at).reshape(shape).copy()
            arrays[name], at = array, at + array.nbytes
    except (zlib.error, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"packed arrays are damaged: {error}") from error
    return layout["about"], arrays
