"""Objects that torch.save doesn't write, in files of both its forms that are otherwise right."""

import pytest
from helpers.mutations import memory_at_most
from helpers.torch_bytes import (
    FALSE,
    GOOD,
    HOOKS,
    NONE,
    TRUE,
    as_legacy,
    call,
    counted,
    dict_,
    global_,
    int_,
    ints,
    legacy_file,
    list_,
    of,
    read_torch,
    storage,
    tensor,
    text,
    tuple_,
    zip_file,
)

from checkpoints.pytorch.test_file import FORMS, check_refused
from npgpt.checkpoints.pytorch.file import check_own_numbers, tensors_in
from npgpt.errors import CheckpointError


def shaped(size=(2, 3), stride=(3, 1), offset=0, **changes) -> bytes:
    return dict_({"a": tensor(None, offset, size, stride, **changes)})


def parameter(*arguments: bytes) -> bytes:
    return dict_({"a": call("torch._utils._rebuild_parameter", *arguments)})


HUGE = 2**62
# Each list holds the one before twice, 90 times: written out, they would never end.
DOUBLING = b"]q\0" + b"](h\0h\0eq\0" * 90
BAD_OBJECTS = {
    "os.system": (call("os.system", text("true")), "it asks for 'os.system'"),
    "a model": (call("__main__.GPT"), "it asks for '__main__.GPT'"),
    "another rebuild": (
        call("torch._utils._rebuild_sparse_tensor"),
        "it asks for 'torch._utils._rebuild_sparse_tensor'",
    ),
    "eval as a storage type": (of(storage(kind="builtins.eval")), "it asks for 'builtins.eval'"),
    "a complex storage": (of(storage(kind="torch.ComplexFloatStorage")), "it asks for 'torch.ComplexFloatStorage'"),
    "too large": (shaped((3, 3)), r"a tensor of size \(3, 3\) and stride \(3, 1\) from number 0 on, in a storage of 6"),
    "too large by one": (shaped((7,), (1,)), r"a tensor of size \(7,\)"),
    "out by its offset": (shaped(offset=1), "from number 1 on, in a storage of 6 numbers"),
    "out by its stride": (shaped(stride=(4, 1)), r"and stride \(4, 1\) from"),
    "out, without axes": (shaped((), (), 6), "from number 6 on"),
    "out, without numbers": (shaped((0,), (1,), 7), "from number 7 on"),
    "a negative offset": (shaped(offset=-1), "a tensor's offset must be a whole number of at least 0, not -1"),
    "a negative size": (shaped((-2, -3)), "a tensor's size must be a whole number of at least 0, not -2"),
    "a negative stride": (shaped(stride=(-3, 1)), "a tensor's stride must be a whole number of at least 0, not -3"),
    "a huge offset": (shaped(offset=2**70), "a tensor's offset must be a whole number of at least 0, not 11805"),
    "a huge size": (shaped((2**63, 1)), "a tensor's size must be a whole number"),
    "a huge stride": (shaped(stride=(2**64, 1)), "a tensor's stride must be a whole number"),
    "a number of 2,000 bits": (
        shaped((2**2000, 1)),
        "a tensor's size must be a whole number of at least 0, not 114813",
    ),
    "sizes that overflow": (
        shaped((2**32, 2**32), (0, 0)),
        r"a tensor of size \(4294967296, 4294967296\) is too large",
    ),
    "empty sizes that overflow": (shaped((0, HUGE), (1, 1)), "is too large"),
    "strides that overflow": (shaped((3, 2), (HUGE, HUGE)), "and stride"),
    "an offset that overflows": (shaped(offset=2**63 - 1), "from number 9223372036854775807 on"),
    "expanded": (shaped((10**9,), (0,)), r"size \(1000000000,\) and stride \(0,\) from number 0 on, in a storage of 6"),
    "expanded by an axis": (shaped((7, 1), (0, 1)), r"a tensor of size \(7, 1\)"),
    "overlapping itself": (shaped((4, 3), (1, 1)), r"a tensor of size \(4, 3\) and stride \(1, 1\)"),
    "a size too many": (shaped((2, 3, 1)), "a tensor of 3 sizes and 2 strides"),
    "33 axes": (shaped((1,) * 33, (1,) * 33), "a tensor's size must be a tuple of up to 32 numbers"),
    "five thousand axes": (
        shaped((1,) * 5000, (1,) * 5000),
        "a tensor's size must be a tuple of up to 32 numbers, not 5,000",
    ),
    "no size": (dict_({"a": tensor(size=b"")}), "_rebuild_tensor_v2 with 5 arguments"),
    "a size of text": (dict_({"a": tensor(size=tuple_(text("2"), int_(3)))}), "a tensor's size must be .* not '2'"),
    "a size of fractions": (dict_({"a": tensor(size=tuple_(b"G" + bytes(8), int_(3)))}), "size must be .* not 0.0"),
    "a size of booleans": (dict_({"a": tensor(size=tuple_(TRUE, int_(3)))}), "a tensor's size must be .* not True"),
    "a size that is a list": (dict_({"a": tensor(size=list_(int_(2)))}), "size must be a tuple .* not a list"),
    "a size that is None": (dict_({"a": tensor(size=NONE)}), "a tensor's size must be a tuple"),
    "a size that prints without end": (
        dict_({"a": tensor(size=tuple_(DOUBLING))}),
        "a tensor's size must be .* not 91",
    ),
    "an offset that does": (
        dict_({"a": tensor(offset=HOOKS + text("a") + tuple_(DOUBLING) + b"s")}),
        "not a OrderedDict",
    ),
    "a gradient that does": (
        shaped(requires_grad=HOOKS + text("a") + tuple_(DOUBLING) + b"s"),
        "requires_grad = a OrderedD",
    ),
    "an offset that is text": (dict_({"a": tensor(offset=text("0"))}), "a tensor's offset must be a whole number"),
    "an offset that is True": (dict_({"a": tensor(offset=TRUE)}), "a tensor's offset must be .* not True"),
    "a storage that is a dict": (dict_({"a": tensor(b"}")}), "a tensor without a storage"),
    "a storage that is a type": (dict_({"a": tensor(global_("torch.FloatStorage"))}), "a tensor without a storage"),
    "a tensor of a tensor": (dict_({"a": tensor(tensor())}), "a tensor without a storage"),
    "a gradient of integers": (
        dict_({"a": tensor(storage(kind="torch.IntStorage"), requires_grad=TRUE)}),
        "a tensor of I32 with requires_grad = True",
    ),
    "a gradient that is a list": (shaped(requires_grad=b"]"), "with requires_grad = a list"),
    "hooks": (shaped(hooks=HOOKS + text("a") + NONE + b"s"), "a tensor with hooks"),
    "hooks that are text": (shaped(hooks=text("a")), "a tensor with hooks"),
    "metadata": (shaped(metadata=dict_({"neg": TRUE})), "a tensor with metadata"),
    "metadata that is text": (shaped(metadata=text("neg")), "a tensor with metadata"),
    "no arguments": (dict_({"a": call("torch._utils._rebuild_tensor_v2")}), "_rebuild_tensor_v2 with 0 arguments"),
    "nine arguments": (shaped(a=NONE, b=NONE, c=NONE), "_rebuild_tensor_v2 with 9 arguments"),
    "a parameter of nothing": (parameter(), "a parameter without a tensor"),
    "a parameter of text": (parameter(text("a"), FALSE, HOOKS), "a parameter without a tensor"),
    "a parameter of a storage": (parameter(storage(), FALSE, HOOKS), "a parameter without a tensor"),
    "a parameter of integers": (
        parameter(tensor(storage(kind="torch.LongStorage", count=3), 0, (3,), (1,)), TRUE, HOOKS),
        "a tensor of I64 with requires_grad",
    ),
    "a parameter with hooks": (parameter(tensor(), TRUE, text("a")), "a tensor with hooks"),
    "a negative storage": (of(storage(count=-6)), "a storage's length must be a whole number of at least 0, not -6"),
    "a huge storage": (of(storage(count=2**80)), "a storage's length must be a whole number"),
    "a storage of True": (of(tuple_(text("storage"), NONE) + b"Q"), "a storage must be named by a tuple"),
    "a storage named by text": (of(text("0") + b"Q"), "a storage must be named by a tuple"),
    "a storage named by a number": (of(int_(0) + b"Q"), "a storage must be named by a tuple"),
    "a storage named by nothing": (of(b")Q"), "a storage must be named by a tuple"),
    "a storage of two types": (
        dict_({"a": tensor(), "b": tensor(storage(kind="torch.IntStorage"))}),
        "is 6 of torch.FloatStorage at first, then 6 of torch.IntStorage",
    ),
    "a storage of two lengths": (
        dict_({"a": tensor(), "b": tensor(storage(count=5), 0, (5,), (1,))}),
        "is 6 of torch.FloatStorage at first, then 5 of torch.FloatStorage",
    ),
    "a dict in itself": (b"}q\0" + text("a") + b"h\0s", "a dict is inside itself"),
    "protocol 4": (b"\x80\x04" + GOOD, "not a pickle: one begins, and only begins"),
    "two objects": (GOOD + GOOD, "more than one object"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_bad_objects(tmp_path, case, form):
    value, place = BAD_OBJECTS[case]
    data = zip_file(value) if form == "zip" else legacy_file(as_legacy(value))
    (tmp_path / "a.pt").write_bytes(data)
    check_refused(tmp_path / "a.pt", place)


# What is wrong with the object that was read


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (list_(tensor()), "x: a dict of tensors was expected, not a list"),
        (tensor(), "x: a dict of tensors was expected, not a Stored"),
        (dict_({"state_dict": GOOD}), "x: 'state_dict': a tensor was expected, not a dict"),
        (dict_({"a": storage()}), "x: 'a': a tensor was expected, not a "),
        (b"}" + int_(0) + tensor() + b"s", "x: the name of a tensor was expected, not '0'"),
        (dict_({"n" * 2000: tensor()}), "x: the name of a tensor was expected, not 'nnnnn"),
        (dict_({"n" * 500: NONE}), "x: 'n{100}': a tensor was expected, not a NoneType"),
    ],
)
def test_what_is_not_a_state_dict(tmp_path, value, place):
    (tmp_path / "a").write_bytes(zip_file(value))
    with pytest.raises(CheckpointError, match=place):
        tensors_in(read_torch(tmp_path / "a")[0], "x")


def test_a_small_file_does_not_make_a_large_model(tmp_path):
    """Many tensors that are the same numbers: each fits its storage, and all together don't fit the file."""
    value = dict_({f"h.{i}": tensor(storage(count=6000), 0, (6000,), (1,)) for i in range(100)})
    (tmp_path / "a").write_bytes(zip_file(value, {"0": bytes(24_000)}))
    found, file = read_torch(tmp_path / "a")
    assert len(set(map(id, found.values()))) == 1
    with pytest.raises(CheckpointError, match="x: the tensors take 2,400,000 bytes, and there are 38,"):
        check_own_numbers(tensors_in(found, "x"), (file,), "x")
    check_own_numbers({"a": found["h.0"]}, (file,), "x")


@pytest.mark.parametrize("form", FORMS)
def test_memory_for_many_tensors(tmp_path, form):
    """For those too, 90 bytes for each byte of the pickle, as in test_pickles.py. All are different ones."""
    many = [b"h\0(h\1K" + bytes([i % 256]) + ints(i // 256) + b"h\2\x89h\3tR" for i in range(4000)]
    before = global_("torch._utils._rebuild_tensor_v2") + b"q\0" + storage(count=2**16) + b"q\1"
    value = tuple_(before, ints(1), b"q\2", HOOKS, b"q\3", *many)
    numbers = bytes(2**18)
    data = zip_file(value, {"0": numbers})
    if form == "legacy":
        data = legacy_file(as_legacy(value), data=counted(numbers, 2**16))
    (tmp_path / "a").write_bytes(data)
    with memory_at_most((90 * len(value) - (64 << 20)) / 3):
        assert len(read_torch(tmp_path / "a")[0]) == 4004
