"""python -m npgpt.train: what a run makes, and that the same command makes it again, bit for bit."""

import json
import math
import os
import re
import shutil

import numpy as np
import pytest
from conftest import TEXT
from helpers.commands import CONSTANT_LR, RUN, TINY, command, everything, metrics, refused, train
from helpers.models import with_random_parameters

import npgpt
from npgpt import GPT, GPTConfig, load
from npgpt.checkpoints import runs
from npgpt.checkpoints.safetensors import read_safetensors, write_safetensors
from npgpt.checkpoints.shared.tokenizers import read_tokenizer
from npgpt.generation import Decoder, Sampling, stream
from npgpt.kernels import precision
from npgpt.optim import AdamW, clip_grad_norm
from npgpt.text.batches import BatchSampler, TokenDataset
from npgpt.text.tokenizers import ByteTokenizer
from npgpt.training import saver
from npgpt.training.evaluation import Evaluation


def weights(run):
    return runs.load_checkpoint(run / "last.safetensors")[0]


# The same again


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run with dropout, to compare others with."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "text.txt").write_text(TEXT)
    return train(folder, *RUN, "--dropout", 0.1)[0]


def test_another_seed_gives_another_run(folder, first):
    run, _ = train(folder, *RUN, "--dropout", 0.1, "--seed", 1)
    for name, array in weights(run).items():
        assert not np.array_equal(array, weights(first)[name]), name
    assert metrics(run)[0] != metrics(first)[0]  # the evaluation before the first step: other initial weights


def test_a_run_is_the_loop_that_one_would_write(folder):
    """Every setting of the optimizer and the order of the batches arrive where they should."""
    run, _ = train(
        folder,
        *("text.txt", *TINY, "--max-steps", 5, "--grad-accum", 3, "--dropout", 0.2, "--seed", 7, "--stride", 5),
        *("--lr", 0.01, "--min-lr", 0.001, "--warmup", 2, "--weight-decay", 0.3, "--beta1", 0.8, "--beta2", 0.9),
        *("--grad-clip", 0.5, "--val-fraction", 0.25, "--eval-every", 2, "--sample-every", 1, "--log-every", 1),
    )
    config = GPTConfig(vocab_size=257, block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.2)
    model = GPT(config, seed=7).train()
    tokens = ByteTokenizer().encode(TEXT)
    batches = BatchSampler(TokenDataset(tokens[: -round(0.25 * len(tokens))], 8, 5), 2, seed=7)
    optimizer = AdamW(model.named_parameters(), betas=(0.8, 0.9), weight_decay=0.3)
    lines = []
    for step, lr in enumerate([0.005, 0.01, 0.01, 0.00775, 0.00325]):  # up to 0.01, then half a cosine to 0.001
        optimizer.zero_grad()
        losses = []
        for part in range(3):
            loss = model.loss(*batches.batch(3 * step + part)) * (1 / 3)
            loss.backward()
            losses.append(loss.item())
        norm = clip_grad_norm([p for _, p in model.named_parameters()], 0.5)
        optimizer.lr = lr
        optimizer.step()
        tokens = (step + 1) * 3 * 2 * 8
        lines.append({"step": step + 1, "loss": sum(losses), "lr": lr, "grad_norm": norm, "tokens": tokens})
    assert norm > 0.5  # so that there was something to clip
    for line, expected in zip(metrics(run, "train"), lines, strict=True):
        assert line == pytest.approx(expected, rel=1e-12)
    for name, array in weights(run).items():
        np.testing.assert_allclose(array, model.state_dict()[name], rtol=0, atol=1e-6, err_msg=name)


def test_the_losses_of_an_evaluation(folder):
    run, _ = train(folder, *RUN, "--dropout", 0.5, "--eval-batches", 2)
    model, tokens = load(run), ByteTokenizer().encode(TEXT)
    training, validation = tokens[:-47], tokens[-47:]
    assert metrics(run, "eval")[-1] == {
        "step": 4,
        "tokens": 64,
        "train_loss": pytest.approx(mean_loss(model, training, 4), rel=1e-6),
        "val_loss": pytest.approx(mean_loss(model, validation, 4), rel=1e-6),
    }


def mean_loss(model, tokens, count):
    """Over ``count`` windows of 8, spread evenly."""
    windows = TokenDataset(tokens, 8)
    return model.loss(*windows.batch(np.arange(count) * len(windows) // count)).item()


# How long


@pytest.mark.parametrize(
    ("epochs", "accumulated", "steps"), [(1, 1, 4), (2, 1, 7), (2, 3, 3), (0.5, 1, 2), (0.25, 1, 1), (1e-9, 1, 1)]
)
def test_epochs(folder, epochs, accumulated, steps):
    """There are 53 windows, so 3.3 batches of 16."""
    arguments = (*TINY, "--batch-size", 16, "--epochs", epochs, "--grad-accum", accumulated, "--sample-every", 0)
    run, ended = train(folder, "text.txt", *arguments)
    assert "       53 windows of 8 tokens" in ended.err
    assert runs.load_checkpoint(run / "last.safetensors")[2]["step"] == steps
    assert f"trained {steps:,} {'step' if steps == 1 else 'steps'} in " in ended.out


def test_evaluations_and_samples_have_each_their_own_times(folder):
    def steps(kind, *arguments):
        run, _ = train(folder, "text.txt", *TINY, "--max-steps", 7, "--sample-tokens", 2, *arguments)
        return [line["step"] for line in metrics(run, kind)]

    assert steps("eval", "--eval-every", 2, "--sample-every", 3) == [0, 2, 4, 6, 7]
    assert steps("sample", "--eval-every", 2, "--sample-every", 3) == [0, 3, 6, 7]
    assert steps("sample", "--eval-every", 3) == [0, 3, 6, 7]
    assert steps("sample", "--eval-every", 3, "--sample-every", 0) == []
    assert steps("train", "--log-every", 3) == [1, 3, 6, 7]
    assert steps("eval") == [0, 1, 2, 3, 4, 5, 6, 7]  # a tenth of 7 steps, but not less than one


def test_each_sample_is_drawn_with_the_step_as_its_seed(folder):
    drawn = ("--sample-every", 4, "--sample-tokens", 20, "--sample-prompt", "the jury")
    run, _ = train(folder, *RUN, "--tokenizer", "char", *drawn)
    tokenizer = read_tokenizer(run / "tokenizer.json")
    prompt = tokenizer.encode("the jury")
    found = [token.id for token in stream(Decoder(load(run), weights=None), [prompt], 20, Sampling(), seed=4)]
    assert metrics(run, "sample")[-1] == {"step": 4, "text": tokenizer.decode([*prompt, *found])}


@pytest.fixture
def validation_losses(monkeypatch):
    """Let evaluations find these validation losses."""

    def script(*losses):
        coming = iter(losses)

        def scripted(self, step, stopped):
            self.last_step = step
            return {"train": 1.0, "val": next(coming)}

        monkeypatch.setattr(Evaluation, "losses", scripted)

    return script


@pytest.mark.parametrize(
    ("losses", "arguments", "steps", "best"),
    [
        ([9, 5, 4, 4.5, 4.2, 3], ["--patience", 2], 4, 2),
        ([9, 5, 4, 4.5, 3.9, 4, 4, 3], ["--patience", 2], 6, 4),
        ([9, 5, 4, 4, 3], ["--patience", 1], 3, 2),  # as good is not better
        ([1, 5, 4, 3, 2, 1.5, 1.4, 1.3, 1.2], ["--patience", 1], 8, 8),  # the loss before the first step isn't one
        ([9, 5, 4.8, 4.5, 4, 3], ["--patience", 2, "--min-delta", 0.6], 3, 3),  # better, but not by enough
        ([9, 5, 4.6, 4.2, 3.9, 3.5, 3.2, 2.8, 2.5], ["--patience", 2, "--min-delta", 0.6], 8, 8),  # slowly
        ([9, 5, 4.5, 3.8, 3.7, 3.6, 1], ["--patience", 2, "--min-delta", 0.6], 5, 5),
        ([9, 5, 6, 7, 8, 9, 10, 11, 12], [], 8, 1),  # no patience, no end
        ([9, 5, 6, 7, 8, 9, 10, 11, 12], ["--min-delta", 0.1], 8, 1),
    ],
)
def test_early_stopping_and_the_best_weights(folder, validation_losses, losses, arguments, steps, best):
    common = ("text.txt", *TINY, *CONSTANT_LR, "--eval-every", 1, "--sample-every", 0)
    validation_losses(*losses)
    run, ended = train(folder, *common, "--max-steps", 8, *arguments)
    _, _, state = runs.load_checkpoint(run / "last.safetensors")
    stopping = state["early_stopping"]
    assert (state["step"], stopping["best_step"], stopping["best"]) == (steps, best, losses[best])
    assert f"best validation loss {losses[best]:.4f} after step {best}" in ended.out
    assert ("without progress in" in ended.out) == (steps < 8)
    assert ("warning: --min-delta is for --patience" in ended.err) == (arguments == ["--min-delta", 0.1])
    validation_losses(*losses)
    until_best, _ = train(folder, *common, "--max-steps", best)
    for name, array in read_safetensors(run / "best.safetensors")[0].items():
        np.testing.assert_array_equal(array, weights(until_best)[name], err_msg=name)


def test_without_validation(folder):
    run, ended = train(folder, *RUN, "--val-fraction", 0)
    assert "472 tokens\n" in ended.err
    assert all(set(line) == {"step", "tokens", "train_loss"} for line in metrics(run, "eval"))
    assert not (run / "best.safetensors").exists()
    assert "best" not in ended.out


# What it trains on


def test_a_folder_a_file_and_its_tokens_give_the_same_weights(folder, first):
    (folder / "texts").mkdir()
    shutil.copy(folder / "text.txt", folder / "texts")
    ByteTokenizer().encode(TEXT).astype("<u2").tofile(folder / "text.bin")
    for text in ("texts", "text.bin"):
        run, ended = train(folder, text, *RUN[1:], "--dropout", 0.1)
        assert run.name == text.removesuffix(".bin")
        assert ("characters" in ended.err) == (text == "texts")
        found, expected = everything(run), everything(first)
        assert found["config"]["training"].pop("texts") == [text]
        del expected["config"]["training"]["texts"]
        assert found == expected


def test_a_folder_of_nanogpt(folder):
    (folder / "data").mkdir()
    tokens = ByteTokenizer().encode(TEXT).astype("<u2")
    tokens[:400].tofile(folder / "data" / "train.bin")
    tokens[100:].tofile(folder / "data" / "val.bin")
    run, ended = train(folder, "data", *RUN[1:])
    assert "text:  772 tokens (372 for validation)" in ended.err
    assert metrics(run, "eval")[-1]["val_loss"] == pytest.approx(mean_loss(load(run), tokens[100:], 4), rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "warned"),
    [((), False), (("--val-fraction", 0), False), (("--val-fraction", 0.5), True), (("--split-by", "tokens"), True)],
)
def test_flags_that_split_nothing_are_said_to(folder, flags, warned):
    (folder / "data").mkdir()
    tokens = ByteTokenizer().encode(TEXT).astype("<u2")
    for name, part in (("train", tokens[:400]), ("val", tokens[100:])):
        part.tofile(folder / "data" / f"{name}.bin")
    _, ended = train(folder, "data", *RUN[1:], *flags)
    part = os.path.join("data", "val.bin")
    warning = f"warning: {part} is the validation part, whatever --val-fraction and --split-by say"
    assert (warning in ended.err) == warned


def test_splitting_between_documents(folder):
    for name, length in (("a", 100), ("b", 200), ("c", 40)):
        (folder / f"{name}.txt").write_text(name * length)
    run, ended = train(folder, "a.txt", "b.txt", "c.txt", *RUN[1:], "--split-by", "documents")
    assert "340 characters, 342 tokens (40 for validation)" in ended.err
    assert metrics(run, "eval")[-1]["val_loss"] == pytest.approx(
        mean_loss(load(run), np.full(40, ord("c")), 4), rel=1e-6
    )


@pytest.mark.parametrize("tokenizer", ["gpt2", "char", "byte"])
def test_the_tokenizer_is_saved_with_the_run(folder, tokenizer):
    run, _ = train(folder, *RUN, "--tokenizer", tokenizer)
    saved = read_tokenizer(run / "tokenizer.json")
    assert saved.name == tokenizer
    assert saved.vocab_size == load(run).config.vocab_size
    assert saved.decode(saved.encode(TEXT)) == TEXT


# What it starts from


def test_the_flags_of_the_model_arrive(folder):
    run, ended = train(
        folder,
        *("text.txt", "--tokenizer", "byte", "--max-steps", 1, "--batch-size", 2, "--preset", "nano"),
        *("--n-layer", 1, "--n-inner", 24, "--no-bias", "--qkv-bias", "--no-tie-weights", "--position", "rotary"),
        *("--activation", "relu", "--context", 12, "--dropout", 0.25),
    )
    expected = GPTConfig(
        vocab_size=257, block_size=12, n_layer=1, n_head=2, n_embd=64, n_inner=24, dropout=0.25, bias=False,
        qkv_bias=True, tie_weights=False, position="rotary", activation="relu",
    )  # fmt: skip
    assert load(run).config == expected
    assert f"model: {GPT(expected).num_parameters():,} parameters: 1 layers, 2 heads, 64 wide" in ended.err


def test_medium_precision_trains_as_well(folder):
    """Not with the same bits, but to the same loss: 8 bits a factor are off by 2^-9, and the loss by a hundredth."""
    if precision.chosen_way("medium") == "vectors":
        pytest.skip("bfloat16 is slower here: medium is the same as highest")
    settings = "text.txt", "--tokenizer", "byte", "--max-steps", 30, "--preset", "nano", "--context", 16
    run, ended = train(folder, *settings)
    assert "products in float32, " in ended.err
    try:
        rounded, ended = train(folder, *settings, "--matmul-precision", "medium", "--out", "rounded")
        assert "products in bfloat16, " in ended.err
        resumed = command("train", "--resume", rounded, "--matmul-precision", "high", cwd=folder)
        assert resumed.code == 2
        assert "--matmul-precision" in resumed.err
    finally:
        npgpt.set_matmul_precision("highest")
    exact, found = (metrics(folder, "eval")[-1]["val_loss"] for folder in (run, rounded))
    assert exact != found
    assert found == pytest.approx(exact, rel=0.01)


def test_starting_from_a_run(folder, first):
    typed = ("--init-from", first, "--context", 8, "--max-steps", 2, "--batch-size", 2, "--eval-batches", 2)
    run, _ = train(folder, *RUN[:1], *typed)
    assert metrics(run, "eval")[0] == metrics(first, "eval")[-1] | {"step": 0, "tokens": 0}
    assert (run / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    assert load(run).config == load(first).config
    best, _ = train(folder, "text.txt", "--init-from", first / "best.safetensors", "--max-steps", 1, "--context", 4)
    assert load(best).config.block_size == 8
    assert "windows of 4 tokens" in command("train", "--resume", best, "--max-steps", 2, cwd=folder).err
    os.truncate(best / "tokenizer.json", 20_000_001)
    words = [f"{best / 'tokenizer.json'}: larger than 20,000,000 bytes"]
    refused("train", "--resume", best, "--max-steps", 3, cwd=folder, words=words)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_starting_from_a_hugging_face_folder(folder, prefix):
    config = GPTConfig(block_size=16, n_layer=2, n_head=2, n_embd=8)
    model = with_random_parameters(GPT(config))
    (folder / "theirs").mkdir()
    written = {"model_type": "gpt2", "n_positions": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    (folder / "theirs" / "config.json").write_text(json.dumps(written | dropouts))
    arrays = {prefix + name: array for name, array in model.state_dict().items()}
    write_safetensors(folder / "theirs" / "model.safetensors", arrays)
    arguments = ("--context", 8, "--max-steps", 2, "--batch-size", 2, "--eval-batches", 1, "--sample-tokens", 4)
    run, _ = train(folder, "text.txt", "--init-from", "theirs", *arguments, "--dropout", 0.1)
    tokens = read_tokenizer(run / "tokenizer.json").encode(TEXT)
    tokens = tokens[: len(tokens) - round(0.1 * len(tokens))]
    assert metrics(run, "eval")[0]["train_loss"] == pytest.approx(mean_loss(model, tokens, 2), rel=1e-6)
    assert load(run).config.dropout == 0.1
    assert not np.array_equal(load(run).wte.weight.data, model.wte.weight.data)


# What goes wrong on the way


def _numbers(line):
    for value in line.values():
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, int | float):
            yield value


@pytest.mark.filterwarnings("error")  # what the run says is enough
@pytest.mark.parametrize(
    ("every", "seconds", "words"),
    [
        (1, 60, "after step 1: the train loss is"),
        (9, 60, "step 2: the loss is nan and the gradient's norm nan, first of all that of wte.weight:"),
        (9, 0, "after step 1: the train"),
    ],
)
def test_a_run_that_diverges_keeps_what_was_good(folder, monkeypatch, every, seconds, words):
    """An evaluation shows it, the next step, or a look at the weights before they would be saved."""
    monkeypatch.setattr(saver, "SAVE_EVERY", seconds)
    monkeypatch.setattr(saver, "PART", 0)
    ended = command(
        *("train", "text.txt", *TINY, "--lr", 1e20, "--warmup", 0, "--max-steps", 10, "--sample-every", 0),
        *("--eval-every", every),
        cwd=folder,
    )
    assert ended.code == 2
    assert ended.out == ""
    error, cause, advice = ended.err.splitlines()[-3:]
    assert error.startswith(f"error: {words}")
    assert error.endswith("training has diverged.")
    assert re.fullmatch(r"Weights have grown too large \([a-z0-9_.]+ has 1\.?\d*e\+20\): .* is too high\.", cause)
    assert advice == "Try a lower --lr, or a longer --warmup. What was saved before stays in runs/text."
    run = folder / "runs" / "text"
    assert all(math.isfinite(v) for line in metrics(run) for v in _numbers(line))
    kept, _, state = runs.load_checkpoint(run / "last.safetensors")
    assert state["step"] == 0
    for name, array in GPT(load(run).config, seed=0).state_dict().items():
        np.testing.assert_array_equal(kept[name], array)


@pytest.mark.filterwarnings("error")  # what the run says is enough
def test_a_sample_that_finds_out_that_a_run_has_diverged(folder):
    ended = command(
        "train", "text.txt", *TINY, "--lr", 1e20, "--max-steps", 9, "--eval-every", 9, "--sample-every", 1, cwd=folder
    )
    assert ended.code == 2
    assert "after step 1: a sample's logits are not finite: training has diverged." in ended.err
