"""The public GPT-2 124M, where its weights are at hand: NPGPT_GPT2=FOLDER pytest tests/test_public_gpt2.py

Everything else in these tests needs no download. What is checked here is what others found with these weights: npgpt
must load and compute GPT-2 and not just something that agrees with itself.
"""

import os
from functools import cache

import numpy as np
import pytest

from npgpt import load
from npgpt.text.tokenizers import GPT2Tokenizer

FOLDER = os.environ.get("NPGPT_GPT2")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="NPGPT_GPT2 doesn't say where the weights of GPT-2 124M are")

# Shakespeare, Coriolanus, act 1, scene 1: the beginning of the "Tiny Shakespeare" that llm.c takes its batch from.
SPEECHES = """\
First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die than to famish?

All:
Resolved. resolved.

First Citizen:
First, you know Caius Marcius is chief enemy to the people.

All:
We know't, we know't.

First Citizen:
Let us kill him, and we'll have corn at our own price.
Is't a verdict?

All:
No more talking on't; let it be done: away, away!

Second Citizen:
One word, good citizens.

First Citizen:
We are accounted poor citizens, the patricians good.
What authority surfeits on would relieve us: if they
would yield us but the superfluity, while it were
wholesome, we might guess they relieved us humanely;
but they think we are too dear: the leanness that
afflicts us, the object of our misery, is as an
inventory to particularise their abundance; our
sufferance is a gain to them Let us revenge this with
our pikes,"""


@cache
def model():
    model = load(FOLDER)
    assert model.num_parameters() == 124_439_808
    return model


def test_the_loss_on_a_known_batch():
    """PyTorch's loss of 5.270007 on 4 windows of 64 tokens is the first one in llm.c's test_gpt2.c (Karpathy 2024).

    Each speech is a document of its own there, which begins with <|endoftext|>.
    """
    tokenizer = GPT2Tokenizer()
    documents = ([tokenizer.end_of_text, *tokenizer.encode(s + "\n\n")] for s in SPEECHES.split("\n\n"))
    ids = np.concatenate(list(documents))[: 4 * 64 + 1]
    assert tokenizer.decode(ids[-3:]) == "\nour p"
    loss = model().loss(ids[:-1].reshape(4, 64), ids[1:].reshape(4, 64))
    assert abs(loss.item() - 5.270007) <= 1e-4  # its logits are some -30 to -100, of which float32 keeps five digits


def test_a_known_greedy_continuation():
    """It is in picoGPT's README (Mody 2023), made with NumPy from OpenAI's own files."""
    tokenizer = GPT2Tokenizer()
    prompt = tokenizer.encode("Alan Turing theorized that computers would one day become")
    ids = model().generate(prompt[None], 40, temperature=0)[0, len(prompt) :]
    assert tokenizer.decode(ids).rstrip() == (
        " the most powerful machines on the planet.\n\nThe computer is a machine that can perform complex calculations"
        ", and it can perform these calculations in a way that is very similar to the human brain."
    )
