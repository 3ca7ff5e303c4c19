"""Scores of a tiny random GPT-2 against transformers' model, with the published methods written down once more.

The window loop is that of "Perplexity of fixed-length models" in transformers' documentation; a continuation's log
probability and its greedy match are those of lm-evaluation-harness.
"""

import json
import math

import numpy as np
import pytest
from conftest import TEXT
from helpers.tolerances import FLOAT64_VALUE

from scoring.conftest import CONFIG

torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
pytest.importorskip("transformers", reason="compares with transformers, which is not installed")

from test_gpt_against_torch import transformers_model  # noqa: E402 - it imports torch

from npgpt.scoring.divergence import kl_divergence  # noqa: E402
from npgpt.scoring.last_words import last_words, read_last_words  # noqa: E402
from npgpt.scoring.multiple_choice import multiple_choice, read_questions  # noqa: E402
from npgpt.scoring.perplexity import perplexity  # noqa: E402
from npgpt.scoring.spans import sliding_windows  # noqa: E402
from npgpt.text.tokenizers import ByteTokenizer  # noqa: E402


@pytest.fixture(scope="module")
def peer(model):
    """log_softmax of transformers' model: ids (n,) -> (n, V)"""
    theirs, _ = transformers_model(CONFIG, model.state_dict())

    def log_probabilities(ids):
        with torch.no_grad():
            return torch.log_softmax(theirs(torch.tensor([ids])).logits[0], dim=-1)

    return log_probabilities


@pytest.mark.parametrize(("max_length", "stride"), [(12, 6), (12, 11), (9, 1), (5, 3)])
def test_perplexity_by_the_loop_of_the_documentation(model, peer, max_length, stride):
    ids = list(TEXT[:60].encode())
    total, count, covered = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        labels = ids[begin:end]
        scored = min(end - covered, len(labels) - 1)  # the labels are shifted, so the first is never scored
        log_p = peer(ids[begin:end])[:-1]
        total -= float(log_p[torch.arange(len(labels) - 1), torch.tensor(labels[1:])][-scored:].sum())
        count, covered = count + scored, end
        if end == len(ids):
            break
    windows = sliding_windows(np.array(ids), np.array([0]), max_length - 1, stride, 256, prefix=False)
    found = perplexity(model, windows, np.ones(257, int))
    assert found.tokens == count == len(ids) - 1
    assert found.nats_per_token.value == pytest.approx(total / count, rel=FLOAT64_VALUE)
    assert found.perplexity.value == pytest.approx(math.exp(total / count), rel=1e-11)


def continuation(peer, context, text, max_length):
    """-> log p of text after context, whether greedy decoding gives it, as the harness has it"""
    before = list(context.encode()) or [256]
    after = list(text.encode())
    ids = (before + after)[-(max_length + 1) :]
    log_p = peer(ids[:-1])[-len(after) :]
    targets = torch.tensor(after)
    return float(log_p[torch.arange(len(after)), targets].sum()), bool((log_p.argmax(dim=-1) == targets).all())


def test_last_words(model, peer, tmp_path):
    texts = [TEXT[i : i + n] for i, n in ((0, 17), (4, 8), (13, 30), (9, 3), (22, 11))]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps({"text": text.strip()}) + "\n" for text in texts))
    found = last_words(model, read_last_words(path, ByteTokenizer(), 12), batch_size=2)
    results = []
    for text in texts:
        words = text.strip().split(" ")
        results.append(continuation(peer, " ".join(words[:-1]), " " + words[-1], 12))
    log_p, greedy = zip(*results, strict=True)
    assert found.perplexity.value == pytest.approx(math.exp(-np.mean(log_p)), rel=1e-10)
    assert found.accuracy.value == np.mean(greedy)


def test_multiple_choice(model, peer, tmp_path):
    rng = np.random.default_rng(0)
    questions = []
    for label in rng.integers(3, size=20):
        endings = [TEXT[i : i + n].strip() for i, n in zip(rng.integers(40, size=3), (4, 6, 9), strict=True)]
        context = {"activity_label": "A", "ctx_a": "it is", "ctx_b": "so"}
        questions.append({**context, "endings": endings, "label": int(label)})
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in questions))
    found = multiple_choice(model, read_questions(path, ByteTokenizer(), 12), batch_size=4)
    acc, acc_norm = [], []
    for q in questions:
        log_p = np.array([continuation(peer, "A: it is So", f" {ending}", 12)[0] for ending in q["endings"]])
        acc.append(log_p.argmax() == q["label"])
        acc_norm.append((log_p / [len(ending) for ending in q["endings"]]).argmax() == q["label"])
    assert (found.acc.value, found.acc_norm.value) == (np.mean(acc), np.mean(acc_norm))


def test_kl_divergence():
    p, q = np.random.default_rng(0).standard_normal((2, 40, 30)) * 3
    log_p, log_q = (torch.log_softmax(torch.from_numpy(x), dim=-1) for x in (p, q))
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
    np.testing.assert_allclose(kl_divergence(p, q), expected.numpy(), rtol=1e-11)
