"""A tiny model learns a text by heart: all parts together learn, and not just fit each other's numbers."""

import numpy as np

from npgpt.config import GPTConfig
from npgpt.gpt import GPT
from npgpt.optim import AdamW, clip_grad_norm
from npgpt.schedules import warmup_cosine

TEXT = b"""\
The Moon is not a place to learn by heart,
she said, and learned it. Every word she read
stood where the one before it had to part.
"""


def test_a_tiny_model_learns_a_text_by_heart():
    T, steps = 32, 250
    model = GPT(GPTConfig(vocab_size=128, block_size=T, n_layer=2, n_head=2, n_embd=32), seed=0)
    optimizer = AdamW(model.named_parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    ids = np.frombuffer(TEXT, np.uint8).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(ids, T + 1)
    rng = np.random.default_rng(0)

    losses = []
    for step in range(steps):
        batch = windows[rng.integers(len(windows), size=16)]
        optimizer.lr = warmup_cosine(step, lr=1e-2, min_lr=1e-3, warmup=20, max_steps=steps)
        optimizer.zero_grad()
        loss = model.loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
        clip_grad_norm([p for _, p in model.named_parameters()], 1.0)
        optimizer.step()
        losses.append(loss.item())

    assert 4 < losses[0] < 6  # log(128) = 4.85: it begins by guessing
    # The first letters of a window have nothing to go by; from the 12th on, everything is known.
    x, y = windows[:, :-1], windows[:, 1:].copy()
    y[:, :12] = -100
    assert model.loss(x, y).item() < 0.05
    assert model.generate(ids[None, :12], len(ids) - 12, temperature=0)[0].tobytes() == ids.tobytes()
