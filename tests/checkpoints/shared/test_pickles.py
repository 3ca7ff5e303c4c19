"""The reader of pickles against Python's, and against programs that pickling never writes."""

import collections
import math
import os
import pickle
import re
import subprocess
import sys
from contextlib import suppress

import pytest
from helpers.mutations import memory_at_most
from helpers.torch_bytes import NONE, START, STOP, call, dict_, global_, int_, list_, pickled, text, tuple_

from npgpt.checkpoints.shared.pickles import Attributes, Global, read_pickle
from npgpt.errors import CheckpointError

ORDERED = "collections.OrderedDict"


def read(data: bytes, *functions):
    found, length = read_pickle(memoryview(data), "file: part", *functions)
    assert 0 < length <= len(data)
    return found


OBJECTS = [
    *(None, True, False, 0, 255, 256, 65536, -1, 2**31 - 1, -(2**31), 2**64, -(10**600), 0.1, -0.0, math.inf),
    *("", "text", "é\0😀\n" * 100, (), (1,), (1, "a"), (1, 2, 3), tuple(range(300)), [], [1], [[], [()], {}]),
    {"a": {"b": [1.5, None]}, "c": (True,)},
    {str(i): [i] for i in range(2000)},  # more than 256 places of the memo, several SETITEMS
    {i: i for i in range(300)},
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_pickle_writes(protocol):
    for value in OBJECTS:
        assert repr(read(pickle.dumps(value, protocol))) == repr(value)  # types, and the sign of -0.0
    shared = [1]
    found = read(pickle.dumps({"a": shared, "b": [shared, shared]}, protocol))
    assert found["a"] is found["b"][0] is found["b"][1]


@pytest.mark.parametrize("protocol", [2, 5])
def test_ordered_dicts_and_their_attributes(protocol):
    value = collections.OrderedDict(b=1, a=collections.OrderedDict())
    value._metadata = {"version": 1}
    found = read(pickle.dumps(value, protocol))
    assert list(found.items()) == [("b", 1), ("a", {})]
    assert not hasattr(found, "_metadata")


def test_the_length_of_one_of_several_and_strings_of_python_2():
    data = START + b"U\x03a\xc3\xa9" + STOP
    assert read_pickle(memoryview(data + data + b"rest"), "x") == ("aé", len(data))


def test_functions_get_the_arguments_and_persistent_ids_an_object():
    allowed = (Global("a.b", lambda *arguments: ["called", *arguments]), Global("c.d"))
    assert read(pickled(call("a.b", int_(1), global_("c.d"))), allowed) == ["called", 1, allowed[1]]
    value = tuple_(text("key")) + b"Q"
    assert read(pickled(list_(value, value)), (), lambda key: key[0] * 2) == ["keykey"] * 2


@pytest.mark.parametrize("protocol", [2, 5])
def test_an_object_of_an_allowed_class_has_its_attributes_and_sets_them_once(protocol, monkeypatch):
    kind = type("GPTConfig", (), {"__module__": __name__})
    monkeypatch.setitem(globals(), "GPTConfig", kind)
    value = kind()
    value.n_layer, value.names = 3, ["a"]
    allowed = (Global(f"{__name__}.GPTConfig", Attributes),)
    found = read(pickle.dumps([value, value], protocol), allowed)
    assert found[0] is found[1]
    assert found[0].values == {"n_layer": 3, "names": ["a"]}
    twice = START + global_(f"{__name__}.GPTConfig") + b")\x81" + b"}b" + b"}b" + STOP
    with pytest.raises(CheckpointError, match="OrderedDict was expected, not a Attributes"):
        read(twice, allowed)


BAD = {
    "no protocol": (b"N.", "byte 0: not a pickle of protocol 2 to 5"),
    "no end": (START + NONE, "byte 3: it is cut off"),
    "two objects": (START + NONE * 2 + STOP, "byte 4: it ends with other than one object"),
    "an open mark": (START + b"(" + NONE + STOP, "byte 4: it ends with other than one object"),
    "an empty stack": (START + b"q\0.", "byte 2: it is cut off, or takes something from an empty stack"),
    "over a mark": (START + NONE + b"(" + NONE + b"\x86.", "takes something from an empty stack"),
    "an opcode of others": (START + b"}\x92.", r"the opcode b'\\x92' is not one that torch.save writes"),
    "NEWOBJ of another class": (START + global_("a.B") + b")\x81.", "it asks for 'a.B'"),
    "a string of 4 GB": (START + b"X\xff\xff\xff\xffabc", "4,294,967,295 more bytes"),
    "a string not UTF-8": (pickled(b"X\1\0\0\0\xff"), "damaged: an instruction doesn't fit"),
    "builtins.eval": (pickled(call("builtins.eval", text("1"))), "it asks for 'builtins.eval': programs are never run"),
    "eval from the stack": (pickled(text("builtins") + text("eval") + b"\x93"), "it asks for 'builtins.eval'"),
    "a method of an allowed class": (pickled(global_(ORDERED + ".fromkeys")), f"it asks for '{ORDERED}.fromkeys'"),
    "a name that is not text": (pickled(b"c\xff\x1b[2J\n\n"), r"it asks for '\\\\xff\\x1b\[2J\.'"),
    "calling a string": (pickled(text("os.system") + b")R"), "Global was expected, not 'os.system'"),
    "an OrderedDict of something": (pickled(call(ORDERED, list_())), "damaged: an instruction doesn't fit"),
    "APPEND to a dict": (pickled(b"}Na"), "list was expected, not a dict"),
    "SETITEMS of three": (pickled(b"}(" + text("a") + NONE + text("b") + b"u"), "damaged: an instruction doesn't fit"),
    "True as a key": (pickled(b"}\x88Ns"), "a string or a small whole number was expected as a key, not True"),
    "a key twice": (pickled(dict_({"a": NONE}) + text("a") + b"Ns"), "the key 'a' is there twice"),
    "GET before PUT": (START + b"h\0.", "damaged: an instruction doesn't fit what is before it"),
    "BUILD on a dict": (pickled(b"}}b"), "OrderedDict was expected, not a dict"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pickles(case):
    data, place = BAD[case]
    with pytest.raises(CheckpointError, match=place) as caught:
        read(data)
    message = str(caught.value)
    assert message.startswith("file: part: byte ")
    assert len(message) < 300
    assert message.isprintable()


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


HOSTILE = {  # on which Python's own Unpickler takes 64 GB, crashes, takes half a minute; what recursion would crash on
    "a place far away in the memo": START + b"Nr\xff\xff\xff\xff.",
    "tuples in tuples as a key": START + b"})" + b"\x85" * 1_000_000 + b"Ns.",
    "keys with one hash": pickled(b"}(" + b"".join(int_((2**61 - 1) * i) + NONE for i in range(1, 80_000)) + b"u"),
    "tuples in tuples in a list in itself": START + b"]q\0h\0" + b"\x85" * 1_000_000 + b"a" + STOP,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_take_little_memory_and_time(tmp_path, case):
    """In a process of its own, for some would end it, with 1 GB of address space and 20 s."""
    (tmp_path / "a").write_bytes(HOSTILE[case])
    program = """if True:
        import resource, sys
        from npgpt.checkpoints.shared.pickles import read_pickle
        from npgpt.errors import CheckpointError
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        try:
            read_pickle(memoryview(open(sys.argv[1], "rb").read()), "x")
        except CheckpointError as error:
            print(error)
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # whose threads' stacks count as address space
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a"], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.match(b"x: byte .*as a key" if "as a key" in case or "keys" in case else b"$", done.stdout), done.stdout


SIZE = 1 << 15
BOMBS = {
    "marks": b"(",
    "tuples in tuples": b")\x85",
    "OrderedDicts": b"h\0)R",
    "dicts with one": b"}K\0Ns",
    "places of the memo": b"\x94",
    "wide strings": b"X\4\0\0\0" + "😀".encode(),
}


@pytest.mark.parametrize("case", BOMBS)
def test_memory_for_a_byte(case):
    """At most 90 bytes for each byte of the pickle, by which ``pytorch.file`` limits its length."""
    unit = BOMBS[case]
    program = START + global_(ORDERED) + b"q\0](" + NONE + unit * (SIZE // len(unit))
    for end in (b"e\x86.", b""):
        with memory_at_most((90 * len(program) - (64 << 20)) / 3), suppress(CheckpointError):
            read(program + end)
