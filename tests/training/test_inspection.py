"""The inside of a model in training: what is measured is right, and measuring changes nothing."""

import math

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.errors import TrainingDiverged
from npgpt.optim import AdamW, grad_norm
from npgpt.tensor import no_grad
from npgpt.text.tokenizers import ByteTokenizer
from npgpt.training.inspection import PASSAGE, Inspection
from npgpt.training.loop import train_step

CONFIG = GPTConfig(vocab_size=257, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.2)
TEXT = np.frombuffer("néb€xyz".encode() + b"!!", np.uint8).astype(np.int64)
BATCH = np.stack([TEXT[:8], TEXT[1:9]]), np.stack([TEXT[1:9], TEXT[2:10] if len(TEXT) > 9 else TEXT[1:9]])


def trained(look=None, clip=0.1, steps=3):
    """A model after some steps; look(inspection, norm) after each of them."""
    model = GPT(CONFIG, seed=1)
    inspection, optimizer = Inspection(model, ByteTokenizer(), BATCH), AdamW(model.named_parameters(), lr=0.01)
    for step in range(steps):
        _, norm = train_step(model, optimizer, [(*BATCH, 1.0)], 0.01, clip)
        if look:
            look(inspection, step, norm)
    return model


def test_the_gradients_norms_before_clipping_and_the_matrices_root_mean_square():
    def look(inspection, step, norm):
        assert norm > 0.1  # so that it was clipped
        parameters = dict(inspection.model.named_parameters())
        sizes = inspection.sizes()
        assert list(sizes["gradient"]) == ["wte", "wpe", "h.0", "h.1", "ln_f"]
        assert list(sizes["weight"]) == ["wte", "wpe", "h.0", "h.1"]
        assert math.hypot(*sizes["gradient"].values()) == pytest.approx(norm, rel=1e-4)
        ln_f = np.concatenate([parameters[f"ln_f.{name}"].grad for name in ("weight", "bias")])
        assert sizes["gradient"]["ln_f"] == pytest.approx(np.linalg.norm(ln_f), rel=1e-4)
        matrices = [p.data.ravel() for name, p in parameters.items() if name.startswith("h.1.") and p.ndim == 2]
        rms = np.sqrt(np.mean(np.concatenate(matrices) ** 2))
        assert sizes["weight"]["h.1"] == pytest.approx(rms, rel=1e-4)

    trained(look)


def test_a_frozen_layer_has_no_gradient():
    model = GPT(CONFIG)
    for p in model.h[0].parameters():
        p.requires_grad = False
    inspection = Inspection(model, ByteTokenizer(), BATCH)
    model.loss(*BATCH).backward()
    sizes = inspection.sizes()
    assert list(sizes["gradient"]) == ["wte", "wpe", "h.1", "ln_f"]
    assert list(sizes["weight"]) == ["wte", "wpe", "h.0", "h.1"]
    assert math.hypot(*sizes["gradient"].values()) == pytest.approx(grad_norm(model.trainable_parameters()), rel=1e-4)


def test_the_passage():
    model = GPT(CONFIG, seed=1)
    found = Inspection(model, ByteTokenizer(), BATCH).passage(0)
    assert found["pieces"] == ["n", "", "é", "b", "", "", "€", "x", "y"]
    with no_grad():
        ids, targets = BATCH[0][:1], BATCH[1][:1]
        assert np.mean(found["losses"]) == pytest.approx(model.loss(ids, targets).item(), abs=1e-4)
        x = model.embed(ids, np.arange(8))
        rms = {"drop": x}
        for i, block in enumerate(model.h):
            rms[f"h.{i}.attn"] = block.attn(block.ln_1(x))
            rms[f"h.{i}.mlp"] = block.mlp(block.ln_2(x + rms[f"h.{i}.attn"]))
            rms[f"h.{i}"] = x = block(x)
    assert found["activation"] == {
        name: pytest.approx(np.sqrt(np.mean(y.data**2)), rel=1e-4) for name, y in rms.items()
    }


def test_targets_that_do_not_count():
    model, (ids, targets) = GPT(CONFIG), BATCH
    found = Inspection(model, ByteTokenizer(), (ids, np.where(np.arange(8) < 6, targets, -100))).passage(0)
    assert [loss is None for loss in found["losses"]] == [False] * 6 + [True] * 2
    assert found["pieces"][-2:] == ["x", ""]


def test_a_long_context_gives_a_passage_that_can_be_read():
    model, ids = GPT(GPTConfig(vocab_size=257, block_size=300, n_layer=1, n_head=1, n_embd=4)), np.full((1, 300), 65)
    assert len(Inspection(model, ByteTokenizer(), (ids, ids)).passage(0)["losses"]) == PASSAGE


def test_a_loss_that_is_not_finite():
    model = GPT(CONFIG)
    model.wte.weight.data[0] = np.nan
    with pytest.raises(TrainingDiverged, match="after step 7: the loss of a passage is not finite"):
        Inspection(model, ByteTokenizer(), BATCH).passage(7)


def test_sizes_that_are_not_finite_are_left_out():
    model = GPT(CONFIG)
    model.wte.weight.data[0] = np.inf
    assert "wte" not in Inspection(model, ByteTokenizer(), BATCH).sizes()["weight"]


def test_steps_are_the_same_bit_for_bit():
    def look(inspection, step, norm):
        inspection.passage(step), inspection.sizes()

    plain, watched = trained(), trained(look)
    assert plain.get_rng_state() == watched.get_rng_state()
    for name, array in plain.state_dict().items():
        assert watched.state_dict()[name].tobytes() == array.tobytes(), name
