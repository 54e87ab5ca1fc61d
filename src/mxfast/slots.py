"""Numbers for items, so that what is known of them lives in arrays and not in objects."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Slots"]


class Slots:
    """Numbers keys 0, 1, 2, ... in the order in which they first come.

    A key once numbered keeps its number: arrays indexed by it only grow. A look-up is a
    binary search, quick where the keys come sorted.
    """

    def __init__(self) -> None:
        # The last key is a sentinel, so that a search never ends behind the array.
        self._keys = np.array([np.iinfo(np.int64).max])
        self._numbers = np.array([-1])

    def __len__(self) -> int:
        return len(self._keys) - 1

    def of(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each key; a new key gets the next."""
        places = np.searchsorted(self._keys, keys)
        known = self._keys[places] == keys
        if not known.all():
            self._add(keys[~known])
            places = np.searchsorted(self._keys, keys)
        return self._numbers[places]

    def _add(self, keys: NDArray[np.int64]) -> None:
        new, first = np.unique(keys, return_index=True)
        numbers = np.empty(len(new), np.int64)
        numbers[np.argsort(first)] = np.arange(len(self), len(self) + len(new))
        places = np.searchsorted(self._keys, new)
        self._keys = np.insert(self._keys, places, new)
        self._numbers = np.insert(self._numbers, places, numbers)
