"""The processes of a launcher: who belongs together, their threads, and whom a failure ends."""

import sys
from types import SimpleNamespace

import pytest

from npgpt.errors import ConfigError
from npgpt.training import launch


@pytest.fixture
def no_launcher(monkeypatch):
    for name in (*launch.RANKS, *launch.SIZES):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_nothing_of_mpi_is_imported(no_launcher, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # an import fails
    processes = launch.connect()
    assert type(processes) is launch.OneProcess
    assert processes.threads(None) is None
    assert processes.threads(3) == 3


@pytest.mark.parametrize("name", ["PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"])
def test_a_launcher_without_mpi4py_is_refused_once(no_launcher, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv(name, "0")
    with pytest.raises(ConfigError, match=r"mpi4py is not installed: pip install 'npgpt\[mpi\]'"):
        launch.connect()
    monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as end:  # without a word
        launch.connect()
    assert end.value.code == 2


class FakeMPI:
    """An MPI of ``size`` processes on one machine of four cores, seen by process ``rank``. ``told``: what it does."""

    COMM_TYPE_SHARED = THREAD_FUNNELED = 0

    def __init__(self, size=2, rank=0, library="MPICH Version: 4.1"):
        self.told, self.library = [], library
        here = SimpleNamespace(size=size, allgather=lambda cores: [cores, {0, 1, 2, 3}])
        self.COMM_WORLD = SimpleNamespace(
            size=size, rank=rank, Split_type=lambda kind: here, Abort=lambda code: self.told.append(("abort", code)),
            scatter=lambda messages, root: self.told.append(messages),
        )  # fmt: skip

    def Get_library_version(self):
        return self.library

    def Get_processor_name(self):
        return "here"

    def Init_thread(self, level):
        pass


def connected(monkeypatch, mpi, **variables):
    """``connect`` in a process that a launcher with these variables has started."""
    package = SimpleNamespace(rc=lambda **options: None, MPI=mpi)
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", mpi)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return launch.connect()


def test_processes_of_one_launcher_and_one_mpi_belong_together(no_launcher, monkeypatch):
    processes = connected(monkeypatch, FakeMPI(), PMI_RANK="0", PMI_SIZE="2")
    assert (processes.rank, processes.size) == (0, 2)
    assert type(connected(monkeypatch, FakeMPI(size=1), PMI_SIZE="1")) is launch.OneProcess
    with pytest.raises(ConfigError, match=r"mpiexec and the MPI that mpi4py loads \(MPICH Version: 4.1\) don't belong"):
        connected(monkeypatch, FakeMPI(size=1), PMI_SIZE="2")  # each would train alone
    monkeypatch.delenv("PMI_SIZE")
    with pytest.raises(ConfigError, match="don't belong together"):
        connected(monkeypatch, FakeMPI(), OMPI_COMM_WORLD_RANK="0")
    assert connected(monkeypatch, FakeMPI(library="Open MPI v5.0.3, package")).size == 2


def test_processes_on_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    threads = {size: launch.Processes(FakeMPI(size)).threads(None) for size in (2, 3, 4, 5)}
    assert threads == {2: 2, 3: 1, 4: 1, 5: 1}
    assert launch.Processes(FakeMPI()).threads(3) == 3
    monkeypatch.setenv("NUMBA_NUM_THREADS", "4")
    assert launch.Processes(FakeMPI()).threads(None) is None


def test_a_batch_has_a_sequence_for_each_process():
    processes = launch.Processes(FakeMPI(3))
    processes.check_batch_size(3)
    with pytest.raises(ConfigError, match="--batch-size 2 can't be divided among 3 processes"):
        processes.check_batch_size(2)


@pytest.mark.parametrize(
    ("rank", "busy", "aborted"), [(0, False, False), (0, True, True), (1, False, True), (1, True, True)]
)
def test_a_process_that_fails_ends_those_that_would_wait_for_it(monkeypatch, capsys, rank, busy, aborted):
    """Followers that are not computing hear that process 0 has ended; all others would wait for ever."""
    mpi, slept = FakeMPI(rank=rank), []
    monkeypatch.setattr(launch, "sleep", lambda seconds: slept.append((seconds, capsys.readouterr().err)))
    monkeypatch.setattr(launch, "connect", lambda: launch.Processes(mpi))
    monkeypatch.setattr(launch.Processes, "hear", lambda self: ("threads", 1))
    monkeypatch.setattr(launch, "use_threads", lambda threads: None)

    def fail(processes):
        processes.busy = busy
        raise ConfigError("this is wrong")

    with pytest.raises(ConfigError):
        launch.launch(fail, fail)
    assert (("abort", 2) in mpi.told) == aborted
    assert [seconds for seconds, _ in slept] == [0.5] * aborted  # so that the launcher has read the message
    if aborted:
        assert "this is wrong" in slept[0][1]
        assert slept[0][1].startswith("process 1 on here:") == (rank == 1)
    assert (mpi.told[-1] == [("end",)] * 2 or mpi.told[-1] == (("end",),) * 2) == (rank == 0)
