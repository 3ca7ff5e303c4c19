"""Data-parallel training: several processes, each with a copy of the model and a part of every batch.

The gradient of a batch's mean loss is the weighted mean of its parts' gradients. So N processes that add theirs up make
the step of one process with the whole batch, but for the order of additions, and then change their copies alike.

    process 0, the leader                            every follower
    tells each its part of the batch                 hears it
    forward, backward                                forward, backward
            gradients are added up as they become complete (gradient_sum.py)
    clips, AdamW                                     clips, AdamW
    logs, evaluates, samples, saves, decides         evaluates its share

Source: Li et al. 2020, PyTorch Distributed, section 3.2: buckets, and their sums overlapped with the backward pass.
"""

import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

from npgpt import kernels
from npgpt.errors import RunError, TrainingDiverged
from npgpt.gpt import GPT
from npgpt.kernels import precision
from npgpt.kernels.machine.memory import keep_freed_memory
from npgpt.optim import AdamW
from npgpt.precompile import compile_for_training
from npgpt.signals import StopRequest
from npgpt.tensor import Tensor
from npgpt.training.gradient_sum import GradientSum
from npgpt.training.launch import LEADER, OneProcess, Processes
from npgpt.training.log import log
from npgpt.training.loop import train_step
from npgpt.training.team import ALONE, Alone, Batch, Part, split


def team_of(processes: OneProcess) -> Alone:
    """What ``loop.fit`` asks to compute."""
    return Leader(processes) if isinstance(processes, Processes) else ALONE


def dropout_state(state: dict[str, Any], rank: int) -> dict[str, Any]:
    """A generator's state -> that of process ``rank``, so many jumps of 2e38 numbers (``PCG64.jumped``) ahead."""
    generator: Any = np.random.PCG64()
    generator.state = state
    return generator.jumped(rank).state if rank else state


class Worker(Alone):
    """One of the processes, while steps are computed."""

    def __init__(self, processes: Processes):
        self.processes, self.size = processes, processes.size
        self._sum = GradientSum(processes.comm, processes.MPI.IN_PLACE)
        self._is_last_pass = False
        self.stop = StopRequest("")

    def passes(self, parts: list[Part]) -> Iterator[Part]:
        """The parts of a step, one after the other: gradients are complete in the last one's backward pass."""
        for i, part in enumerate(parts):
            self._is_last_pass = i == len(parts) - 1
            yield part

    def gradient_done(self, leaf: Tensor) -> None:
        if self._is_last_pass:
            self._sum.add(leaf)

    def add_up(self, loss: float) -> float:
        self._sum.finish()
        sums = np.array([loss, self.stop.requested])
        self.processes.comm.Allreduce(self.processes.MPI.IN_PLACE, sums)
        self.processes.busy = False
        if sums[1] and not self.stop.requested:
            self.stop.number = signal.SIGTERM  # whichever it was that another process got
        return float(sums[0])


class Leader(Worker):
    """Process 0. It runs the loop and tells the others what to compute."""

    def begin(self, run: Any, stop: StopRequest) -> None:
        """Send the model and the optimizer to the others. Raises ConfigError if a batch can't be divided."""
        processes, settings = self.processes, run.settings
        processes.check_batch_size(settings.batch_size)
        self.stop, self.model = stop, run.model
        processes.tell(("begin",))
        shape = self.sequences(settings.batch_size), run.plan.context
        products = settings.matmul_precision, run.products.get(settings.matmul_precision)
        job = run.model, run.optimizer, shape, run.stored.to_compile(), settings.grad_clip, products
        broadcast(processes, job)
        hosts = processes.comm.gather(processes.MPI.Get_processor_name(), LEADER)
        processes.busy = False
        machines = len(set(hosts))
        where = f" on {machines} machines" if machines > 1 else ""
        threads = numba.get_num_threads()
        log(f"       {processes.size} processes{where}, {threads} thread{'s' if threads > 1 else ''} each")

    def share_out(self, batches: list[Batch], lr: float) -> Iterator[Part]:
        state, shares = self.model.get_rng_state(), split(batches, self.processes.size)
        self.processes.tell(*(("step", share, lr, state) for share in shares))
        return self.passes(shares[LEADER])

    def forget(self, optimizer: AdamW) -> None:
        self.processes.tell(("forget",))
        super().forget(optimizer)
        self.processes.busy = False

    def losses(self, model: GPT, batches: list[Batch], stopped: Callable[[], bool]) -> list[float] | None:
        """Each process computes those of every N-th batch. Raises RunError if the models aren't the same any more."""
        n = self.processes.size
        self.processes.tell(*(("losses", batches[rank::n]) for rank in range(n)))
        own = super().losses(model, batches[LEADER::n], stopped)
        answers = self.processes.comm.gather((own, fingerprint(model)), LEADER)
        self.processes.busy = False
        for rank, (_, other) in enumerate(answers):
            if other != answers[LEADER][1]:
                raise RunError(
                    f"the weights in process {rank} are not those in process 0 any more.\n"
                    "Use machines of one kind, with the same versions. --resume sends out the weights that were saved."
                )
        return None if own is None else [answers[i % n][0][i // n] for i in range(len(batches))]


def follow(processes: Processes) -> None:
    """Compute what process 0 says, until it says that this is the end."""
    worker = Worker(processes)
    model: Any = None
    optimizer: Any = None
    grad_clip = 0.0
    with worker.stop, np.errstate(over="ignore", invalid="ignore"):
        while True:
            match processes.hear():
                case ("end",):
                    return
                case ("begin",):
                    model, optimizer, shape, adapter, grad_clip, products = broadcast(processes, None)
                    keep_freed_memory()
                    precision.set_matmul_precision(*products)  # in the same way everywhere
                    compile_for_training(model.config, shape[0], shape[1], 0, **adapter, is_weighted=True)
                    processes.comm.gather(processes.MPI.Get_processor_name(), LEADER)
                case ("forget",):
                    worker.forget(optimizer)
                case ("losses", batches):
                    model.eval()
                    processes.comm.gather((worker.losses(model, batches, lambda: False), fingerprint(model)), LEADER)
                case ("step", parts, lr, state):
                    model.set_rng_state(dropout_state(state, processes.rank))
                    try:
                        train_step(model, optimizer, worker.passes(parts), lr, grad_clip, worker)
                    except TrainingDiverged:
                        if processes.busy:  # this process alone knows; if all do, process 0 decides
                            raise


def broadcast(processes: Processes, thing: Any) -> Any:
    """Send an object from process 0 to all. Its arrays go from memory to memory, without a pickled copy of them."""
    comm, buffers = processes.comm, []
    if processes.rank == LEADER:
        pickled = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
        arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        comm.bcast((pickled, [array.size for array in arrays]), LEADER)
    else:
        pickled, sizes = comm.bcast(None, LEADER)
        arrays = [np.empty(size, np.uint8) for size in sizes]
    for array in arrays:
        comm.Bcast(array, LEADER)
    return thing if processes.rank == LEADER else pickle.loads(pickled, buffers=arrays)


def fingerprint(model: GPT) -> str:
    """Tells models apart: the sum of all squares, to the last bit, as text, so that NaN equals NaN."""
    return float.hex(kernels.sum_of_squares([p.data for p in model.parameters()]))
