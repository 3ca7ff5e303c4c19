"""A model in few bits: the weights that it stands for, what passes through it, and what is read of a file for it."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.adapters import CONFIG, IDS, TARGETS, base_checkpoint, base_model
from helpers.models import as_checkpoint
from helpers.tolerances import FLOAT64_GRADIENT, FLOAT64_VALUE

from npgpt import Tensor, no_grad
from npgpt.adapters import load_quantized
from npgpt.adapters.adapter import LINEAR
from npgpt.adapters.frozen import frozen_linear, frozen_linear_cross_entropy
from npgpt.adapters.quantized import as_quantized
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.errors import CheckpointError
from npgpt.gpt import GPT
from npgpt.kernels.few_bits import to_bf16, to_nf4

MATRICES = {f"h.{i}.{layer}.weight" for i in range(2) for layer in LINEAR}
OPTIONS = [{}, {"tie_weights": False, "bias": False}, {"position": "rotary", "qkv_bias": True, "bias": False}]


def rounded_model(checkpoint, dtype=np.float64):
    """A plain model with the weights that the one in few bits stands for."""
    model = GPT.empty(checkpoint.config, dtype)
    model.load_state_dict({name: tensor.numpy() for name, tensor in as_quantized(checkpoint).items()})
    return model


@pytest.mark.parametrize("changes", OPTIONS)
def test_it_computes_what_its_rounded_weights_do(changes):
    checkpoint = base_checkpoint(**changes)
    model, plain = load_quantized(checkpoint, np.float64), rounded_model(checkpoint)
    with no_grad():
        np.testing.assert_allclose(model(IDS).data, plain(IDS).data, rtol=0, atol=FLOAT64_VALUE)
    assert abs(model.loss(IDS, TARGETS).item() - plain.loss(IDS, TARGETS).item()) <= FLOAT64_VALUE
    assert np.abs(plain(IDS).data - base_model(**changes)(IDS).data).max() > 0.01  # rounding did something


@pytest.mark.parametrize("changes", OPTIONS)
def test_gradients_pass_through(changes):
    """To a layer norm, that is through all matrices; and none is computed for what is in few bits."""
    checkpoint = base_checkpoint(**changes)
    gradients = []
    for model in (load_quantized(checkpoint, np.float64), rounded_model(checkpoint)):
        for name, p in model.named_parameters():
            p.requires_grad = name == "h.0.ln_1.weight"
        model.loss(IDS, TARGETS).backward()
        gradients.append(model.h[0].ln_1.weight.grad)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=0, atol=FLOAT64_GRADIENT)


def test_which_tensors_are_rounded_and_how():
    checkpoint = base_checkpoint(tie_weights=False)
    rounded = as_quantized(checkpoint)
    for name, tensor in checkpoint.tensors.items():
        x, found = tensor.numpy(), rounded[name].numpy()
        if name in MATRICES:
            np.testing.assert_array_equal(found, to_nf4([x], x.shape).rows())
        elif name in ("wte.weight", "lm_head.weight"):
            np.testing.assert_array_equal(found, to_bf16([x], x.shape).rows())
        else:
            np.testing.assert_array_equal(found, x)


def test_everything_is_frozen_and_its_weights_can_be_read():
    model, plain = load_quantized(base_checkpoint()), rounded_model(base_checkpoint(), np.float32)
    assert not model.trainable_parameters()
    np.testing.assert_array_equal(model.h[1].mlp.c_fc.weight.data, plain.h[1].mlp.c_fc.weight.data)
    np.testing.assert_array_equal(model.lm_head_weight.data, plain.wte.weight.data)
    assert len(list(model.matrices())) == 1 + len(MATRICES)
    nf4 = sum(plain.state_dict()[name].size for name in MATRICES)
    assert sum(m.nbytes for m in model.matrices()) < 2 * plain.wte.weight.size + 2.1 * nf4  # rows are padded to 64


def test_no_more_than_a_piece_of_a_matrix_is_read_at_a_time(monkeypatch):
    monkeypatch.setattr("npgpt.checkpoints.shared.lazy_tensor.CHUNK", 64)
    checkpoint, read = base_checkpoint(), []

    def watched(tensor):
        rows = tensor.read_rows
        return replace(tensor, read_rows=lambda first, last: read.append(rows(first, last).size) or rows(first, last))

    tensors = {name: watched(tensor) for name, tensor in checkpoint.tensors.items()}
    model = load_quantized(replace(checkpoint, tensors=tensors))
    assert max(read) <= 64
    found, expected = (x.h[0].attn.c_attn.matrix.codes for x in (model, load_quantized(checkpoint)))
    np.testing.assert_array_equal(found, expected)


def test_matrices_that_the_file_has_the_other_way_round():
    checkpoint = base_checkpoint()
    turned = {
        name: lazy_array(np.ascontiguousarray(tensor.numpy().T)).T if len(tensor.shape) == 2 else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    first, second = load_quantized(checkpoint), load_quantized(replace(checkpoint, tensors=turned))
    assert first.loss(IDS, TARGETS).item() == second.loss(IDS, TARGETS).item()


@pytest.mark.parametrize("name", ["h.1.attn.c_proj.weight", "wte.weight", "h.0.ln_1.bias"])
def test_not_a_number(name):
    model = base_model(np.float32)
    model.state_dict()[name].flat[3] = np.nan
    with pytest.raises(CheckpointError, match=f"memory: NaN or infinity in '{name}'"):
        load_quantized(as_checkpoint(model))
    if not name.endswith("bias"):
        with pytest.raises(CheckpointError, match=f"memory: tensor {name}: NaN or infinity"):
            as_quantized(as_checkpoint(model))[name].numpy()


def test_ids_outside_the_vocabulary():
    with pytest.raises(IndexError, match="token id 23 is outside the vocabulary of 23"):
        load_quantized(base_checkpoint())([[23]])


@pytest.mark.parametrize("transposed", [False, True])
def test_a_frozen_layers_gradients(transposed):
    rng = np.random.default_rng(0)
    matrix = to_nf4([rng.standard_normal((5, 70)).astype(np.float32)], (5, 70))
    W = matrix.rows().astype(np.float64)
    W = W.T if transposed else W
    x = Tensor(rng.standard_normal((2, 3, len(W))), requires_grad=True)
    b = Tensor(rng.standard_normal(W.shape[1]), requires_grad=True)
    y = frozen_linear(x, matrix, b, transposed)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    for found, expected in ((y.data, x.data @ W + b.data), (x.grad, dy @ W.T), (b.grad, dy.sum(axis=(0, 1)))):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="frozen_linear: x"):
        frozen_linear(x, matrix, b, not transposed)


@pytest.mark.parametrize("at_a_time", [1, 2, 100])
def test_the_frozen_head_some_rows_at_a_time(at_a_time, monkeypatch):
    monkeypatch.setattr("npgpt.adapters.frozen.ROWS", at_a_time)
    rng = np.random.default_rng(0)
    matrix = to_bf16([rng.standard_normal((9, 6)).astype(np.float32)], (9, 6))
    targets = np.array([8, -100, 0, 8])
    W = Tensor(matrix.rows().astype(np.float64))
    gradients = []
    for loss_of in (lambda x: frozen_linear_cross_entropy(x, matrix, targets), lambda x: _plain(x, W, targets)):
        x = Tensor(np.random.default_rng(1).standard_normal((4, 6)), requires_grad=True)
        loss = loss_of(x)
        (loss * 3).backward()
        gradients.append((loss.item(), x.grad))
    assert abs(gradients[0][0] - gradients[1][0]) < 1e-14
    np.testing.assert_allclose(gradients[0][1], gradients[1][1], rtol=0, atol=1e-14)


def _plain(x, W, targets):
    from npgpt import ops

    return ops.linear_cross_entropy(x, W, targets)


def test_padding_and_the_cache_work_as_ever():
    model, plain = load_quantized(base_checkpoint()), rounded_model(base_checkpoint(), np.float32)
    found, expected = (m.generate(IDS[:, :3], 4, temperature=0) for m in (model, plain))
    np.testing.assert_array_equal(found, expected)
    assert CONFIG.block_size == 8
