"""EleutherAI's lm-evaluation-harness scores the server, and gets npgpt's own figures."""

import json

import numpy as np
import pytest
from helpers.serving import running, tiny_engine

for _package in ("lm_eval", "aiohttp", "tenacity", "tokenizers", "transformers", "datasets"):
    pytest.importorskip(_package, reason=f"{_package}, which the harness needs for servers, is not installed")
pytestmark = pytest.mark.slow

QUESTIONS = [
    {"question": f"{a} and {b} are", "choices": [str(a + b), "many", "néver"], "label": i % 3}
    for i, (a, b) in enumerate(zip(range(10), range(3, 13), strict=True))
]


def bytes_tokenizer(folder):
    """Hugging Face's tokenizer with the ids of ``ByteTokenizer``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from npgpt.text.byte_level import bytes_to_unicode

    vocabulary = {bytes_to_unicode(bytes([byte])): byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE({**vocabulary, "<|endoftext|>": 256}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)


@pytest.mark.parametrize("tokenized", [True, False])
def test_a_multiple_choice_has_the_same_log_likelihoods(tmp_path, monkeypatch, tokenized):
    import lm_eval

    from npgpt.scoring.losses import score
    from npgpt.scoring.spans import Spans

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    bytes_tokenizer(tmp_path / "tokenizer")
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    task = {
        "task": "made_up", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}",
    }  # fmt: skip
    with running(tiny_engine()) as server:
        arguments = {
            "model": "tiny", "base_url": f"{server.url}/v1/completions", "tokenizer": str(tmp_path / "tokenizer"),
            "tokenizer_backend": "huggingface", "tokenized_requests": tokenized, "max_length": 64, "batch_size": 4,
            "num_concurrent": 2,
        }  # fmt: skip
        results = lm_eval.simple_evaluate("local-completions", model_args=arguments, tasks=[task], bootstrap_iters=0)
        tokenizer, model = server.engine.tokenizer, server.engine.decoder.model
        pieces = []
        for question in QUESTIONS:
            for choice in question["choices"]:
                ids = tokenizer.encode(f"{question['question']} {choice}")
                pieces.append((ids, len(ids) - len(tokenizer.encode(question["question"]))))
        wanted, greedy = np.zeros(len(pieces)), np.zeros(len(pieces), bool)
        for span, losses, likeliest in score(model, Spans.join(pieces)):
            wanted[span], greedy[span] = -losses.sum(), likeliest.all()
    samples = sorted(results["samples"]["made_up"], key=lambda sample: sample["doc_id"])
    found = [answer for sample in samples for answer in sample["filtered_resps"]]
    assert [bool(is_greedy) for _, is_greedy in found] == greedy.tolist()
    np.testing.assert_allclose([logprob for logprob, _ in found], wanted, atol=1e-3)
    accuracy = np.mean([wanted[3 * i : 3 * i + 3].argmax() == q["label"] for i, q in enumerate(QUESTIONS)])
    assert results["results"]["made_up"]["acc,none"] == pytest.approx(accuracy)
