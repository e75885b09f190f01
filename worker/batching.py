"""How many pairs go into one pass: as many as was found best, fewer for a while after the device was out of memory."""

FITTED_BEFORE_GROWTH = 8
MOST_BEFORE_GROWTH = 512


class MicroBatch:
    """`size` is what to use now, `most` what it may grow back to."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = most
        self._fitted = 0
        self._growth_after = FITTED_BEFORE_GROWTH
        self._just_grown = False

    def did_not_fit(self, pairs: int) -> None:
        """A pass of so many was too much: half of it from now on. A growth that failed is not soon repeated."""
        if self._just_grown:
            self._growth_after = min(2 * self._growth_after, MOST_BEFORE_GROWTH)
        self.size = max(1, min(self.size, pairs // 2))
        self._fitted, self._just_grown = 0, False

    def fitted(self, pairs: int) -> None:
        """A pass of so many went well; after some full ones the size doubles, up to `most`."""
        if pairs < self.size:
            return
        self._fitted += 1
        if self._fitted >= FITTED_BEFORE_GROWTH:
            self._just_grown = False  # the growth has held: what does not fit from now on is not its fault
        if self.size < self.most and self._fitted >= self._growth_after:
            self.size = min(self.most, 2 * self.size)
            self._fitted, self._just_grown = 0, True
