"""torch's side of the measurements computes what npgpt does."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.running_bench import ROOT, needs_torch

from npgpt import GPT, AdamW, GPTConfig
from npgpt.optim import clip_grad_norm

try:
    import torch
except ImportError:
    torch = None


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def pair(request):
    """A small model of npgpt and of torch, with the same weights."""
    if torch is None:
        pytest.skip("needs torch")
    from bench.peers.torch_gpt import from_npgpt

    config = GPTConfig(vocab_size=31, block_size=12, n_layer=2, n_head=3, n_embd=12, bias=request.param)
    ours = with_random_parameters(GPT(config))
    arrays = {name: torch.from_numpy(a.copy()) for name, a in ours.state_dict().items()}
    return ours, from_npgpt(config, arrays)


def test_torch_has_the_same_losses_and_norms_as_npgpt(pair):
    from bench.peers.torch_gpt import adamw

    ours, theirs = pair
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    our_optimizer, their_optimizer = AdamW(ours.named_parameters(), **settings), adamw(theirs, **settings)
    tokens = np.random.default_rng(0).integers(31, size=(3, 10))
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    for _ in range(10):
        our_loss = ours.loss(ids, targets)
        our_optimizer.zero_grad()
        our_loss.backward()
        norm = clip_grad_norm(ours.parameters(), 1.0)
        our_optimizer.step()
        their_loss = theirs.loss(torch.from_numpy(ids), torch.from_numpy(targets))
        their_optimizer.zero_grad()
        their_loss.backward()
        their_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        their_optimizer.step()
        assert our_loss.item() == pytest.approx(their_loss.item(), rel=1e-4)
        assert norm == pytest.approx(their_norm.item(), rel=1e-3)


def test_torchs_autocast_rounds_products_alone(pair):
    """The loss is off by no more than bfloat16's rounding, and weights and gradients stay float32."""
    from bench.peers.torch_gpt import loss_function

    _, theirs = pair
    tokens = torch.from_numpy(np.random.default_rng(0).integers(31, size=(3, 10)))
    batch = tokens[:, :-1], tokens[:, 1:]
    exact = theirs.loss(*batch).item()
    loss = loss_function(theirs, autocast=True, compile=False, matmul_precision="highest")(*batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert 0 < abs(loss.item() - exact) < 2**-8 * exact
    assert {x.dtype for p in theirs.parameters() for x in (p, p.grad)} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_torch_generates_the_same_tokens_as_npgpt(pair):
    """20 tokens, of which the model sees the last 12, so the cache is filled and the window slides."""
    ours, theirs = pair
    ids = np.array([[3, 1, 4], [1, 5, 9]])
    expected = ours.generate(ids, 17, temperature=0)
    assert theirs.generate(torch.from_numpy(ids), 17, temperature=0).tolist() == expected.tolist()


@needs_torch
def test_torchs_side_never_loads_numba():
    modules = "bench.peers.torch_train_step, bench.peers.torch_book_run"
    code = f"import sys, {modules}; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
