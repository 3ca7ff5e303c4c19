"""python -m npgpt.info: everything that it prints is true."""

import numpy as np
import pytest
from helpers.commands import command, process, refused
from helpers.mutations import memory_at_most

from npgpt import GPT, GPTConfig
from npgpt.checkpoints import runs
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.text.tokenizers import CharTokenizer
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings

CONFIG = GPTConfig(vocab_size=12, block_size=6, n_layer=11, n_head=2, n_embd=8, n_inner=24, tie_weights=False)


@pytest.fixture
def run(tmp_path):
    write_run_config(tmp_path, CONFIG, {}, TrainSettings().resolve(1, 8))
    write_json(tmp_path / "tokenizer.json", CharTokenizer("abcdefghij").to_dict())
    weights = GPT(CONFIG, seed=1).state_dict()
    runs.save_checkpoint(tmp_path / "last.safetensors", weights, {"exp_avg.wte.weight": np.zeros((12, 8))}, {}, CONFIG)
    weights["h.3.mlp.c_fc.weight"] = np.full((8, 24), np.nan)
    runs.save_weights(tmp_path / "best.safetensors", weights, CONFIG)
    return tmp_path


def test_info_of_a_run_shows_its_config_tensors_and_tokenizer(run):
    ended = command("info", ".", cwd=run)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    size = (run / "last.safetensors").stat().st_size
    assert lines[:2] == ["last.safetensors", f"format      run of npgpt, {size:,} bytes"]
    config = [line[12:].split(" = ") for line in lines[2 : 2 + len(CONFIG.to_dict())]]
    assert dict(config) == {name: str(value) for name, value in CONFIG.to_dict().items()}
    total = GPT(CONFIG).num_parameters()
    inside = total - (2 * 12 + 6) * 8
    assert f"parameters  {total:,}; without embeddings {inside:,}" in lines
    assert "left out    'optimizer.exp_avg.wte.weight'" in lines
    assert "tokenizer   char, 11 ids" in lines
    names = [line.split()[0] for line in lines if line.startswith("  ") and "F32" in line]
    assert names == [name for name, _ in GPT(CONFIG).named_parameters()]
    row = next(line for line in lines if "wte.weight" in line and "F32" in line).split()
    wte = GPT(CONFIG, seed=1).wte.weight.data
    assert row == ["wte.weight", "12", "x", "8", "F32", f"{np.linalg.norm(wte):.4g}", f"{np.abs(wte).max():.4g}"]
    assert lines[-2:] == ["warnings:", "  1 ids of the vocabulary have no token"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("count", "more"), [(2, ""), (3, " and 1 more"), (1002, " and 1,000 more")])
def test_info_names_two_of_what_is_left_out(run, count, more):
    moments = {f"m{i:04}": np.zeros(1) for i in range(count)}
    runs.save_checkpoint(run / "last.safetensors", GPT(CONFIG).state_dict(), moments, {}, CONFIG)
    assert f"left out    'optimizer.m0000', 'optimizer.m0001'{more}\n" in command("info", ".", cwd=run).out


def test_info_warns_of_weights_that_are_nan(run):
    ended = command("info", ".", "--checkpoint", "best", cwd=run)
    assert ended.code == 0
    assert "  h.3.mlp.c_fc.weight: 192 of 192 elements are NaN or infinite\n" in ended.out


def test_info_shows_a_checkpoint_that_cannot_be_loaded(run):
    weights = {**GPT(CONFIG).state_dict(), "h.0.mlp.c_fc.weight": np.zeros((24, 8)), "ids": np.arange(3)}
    del weights["ln_f.bias"]
    runs.save_weights(run / "odd.safetensors", weights, CONFIG)
    (run / "tokenizer.json").write_text("{")
    ended = command("info", "odd.safetensors", cwd=run)
    assert ended.code == 0
    assert "tokenizer   can't be read" in ended.out
    assert "it can't be loaded: odd.safetensors lacks the tensors 'ln_f.bias'" in ended.out
    assert "  ids                            3              I64   \n" in ended.out  # they are no weights


def test_info_warns_of_ids_without_a_tokenizer(run):
    runs.save_weights(run / "bare.safetensors", GPT(CONFIG).state_dict(), CONFIG)
    (run / "tokenizer.json").unlink()
    ended = command("info", "bare.safetensors", cwd=run)
    assert "tokenizer   unknown" in ended.out
    assert ended.out.endswith("warnings:\n  what its ids mean is unknown: commands that need its text refuse it\n")


def test_info_shortens_and_escapes_names_of_tensors(run):
    names = ["h." + "1" * 5000 + ".x", "\x1b[2J", "a\nb"]
    weights = GPT(CONFIG).state_dict() | {name: np.zeros((2, 2)) for name in names}
    runs.save_weights(run / "odd.safetensors", weights, CONFIG)
    ended = command("info", "odd.safetensors", cwd=run)
    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert "'\\x1b[2J'" in ended.out
    assert "1" * 61 not in ended.out


def test_info_reads_a_tensor_of_one_huge_row_in_pieces(run):
    runs.save_weights(run / "wide", {"x": np.ones((1, 4_000_000), np.float16)}, CONFIG)
    with memory_at_most((run / "wide").stat().st_size):
        assert command("info", "wide", cwd=run).code == 0


def test_info_refuses_what_is_no_checkpoint(run):
    refused("info", "none/at all/x", cwd=run)
    refused("info", cwd=run, words=["PATH"])
    refused("info", ".", "--checkpoint", "first", cwd=run, words=["--checkpoint"])
    (run / "text").write_text("no weights")
    refused("info", "text", cwd=run, words=["text: "])


def test_info_in_a_process_of_its_own(run):
    assert process("info", str(run), cwd=run) == command("info", str(run), cwd=run)
    assert "usage: python -m npgpt.info" in process("info", "--help", cwd=run).out
