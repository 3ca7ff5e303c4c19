"""Several processes train as one: parts of batches, sums of gradients, and whole runs under mpiexec."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, TEXT
from helpers.commands import CONSTANT_LR, TINY, Ended, assert_refused, everything, metrics, train, without_compiling
from helpers.models import with_random_parameters
from helpers.tolerances import FLOAT64_GRADIENT

from npgpt import GPT, AdamW, GPTConfig, Tensor
from npgpt.errors import RunError
from npgpt.training.gradient_sum import GradientSum
from npgpt.training.loop import train_step
from npgpt.training.parallel import broadcast, dropout_state
from npgpt.training.team import ALONE, split

CONFIG = GPTConfig(vocab_size=20, block_size=6, n_layer=2, n_head=2, n_embd=8)


def model_and_batch(rows=5):
    model = with_random_parameters(GPT(CONFIG, dtype=np.float64))
    tokens = np.random.default_rng(0).integers(20, size=(rows, 7))
    return model, tokens[:, :-1], tokens[:, 1:].copy()


# Parts of batches


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("ignored", [0, 11, 30])
def test_the_parts_gradients_add_up_to_that_of_all_targets(ignored, processes):
    """One process, and three with one or two of five sequences each, whose targets count to different degrees."""
    model, ids, targets = model_and_batch()
    batches = [(ids, targets), (ids[::-1], targets[::-1].copy())]
    targets.reshape(-1)[:ignored] = -100
    loss = model.loss(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    loss.backward()
    total = loss.item()
    whole = {name: p.grad for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = None
    shares = split(batches, processes)
    for share in shares:
        for part_ids, part_targets, weight in share:
            loss = model.loss(part_ids, part_targets) * weight
            loss.backward()
            total -= loss.item()
    sequences = [[1, 1], [2, 2], [2, 2]] if processes == 3 else [[5, 5]]
    assert [[len(ids) for ids, _, _ in share] for share in shares] == sequences
    assert abs(total) < FLOAT64_GRADIENT
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad, whole[name], rtol=0, atol=FLOAT64_GRADIENT, err_msg=name)


def test_batches_whose_targets_all_count_weigh_exactly_alike():
    ids = np.zeros((3, 7), np.int64)
    for n in range(1, 50):
        assert {weight for _, _, weight in ALONE.share_out([(ids, ids)] * n, lr=0.1)} == {1 / n}


def test_each_process_drops_other_elements_and_the_leader_those_of_a_single_one():
    state = GPT(CONFIG, seed=3).get_rng_state()
    states = [dropout_state(state, rank) for rank in range(3)]
    assert states[0] == state
    assert states[1:] == [dropout_state(state, rank) for rank in (1, 2)]
    seeds = set()
    for rank_state in states:
        model = GPT(replace(CONFIG, dropout=0.5)).train()
        model.set_rng_state(rank_state)
        seeds |= {model.drop.draw()[1] for _ in range(100)}
    assert len(seeds) == 300


# Sums of gradients


class Network:
    """What ``n`` communicators send. A sum is made when the last of them sends, whether or not the others wait."""

    def __init__(self, n):
        self.n, self.sent = n, [[] for _ in range(n)]

    def comm(self, rank):
        def begin(in_place, array):
            assert in_place == "in place"
            assert array.flags.c_contiguous
            self.sent[rank].append(array)
            number = len(self.sent[rank]) - 1
            if all(len(arrays) > number for arrays in self.sent):
                arrays = [arrays[number] for arrays in self.sent]
                total = sum(arrays)
                for a in arrays:
                    a[...] = total
            arrived = lambda: all(len(arrays) > number for arrays in self.sent)  # noqa: E731
            return SimpleNamespace(Test=arrived, Wait=lambda: None)

        return SimpleNamespace(Iallreduce=begin)


def test_gradients_become_their_sums_in_place_or_side_by_side():
    shapes = [(3,), (5, 4), (2, 1), (9,), (2, 3), ()]
    network = Network(2)
    sums = [GradientSum(network.comm(rank), "in place", piece=8) for rank in range(2)]
    leaves = [[Tensor(np.zeros(shape, np.float32)) for shape in shapes] for _ in sums]
    rng = np.random.default_rng(0)
    for own in leaves:
        for leaf in own:
            leaf.grad = rng.standard_normal(leaf.shape[::-1]).astype(np.float32).T  # columns first
    expected = [a.grad + b.grad for a, b in zip(*leaves, strict=True)]
    for own, gradient_sum in zip(leaves, sums, strict=True):
        for leaf in own:
            gradient_sum.add(leaf)
    before_the_end = [len(arrays) for arrays in network.sent]
    for gradient_sum in sums:
        gradient_sum.finish()
    # 20 elements in pieces of 8, 8, 4; 9 of 8 and 1; small ones together as soon as they are 8 (3 + 2 + 6)
    sizes = [array.size for array in network.sent[0]]
    assert sizes == [8, 8, 4, 8, 1, 8, 3, 1]
    assert before_the_end == [7, 7]
    for own in leaves:
        for leaf, total in zip(own, expected, strict=True):
            np.testing.assert_array_equal(leaf.grad, total)
            assert leaf.grad.shape == leaf.shape


def test_a_gradient_is_sent_when_it_is_complete_in_the_last_backward_pass():
    """The last block's are on their way before the first block's exist; the tied embedding gets its last part there."""
    model, ids, targets = model_and_batch()
    names = {p: name for name, p in model.named_parameters()}
    told = []
    for last in (False, True):
        loss = model.loss(ids, targets)
        loss.backward(done=lambda p: told.append((names[p], last, p.grad.copy())))  # noqa: B023
    order = [name for name, last, _ in told if last]
    assert sorted(order) == sorted(names.values())
    assert order[-2:] == ["wpe.weight", "wte.weight"]
    assert [name.split(".")[1] for name in order if name.startswith("h.")] == ["1"] * 12 + ["0"] * 12
    for name, last, gradient in told:
        if last:
            np.testing.assert_array_equal(gradient, dict(model.named_parameters())[name].grad)


def test_a_step_sends_the_sums_of_its_micro_batches_only():
    from npgpt.training.parallel import Worker

    model, ids, targets = model_and_batch()
    optimizer = AdamW(model.named_parameters())
    network = Network(1)
    comm = network.comm(0)
    comm.Allreduce = lambda in_place, array: None
    worker = Worker(SimpleNamespace(comm=comm, size=1, MPI=SimpleNamespace(IN_PLACE="in place"), busy=True))
    parts = [(ids, targets, 0.5), (ids[:2], targets[:2], 0.5)]
    loss, norm = train_step(model, optimizer, worker.passes(parts), 0.0, team=worker)
    assert sum(array.size for array in network.sent[0]) == model.num_parameters()
    assert not worker.processes.busy
    alone = train_step(model, optimizer, parts, 0.0)
    assert (loss, norm) == alone


def test_a_signal_to_one_process_stops_all():
    from npgpt.training.parallel import Worker

    model, ids, targets = model_and_batch()
    comm = Network(1).comm(0)
    comm.Allreduce = lambda in_place, sums: sums.__setitem__(1, 1)  # another one was asked to stop
    worker = Worker(SimpleNamespace(comm=comm, size=2, MPI=SimpleNamespace(IN_PLACE="in place"), busy=True))
    assert not worker.stop.requested
    train_step(model, AdamW(model.named_parameters()), [(ids, targets, 1.0)], 0.0, team=worker)
    assert (worker.stop.requested, worker.stop.number) == (True, signal.SIGTERM)


def test_models_that_are_not_the_same_any_more_are_noticed_in_an_evaluation():
    from npgpt.training.parallel import Leader

    model, ids, targets = model_and_batch()
    batches, told = [(ids[i : i + 1], targets[i : i + 1]) for i in range(3)], []
    expected = ALONE.losses(model, batches, lambda: False)

    def losses(fingerprint_of_the_other):
        def gather(own, root):
            assert own[0] == expected[::2]
            return [own, (expected[1::2], fingerprint_of_the_other or own[1])]

        processes = SimpleNamespace(comm=SimpleNamespace(gather=gather), size=2, MPI=SimpleNamespace(IN_PLACE=None))
        processes.tell = lambda *messages: told.append([len(batches) for _, batches in messages])
        return Leader(processes).losses(model, batches, lambda: False)

    assert losses(None) == expected
    assert told == [[2, 1]]
    with pytest.raises(RunError, match="the weights in process 1 are not those in process 0 any more"):
        losses("0x1.0p+0")


def test_a_model_and_its_optimizer_arrive_with_their_arrays_shared():
    model, ids, targets = model_and_batch()
    sent = []
    comm = SimpleNamespace(bcast=lambda thing, root: sent.append(thing), Bcast=lambda a, root: sent.append(a.copy()))
    optimizer = AdamW(model.named_parameters())
    assert broadcast(SimpleNamespace(comm=comm, rank=0), (model, optimizer))[0] is model
    assert len(sent[0][0]) < 20_000  # the arrays are not in the pickled part

    def receive(array, root):
        array[...] = sent.pop(0)

    comm = SimpleNamespace(bcast=lambda thing, root: sent.pop(0), Bcast=receive)
    other, its_optimizer = broadcast(SimpleNamespace(comm=comm, rank=1), None)
    assert other.loss(ids, targets).item() == model.loss(ids, targets).item()
    assert all(its_optimizer.parameters[name] is p for name, p in other.named_parameters())
    assert other.drop.rng is other.rng
    train_step(other, its_optimizer, [(ids, targets, 1.0)], 0.1)
    assert other.loss(ids, targets).item() != model.loss(ids, targets).item()


# Runs under mpiexec

ARGUMENTS = ("text.txt", *TINY, *CONSTANT_LR, "--eval-every", 2, "--eval-batches", 3, "--log-every", 1)
ARGUMENTS += ("--sample-every", 0)


@pytest.fixture(scope="module")
def mpiexec():
    """mpiexec(folder, ...) runs Python's arguments in two processes."""
    pytest.importorskip("mpi4py")
    beside = str(Path(sys.executable).parent)
    launcher = shutil.which("mpiexec", path=beside) or shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("there is no mpiexec: pip install mpich")

    def run(folder, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1"}
        if "OMPI" in subprocess.run([launcher, "--version"], capture_output=True, text=True).stdout:
            environment |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        command = [launcher, "-n", "2", sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        return Ended(done.returncode, done.stdout, without_compiling(done.stderr))

    return run


@pytest.fixture(scope="module")
def together(mpiexec, tmp_path_factory):
    """A run of four steps by two processes."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "text.txt").write_text(TEXT)
    arguments = (*ARGUMENTS, "--batch-size", 4, "--max-steps", 4, "--out", "run")
    ended = mpiexec(folder, "-m", "npgpt.train", *arguments)
    assert ended.code == 0, ended
    assert "2 processes, 1 thread each" in ended.err
    assert ended.out.count("trained 4 steps") == 1  # one of them writes
    process = json.loads((folder / "run" / "metrics.jsonl").read_text().split("\n")[0])
    assert process["command"].startswith("mpiexec -n 2 python -m npgpt.train text.txt ")
    return folder


def test_two_processes_make_the_run_of_one_that_accumulates_bit_for_bit(together, folder):
    alone, _ = train(folder, *ARGUMENTS, "--batch-size", 2, "--grad-accum", 2, "--eval-batches", 6, "--max-steps", 4)
    ours, theirs = everything(together / "run"), everything(alone)
    assert ours["arrays"] == theirs["arrays"]
    assert metrics(together / "run", "train") == metrics(alone, "train")


def test_they_see_the_batches_of_one_process_and_it_can_go_on_alone(together, folder):
    """An evaluation has the very losses of one process; the steps differ by rounding alone."""
    shutil.copytree(together / "run", folder / "run")
    resumed, _ = train(folder, "--resume", "run", "--max-steps", 6)
    alone, _ = train(folder, *ARGUMENTS, "--batch-size", 4, "--max-steps", 6)
    assert metrics(resumed, "eval")[0] == metrics(alone, "eval")[0]
    for kind in ("train", "eval"):
        for a, b in zip(metrics(resumed, kind), metrics(alone, kind), strict=True):
            assert a == pytest.approx(b, rel=1e-5)


def test_a_mistake_is_told_once(mpiexec, folder):
    assert_refused(mpiexec(folder, "-m", "npgpt.train", "absent.txt"), "absent.txt")


FAILING = """
import os, sys
from npgpt import GPT, process, train
loss, calls = GPT.loss, []
def failing(self, *batch):
    calls.append(batch)
    if len(calls) == 7 and os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
        {failure}
    return loss(self, *batch)
GPT.loss = failing
process.run(train.main)
"""


@pytest.mark.parametrize(
    ("failure", "words"), [("raise MemoryError('of this machine')", "of this machine"), ("os.kill(os.getpid(), 9)", "")]
)
def test_if_one_process_fails_all_end(mpiexec, folder, failure, words):
    arguments = (*ARGUMENTS, "--batch-size", 4, "--max-steps", 10_000, "--out", "run")
    ended = mpiexec(folder, "-c", FAILING.format(failure=failure), *arguments)
    assert ended.code != 0
    assert words in ended.err
    assert "trained" not in ended.out
