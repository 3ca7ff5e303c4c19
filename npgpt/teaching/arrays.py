"""Arrays in the page: float32, little-endian, in base64. Large models' are thinned, with their places kept."""

import base64
import hashlib
from typing import Any

import numpy as np

ALL = 700_000  # numbers of all arrays together, up to which each is whole: 3.7 MB of base64
ROWS, COLUMNS = 40, 64  # of each matrix otherwise


class Arrays:
    """The arrays of one page. Two equal ones are stored once.

    thin    whether matrices of more than ROWS rows or COLUMNS columns lose some
    """

    def __init__(self, thin: bool):
        self.thin = thin
        self.stored: list[dict[str, Any]] = []
        self._places: dict[bytes, int] = {}

    def add(self, array: np.ndarray, index: tuple[int, ...] | None = None, whole: bool = False) -> int:
        """Store an array as a matrix: its last axis across, all others down -> its place in ``stored``.

        {"shape", "data": base64}, and, if it was thinned, "rows" and "columns": which are there.

        index   of an element that is to be there, of an array of this shape
        whole   nothing is left out
        """
        matrix = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
        rows, columns = (np.arange(n) for n in matrix.shape)
        if self.thin and not whole:
            place = None if index is None else int(np.ravel_multi_index(index, array.shape))
            row, column = (None, None) if place is None else divmod(place, len(columns))
            rows, columns = _some(len(rows), ROWS, row), _some(len(columns), COLUMNS, column)
        kept = np.ascontiguousarray(matrix[np.ix_(rows, columns)], "<f4")
        entry: dict[str, Any] = {"shape": list(array.shape), "data": base64.b64encode(kept.tobytes()).decode()}
        if kept.size < array.size:
            entry |= {"rows": rows.tolist(), "columns": columns.tolist()}
        key = hashlib.sha256(repr(entry).encode()).digest()
        if key not in self._places:
            self._places[key] = len(self.stored)
            self.stored.append(entry)
        return self._places[key]


def _some(n, most, wanted):
    """Of n places at most ``most``, evenly apart from the first to the last; the wanted one replaces the nearest."""
    places = np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))
    if wanted is not None and wanted not in places:
        places[np.abs(places - wanted).argmin()] = wanted
    return places
