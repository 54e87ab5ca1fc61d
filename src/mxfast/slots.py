"""Numbers for items, so that what is known of them lives in arrays and not in objects."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Slots", "grown"]

ScalarT = TypeVar("ScalarT", bound=np.generic)


class Slots:
    """Numbers keys 0, 1, 2, ... in the order in which they first come.

    A key once numbered keeps its number: arrays indexed by it only grow. A look-up is a
    binary search in what is sorted, quick where the keys come sorted. What came since it was
    sorted is in a dict, so that keys may come one at a time.
    """

    def __init__(self) -> None:
        # The last key is a sentinel, so that a search never ends behind the array.
        self._keys = np.array([np.iinfo(np.int64).max])
        self._numbers = np.array([-1])
        self._recent: dict[int, int] = {}
        self._missed = 0  # keys that were looked up in vain since it was sorted

    def __len__(self) -> int:
        return len(self._keys) - 1 + len(self._recent)

    def of(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each key; a new key gets the next."""
        places = np.searchsorted(self._keys, keys)
        missing = self._keys[places] != keys
        if not missing.any():
            return self._numbers[places]
        # Sorting costs linear time. Done once in as many misses as there are keys it costs
        # each of them the same, however many there are; and an array of keys, or keys that
        # keep coming, are soon found without the dict.
        self._missed += int(np.count_nonzero(missing))
        if self._missed >= len(self):
            self._sort(keys[missing])
            return self._numbers[np.searchsorted(self._keys, keys)]
        numbers = self._numbers[places]
        recent, first = self._recent, len(self._keys) - 1
        numbers[missing] = [
            recent.setdefault(key, first + len(recent)) for key in keys[missing].tolist()
        ]
        return numbers

    def _sort(self, keys: NDArray[np.int64]) -> None:
        """Sort the recent keys in, and these behind them."""
        recent = np.fromiter(self._recent, np.int64, len(self._recent))
        new, first = np.unique(np.concatenate([recent, keys]), return_index=True)
        numbers = np.empty(len(new), np.int64)
        numbers[np.argsort(first)] = np.arange(len(new)) + len(self._keys) - 1
        places = np.searchsorted(self._keys, new)
        self._keys = np.insert(self._keys, places, new)
        self._numbers = np.insert(self._numbers, places, numbers)
        self._recent.clear()
        self._missed = 0


def grown(array: NDArray[ScalarT], length: int) -> NDArray[ScalarT]:
    """Return an array of at least that length, zeros at its end; not one longer each time."""
    if length <= len(array):
        return array
    larger = np.zeros(max(length, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger
