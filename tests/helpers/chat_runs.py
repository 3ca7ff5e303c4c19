"""A run to chat with, whose weights are random."""

from helpers.sample_runs import CONFIG
from helpers.texts import with_random_parameters
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import runs
from npgpt.checkpoints.shared.atomic import write_json
from npgpt.text.tokenizers import ByteTokenizer
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings


def make_run(folder, tokenizer=None, block_size=96):
    tokenizer = tokenizer or ByteTokenizer()
    config = GPTConfig(**{**CONFIG.to_dict(), "vocab_size": tokenizer.vocab_size, "block_size": block_size})
    folder.mkdir(parents=True)
    write_run_config(folder, config, {}, TrainSettings().resolve(1, block_size, ""))
    write_json(folder / "tokenizer.json", tokenizer.to_dict())
    runs.save_weights(folder / "last.safetensors", with_random_parameters(GPT(config)).state_dict(), config)
