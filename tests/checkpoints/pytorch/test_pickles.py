"""The reader of pickles against Python's, and against programs that pickling never writes."""

import collections
import io
import math
import os
import pickle
import re
from contextlib import suppress

import pytest
from helpers.mutations import COUNT, memory_at_most, mutated
from helpers.torch_bytes import FALSE, NONE, START, STOP, TRUE, call, dict_, global_, int_, list_, pickled, text, tuple_

from npgpt.checkpoints.pytorch.nesting import MAX_DEPTH
from npgpt.checkpoints.pytorch.pickles import ORDERED_DICT, Function, read_pickle
from npgpt.errors import CheckpointError

ORDERED = "collections.OrderedDict"


def read(data: bytes, allowed=ORDERED_DICT, persistent_load=None):
    found, length = read_pickle(memoryview(data), "file: part", allowed, persistent_load)
    assert 0 < length <= len(data)
    return found


# What pickling writes

OBJECTS = [
    None,
    True,
    False,
    0,
    255,
    256,
    65535,
    65536,
    -1,
    2**31 - 1,
    -(2**31),
    2**31,
    2**64,
    -(10**600),
    0.1,
    -0.0,
    math.inf,
    "",
    "text",
    "é\0😀\n" * 100,
    (),
    (1,),
    (1, "a"),
    (1, 2, 3),
    tuple(range(300)),
    [],
    [1],
    [[], [()], {}],
    list(range(2000)),
    {},
    {"a": 1},
    {"a": {"b": [1.5, None]}, "c": (True,)},
    {str(i): [i] for i in range(2000)},  # more than 256 places of the memo, several SETITEMS
    {i: i for i in range(300)},
]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: repr(value)[:20])
def test_what_pickle_writes(value, protocol):
    found = read(pickle.dumps(value, protocol))
    assert found == value
    assert repr(found) == repr(value)  # types, and the sign of -0.0


def test_nan():
    assert math.isnan(read(pickle.dumps(math.nan, 2)))


def test_objects_that_are_used_twice_stay_one():
    shared = [1]
    found = read(pickle.dumps({"a": shared, "b": [shared, shared]}, 2))
    assert found["a"] is found["b"][0] is found["b"][1]


def test_ordered_dicts_and_their_attributes():
    value = collections.OrderedDict(b=1, a=collections.OrderedDict())
    value._metadata = {"version": 1}
    found = read(pickle.dumps(value, 2))
    assert list(found.items()) == [("b", 1), ("a", {})]
    assert not hasattr(found, "_metadata")


def test_strings_of_python_2():
    assert read(START + b"U\x03a\xc3\xa9" + STOP) == "aé"


def test_the_length_of_one_of_several():
    data = pickle.dumps([1], 2)
    assert read_pickle(memoryview(data + data + b"rest"), "x") == ([1], len(data))


def test_functions_get_the_arguments_and_other_names_are_objects():
    allowed = {"a.b": Function(lambda arguments: ["called", *arguments]), "c.d": "an object"}
    found = read(pickled(call("a.b", int_(1), global_("c.d"))), allowed)
    assert found == ["called", 1, "an object"]


def test_persistent_ids():
    value = tuple_(text("key")) + b"Q"
    assert read(pickled(list_(value, value)), persistent_load=lambda key: key[0] * 2) == ["keykey"] * 2


# What it doesn't write


def nested(push: bytes, wrap: bytes, depth: int) -> bytes:
    return START + push * depth + wrap * (depth - 1) + STOP


BAD = {
    "empty": (b"", "byte 0: it is cut off"),
    "no protocol": (b"N.", "byte 0: not a pickle: one begins"),
    "protocol 0": (b"I1\n.", "byte 0: the opcode b'I' is not one"),
    "only a protocol": (START, "byte 2: it is cut off"),
    "protocol cut off": (b"\x80", "byte 0: it is cut off"),
    "protocol 1": (b"\x80\x01N.", "byte 0: pickle protocol 1"),
    "protocol 6": (b"\x80\x06N.", "byte 0: pickle protocol 6"),
    "protocol 255": (b"\x80\xffN.", "pickle protocol 255"),
    "a second protocol": (START + START + NONE + STOP, "byte 2: not a pickle"),
    "no end": (START + NONE, "byte 3: it is cut off"),
    "no object": (START + STOP, "byte 2: it takes something from an empty stack"),
    "two objects": (START + NONE * 2 + STOP, "byte 4: it ends with more than one object"),
    "an open mark": (START + b"(" + NONE + STOP, "byte 4: it ends with more than one object"),
    "an object below the mark": (START + NONE + b"(." + NONE, "byte 4: it takes something from an empty stack"),
    "an unknown opcode": (START + b"\xff.", r"byte 2: the opcode b'\\xff' is not one"),
    "INST": (START + b"(ios\nsystem\n.", "byte 3: the opcode b'i'"),
    "OBJ": (START + b"(" + global_(ORDERED) + b"o.", "the opcode b'o'"),
    "NEWOBJ": (START + global_(ORDERED) + b")\x81.", r"the opcode b'\\x81'"),
    "NEWOBJ_EX": (START + global_(ORDERED) + b")}\x92.", r"the opcode b'\\x92'"),
    "STACK_GLOBAL": (START + text("os") + text("system") + b"\x93.", r"the opcode b'\\x93'"),
    "EXT1": (START + b"\x82\x01.", r"the opcode b'\\x82'"),
    "PERSID": (START + b"P0\n.", "the opcode b'P'"),
    "POP": (START + NONE * 2 + b"0.", "the opcode b'0'"),
    "DUP": (START + NONE + b"2.", "the opcode b'2'"),
    "LONG4": (START + b"\x8b" + b"\xff\xff\xff\x7f" + STOP, r"the opcode b'\\x8b'"),
    "STRING, which is evaluated": (START + b"S'a'\n.", "the opcode b'S'"),
    "BINBYTES8": (START + b"\x8e" + b"\xff" * 8 + STOP, r"the opcode b'\\x8e'"),
    "EMPTY_SET": (START + b"\x8f.", r"the opcode b'\\x8f'"),
    "FRAME": (START + b"\x95" + b"\xff" * 8 + STOP, "a frame that is cut off"),
    "a number cut off": (START + b"J\0\0", "byte 2: it is cut off"),
    "a float cut off": (START + b"G\0\0", "byte 2: it is cut off"),
    "LONG1 cut off": (START + b"\x8a\xff\0", "byte 2: it is cut off, or too long: 255 more bytes"),
    "a string cut off": (START + b"X\4\0\0\0abc", "byte 2: it is cut off, or too long: 4 more bytes"),
    "a string of 4 GB": (START + b"X\xff\xff\xff\xffabc", "4,294,967,295 more bytes"),
    "a string not UTF-8": (pickled(b"X\1\0\0\0\xff"), "a string that is not UTF-8"),
    "half a surrogate pair": (pickled(b"X\3\0\0\0\xed\xa0\x80"), "a string that is not UTF-8"),
    "bytes of Python 2": (pickled(b"U\1\xff"), "a string that is not UTF-8"),
    "os.system": (pickled(call("os.system", text("touch pwned"))), "it asks for 'os.system', and nothing but tensors"),
    "posix.system": (pickled(call("posix.system", text("touch pwned"))), "it asks for 'posix.system'"),
    "builtins.eval": (pickled(call("builtins.eval", text("1"))), "it asks for 'builtins.eval'"),
    "builtins.getattr": (pickled(call("builtins.getattr", text("1"))), "it asks for 'builtins.getattr'"),
    "a module of modules": (
        pickled(global_("collections.abc.OrderedDict")),
        "it asks for 'collections.abc.OrderedDict'",
    ),
    "a name with a dot": (
        pickled(b"ccollections\nOrderedDict.fromkeys\n"),
        "it asks for 'collections.OrderedDict.from",
    ),
    "a name split elsewhere": (pickled(b"c\ncollections.OrderedDict\n"), "it asks for '.collections.OrderedDict'"),
    "a space after a name": (pickled(b"ccollections\nOrderedDict \n"), "it asks for 'collections.OrderedDict '"),
    "a name of 5 MB": (START + b"c" + b"x" * 5_000_000 + b"\n\n.", "a name that is cut off, or very long"),
    "a name that is not text": (pickled(b"c\xff\x1b[2J\n\n"), r"it asks for '\\\\xff\\x1b\[2J\.'"),
    "a name cut off": (START + b"ccollections\n", "a name that is cut off"),
    "calling a string": (pickled(text("os.system") + b")R"), "it calls 'os.system' with a tuple"),
    "calling a dict": (pickled(b"})R"), "it calls a dict"),
    "calling an object": (pickled(global_(ORDERED) + b")R)R"), "it calls a OrderedDict"),
    "calling with a list": (pickled(global_(ORDERED) + b"]R"), "it calls a Function with a list"),
    "calling with nothing": (START + b")R.", "it takes something from an empty stack"),
    "an OrderedDict of something": (pickled(call(ORDERED, list_())), "an OrderedDict that is not made empty"),
    "APPEND to a dict": (pickled(b"}Na"), "list was expected, not a dict"),
    "APPEND to a tuple": (pickled(b")Na"), "list was expected, not a tuple"),
    "APPENDS to None": (pickled(b"N(Ne"), "list was expected, not None"),
    "APPENDS without a mark": (pickled(b"]Ne"), "it goes back to a mark that is not there"),
    "SETITEM in a list": (pickled(b"]" + text("a") + b"Ns"), "dict was expected, not a list"),
    "SETITEM in a class": (pickled(global_(ORDERED) + text("a") + b"Ns"), "dict was expected, not a Function"),
    "SETITEMS of three": (pickled(b"}(" + text("a") + NONE + text("b") + b"u"), "a key without a value"),
    "a key that can't be one": (pickled(b"}]Ns"), "as a key, not a list"),
    "a tuple as a key": (pickled(b"})Ns"), "as a key, not a tuple"),
    "a float as a key": (pickled(b"}G" + bytes(8) + b"Ns"), "as a key, not 0.0"),
    "True as a key": (pickled(b"}\x88Ns"), "as a key, not True"),
    "None as a key": (pickled(b"}NNs"), "as a key, not None"),
    "a negative key": (pickled(b"}" + int_(-1) + b"Ns"), "a small whole number was expected as a key"),
    "a large key": (pickled(b"}" + int_(2**61 - 1) + b"Ns"), "a small whole number was expected as a key"),
    "a key twice": (pickled(b"}(" + (text("a") + NONE) * 2 + b"u"), "the key 'a' is there twice"),
    "TUPLE3 of two": (START + NONE * 2 + b"\x87.", "it takes something from an empty stack"),
    "TUPLE2 over a mark": (START + NONE + b"(" + NONE + b"\x86.", "it takes something from an empty stack"),
    "GET before PUT": (START + b"h\0.", "the memo's place 0, where nothing was put"),
    "LONG_GET": (START + b"j\xff\xff\xff\xff.", "the memo's place 4,294,967,295, where"),
    "PUT of nothing": (START + b"q\0N.", "it takes something from an empty stack"),
    "PUT far away": (pickled(b"Nr\xff\xff\xff\xff"), "the memo's place 4,294,967,295, in a pickle of"),
    "BUILD on a dict": (pickled(b"}}b"), "OrderedDict was expected, not a dict"),
    "BUILD on a class": (pickled(global_(ORDERED) + b"}b"), "OrderedDict was expected, not a Function"),
    "BUILD with a list": (pickled(global_(ORDERED) + b")R]b"), "an OrderedDict's attributes are a list"),
    "a persistent id": (pickled(text("0") + b"Q"), "it asks for something outside the pickle"),
    "a list in itself": (pickled(b"]q\0h\0a"), "a list is inside itself"),
    "a dict in itself": (pickled(b"}q\0" + text("a") + b"h\0s"), "a dict is inside itself"),
    "a list in a tuple in itself": (pickled(b"]q\0h\0\x85a"), "is inside itself"),
    "a list in a dict in a list ...": (pickled(b"]q\0}" + text("a") + b"h\0sa"), "is inside itself"),
    "a thousand lists": (nested(b"]", b"a", 1000), "more than 100 lists, tuples and dicts inside one another"),
    "a hundred thousand tuples": (START + b")" + b"\x85" * 100_000 + STOP, "more than 100 lists, tuples"),
    "a thousand dicts": (START + (b"}" + text("a")) * 1000 + b"}" + b"s" * 1000 + STOP, "more than 100 lists"),
    "a deep one that is shared": (
        pickled(b"](" + (b"(" * 60 + NONE + b"t" * 60) + b"q\0" + b"(" * 60 + b"h\0" + b"t" * 60 + b"e"),
        "more than 100 lists",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pickles(case):
    data, place = BAD[case]
    with pytest.raises(CheckpointError) as caught:
        read(data)
    message = str(caught.value)
    assert re.search(place, message), message
    assert message.startswith("file: part: byte ")
    assert len(message) < 300
    assert message.isprintable()


def test_how_deep_is_allowed():
    value = [None]
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert read(pickle.dumps(value, 2)) == value
    with pytest.raises(CheckpointError, match="more than 100"):
        read(pickle.dumps([value], 2))


def test_nothing_is_imported_or_run(tmp_path, monkeypatch):
    """The same program, which Python runs, and we don't."""
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self):
            return os.mkdir, ("pwned",)

    program = pickle.dumps({"model": Evil()}, 2)
    with pytest.raises(CheckpointError, match=r"it asks for '\w+\.mkdir'"):
        read(program)
    assert not (tmp_path / "pwned").exists()
    pickle.loads(program)
    assert (tmp_path / "pwned").exists()


# Programs that want much

SIZE = 1 << 15
BOMBS = {
    "dicts": b"}",
    "lists": b"]",
    "marks": b"(",
    "Nones": NONE,
    "numbers": b"K\xff",
    "tuples in tuples": b")\x85",
    "OrderedDicts": b"h\0)R",
    "lists with one": b"]Na",
    "dicts with one": b"}K\0Ns",
    "tuples that are kept": b")\x85q\1",
    "floats": b"G" + bytes(8),
    "long numbers": b"\x8a\2\0\1",
    "strings": b"X\1\0\0\0\xc8"[:5] + b"a",
    "wide strings": b"X\4\0\0\0" + "😀".encode(),
}


@pytest.mark.parametrize("case", BOMBS)
def test_memory_for_a_byte(case):
    """At most 90 bytes for each byte of the pickle, by which read_torch limits its length."""
    unit = BOMBS[case]
    program = START + global_(ORDERED) + b"q\0](" + unit * (SIZE // len(unit))
    for end in (b"e\x86.", b""):
        with memory_at_most((90 * len(program) - (64 << 20)) / 3), suppress(CheckpointError):
            read(program + end)


def test_lists_that_double():
    """Each list holds the one before twice: 2 ** 90 things, if one walks over them as over a tree."""
    lists = [b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(90)]
    found = read(pickled(tuple_(b"]Naq\0", *lists)))
    assert len(found) == 91
    assert found[1][0] is found[1][1] is found[0]


def test_many_keys_take_linear_time():
    """Whole numbers that all have the hash 0 would take a dict hours."""
    keys = b"".join(int_((2**61 - 1) * i) + NONE for i in range(1, 40_000))
    with pytest.raises(CheckpointError, match="as a key"):
        read(pickled(b"}(" + keys + b"u"))
    assert len(read(pickled(b"}(" + b"".join(int_(i * 64) + NONE for i in range(16_000)) + b"u"))) == 16_000


# Damaged ones


class Reference(pickle.Unpickler):
    """Python's, kept from importing anything."""

    def find_class(self, module, name):
        assert f"{module}.{name}" == ORDERED
        return collections.OrderedDict

    def persistent_load(self, key):
        return ("persistent", key)


def test_mutations():
    """Damaged pickles: each is refused, or gives what Python makes of it."""
    value = collections.OrderedDict(a=[1, 300, -70000, 2**70], b=(0.5, None, True), c={"d": "text", "e": ()}, f={3: []})
    value._metadata = collections.OrderedDict(version=1)
    parts = [TRUE, FALSE, dict_({"a": int_(3), "b": list_(text("b"))}), tuple_(text("k"), int_(9)) + b"Q"]
    goods = [pickle.dumps(value, 2), pickle.dumps({str(i): (i, [i]) for i in range(5)}, 3), pickled(list_(*parts))]
    read_at_all = 0
    for seed in range(COUNT):
        data = mutated(goods[seed % len(goods)], seed)
        try:
            found = read(data, persistent_load=lambda key: ("persistent", key))
        except CheckpointError:
            continue
        read_at_all += 1
        expected = Reference(io.BytesIO(data), encoding="utf-8").load()
        assert comparable(found) == comparable(expected), seed
    assert COUNT / 20 < read_at_all < COUNT / 2


def comparable(value) -> str:
    return re.sub(r"OrderedDict\((\[(.*?)\])?\)", "", repr(plain(value)))


def plain(value):
    """Ordered dicts as dicts."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value
