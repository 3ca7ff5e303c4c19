"""OpenAI's folders as TensorFlow wrote them, and with the wrong files in them."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers.openai_folder import CONFIG, DATA, GOOD_DATA, INDEX, assert_loads, copied, expected

from checkpoints.tensorflow.make_tensorflow_fixture import FOLDER, HPARAMS, tuned_dtype
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.tensorflow import model as tensorflow
from npgpt.checkpoints.tensorflow.crc32c import crc32c
from npgpt.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    return copied(tmp_path)


# Good ones


def test_as_released(folder):
    found = open_checkpoint(folder)
    assert (found.config, found.ignored_keys, found.source) == (CONFIG, (), folder / INDEX)
    assert found.format == "OpenAI's TensorFlow (1 shard)"
    assert {tensor.dtype for tensor in found.tensors.values()} == {"F32"}
    assert found.tokenizer is None  # of 17 tokens nothing is known
    assert_loads(folder)
    assert_loads(folder / INDEX)


def test_shards_and_dtypes_and_what_training_leaves():
    found = open_checkpoint(FOLDER / "tuned-7.index")
    assert found.format == "OpenAI's TensorFlow (2 shards)"
    assert [file.path.name[-14:] for file in found.files] == ["00000-of-00002", "00001-of-00002"]
    assert found.ignored_keys == ("beta1_power", "global_step", "model/wte/Adam", "model/wte/Adam_1", "note")
    dtypes = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
    assert found.tensors["wte.weight"].dtype == dtypes[tuned_dtype("model/wte")]
    assert {tensor.dtype for tensor in found.tensors.values()} == set(dtypes.values())
    assert_loads(FOLDER / "tuned-7.index")


@pytest.mark.parametrize(
    "text",
    [
        'model_checkpoint_path: "tuned-7"\nall_model_checkpoint_paths: "model.ckpt"\n',
        'all_model_checkpoint_paths: "x"\r\nmodel_checkpoint_path: "tuned-7"\r\n',
        'model_checkpoint_path: "/content/checkpoint/run 1/tuned-7"\nlast_preserved_timestamp: 1.5\n',
    ],
)
def test_the_file_checkpoint_says_which(tmp_path, text):
    for path in FOLDER.glob("*"):
        shutil.copy(path, tmp_path)
    (tmp_path / "checkpoint").write_bytes(text.encode())
    assert open_checkpoint(tmp_path).source == tmp_path / "tuned-7.index"
    (tmp_path / "checkpoint").unlink()
    assert open_checkpoint(tmp_path).source == tmp_path / "model.ckpt.index"


def test_gpt2s_tokenizer(folder):
    """By the size of the vocabulary: encoder.json and vocab.bpe are not needed."""
    sizes = {**HPARAMS, "n_vocab": 50257}
    (folder / "hparams.json").write_text(json.dumps(sizes))
    assert tensorflow.read(MappedFile(folder / INDEX)).tokenizer.vocab_size == 50257


def test_checksums_are_looked_at_once_and_before_numbers_are_handed_out(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(tensorflow, "crc32c", lambda data: (asked.append(data.size), crc32c(data.tobytes()))[1])
    found = open_checkpoint(folder)
    assert asked == []
    wte = found.tensors["wte.weight"]
    np.testing.assert_array_equal(wte.read_rows(3, 5), expected()["wte.weight"][3:5])
    list(wte.chunks())
    wte.numpy()
    assert asked == [17 * 8 * 4]

    data = bytearray(GOOD_DATA)
    data[-1] ^= 1  # model/wte, the last in the order of names, and there its last number
    (folder / DATA).write_bytes(data)
    found = open_checkpoint(folder)
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=rf"^{re.escape(str(folder / DATA))}: tensor 'model/wte': its checksum"
        ):
            found.tensors["wte.weight"].read_rows(0, 1)
    found.tensors["wpe.weight"].numpy()


# Bad data, and bad folders


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD_DATA[:-1], "tensor 'model/wte': bytes 7,232 to 7,776 of a file of 7,775"),
        (b"\0" + GOOD_DATA, "tensor 'model/wte': its checksum is not the index's"),
    ],
)
def test_bad_data(folder, content, message):
    (folder / DATA).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(folder / DATA))}: {message}"):
        load(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["hparams.json"], r"no config\.json in it.* OpenAI's hparams\.json"),
        ([INDEX], rf"{INDEX}: can't be read: No such file"),
        ([DATA], rf"{DATA}: can't be read: No such file"),
        (["checkpoint", INDEX], rf"{INDEX}: can't be read: No such file"),
    ],
)
def test_files_are_missing(folder, names, message):
    for name in names:
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(folder))}.*{message}"):
        load(folder)


def test_an_index_alone(folder):
    (folder / "hparams.json").unlink()
    with pytest.raises(CheckpointError, match=r"hparams\.json: can't be read: No such file"):
        load(folder / INDEX)
    (folder / INDEX).rename(folder / "model.bin")
    with pytest.raises(CheckpointError, match=r"model\.bin: an index, whose name must end with \.index"):
        load(folder / "model.bin")


@pytest.mark.parametrize(
    "line",
    [
        b"model.ckpt",
        b'model_checkpoint_path: "model.ckpt"\n' * 2,
        b'model_checkpoint_path: "../model.ckpt"',
        b'model_checkpoint_path: "run1/model.ckpt"',
        b'model_checkpoint_path: "..\\\\model.ckpt"',
        b'model_checkpoint_path: "C:model.ckpt"',
    ],
)
def test_bad_checkpoint_files(folder, line):
    (folder / "checkpoint").write_bytes(line)
    with pytest.raises(CheckpointError, match=r'checkpoint: one line model_checkpoint_path: "NAME" was expected, not'):
        load(folder)


def test_a_path_elsewhere_is_taken_for_a_name_here(folder):
    (folder / "checkpoint").write_bytes(b'model_checkpoint_path: "/x/.."')
    with pytest.raises(CheckpointError, match=r"/\.\.\.index: can't be read: No such file"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "'n_ctx' is missing"),
        ({"n_vocab": 17.0}, "n_vocab must be a whole number of at least 1, not 17.0"),
        ({"n_head": 3}, "n_embd must be divisible by n_head"),
        ({"res_dropout": 0.1}, "'res_dropout' is unknown"),
    ],
)
def test_bad_hparams(folder, text, message):
    text = text if isinstance(text, str) else json.dumps({**HPARAMS, **text})
    (folder / "hparams.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(folder / 'hparams.json'))}: {message}"):
        load(folder)
