"""model.npz: what transformers' GPT-2 and torch's AdamW make of a tiny model, in float64.

Nothing of npgpt is needed for it. The file lets a machine without them check the whole model:

parameters.NAME     the weights to begin with, in float32, which float64 holds exactly
ids, targets        (10, B, T), a batch for each step; a target of -100 doesn't count
logits, loss, gradients.NAME    of the first batch and the first weights
losses, norms       of each of ten training steps: the loss, and the gradients' norm before it is clipped
trained.NAME        the weights after them
"""

from pathlib import Path

import numpy as np
import torch
import transformers

FILE = Path(__file__).with_name("model.npz")

CONFIG = {"vocab_size": 29, "n_positions": 8, "n_layer": 2, "n_head": 3, "n_embd": 12}
STEPS, WARMUP, LR, MIN_LR = 10, 3, 1e-2, 1e-3
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.1, 1.0


def make() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CONFIG, bos_token_id=0, eos_token_id=0))
    model.double().eval()  # eval: no dropout
    parameters = {name.removeprefix("transformer."): p for name, p in model.named_parameters()}
    values = {}
    for name, p in parameters.items():
        start = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        array = (start + 0.3 * rng.standard_normal(p.shape)).astype(np.float32)
        values[f"parameters.{name}"] = array
        p.data = torch.tensor(array, dtype=torch.float64)

    shape = (STEPS, 4, CONFIG["n_positions"])
    values["ids"] = rng.integers(CONFIG["vocab_size"], size=shape)
    values["targets"] = rng.integers(CONFIG["vocab_size"], size=shape)
    values["targets"][rng.random(shape) < 0.1] = -100

    matrices = [p for p in parameters.values() if p.ndim == 2]
    others = [p for p in parameters.values() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / WARMUP, total_iters=WARMUP - 1),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - WARMUP, eta_min=MIN_LR),
        ],
        milestones=[WARMUP],
    )

    losses, norms = [], []
    for step in range(STEPS):
        logits = model(input_ids=torch.from_numpy(values["ids"][step])).logits
        targets = torch.from_numpy(values["targets"][step])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            values["logits"], values["loss"] = logits.detach().numpy(), loss.detach().numpy()
            values |= {f"gradients.{name}": p.grad.numpy().copy() for name, p in parameters.items()}
        losses.append(loss.item())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in parameters.values()]).item())
        for p in parameters.values():
            p.grad *= min(1, CLIP / norms[-1])  # clip_grad_norm_ would divide by the norm plus 1e-6
        optimizer.step()
        schedule.step()
    values |= {"losses": np.array(losses), "norms": np.array(norms)}
    return values | {f"trained.{name}": p.detach().numpy() for name, p in parameters.items()}


def write():
    np.savez_compressed(FILE, **make())
    return FILE
