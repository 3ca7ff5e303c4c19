"""``set_matmul_precision``: what its words promise, against bounds from the bits that they keep.

In tiles where this process has them, else in pairs. test_tiles_plain.py runs it in plain tiles.
"""

import numpy as np
import pytest
from helpers.tolerances import rounding

import npgpt
from kernels.test_attention import BACKWARD, FORWARD, backward_of
from npgpt import GPT, GPTConfig, kernels
from npgpt.errors import ConfigError
from npgpt.kernels import precision
from npgpt.kernels.machine.cpu import UNIT, UNITS, available

ROUNDS = bool(UNIT.has_bf16 or UNIT.tiles)
rounds = pytest.mark.skipif(not ROUNDS, reason=f"{UNIT.name} has no bfloat16: medium is the same as highest")
BFLOAT16 = 2.0**-8  # the largest relative error of rounding to its 8 bits


@pytest.fixture(autouse=True)
def highest_again():
    use("highest")
    yield
    npgpt.set_matmul_precision("highest")


def use(word):
    """Set the precision, and the last way of its own."""
    npgpt.set_matmul_precision(word, list(precision.ways(word))[-1])


def matmul(a, b, word):
    use(word)
    return kernels.matmul(a, b)


def bfloat16(x):
    """The nearest bfloat16 numbers, ties to even, as float32."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def factors(M=150, K=1700, N=133):
    rng = np.random.default_rng(0)
    return rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)


def test_a_wrong_word_changes_nothing():
    npgpt.set_matmul_precision("medium")
    for word in ("low", "", None, 2):
        with pytest.raises(ConfigError, match="highest, high, medium"):
            npgpt.set_matmul_precision(word)
    assert precision.get_matmul_precision() == "medium"


def test_highest_is_as_exact_as_numpys_float32():
    """At most twice its error, on the shapes of a GPT's products."""
    rng = np.random.default_rng(0)
    for M, K, N in ((256, 768, 768), (256, 3072, 768), (768, 1024, 256)):
        a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
        exact = a.astype(np.float64) @ b
        ours, numpys = (np.sqrt(np.mean(np.square(c - exact))) for c in (kernels.matmul(a, b), a @ b))
        assert ours <= 2 * numpys, (M, K, N)


def test_high_keeps_16_bits():
    a, b = factors()
    exact, magnitude = a.astype(np.float64) @ b, np.abs(a) @ np.abs(b)
    assert np.all(np.abs(matmul(a, b, "high") - exact) <= (2.0**-16 + rounding(np.float32, a.shape[1])) * magnitude)


@rounds
def test_medium_is_the_product_of_rounded_factors():
    a, b = factors()
    for x, y in ((a, b), (b.T, a.T), (a[:, 3:900], b[3:900]), (np.asfortranarray(a), np.asfortranarray(b))):
        exact = bfloat16(np.ascontiguousarray(x)).astype(np.float64) @ bfloat16(np.ascontiguousarray(y))
        allowed = rounding(np.float32, x.shape[1]) * (np.abs(x) @ np.abs(y))
        assert np.all(np.abs(matmul(x, y, "medium") - exact) <= allowed)


def test_medium_keeps_8_bits():
    a, b = factors()
    exact, magnitude = a.astype(np.float64) @ b, np.abs(a) @ np.abs(b)
    error = np.abs(matmul(a, b, "medium") - exact)
    assert np.all(error <= (2 * BFLOAT16 + BFLOAT16**2 + rounding(np.float32, a.shape[1])) * magnitude)
    if ROUNDS:
        assert not np.all(error <= rounding(np.float32, a.shape[1]) * magnitude), "not rounded at all"


@pytest.mark.parametrize("word", ["high", "medium"])
def test_nan_and_infinity_come_out_as_in_float32(word):
    a, b = factors()
    a[7, 3], a[9, 5], a[11, 0] = np.nan, np.inf, -np.inf
    b[1690, 100], b[5, 50] = np.inf, 0  # infinity times 0 is NaN
    with np.errstate(invalid="ignore"):
        right = a @ b
    found = matmul(a, b, word)
    odd = ~np.isfinite(right)
    np.testing.assert_array_equal(found[odd], right[odd])
    assert np.isfinite(found[~odd]).all()


@rounds
def test_the_bits_of_a_part_are_those_of_the_whole_in_medium():
    a, b = factors(230, 2500, 300)
    whole = matmul(a, b, "medium")
    for i, j in ((0, 0), (96, 0), (13, 130), (200, 200)):
        np.testing.assert_array_equal(kernels.matmul(a[i : i + 30], b[:, j : j + 90]), whole[i : i + 30, j : j + 90])


@pytest.mark.parametrize("word", ["high", "medium"])
def test_what_is_never_rounded(word):
    """float64, a product of a few rows, a small one."""
    a, b = factors()
    for x, y in ((a.astype(np.float64), b.astype(np.float64)), (a[:2], b), (a[:20, :20], b[:20, :20])):
        np.testing.assert_array_equal(matmul(x, y, word), matmul(x, y, "highest"))


def test_a_way_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match=r"products of precision high are made by vectors.*, not 'pairs'"):
        npgpt.set_matmul_precision("high", "pairs")


@pytest.mark.parametrize(("asked", "way"), [(True, "tiles"), (False, "pairs")])
def test_which_way_is_taken(monkeypatch, asked, way):
    """The last one with NPGPT_CPU, the fastest one without; if there is one only, nothing is measured."""
    tags = {"vectors": np.float32(0), "pairs": np.uint16(0), "tiles": np.int8(0)}
    monkeypatch.setattr(precision, "ways", lambda word: tags if word == "medium" else {"vectors": np.float32(0)})
    monkeypatch.setattr(precision, "IS_ASKED_FOR", asked)
    monkeypatch.setattr(precision, "fastest_way", lambda found: "pairs" if found is tags else None)
    npgpt.set_matmul_precision("medium")
    assert precision.get_way() == way
    assert precision.gemm_dtype_tag(np.dtype(np.float32)) is tags[way]
    npgpt.set_matmul_precision("highest")
    assert precision.get_way() == "vectors"


def test_what_is_said_of_it(monkeypatch):
    monkeypatch.setattr(precision, "UNIT", UNITS["tiles"])
    monkeypatch.setattr(precision.numba, "get_num_threads", lambda: 2)
    monkeypatch.setattr(precision, "trouble_with_tiles", lambda pieces: "")
    said = {}
    for word in precision.PRECISIONS:
        for way in precision.WAYS:
            monkeypatch.setattr(precision, "_precision", word)
            monkeypatch.setattr(precision, "_way", way)
            said[word, way] = precision.described()
    assert said["highest", "vectors"] == "in float32, AVX-512, 2 threads"
    assert said["medium", "pairs"] == "in bfloat16, AVX-512 BF16, 2 threads"
    assert said["highest", "tiles"] == "in bfloat16 tiles, 3 pieces, 2 threads"
    assert said["medium", "tiles"] == "in bfloat16 tiles, 1 piece, 2 threads"
    monkeypatch.setattr(precision, "trouble_with_tiles", lambda pieces: "a product came out wrong")
    monkeypatch.setattr(precision, "_way", "vectors")
    assert precision.described() == "in float32, AVX-512, 2 threads; tiles are not used: a product came out wrong"


@pytest.mark.skipif("avx512" not in available(), reason="for machines with AVX-512")
def test_without_bfloat16_all_words_mean_the_same(python):
    done = python(
        "import numpy as np, npgpt; from npgpt import kernels; from npgpt.kernels import precision\n"
        "rng = np.random.default_rng(0)\n"
        "a, b = rng.standard_normal((100, 200), np.float32), rng.standard_normal((200, 100), np.float32)\n"
        "results = set()\n"
        "for word in precision.PRECISIONS:\n"
        "    npgpt.set_matmul_precision(word)\n"
        "    results.add(kernels.matmul(a, b).tobytes())\n"
        "    assert precision.described().startswith('in float32, AVX-512'), precision.described()\n"
        "print(len(results))",
        NPGPT_CPU="avx512",
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


BY_BLAS = """
import sys
import numpy as np, npgpt
from npgpt.kernels import precision

calls = []
matmul = sys.modules["npgpt.kernels.matmul"]
in_numpy = matmul.matmul_numpy
matmul.matmul_numpy = lambda *arguments: calls.append(1) or in_numpy(*arguments)
rng = np.random.default_rng(0)
a, b, start = (rng.standard_normal((100, 100), np.float32) for _ in range(3))
for word in precision.PRECISIONS:
    npgpt.set_matmul_precision(word)
    assert precision.get_way() == "blas"
    assert precision.described().startswith("in float32 by NumPy's library, attention's by "), precision.described()
    assert np.array_equal(matmul.matmul_numba(a, b), a @ b)
    assert np.array_equal(matmul.matmul_numba(a, b, start[0]), a @ b + start[0])
    assert np.array_equal(matmul.matmul_numba(a, b, add_to=start.copy()), start + a @ b)
print(len(calls))
matmul.matmul_numba(np.tile(a, (1, 50))[:3], np.tile(b, (50, 1)))  # three rows, which wait for memory
npgpt.set_matmul_precision("highest", "vectors")
matmul.matmul_numba(a, b)
print(len(calls))
"""


def test_products_by_numpys_library(python):
    done = python(BY_BLAS, NPGPT_CPU="blas")
    assert (done.returncode, done.stdout) == (0, "9\n9\n"), done.stderr


@rounds
def test_attention_multiplies_rounded_factors_in_medium():
    """Several blocks of queries, whole and not; the row maxima make the same probabilities in both passes."""
    rng = np.random.default_rng(0)
    dy, q, k, v = (rng.standard_normal((1, 150, 2, 40), np.float32) for _ in range(4))
    forward = q, k, v, 40**-0.5, None, 0.0, 0
    arguments = backward_of(dy, forward)
    BACKWARD["numpy"](*arguments)
    exact = FORWARD["numpy"](*forward)[0], *(np.array(x) for x in arguments[7:10])
    use("medium")
    y, row_max, row_sum = FORWARD["numba"](*forward)
    BACKWARD["numba"](*arguments[:4], row_max, row_sum, *arguments[6:])
    for found, right in zip((y, *arguments[7:10]), exact, strict=True):
        error = np.linalg.norm(found - right) / np.linalg.norm(right)
        assert BFLOAT16 / 100 < error < 4 * BFLOAT16


@pytest.mark.parametrize("word", ["high", "medium"])
def test_a_models_loss_and_gradients(word):
    """Two blocks forward and backward are some twenty products in a row, whose errors have no common direction.

    Beside float32, whose own error is far below what is allowed; kernels of float64 would be compiled for this alone.
    """
    config = GPTConfig(n_layer=2, n_head=2, n_embd=64, block_size=64, vocab_size=97)
    rng = np.random.default_rng(0)
    ids = rng.integers(97, size=(4, 65))
    found = []
    for way in (("highest", "vectors"), (word, list(precision.ways(word))[-1])):
        npgpt.set_matmul_precision(*way)
        model = GPT(config, seed=0)
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        found.append((loss.item(), {name: p.grad for name, p in model.named_parameters()}))
    (exact_loss, exact), (loss, gradients) = found
    within = np.sqrt(20) * 2 * (BFLOAT16 if word == "medium" else 2.0**-16)
    assert abs(loss - exact_loss) <= within * exact_loss
    for name, right in exact.items():
        assert np.linalg.norm(gradients[name] - right) <= within * np.linalg.norm(right), name
