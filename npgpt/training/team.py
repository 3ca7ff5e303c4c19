"""The processes that compute a run's steps: here the usual one, alone; parallel.py has several. loop.py asks them."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npgpt.gpt import GPT
from npgpt.optim import AdamW
from npgpt.signals import StopRequest
from npgpt.tensor import Tensor, no_grad

Batch = tuple[np.ndarray, np.ndarray]  # ids (B, T), targets (B, T)
Part = tuple[np.ndarray, np.ndarray, float]  # some sequences of a batch, and the weight of their loss in the step's


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
        return [(ids, targets, 1 / len(batches)) for ids, targets in batches]

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
