"""What a run draws while it trains."""

from npgpt import GPT, GPTConfig
from npgpt.text.tokenizers import ByteTokenizer
from npgpt.training.evaluation import Samples
from npgpt.training.plan import Plan


def test_samples_of_a_padded_vocabulary_have_only_tokens_with_a_text():
    """Of 1,000 ids the tokenizer has 257: a sample of 30 tokens would meet another."""
    tokenizer = ByteTokenizer()
    plan = Plan(8, 100, 1.0, 4, 0.1, decay_steps=20, eval_every=10, sample_every=1, sample_prompt="a")
    samples = Samples(GPT(GPTConfig(1000, 64, 1, 1, 4), seed=0), tokenizer, plan, 30)
    assert samples.text(step=1).startswith("a")
