"""What a run trains: patterns of names, rates by names; and what it says of parameters and memory before it begins."""

import json
import tracemalloc

import numpy as np
import pytest
from helpers.commands import QUICK, RUN, TINY, everything, refused, train
from helpers.models import as_checkpoint, with_random_parameters

from npgpt import GPT, AdamW, GPTConfig
from npgpt.adapters import LoRAConfig, attach, load_quantized, new_adapter
from npgpt.checkpoints.runs import load_checkpoint
from npgpt.training import begin, execute
from npgpt.training.loop import train_step
from npgpt.training.memory import model_bytes, process_bytes, step_bytes
from npgpt.training.settings import TrainSettings
from npgpt.training.trainable import new_model


def changed(folder, *flags):
    """The parameters that one step changes, and the run."""
    steps = ("--val-fraction", 0, "--sample-every", 0, "--seed", 1, "--eval-batches", 1)
    run, ended = train(folder, "text.txt", *TINY, "--n-layer", 2, *steps, "--max-steps", 1, "--weight-decay", 0, *flags)
    model = GPT(GPTConfig.from_dict(json.loads((run / "config.json").read_text())["model"]), seed=1)
    weights, moments, _ = load_checkpoint(run / "last.safetensors")
    assert weights.keys() == model.state_dict().keys()  # frozen ones are saved too
    found = {name for name, array in model.state_dict().items() if (array != weights[name]).any()}
    assert found == {name.split(".", 1)[1] for name in moments}
    return found, ended


def test_freezing_by_name(folder):
    names = {name for name, _ in GPT(GPTConfig(vocab_size=4, n_layer=2, n_head=2, n_embd=8)).named_parameters()}
    everything_changes, ended = changed(folder)
    assert everything_changes == names
    assert "are trained" not in ended.err
    found, ended = changed(folder, "--freeze", "wte,wpe")
    assert found == names - {"wte.weight", "wpe.weight"}
    assert " parameters are trained, " in ended.err
    assert changed(folder, "--train-only", "h.1.*")[0] == {name for name in names if name.startswith("h.1.")}
    both = changed(folder, "--train-only", "h.1,ln_f", "--freeze", "*.bias")[0]
    assert both == {n for n in names if n.startswith(("h.1.", "ln_f")) and not n.endswith("bias")}


def test_rates_of_their_own(folder):
    """At the first step AdamW moves each weight by its rate, up or down."""
    found, _ = changed(folder, "--lr", 0.01, "--warmup", 0, "--lr-for", "h.1=0.002,wte=0.0003")
    assert found
    runs = sorted((folder / "runs").iterdir())
    weights, model = load_checkpoint(runs[-1] / "last.safetensors")[0], GPT(_config(runs[-1]), seed=1)
    for name, before in model.state_dict().items():
        moved = np.abs(weights[name] - before)
        rate = 0.002 if name.startswith("h.1.") else 0.0003 if name.startswith("wte") else 0.01
        assert moved.max() == pytest.approx(rate, rel=0.02), name


def _config(run):
    return GPTConfig.from_dict(json.loads((run / "config.json").read_text())["model"])


def test_a_resumed_run_freezes_the_same_and_keeps_its_rates(folder):
    from helpers.commands import command

    flags = (*RUN, "--freeze", "wte", "--lr-for", "h.0=0.01", "--decay-steps", 4, "--dropout", 0.1)
    whole, _ = train(folder, *flags, "--max-steps", 6)
    part, _ = train(folder, *flags, "--max-steps", 3)
    assert command("train", "--resume", part, "--max-steps", 6, cwd=folder).code == 0
    assert everything(part)["arrays"] == everything(whole)["arrays"]


@pytest.mark.parametrize(("flags", "words"), [
    (("--freeze", "wtf"), "'wtf' matches no parameter. Names near it: wte"),
    (("--train-only", "h.7.*"), "'h.7.*' matches no parameter. Names near it: h.0"),
    (("--freeze", "*"), "nothing is left to train"),
    (("--train-only", "wte", "--freeze", "w*"), "nothing is left to train"),
    (("--freeze", "wte,,wpe"), "a pattern is empty"),
    (("--lr-for", "wte"), "'wte' is not NAME=LR"),
    (("--lr-for", "wte=-1"), "'wte=-1' is not NAME=LR"),
    (("--lr-for", "wte=0"), "'wte=0' is not NAME=LR"),
    (("--lr-for", "wte=nan"), "is not NAME=LR"),
    (("--lr-for", "wte=1e-3", "--freeze", "wte"), "'wte' matches no parameter that is trained"),
])  # fmt: skip
def test_mistakes(folder, flags, words):
    """They are noticed before a text is read, which may take minutes."""
    refused("train", "no such text", *QUICK, *flags, cwd=folder, words=[words])


def test_mistakes_in_names_of_a_checkpoints_parameters(folder):
    run, _ = train(folder, *RUN, "--max-steps", 1)
    for flags in (("--freeze", "wtf"), ("--lr-for", "wtf=1e-3")):
        refused("train", "no such text", "--init-from", run, *flags, cwd=folder, words=["'wtf' matches no parameter"])


@pytest.mark.parametrize(("free", "said"), [
    (10**12, ""),
    (5_000_000, ", and 6 are free: try --recompute, or a lower --batch-size"),
])  # fmt: skip
def test_memory_that_is_not_there_is_missed_before_training(folder, monkeypatch, free, said):
    asked = []
    monkeypatch.setattr(execute, "process_bytes", lambda model, *of: asked.append(of) or 40_000_000)
    monkeypatch.setattr(execute, "resident_bytes", lambda: 1_000_000)
    monkeypatch.setattr(execute, "available_bytes", lambda: free)
    monkeypatch.setattr(begin, "resident_bytes", lambda: 100_000_000)
    for flags in ((), ("--grad-accum", 2)):
        _, ended = train(folder, "text.txt", *QUICK, *flags)
        assert f"\nmemory: about 140 MB{said}\n" in ended.err
    assert asked == [(2, 8, False), (2, 8, True)]  # sequences, tokens of each, whether gradients add up


def test_frozen_matrices_in_few_bits_count_for_what_they_take():
    full = model_bytes(GPT(CONFIG))
    assert full == 4 * GPT(CONFIG).num_parameters()
    model = load_quantized(as_checkpoint(GPT(CONFIG)))
    matrices = sum(matrix.nbytes for matrix in model.matrices())
    assert 0.1 * full < matrices < 0.5 * full
    assert model_bytes(model) == matrices + sum(p.data.nbytes for p in model.parameters())


@pytest.mark.parametrize("trained", [True, False])
def test_the_most_memory_of_a_step_by_hand(trained):
    """One short sequence and a large vocabulary: the loss takes the most, or the end, when all gradients are there."""
    config = GPTConfig(vocab_size=5000, block_size=8, n_layer=1, n_head=1, n_embd=4)
    model, kept = GPT.empty(config), 8 * (8 * 4 + 2 * 16)
    if not trained:
        for p in (*model.wte.parameters(), *model.wpe.parameters(), *model.h[0].parameters()):
            p.requires_grad = False
        kept = 0  # only ln_f is trained
    head = 5000 * 4 * trained
    at_the_loss = kept + head + 8 * 5000 + 4 * 8 * 4
    assert step_bytes(model, 1, 8, accumulates=False) == 4 * at_the_loss
    chunk = 4 * 8 * 5000  # of logits; another one counts in a process, beside the kernels
    assert process_bytes(model, 1, 8, accumulates=False) == 4 * at_the_loss + chunk + (40 << 20)


CONFIG = GPTConfig(vocab_size=600, block_size=64, n_layer=4, n_head=2, n_embd=64, dropout=0.0)


def full():
    return GPT(CONFIG)


@pytest.mark.parametrize("seed", [0, 5])
def test_what_a_model_that_is_read_drops_is_by_the_runs_seed(seed):
    settings = TrainSettings(texts=("text.txt",), init_from="base", seed=seed)
    found = new_model(settings, CONFIG, as_checkpoint(full())).model
    assert found.get_rng_state() == GPT(CONFIG, seed=seed).get_rng_state()


def upper_half():
    model = full()
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith(("h.2", "h.3"))
    return model


def with_adapter(model):
    attach(model, new_adapter(CONFIG, LoRAConfig(4)), trainable=True)
    return model


def quantized():
    return with_adapter(load_quantized(as_checkpoint(with_random_parameters(full()))))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("make", [full, upper_half, lambda: with_adapter(full()), quantized],
                         ids=["full", "upper half", "LoRA", "QLoRA"])  # fmt: skip
def test_the_memory_that_is_announced_is_taken(make, recompute):
    """What Python and NumPy take in training steps, to 15 %. Only a block's activations are large here."""
    ids = np.random.default_rng(0).integers(600, size=(8, 64))
    model = make()
    model.recompute = recompute
    warm_up = make()
    warm_up.recompute = recompute
    train_step(warm_up, AdamW(warm_up.named_parameters()), [(ids, ids, 1.0)], 1e-3)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        optimizer = AdamW(model.named_parameters())
        for _ in range(2):
            train_step(model, optimizer, [(ids, ids, 1.0)], 1e-3)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    moments = sum(array.nbytes for array in optimizer.state_dict().values())
    assert peak == pytest.approx(step_bytes(model, 8, 64, accumulates=False) + moments, rel=0.15)
