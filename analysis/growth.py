"""A front that grows point by point, and the area that it dominates after each."""

from __future__ import annotations

from bisect import bisect_left, insort

__all__ = ["Staircase"]


class Staircase:
    """The non-dominated points of two losses seen so far, within the box below ``reference``.

    A point costs O(log n) and what it removes, so n points cost O(n log n) in all, where
    computing each hypervolume anew would cost O(n^2 log n).
    """

    def __init__(self, reference: tuple[float, float]) -> None:
        self._reference = reference
        self._points: list[tuple[float, float]] = []  # the first loss rises, the second falls
        self.area = 0.0

    def add(self, point: tuple[float, float]) -> bool:
        """Take in a point; whether it made the area larger."""
        x, y = point
        right, ceiling = self._reference
        if not (x < right and y < ceiling):
            return False
        at = bisect_left(self._points, point)
        before = self._points[at - 1][1] if at else ceiling
        if before <= y or (at < len(self._points) and self._points[at] == point):
            return False
        # Right of the point up to the first lower step; each step in between is swallowed.
        end, left, height = at, x, before
        while end < len(self._points) and self._points[end][1] >= y:
            self.area += (self._points[end][0] - left) * (height - y)
            left, height = self._points[end]
            end += 1
        edge = self._points[end][0] if end < len(self._points) else right
        self.area += (edge - left) * (height - y)
        del self._points[at:end]
        insort(self._points, point)
        return True
