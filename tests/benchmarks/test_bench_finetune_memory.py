"""bench.finetune_memory: the checkpoint that it fine-tunes, and the flags of each way."""

import numpy as np

from bench.finetune_memory import WAYS, Settings, _arguments, write_random
from npgpt.checkpoints import load, open_checkpoint
from npgpt.commandline import Parser
from npgpt.training.settings import TrainSettings


def test_the_checkpoint_is_a_model_with_random_weights(tmp_path):
    write_random("nano", tmp_path / "base")
    weights = load(tmp_path / "base").state_dict()
    assert open_checkpoint(tmp_path / "base").require_tokenizer().name == "gpt2"
    assert 0.019 < weights["wte.weight"].std() < 0.021
    assert abs(weights["h.1.ln_2.weight"].mean() - 1) < 0.01
    assert all(np.isfinite(array).all() for array in weights.values())


def test_each_way_is_what_training_takes():
    for way, flags in WAYS.items():
        parser = Parser("train", "")
        parser.add_argument("texts", nargs="*")
        parser.add_flags(TrainSettings)
        given = vars(parser.parse_args([*_arguments(Settings(), "folder", way), *flags]))
        settings = TrainSettings(**{**given, "texts": tuple(given["texts"])})
        assert (settings.lora_rank is None) == (way == "all")
        assert (settings.lora_base == "nf4") == way.startswith("qlora")
