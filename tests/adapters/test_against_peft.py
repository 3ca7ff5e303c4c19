"""LoRA and QLoRA against peft and torch: results, gradients, losses of training, and files that go both ways."""

import json

import numpy as np
import pytest
from helpers.adapters import CONFIG, IDS, TARGETS, base_checkpoint, base_model, peft_model, random_adapter
from helpers.tolerances import FLOAT64_GRADIENT, FLOAT64_VALUE

from npgpt.adapters import adapter_of, attach, load_quantized, write_peft
from npgpt.adapters.files import with_adapter
from npgpt.adapters.peft import read_peft
from npgpt.adapters.quantized import as_quantized
from npgpt.checkpoints import load, make_model, save
from npgpt.errors import CheckpointError
from npgpt.optim import AdamW, clip_grad_norm

torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
peft = pytest.importorskip("peft", reason="compares with peft, which is not installed")
pytest.importorskip("transformers", reason="compares with transformers, which is not installed")


def theirs(adapter, arrays):
    return peft_model(adapter, CONFIG, arrays)


def their_loss(model, ids=IDS, targets=TARGETS):
    logits = model(input_ids=torch.from_numpy(ids)).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())


def their_arrays(model, name):
    return {
        key.split("model.transformer.")[1].replace(".default.weight", ""): getattr(p, name).detach().numpy()
        for key, p in model.named_parameters()
        if "lora_" in key
    }


def our_arrays(model, name):
    """{"h.0.attn.c_attn.lora_A": array, as peft has it}"""
    return {
        key.replace(".lora.", ".lora_"): getattr(p, name).T for key, p in model.named_parameters() if ".lora." in key
    }


def quantized():
    """The model in few bits, computing in float64, and the arrays that it stands for."""
    checkpoint = base_checkpoint()
    arrays = {name: tensor.numpy() for name, tensor in as_quantized(checkpoint).items()}
    return load_quantized(checkpoint, np.float64), arrays


def plain():
    return base_model(), base_model().state_dict()


BASES = pytest.mark.parametrize("make", [plain, quantized])
TARGETED = [("attn.c_attn",), ("c_proj",), ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]


@BASES
@pytest.mark.parametrize("targets", TARGETED)
def test_loss_and_gradients(make, targets):
    adapter = random_adapter(3, alpha=5.0, targets=targets)
    model, arrays = make()
    attach(model, adapter, trainable=True)
    loss = model.train().loss(IDS, TARGETS)
    loss.backward()
    other = theirs(adapter, arrays)
    expected = their_loss(other)
    expected.backward()
    assert abs(loss.item() - expected.item()) <= FLOAT64_VALUE
    gradients = their_arrays(other, "grad")
    assert gradients.keys() == our_arrays(model, "grad").keys()
    for name, gradient in our_arrays(model, "grad").items():
        np.testing.assert_allclose(gradient, gradients[name], rtol=0, atol=FLOAT64_GRADIENT, err_msg=name)
    assert [name for name, p in model.named_parameters() if p.grad is not None and ".lora." not in name] == []


@BASES
def test_losses_of_training(make):
    """Forty steps with clipping, decay and a falling rate; the adapter begins as new ones do, with B = 0."""
    adapter = random_adapter(2, seed=5)
    for _, B in adapter.matrices.values():
        B[...] = 0
    model, arrays = make()
    attach(model, adapter, trainable=True)
    other = theirs(adapter, arrays)
    optimizer = AdamW(model.named_parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    trained = [p for p in other.parameters() if p.requires_grad]
    their_optimizer = torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    ours, expected = [], []
    for step in range(40):
        optimizer.lr = their_optimizer.param_groups[0]["lr"] = 2e-2 / (1 + step / 10)
        optimizer.zero_grad()
        their_optimizer.zero_grad()
        loss, their = model.train().loss(IDS, TARGETS), their_loss(other)
        loss.backward()
        their.backward()
        clip_grad_norm(model.trainable_parameters(), 0.5)
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        their_optimizer.step()
        ours.append(loss.item())
        expected.append(their.item())
    assert ours[-1] < ours[0] - 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    for name, array in our_arrays(model, "data").items():
        np.testing.assert_allclose(array, their_arrays(other, "data")[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("targets", TARGETED)
def test_peft_loads_what_we_write(targets, tmp_path):
    adapter, model = random_adapter(3, alpha=5.0, targets=targets), base_model(np.float32)
    save(model, tmp_path / "base")
    write_peft(tmp_path / "adapter", adapter)
    from transformers import AutoModelForCausalLM

    other = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    attach(model, adapter)
    logits = other.eval()(input_ids=torch.from_numpy(IDS)).logits.detach().numpy()
    np.testing.assert_allclose(model(IDS).data, logits, rtol=0, atol=2e-5)
    merged = other.merge_and_unload().state_dict()
    ours = with_adapter(base_checkpoint(), adapter)
    for name, tensor in ours.tensors.items():
        np.testing.assert_allclose(tensor.numpy(), merged[f"transformer.{name}"].numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_we_load_what_peft_writes(rank_stabilised, tmp_path):
    """Also what it says is at its base, and an adapter of some layers alone, chosen by a regular expression."""
    from test_gpt_against_torch import transformers_model

    model = base_model(np.float32)
    other, _ = transformers_model(CONFIG, base_model().state_dict())
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=r".*h\.1\.(attn|mlp)\.c_proj", fan_in_fan_out=True, task_type="CAUSAL_LM",
        use_rslora=rank_stabilised, init_lora_weights=False, lora_dropout=0.25,
    )  # fmt: skip
    other = peft.get_peft_model(other.float(), config).eval()
    other.save_pretrained(tmp_path / "adapter")
    adapter = read_peft(tmp_path / "adapter")
    assert list(adapter.matrices) == ["h.1.attn.c_proj", "h.1.mlp.c_proj"]
    assert adapter.config.dropout == 0.25
    attach(model, adapter)
    logits = other(input_ids=torch.from_numpy(IDS)).logits.detach().numpy()
    assert np.abs(logits - base_model(np.float32)(IDS).data).max() > 0.1
    np.testing.assert_allclose(model(IDS).data, logits, rtol=0, atol=2e-5)
    write_peft(tmp_path / "again", adapter_of(model))  # and peft finds the same layers again
    other = peft.PeftModel.from_pretrained(
        transformers_model(CONFIG, base_model().state_dict())[0].float(), tmp_path / "again"
    )
    np.testing.assert_allclose(other.eval()(input_ids=torch.from_numpy(IDS)).logits.detach().numpy(), logits, atol=1e-5)
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["target_modules"] == [
        "transformer.h.1.attn.c_proj",
        "transformer.h.1.mlp.c_proj",
    ]


def test_merging_is_adding_the_product():
    adapter = random_adapter(2)
    model = base_model(np.float32)
    attach(model, adapter)
    merged = make_model(with_adapter(base_checkpoint(), adapter))
    np.testing.assert_allclose(merged(IDS).data, model(IDS).data, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"rank_pattern": {"h.1.attn.c_attn": 3}}], ids=str)
def test_an_adapter_that_is_refused_can_be_merged_by_peft(tmp_path, options):
    """As the message says."""
    from test_gpt_against_torch import transformers_model

    base, _ = transformers_model(CONFIG, base_model().state_dict())
    config = peft.LoraConfig(
        target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM", init_lora_weights=False, **options
    )
    theirs = peft.get_peft_model(base.float(), config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"doesn't compute:\nmerge .* in peft \(merge_and_unload\)"):
        read_peft(tmp_path / "adapter")
    logits = theirs(input_ids=torch.from_numpy(IDS)).logits.detach().numpy()
    theirs.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert np.abs(logits - base_model(np.float32)(IDS).data).max() > 0.1
    np.testing.assert_allclose(load(tmp_path / "merged")(IDS).data, logits, rtol=0, atol=2e-5)
