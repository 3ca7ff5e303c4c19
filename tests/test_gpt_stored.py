"""A tiny model and ten steps of its training against what torch and transformers made of it, stored in reference/.

So this runs without them. reference/make_model.py made the values, and says what they are.
"""

from pathlib import Path

import numpy as np
import pytest

from npgpt.config import GPTConfig
from npgpt.gpt import GPT
from npgpt.optim import AdamW, clip_grad_norm
from npgpt.schedules import warmup_cosine

FILE = Path(__file__).with_name("reference") / "model.npz"
STORED = dict(np.load(FILE))
CONFIG = GPTConfig(vocab_size=29, block_size=8, n_layer=2, n_head=3, n_embd=12)


def stored(kind: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{kind}."): array for name, array in STORED.items() if name.startswith(f"{kind}.")}


def model(dtype):
    model = GPT.empty(CONFIG, dtype)
    model.load_state_dict(stored("parameters"))
    return model


def distance(found, expected):
    """Relative, in L2 norm."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("dtype", "logits", "loss"), [(np.float64, 1e-12, 1e-13), (np.float32, 1e-5, 1e-6)])
def test_logits_and_loss(dtype, logits, loss):
    m = model(dtype)
    ids, targets = STORED["ids"][0], STORED["targets"][0]
    np.testing.assert_allclose(m(ids).data, STORED["logits"], rtol=0, atol=logits)
    assert abs(m.loss(ids, targets).item() - STORED["loss"]) <= loss


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_gradients(dtype, allowed):
    m = model(dtype)
    m.loss(STORED["ids"][0], STORED["targets"][0]).backward()
    expected = stored("gradients")
    assert dict(m.named_parameters()).keys() == expected.keys()
    for name, p in m.named_parameters():
        assert distance(p.grad, expected[name]) <= allowed, name


def train(dtype):
    """-> the model, its losses and its gradients' norms after the ten steps that reference/make_model.py makes."""
    m = model(dtype)
    optimizer = AdamW(m.named_parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    losses, norms = [], []
    for step, (ids, targets) in enumerate(zip(STORED["ids"], STORED["targets"], strict=True)):
        optimizer.lr = warmup_cosine(step, lr=1e-2, min_lr=1e-3, warmup=3, max_steps=10)
        optimizer.zero_grad()
        loss = m.loss(ids, targets)
        loss.backward()
        losses.append(loss.item())
        norms.append(clip_grad_norm([p for _, p in m.named_parameters()], 1.0))
        optimizer.step()
    return m, losses, norms


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_ten_steps_of_training(dtype, allowed):
    m, losses, norms = train(dtype)
    np.testing.assert_allclose(losses, STORED["losses"], rtol=allowed)
    np.testing.assert_allclose(norms, STORED["norms"], rtol=allowed)
    expected = stored("trained")
    for name, p in m.named_parameters():
        counted = np.ones(p.shape, bool)
        if name.endswith("c_attn.bias"):
            # The keys' bias adds the same to all scores of a query, so it changes nothing. Its gradient is nothing but
            # rounding, which AdamW divides by its own size and so moves the bias by.
            counted[12:24] = False
        assert distance(p.data[counted], expected[name][counted]) <= allowed, name


def test_the_stored_values_are_what_the_script_makes():
    pytest.importorskip("torch", reason="makes the stored values again with torch, which is not installed")
    pytest.importorskip(
        "transformers", reason="makes the stored values again with transformers, which is not installed"
    )
    from reference.make_model import make

    made = make()
    assert made.keys() == STORED.keys()
    for name, array in made.items():
        assert array.dtype == STORED[name].dtype
        np.testing.assert_allclose(array, STORED[name], rtol=0, atol=1e-9, err_msg=name)  # for the keys' bias
