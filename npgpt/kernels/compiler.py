"""Kernels are compiled by a second process, which saves them in Numba's cache; this one then loads them from there.

Why not by this process? Numba optimises the body of a parallel loop by itself, and a second time within the function
around it. A process that compiles runs the first version, one that loads from the cache the second, and the two add up
sums in different orders. A run would end with other last bits if it was the first on its machine. This way each process
loads what it runs.

The second process starts when the first kernel is missing, takes one request after the other, and ends after some
seconds without one, or when this process ends. If anything goes wrong with it, Numba compiles here as it always does.
"""

import atexit
import importlib
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from time import perf_counter

_IDLE_SECONDS = 10  # then the second process ends: a long run shall not keep its memory
_SERVE = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from npgpt.kernels import compiler
compiler.serve(float(sys.argv[1]))
"""
_ROOT = str(Path(__file__).resolve().parents[2])  # where this very package is
_MARK = "NPGPT_COMPILES"  # in the environment of the second process, which compiles what is missing itself

waited = 0.0  # seconds that this process has waited for kernels to be compiled

_lock = threading.Lock()
_process = None
_useful = _MARK not in os.environ
_announced = not _useful


def announce():
    """Says once, on stderr, that compiling has begun."""
    global _announced
    if not _announced:
        _announced = True
        print("npgpt: compiling kernels (once, under half a minute; cached for the next start)", file=sys.stderr)


def compile_elsewhere(py_func, signature) -> bool:
    """Let the second process compile a jitted function for a signature. -> whether it says that this worked"""
    global waited
    with _lock:
        if not _useful:
            return False
        announce()
        start = perf_counter()
        try:
            answer = _ask(pickle.dumps((py_func.__module__, py_func.__name__, signature)))
        except Exception:  # no process could be started, the signature can't be pickled ...
            answer = b""
        except KeyboardInterrupt:  # the answer that is still to come isn't that to the next request
            _end()
            raise
        waited += perf_counter() - start
        if answer == b"":
            compile_here()
        return answer == b"compiled\n"


def compile_here():
    """From now on this process compiles: there is no second one, or what it saves can't be loaded."""
    global _useful
    _useful = False
    _end()


def _ask(request):
    """-> the answer, or nothing if the second process can't be started or died over the request"""
    for _ in range(2):
        if _process is None or _process.poll() is not None:
            _start()
        with suppress(BrokenPipeError):
            _process.stdin.write(request)
            _process.stdin.flush()
        answer = _process.stdout.readline()
        if answer or _process.wait() != 0:
            return answer
        # It had been idle, and ended just now.
    return b""


def _start():
    global _process
    _end()
    _process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(_IDLE_SECONDS)],
        env={**os.environ, _MARK: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us alone
    )
    _process.stdin.write(pickle.dumps([_ROOT, *sys.path]))


@atexit.register
def _end():
    global _process
    process, _process = _process, None
    if process is None:
        return
    process.kill()
    process.wait()
    process.stdout.close()
    with suppress(BrokenPipeError):
        process.stdin.close()


def _forget():
    global _process, _lock
    _process, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # the second process is our parent's


def serve(idle_seconds):
    """The second process: reads requests from stdin, and answers each on stdout with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything else prints doesn't go among the answers
    while True:
        idle = threading.Timer(idle_seconds, os._exit, [0])
        idle.daemon = True
        idle.start()
        try:
            module, name, signature = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        idle.cancel()
        print(_compile(module, name, signature), file=answers, flush=True)


def _compile(module, name, signature):
    try:
        function = getattr(importlib.import_module(module), name)
        getattr(function, "dispatcher", function).compile(signature)
    except Exception:  # the process that asked meets the same error when it compiles, and raises it
        return "failed"
    return "compiled"
