"""Sums of gradients over processes, which travel while the backward pass computes the next ones."""

from typing import Any

import numpy as np

from npgpt.tensor import Tensor

PIECE = 1 << 20  # elements, 4 MB in float32: few enough to stay in the cache while they are added, enough for a network


class GradientSum:
    """Replaces gradients by their sums over all processes: ``add`` each when it is complete, then ``finish``.

    All processes add the same leaves in the same order. A large gradient is summed where it is, in pieces. Small ones
    are copied side by side into one array until it is a piece long, and become views of it: a message has a cost of its
    own (a bias of 3 kB takes as long as 100 kB).

    comm        an MPI communicator, of which ``Iallreduce`` is used
    in_place    MPI.IN_PLACE
    """

    def __init__(self, comm: Any, in_place: Any, piece: int = PIECE):
        self.comm, self.in_place, self.piece = comm, in_place, piece
        self._small: list[Tensor] = []
        self._requests: list[Any] = []

    def add(self, leaf: Tensor) -> None:
        """Begin to sum a leaf's gradient, which nobody else changes any more."""
        assert leaf.grad is not None
        if leaf.grad.size >= self.piece:
            leaf.grad = np.ascontiguousarray(leaf.grad)
            self._begin(leaf.grad.reshape(-1))
        else:
            self._small.append(leaf)
            if sum(leaf.size for leaf in self._small) >= self.piece:
                self._join()
        # MPI moves data while it is called, and not in between.
        self._requests = [request for request in self._requests if not request.Test()]

    def finish(self) -> None:
        """Wait until all sums are there."""
        self._join()
        for request in self._requests:
            request.Wait()
        self._requests = []

    def _join(self):
        """Send the small gradients as one array."""
        if not self._small:
            return
        joined = np.concatenate([leaf.grad.reshape(-1) for leaf in self._small])
        begin = 0
        for leaf in self._small:
            leaf.grad = joined[begin : begin + leaf.size].reshape(leaf.shape)
            begin += leaf.size
        self._small = []
        self._begin(joined)

    def _begin(self, flat):
        for i in range(0, flat.size, self.piece):
            self._requests.append(self.comm.Iallreduce(self.in_place, flat[i : i + self.piece]))
