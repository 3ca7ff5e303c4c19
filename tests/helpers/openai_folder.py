"""The folder that TensorFlow wrote, and what loading it must give."""

import re
import shutil

import numpy as np
from checkpoints.tensorflow.make_tensorflow_fixture import FOLDER, shapes, values

from npgpt import GPTConfig
from npgpt.checkpoints import load
from npgpt.gpt import parameter_shapes

CONFIG = GPTConfig(vocab_size=17, block_size=6, n_embd=8, n_head=2, n_layer=2)
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
GOOD_INDEX, GOOD_DATA = (FOLDER / INDEX).read_bytes(), (FOLDER / DATA).read_bytes()


def copied(folder):
    """A copy of the released form, to be damaged."""
    for name in ("hparams.json", "checkpoint", INDEX, DATA):
        shutil.copy(FOLDER / name, folder / name)
    return folder


def expected() -> dict[str, np.ndarray]:
    """The parameters that are in the fixture, under our names."""
    ours = {"ln_1/g": "ln_1.weight", "ln_2/g": "ln_2.weight", "ln_f/g": "ln_f.weight"}
    ours |= {"wte": "wte.weight", "wpe": "wpe.weight"}
    found = {}
    for name, size in shapes().items():
        short = name.removeprefix("model/")
        for theirs, our in ours.items():
            short = re.sub(f"{theirs}$", our, short)
        short = re.sub("/w$", ".weight", re.sub("/b$", ".bias", short))
        short = re.sub(r"^h(\d+)/", r"h.\1.", short).replace("/", ".")
        array = values(name, size)
        found[short] = array[0] if array.ndim == 3 else array
    assert found.keys() == parameter_shapes(CONFIG).keys()
    return found


def assert_loads(path):
    for name, array in load(path).state_dict().items():
        assert array.tobytes() == expected()[name].tobytes(), name
