"""The processes that compute a run's steps: here the usual one, alone; parallel.py has several. loop.py asks them."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npgpt.gpt import GPT
from npgpt.optim import AdamW
from npgpt.signals import StopRequest
from npgpt.tensor import Tensor, no_grad
from npgpt.text.batches import IGNORED

Batch = tuple[np.ndarray, np.ndarray]  # ids (B, T), targets (B, T)
Part = tuple[np.ndarray, np.ndarray, float]  # some sequences of a batch, and the weight of their loss in the step's


def split(batches: list[Batch], processes: int) -> list[list[Part]]:
    """Divide the sequences of each batch among processes -> the parts of each process, one of each batch.

    Neighbours stay together. The weights are each part's share of all targets that count, so that the sum is their
    mean loss, however they are spread over batches and processes.

    >>> ids = np.arange(6).reshape(3, 2)
    >>> for parts in split([(ids, ids)], processes=2):
    ...     print([(ids.tolist(), round(weight, 2)) for ids, targets, weight in parts])
    [([[0, 1]], 0.33)]
    [([[2, 3], [4, 5]], 0.67)]
    """
    shares: list[list[Part]] = [[] for _ in range(processes)]
    of_all = max(sum(_counted(targets) for _, targets in batches), 1)
    for ids, targets in batches:
        for rank, share in enumerate(shares):
            rows = slice(rank * len(ids) // processes, (rank + 1) * len(ids) // processes)
            own_ids, own_targets = ids[rows], targets[rows]
            counted = _counted(own_targets)
            if not counted:  # their mean would be 0 / 0; any targets do, with a weight of 0
                own_targets = own_ids
            share.append((own_ids, own_targets, counted / of_all))
    return shares


def _counted(targets):
    return int(np.count_nonzero(targets != IGNORED))


class Alone:
    """One process, which computes everything."""

    size = 1  # so many processes
    gradient_done: Callable[[Tensor], None] | None = None  # told of each gradient that the last backward pass completes

    def begin(self, run: Any, stop: StopRequest) -> None:
        """Get ready for the steps of a ``Run``. ``stop`` is how a process asks all of them to end."""

    def sequences(self, batch_size: int) -> int:
        """The most of ``batch_size`` sequences, or of as many batches to evaluate, that a process gets."""
        return -(-batch_size // self.size)

    def share_out(self, batches: list[Batch], lr: float) -> Iterable[Part]:
        """A step of the optimizer begins: this process's part of its batches."""
        return split(batches, self.size)[0]

    def add_up(self, loss: float) -> float:
        """This process's loss -> the step's. Every parameter then has the gradient of the step, too."""
        return loss

    def forget(self, optimizer: AdamW) -> None:
        """The steps so far, which changed no weight, were for trial: set the optimizer's moments back to zero."""
        optimizer.zero_grad()
        for moments in optimizer.state_dict().values():
            moments[...] = 0
        optimizer.steps = 0

    def losses(self, model: GPT, batches: list[Batch], stopped: Callable[[], bool]) -> list[float] | None:
        """The loss of each batch, without gradients; None if ``stopped()`` meanwhile."""
        found = []
        for ids, targets in batches:
            if stopped():
                return None
            with no_grad():
                found.append(model.loss(ids, targets).item())
        return found


ALONE = Alone()
