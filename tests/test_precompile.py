"""What is compiled before a run is exactly what it then calls."""

import sys

import numpy as np
import pytest
from conftest import ROOT, TEXT
from helpers.commands import command, train
from numba import typeof

from npgpt import GPTConfig, kernels, load, precompile
from npgpt.kernels.precision import gemm_dtype_tag, set_matmul_precision
from npgpt.kernels.signatures import signatures

pytestmark = pytest.mark.skipif(kernels.BACKEND != "numba", reason="nothing is compiled")

RUNS = {
    "a first run": (ROOT / "data" / "the-verdict.txt", "--batch-size", 2, "--context", 64),
    "wide, one window at a time": (
        *("text.txt", "--tokenizer", "char", "--preset", "nano", "--n-embd", 320, "--batch-size", 1, "--dropout", 0.1),
        *("--position", "rotary", "--activation", "relu", "--no-bias", "--no-tie-weights", "--context", 32),
    ),
    "one head": (
        *("text.txt", "--tokenizer", "byte", "--n-head", 1, "--n-layer", 2, "--n-embd", 96, "--context", 32),
        *("--position", "sinusoidal", "--activation", "gelu", "--grad-accum", 2, "--recompute", "--sample-prompt", "T"),
    ),
    "in bfloat16 where that is faster": (
        *("text.txt", "--tokenizer", "byte", "--n-head", 2, "--n-layer", 1, "--n-embd", 64, "--context", 32),
        *("--matmul-precision", "medium", "--qkv-bias", "--no-bias", "--sample-every", 0),
    ),
    "products of three rows": (
        *("text.txt", "--tokenizer", "gpt2", "--n-head", 2, "--n-layer", 1, "--n-embd", 32, "--context", 3),
        *("--batch-size", 129, "--sample-every", 0),  # the head takes 384 rows, and then 3
    ),
    "small products only": (
        *("text.txt", "--tokenizer", "byte", "--n-head", 2, "--n-layer", 1, "--n-embd", 8, "--context", 8),
        *("--batch-size", 2, "--dropout", 0.1, "--sample-prompt", 3 * TEXT),  # of which the last 8 are read
    ),
}


@pytest.fixture
def recorded(monkeypatch):
    """{"foreseen": ..., "called": ...}, sets of (function, argument types), of what runs after this."""
    found = {"foreseen": set(), "called": set()}

    def foresee(names, stop=None):
        dtypes = np.dtype(np.float32), gemm_dtype_tag(np.dtype(np.float32)).dtype
        found["foreseen"] |= {kernel for name, kernel in signatures(*dtypes).items() if name in names}

    def recording(launch):
        def recorded(*arguments, **work):
            found["called"].add((launch.dispatcher, tuple(map(typeof, arguments))))
            return launch(*arguments, **work)

        recorded.dispatcher = launch.dispatcher
        return recorded

    monkeypatch.setattr(precompile, "compile_ahead", foresee)
    for module in [value for name, value in sys.modules.items() if name.startswith("npgpt.kernels.")]:
        for name, value in list(vars(module).items()):
            if hasattr(value, "dispatcher"):
                monkeypatch.setattr(module, name, recording(value))
    yield found
    set_matmul_precision("highest")


def names_of(calls):
    return sorted((dispatcher.__name__, *map(str, types)) for dispatcher, types in calls)


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS)
def test_a_run_calls_exactly_what_is_compiled_before_it(recorded, tmp_path, arguments):
    (tmp_path / "text.txt").write_text(TEXT)
    limits = "--max-steps", 1, "--eval-batches", 1, "--sample-tokens", 3, "--grad-clip", 1e-3
    train(tmp_path, *arguments, *limits)
    assert names_of(recorded["called"]) == names_of(recorded["foreseen"])


SAMPLES = {
    "one token": ("--prompt", "T"),
    "a sentence": ("--prompt", "The jury sat four days"),
    "past the context": ("--prompt", "The jury sat four days", "--max-new-tokens", 40),
    "a prompt beyond the context": ("--prompt", "The jury sat four days. " * 4),
    "8 bits, keys in bfloat16": ("--prompt", "The jury", "--weights", "int8", "--cache-dtype", "bf16"),
    "looked up": ("--prompt", "The jury", "--draft", "lookup", "--draft-tokens", 20),
    "a draft model": ("--prompt", "The jury", "--draft", "runs/text", "--draft-tokens", 20),
    "a long prompt in bfloat16": ("--prompt", "The jury sat four days. " * 2 + "The", "--weights", "bf16"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT * 2)
    train(folder, *RUNS["wide, one window at a time"], "--context", 60, "--max-steps", 1, "--sample-every", 0)
    return folder


@pytest.mark.parametrize("arguments", SAMPLES.values(), ids=SAMPLES)
def test_sampling_calls_exactly_what_is_compiled_before_it(trained, recorded, arguments):
    assert command("sample", "--max-new-tokens", 3, "--seed", 0, *arguments, cwd=trained).code == 0
    assert names_of(recorded["called"]) == names_of(recorded["foreseen"])


ADAPTERS = {
    "an adapter": ("--lora-rank", 4),
    "a thin adapter with dropout": ("--lora-rank", 2, "--lora-dropout", 0.1),
    "an adapter beside 4 bits": ("--lora-rank", 4, "--lora-base", "nf4"),
}


@pytest.mark.parametrize("arguments", ADAPTERS.values(), ids=ADAPTERS)
def test_a_run_with_an_adapter_calls_exactly_what_is_compiled_before_it(trained, recorded, tmp_path, arguments):
    (tmp_path / "text.txt").write_text(TEXT)
    limits = "--max-steps", 1, "--eval-batches", 1, "--sample-tokens", 3, "--grad-clip", 1e-3, "--val-fraction", 0.2
    train(tmp_path, "text.txt", "--init-from", trained / "runs" / "text", *arguments, *limits)
    assert names_of(recorded["called"]) == names_of(recorded["foreseen"])


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ([], ["text.txt"]),
        ([], ["text.txt", "--weights", "bf16", "--limit", 3, "--batch-size", 2, "--stride", 1]),
        ([], ["text.txt", "--weights", "int8"]),
        ([], ["text.txt", "--limit", 3, "--batch-size", 2, "--stride", 1]),  # the head takes 33 rows, and then 1
        (["jury", "pig"], ["words.jsonl", "--batch-size", 1]),  # the blocks take a few rows, and so does the head
        (["a"], ["words.jsonl", "text.txt", "--batch-size", 9]),
        ([], ["385.txt", "--batch-size", 99]),  # the head takes 384 rows, and then 1
        ([], ["text.txt", "--against", "runs/text", "--matmul-precision", "medium"]),
    ],
)
def test_evaluation_calls_exactly_what_is_compiled_before_it(recorded, tmp_path, words, typed):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "385.txt").write_text(" a" * 385)
    (tmp_path / "words.jsonl").write_text("".join(f'{{"text": "{word}"}}\n' for word in words))
    train(tmp_path, *RUNS["one head"], "--tokenizer", "gpt2", "--max-steps", 1, "--val-fraction", 0)
    for calls in recorded.values():
        calls.clear()
    assert command("evaluate", *typed, cwd=tmp_path).code == 0
    assert names_of(recorded["called"]) == names_of(recorded["foreseen"])


CONFIG = GPTConfig(vocab_size=8192, block_size=64, n_layer=3, n_head=2, n_embd=64)


def test_the_plain_versions_need_nothing(recorded, monkeypatch):
    monkeypatch.setattr(kernels, "BACKEND", "numpy")
    precompile.compile_for_training(CONFIG, 8, 64, 3)
    precompile.compile_for_sampling(CONFIG, 3, 5)
    precompile.compile_for_scoring(CONFIG, {(8, 8)})
    assert recorded["foreseen"] == set()


def test_a_run_without_it_is_the_same(tmp_path, monkeypatch):
    """And its way to ask whether a stop is wanted arrives."""
    (tmp_path / "text.txt").write_text(TEXT)
    typed = ("text.txt", "--tokenizer", "byte", "--preset", "nano", "--context", 8, "--max-steps", 1, "--dropout", 0.1)
    asked = []
    monkeypatch.setattr("npgpt.training.execute.compile_for_training", lambda *of, **options: asked.append(of))
    without, _ = train(tmp_path, *typed)
    monkeypatch.undo()
    compiled, _ = train(tmp_path, *typed)
    for name, array in load(without).state_dict().items():
        np.testing.assert_array_equal(array, load(compiled).state_dict()[name], err_msg=name)
    ((config, *numbers, stop),) = asked
    assert (config.n_layer, numbers, stop()) == (2, [8, 8, 4, 8], False)
