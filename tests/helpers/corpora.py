"""Files for the tests of corpora, and how reading them fails."""

import numpy as np
import pytest

from npgpt.errors import UserError
from npgpt.text.corpus import read_corpus


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_tokens(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.array(ids, "<u2").tofile(path)
    return path


def assert_refused(paths, tokenizer, *words):
    """Reading the paths raises an error of one to three lines that contain these words. -> its text"""
    with pytest.raises(UserError) as error:
        read_corpus(paths, tokenizer)
    assert str(error.value).count("\n") < 3
    for word in words:
        assert str(word) in str(error.value)
    return str(error.value)
