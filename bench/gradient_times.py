"""python -m bench.gradient_times : when gradients of GPT-2 124M become complete in a step of 2x256 tokens;
mpiexec -n 2 python -m bench.gradient_times : how long their sum over processes takes. Both for docs/scaling.md.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from time import perf_counter

import numpy as np

from npgpt import GPT, GPTConfig
from npgpt.training.gradient_sum import PIECE
from npgpt.training.launch import OneProcess, Processes, connect

SHOWN = ("h.11.mlp.c_proj.weight", "h.10.mlp.c_fc.weight", "h.5.mlp.c_fc.weight", "wpe.weight", "wte.weight")


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()  # --help alone
    processes: OneProcess = connect()
    if isinstance(processes, Processes):
        time_sums(processes)
    else:
        time_gradients()


def time_gradients() -> None:
    """Print the seconds from a step's beginning, the parameter, and the bytes that are complete by then."""
    model = GPT(GPTConfig.preset("gpt2")).train()
    names = {p: name for name, p in model.named_parameters()}
    tokens = np.random.default_rng(0).integers(model.config.vocab_size, size=(2, 257))
    for _ in range(3):  # the last one counts
        complete = []
        for p in names:
            p.grad = None
        began = perf_counter()
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        forward = perf_counter() - began
        loss.backward(done=lambda p: complete.append((perf_counter() - began, p)))  # noqa: B023
    print(f"{forward:.3f} s: the loss")
    total = 0
    for seconds, p in complete:
        total += p.data.nbytes
        if names[p] in SHOWN:
            print(f"{seconds:.3f} s: {names[p]}, {total / 1e6:.1f} MB")


def time_sums(processes: Processes) -> None:
    """Print the seconds of Allreduces: of 4 bytes and of a piece, and of all 124M gradients in pieces begun at once."""
    comm, in_place = processes.comm, processes.MPI.IN_PLACE

    def seconds(array, times):
        pieces = [array[i : i + PIECE] for i in range(0, array.size, PIECE)]
        found = []
        for _ in range(times):
            comm.Barrier()
            began = perf_counter()
            for request in [comm.Iallreduce(in_place, piece) for piece in pieces]:
                request.Wait()
            found.append(perf_counter() - began)
        return np.median(found)

    for size, times in ((1, 1000), (PIECE, 50), (124_439_808, 5)):
        median = seconds(np.zeros(size, np.float32), times)
        if processes.rank == 0:
            print(f"{4 * size:,} bytes: {median:.2g} s")


if __name__ == "__main__":
    main()
