"""Pickles, read without Python's ``pickle``: nothing that one names is imported, called or executed.

A pickle is a program for a machine with a stack and a memo. Only the instructions exist here that pickling gives for
None, numbers, strings, tuples, lists, dicts and objects. An object is a GLOBAL, which names a class or function, and
REDUCE or NEWOBJ, which calls it. The caller gives the names that may occur, each with a function of ours to call
instead.

Python's own ``Unpickler`` with a restricted ``find_class`` would not do, even for a short pickle:

    PUT r ff ff ff 0f       9 bytes take 4 GB, since its memo is a list that is filled up to the index
    tuples in tuples        as a key of a dict they are hashed recursively: 1 MB overflows the C stack, a segfault
    keys 2**61 - 1, ...     whole numbers of equal hash take quadratic time in a dict: minutes for 1 MB
    BUILD                   overwrites the attributes of any object, a function's defaults or a checked tensor's shape

(Measured on Python 3.11.) Here the memo is a dict, keys are strings or small numbers, and BUILD sets an ``Attributes``
once. A byte becomes up to 90 bytes of objects, so the caller limits the length. What comes out may be nested deeply,
or in itself.

Source: Python's pickletools.py, which describes each opcode; the selection is that of torch.load(weights_only=True),
and what protocols 4 and 5 need besides.
"""

import reprlib
import struct
from collections.abc import Callable
from typing import Any

from npgpt.errors import CheckpointError

MAX_NUMBER_KEY = 1 << 20  # of a dict; an optimizer's state has the parameters' numbers
MAX_GLOBAL_BYTES = 200

_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_STRINGS = {b"\x8c": "<B", b"X": "<I", b"U": "<B"}  # SHORT_BINUNICODE, BINUNICODE; SHORT_BINSTRING, by Python 2
_PUTS, _GETS = {b"q": "<B", b"r": "<I"}, {b"h": "<B", b"j": "<I"}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}


class OrderedDict(dict):
    """A collections.OrderedDict in the pickle. It may have attributes there, which are dropped."""

    __slots__ = ()


class Attributes:
    """An object of an allowed class, without the class: its attributes; None until the pickle sets them."""

    __slots__ = ("values",)

    def __init__(self):
        self.values: dict | None = None


class Global:
    """Stands for an allowed name; ``call``, if the name may be called, gets the arguments."""

    def __init__(self, name: str, call: Callable[..., object] | None = None):
        self.name = name
        self.call = call


ORDERED_DICT = Global("collections.OrderedDict", lambda: OrderedDict())  # without items, which Python 3 adds after


def read_pickle(
    data: memoryview,
    source: str,
    allowed: tuple[Global, ...] = (ORDERED_DICT,),
    persistent_load: Callable[[object], object] | None = None,
) -> tuple[object, int]:
    """Return the object that the pickle at the beginning of ``data`` is of, and the pickle's length in bytes.

    source           begins every message: the file, and the part of it
    allowed          the names that may occur
    persistent_load  from the key of something outside the pickle to an object that stands for it

    Raises CheckpointError; one that the given functions raise gets the place put before it.
    """
    machine = _Machine(data, {item.name: item for item in allowed}, persistent_load)
    try:
        return machine.run(), machine.position
    except CheckpointError as error:
        problem = str(error)
    except (IndexError, struct.error):
        problem = "it is cut off, or takes something from an empty stack"
    except (KeyError, TypeError, AttributeError, ValueError):
        problem = "damaged: an instruction doesn't fit what is before it"
    raise CheckpointError(f"{source}: byte {machine.start:,}: {problem}")


class _Machine:
    """One run of one program. What is wrong in it may raise whatever ``read_pickle`` catches."""

    def __init__(self, data: memoryview, allowed: dict[str, Global], persistent_load):
        self.data = data
        self.allowed = allowed
        self.persistent_load = persistent_load
        self.start = self.position = 0  # of the instruction; of what comes next
        self.stack = []
        self.below = []  # the stacks that the marks have put aside
        self.memo = {}

    def run(self) -> object:
        opcode = self.take(1)
        if opcode != b"\x80" or not 2 <= self.number("<B") <= 5:
            raise CheckpointError("not a pickle of protocol 2 to 5")
        while True:
            self.start = self.position
            opcode = self.take(1)
            if opcode == b".":
                break
            self.step(opcode)
        if len(self.stack) != 1 or self.below:
            raise CheckpointError("it ends with other than one object on its stack")
        return self.stack[0]

    def take(self, length: int) -> bytes:
        begin, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise CheckpointError(f"it is cut off, or too long: {length:,} more bytes were expected")
        return bytes(self.data[begin : self.position])

    def number(self, format: str) -> Any:
        return struct.unpack(format, self.take(struct.calcsize(format)))[0]

    def pop_mark(self) -> list:
        """The objects pushed since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def step(self, opcode: bytes) -> None:
        stack = self.stack
        if opcode in _PUTS or opcode == b"\x94":  # MEMOIZE: at the next place
            self.memo[self.number(_PUTS[opcode]) if opcode in _PUTS else len(self.memo)] = stack[-1]
        elif opcode in _GETS:
            stack.append(self.memo[self.number(_GETS[opcode])])
        elif opcode in _NUMBERS:
            stack.append(self.number(_NUMBERS[opcode]))
        elif opcode in _STRINGS:
            stack.append(self.take(self.number(_STRINGS[opcode])).decode())
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode == b"\x8a":  # LONG1
            stack.append(int.from_bytes(self.take(self.number("<B")), "little", signed=True))
        elif opcode == b"]":
            stack.append([])
        elif opcode == b"}":
            stack.append({})
        elif opcode == b"(":
            self.below.append(stack)
            self.stack = []
        elif opcode == b"t":
            items = self.pop_mark()
            self.stack.append(tuple(items))
        elif opcode in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[opcode])]
            stack.append(tuple(reversed(items)))
        elif opcode in (b"a", b"e"):  # APPEND, APPENDS
            items = self.pop_mark() if opcode == b"e" else [stack.pop()]
            _expect(list, self.stack[-1]).extend(items)
        elif opcode in (b"s", b"u"):  # SETITEM, SETITEMS
            items = self.pop_mark() if opcode == b"u" else [stack.pop(), stack.pop()][::-1]
            _set_items(_expect(dict, self.stack[-1]), items)
        elif opcode == b"c":  # GLOBAL
            module, name, *_ = bytes(self.data[self.position : self.position + MAX_GLOBAL_BYTES]).split(b"\n", 2)
            self.position += len(module) + len(name) + 2
            stack.append(self.find(b".".join((module, name)).decode("utf-8", "backslashreplace")))
        elif opcode == b"\x93":  # STACK_GLOBAL
            name, module = _expect(str, stack.pop()), _expect(str, stack.pop())
            stack.append(self.find(f"{module}.{name}"))
        elif opcode in (b"R", b"\x81"):  # REDUCE, NEWOBJ
            arguments, function = _expect(tuple, stack.pop()), _expect(Global, stack.pop())
            stack.append(function.call(*arguments))
        elif opcode == b"b":  # BUILD, which sets attributes; an OrderedDict's are dropped
            attributes = _expect(dict, stack.pop())
            if isinstance(stack[-1], Attributes) and stack[-1].values is None:
                stack[-1].values = attributes
            else:
                _expect(OrderedDict, stack[-1])
        elif opcode == b"Q":  # BINPERSID
            stack.append(self.persistent_load(stack.pop()))
        elif opcode == b"\x95":  # FRAME
            self.take(8)
        else:
            raise CheckpointError(f"the opcode {opcode!r} is not one that torch.save writes")

    def find(self, name: str) -> Global:
        if name not in self.allowed:
            raise CheckpointError(f"it asks for {name[:100]!r}: programs are never run, only tensors and values read")
        return self.allowed[name]


def _expect(kind: type, value):
    if not isinstance(value, kind):
        raise CheckpointError(f"{kind.__name__} was expected, not {short_repr(value)}")
    return value


def _set_items(target: dict, items: list) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and 0 <= key < MAX_NUMBER_KEY):
            raise CheckpointError(f"a string or a small whole number was expected as a key, not {short_repr(key)}")
        if key in target:
            raise CheckpointError(f"the key {reprlib.repr(key)} is there twice")
        target[key] = value


def short_repr(value: object) -> str:
    """For messages: a number, or the beginning of a string; of others, which may print without end, the type."""
    if value is None or type(value) in (bool, int, float, str):
        return reprlib.repr(value)
    return f"a {type(value).__name__}"
