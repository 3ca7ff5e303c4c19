"""Pickles, read without Python's ``pickle``: nothing that one names is imported, called or executed.

A pickle is a program for a machine with a stack and a memo. ``_OPCODES`` lists the instructions that there are here:
those that pickling in protocol 2 gives for None, numbers, strings, tuples, lists, dicts and objects. An object is a
GLOBAL, which names a class or function, and REDUCE, which calls it. The caller gives the names that may occur, and for
each a function of ours that is called instead; any other name is an error. So is all that ``pickle`` never writes.

A program of a few bytes may ask for much, and one byte becomes up to some 90 bytes of objects here, so the reader
limits the length of a pickle, and this file everything else that could run away: how deep things are nested (else
Python's own functions fail on them later), what is inside itself, whole numbers as keys (which can be chosen so that a
dict takes quadratic time).

Source: Python's pickletools.py, which describes each opcode; the selection is that of torch.load(weights_only=True).
"""

import reprlib
import struct
from collections.abc import Callable
from typing import NamedTuple

from npgpt.checkpoints.pytorch.nesting import OrderedDict, check_nesting
from npgpt.errors import CheckpointError

MAX_NUMBER_KEY = 1 << 20  # of a dict; an optimizer's state has the parameters' numbers
MAX_GLOBAL_BYTES = 200


class Function(NamedTuple):
    """What the allowed names of functions and classes stand for: ``call`` gets the tuple of arguments."""

    call: Callable[[tuple], object]


def _ordered_dict(arguments: tuple) -> OrderedDict:
    if arguments:
        raise CheckpointError("an OrderedDict that is not made empty, as Python 3 makes it")
    return OrderedDict()


ORDERED_DICT = {"collections.OrderedDict": Function(_ordered_dict)}


def read_pickle(
    data: memoryview,
    source: str,
    allowed: dict[str, object] | None = None,
    persistent_load: Callable[[object], object] | None = None,
) -> tuple[object, int]:
    """Return the object that the pickle at the beginning of ``data`` is of, and the pickle's length in bytes.

    source           begins every message: the file, and the part of it
    allowed          {"module.name": the ``Function`` that it stands for, or any other object, which can't be called}
    persistent_load  from the key of something outside the pickle to an object that stands for it

    A CheckpointError that one of these functions raises gets the place put before it.
    Raises CheckpointError.
    """
    machine = _Machine(data, allowed or {}, persistent_load)
    try:
        found = machine.run()
        check_nesting(found)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: byte {machine.start:,}: {error}") from None
    return found, machine.position


class _Machine:
    """One run of one program. Methods named in ``_OPCODES`` are instructions; the others are what they share."""

    def __init__(self, data, allowed, persistent_load):
        self.data = data
        self.allowed = allowed
        self.persistent_load = persistent_load
        self.start = self.position = 0  # of the instruction; of what comes next
        self.stack = []
        self.below = []  # the stacks that the marks have put aside
        self.memo = {}

    def run(self):
        while True:
            self.start = self.position
            opcode = self.byte()
            if opcode == _STOP:
                break
            if opcode not in _OPCODES:
                raise CheckpointError(f"the opcode {bytes([opcode])!r} is not one that torch.save writes")
            if (opcode == _PROTO) != (self.start == 0):
                raise CheckpointError("not a pickle: one begins, and only begins, with its protocol")
            instruction, *arguments = _OPCODES[opcode]
            instruction(self, *arguments)
        found = self.pop()
        if self.stack or self.below:
            raise CheckpointError("it ends with more than one object on its stack")
        return found

    def take(self, length):
        end = self.position + length
        if end > len(self.data):
            raise CheckpointError(f"it is cut off, or too long: {length:,} more bytes were expected")
        found = self.data[self.position : end]
        self.position = end
        return found

    def byte(self):
        if self.position >= len(self.data):
            raise CheckpointError("it is cut off, or too long: 1 more byte was expected")
        self.position += 1
        return self.data[self.position - 1]

    def number(self, format):
        return self.byte() if format == "<B" else struct.unpack(format, self.take(struct.calcsize(format)))[0]

    def pop(self):
        if not self.stack:
            raise CheckpointError("it takes something from an empty stack")
        return self.stack.pop()

    def pop_mark(self):
        """What was pushed since the last mark."""
        if not self.below:
            raise CheckpointError("it goes back to a mark that is not there")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, *types):
        found = self.pop()
        if type(found) not in types:
            raise CheckpointError(f"{types[0].__name__} was expected, not {short_repr(found)}")
        self.stack.append(found)
        return found

    # Instructions: constants, numbers, strings

    def protocol(self):
        version = self.number("<B")
        if version not in (2, 3, 4, 5):  # 3 adds bytes, 5 buffers, which are not allowed
            raise CheckpointError(f"pickle protocol {version}; 2 to 5 are read")

    def frame(self):
        if self.number("<Q") > len(self.data) - self.position:
            raise CheckpointError("a frame that is cut off")

    def memoize(self):
        found = self.pop()
        self.stack.append(found)
        self.memo[len(self.memo)] = found

    def push(self, value):
        self.stack.append(value)

    def push_number(self, format):
        self.stack.append(self.number(format))

    def long(self):
        self.stack.append(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def string(self, format_of_length):
        try:
            self.stack.append(str(self.take(self.number(format_of_length)), "utf-8"))
        except UnicodeDecodeError:
            raise CheckpointError("a string that is not UTF-8") from None

    # Containers

    def new(self, kind):
        self.stack.append(kind())

    def mark(self):
        self.below.append(self.stack)
        self.stack = []

    def tuple_of(self, length):
        items = [self.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(items)))

    def tuple_from_mark(self):
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def append(self):
        item = self.pop()
        self.top(list).append(item)

    def append_from_mark(self):
        items = self.pop_mark()
        self.top(list).extend(items)

    def set_item(self):
        value, key = self.pop(), self.pop()
        self.set_in(self.top(dict, OrderedDict), key, value)

    def set_items_from_mark(self):
        items = self.pop_mark()
        target = self.top(dict, OrderedDict)
        if len(items) % 2:
            raise CheckpointError("a key without a value")
        for i in range(0, len(items), 2):
            self.set_in(target, items[i], items[i + 1])

    def set_in(self, target, key, value):
        if type(key) is not str and not (type(key) is int and 0 <= key < MAX_NUMBER_KEY):
            raise CheckpointError(f"a string or a small whole number was expected as a key, not {short_repr(key)}")
        if key in target:
            raise CheckpointError(f"the key {reprlib.repr(key)} is there twice")
        target[key] = value

    # The memo: what is used again

    def put(self, format):
        place = self.number(format)
        if place >= len(self.data):  # they are counted, and each takes some bytes
            raise CheckpointError(f"the memo's place {place:,}, in a pickle of at most {len(self.data):,} bytes")
        found = self.pop()
        self.stack.append(found)
        self.memo[place] = found

    def get(self, format):
        place = self.number(format)
        if place not in self.memo:
            raise CheckpointError(f"the memo's place {place:,}, where nothing was put")
        self.stack.append(self.memo[place])

    # Objects

    def find_global(self):
        lines = bytes(self.data[self.position : self.position + MAX_GLOBAL_BYTES]).split(b"\n", 2)
        if len(lines) < 3:
            raise CheckpointError("a name that is cut off, or very long")
        self.position += len(lines[0]) + len(lines[1]) + 2
        name = b".".join(lines[:2]).decode("utf-8", "backslashreplace")
        if name not in self.allowed:
            raise CheckpointError(
                f"it asks for {name[:100]!r}, and nothing but tensors, dicts, lists, strings and numbers is read: "
                f"programs are never run"
            )
        self.stack.append(self.allowed[name])

    def call(self):
        arguments, function = self.pop(), self.pop()
        if type(function) is not Function or type(arguments) is not tuple:
            raise CheckpointError(f"it calls {short_repr(function)} with {short_repr(arguments)}")
        self.stack.append(function.call(arguments))

    def drop_state(self):
        state = self.pop()
        self.top(OrderedDict)
        if type(state) not in (dict, OrderedDict):
            raise CheckpointError(f"an OrderedDict's attributes are {short_repr(state)}")

    def load_persistent(self):
        key = self.pop()
        if self.persistent_load is None:
            raise CheckpointError("it asks for something outside the pickle")
        self.stack.append(self.persistent_load(key))


_PROTO, _STOP = 0x80, ord(".")
_OPCODES = {
    _PROTO: (_Machine.protocol,),
    ord("N"): (_Machine.push, None),
    0x88: (_Machine.push, True),  # NEWTRUE
    0x89: (_Machine.push, False),  # NEWFALSE
    ord("K"): (_Machine.push_number, "<B"),  # BININT1
    ord("M"): (_Machine.push_number, "<H"),  # BININT2
    ord("J"): (_Machine.push_number, "<i"),  # BININT
    0x8A: (_Machine.long,),  # LONG1
    ord("G"): (_Machine.push_number, ">d"),  # BINFLOAT
    ord("X"): (_Machine.string, "<I"),  # BINUNICODE
    0x8C: (_Machine.string, "<B"),  # SHORT_BINUNICODE
    0x94: (_Machine.memoize,),
    0x95: (_Machine.frame,),
    ord("U"): (_Machine.string, "<B"),  # SHORT_BINSTRING, by Python 2
    ord(")"): (_Machine.push, ()),  # EMPTY_TUPLE
    ord("]"): (_Machine.new, list),  # EMPTY_LIST
    ord("}"): (_Machine.new, dict),  # EMPTY_DICT
    ord("("): (_Machine.mark,),
    ord("t"): (_Machine.tuple_from_mark,),
    0x85: (_Machine.tuple_of, 1),
    0x86: (_Machine.tuple_of, 2),
    0x87: (_Machine.tuple_of, 3),
    ord("a"): (_Machine.append,),
    ord("e"): (_Machine.append_from_mark,),
    ord("s"): (_Machine.set_item,),
    ord("u"): (_Machine.set_items_from_mark,),
    ord("q"): (_Machine.put, "<B"),  # BINPUT
    ord("r"): (_Machine.put, "<I"),  # LONG_BINPUT
    ord("h"): (_Machine.get, "<B"),  # BINGET
    ord("j"): (_Machine.get, "<I"),  # LONG_BINGET
    ord("c"): (_Machine.find_global,),  # GLOBAL
    ord("R"): (_Machine.call,),  # REDUCE
    ord("b"): (_Machine.drop_state,),  # BUILD
    ord("Q"): (_Machine.load_persistent,),  # BINPERSID
}


def short_repr(value) -> str:
    """For messages: a number, or the beginning of a string; of others, which may print without end, the type."""
    if value is None or type(value) in (bool, int, float, str):
        return reprlib.repr(value)
    return f"a {type(value).__name__}"
