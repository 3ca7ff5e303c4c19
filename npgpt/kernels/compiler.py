"""Kernels are compiled by a second process, which saves them in Numba's cache; this one then loads them from there.

Why not by this process? Numba optimises the body of a parallel loop by itself, and a second time within the function
around it. A process that compiles runs the first version, one that loads from the cache the second, and the two add up
sums in different orders. A run would end with other last bits if it was the first on its machine. This way each process
loads what it runs.

The second process starts when the first kernel is missing, takes one request after the other, and ends after some
seconds without one, or when this process ends. If anything goes wrong with it, Numba compiles here as it always does.
Where many kernels are known to be needed, several such processes share them out: ``compile_all``.
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
from queue import Empty, Queue
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

_MOST = 4 if os.name == "posix" else 1  # processes at a time, of half a gigabyte each; jit.py has no locks elsewhere

waited = 0.0  # seconds that this process has waited for kernels to be compiled

_lock = threading.Lock()
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
            answer = _second.ask(py_func, signature)
        except Exception:  # no process could be started, the signature can't be pickled ...
            answer = b""
        except KeyboardInterrupt:  # the answer that is still to come isn't that to the next request
            _second.end()
            raise
        waited += perf_counter() - start
        if answer == b"":
            compile_here()
        return answer == b"compiled\n"


def compile_all(wanted, processes: int, stop=lambda: False):
    """Let several processes compile jitted functions, [(py_func, signature)]. What fails is left for when it is needed.

    All signatures of one function go to one process, and long functions first, so that none is left over at the end.
    Returns early once ``stop()``.
    """
    global waited
    of_each = {}
    for py_func, signature in wanted:
        of_each.setdefault(py_func, []).append(signature)
    tasks = Queue()
    for py_func in sorted(of_each, key=lambda f: len(f.__code__.co_code), reverse=True):
        tasks.put((py_func, of_each[py_func]))
    with _lock:
        if not (_useful and of_each):
            return
        start, done, over = perf_counter(), Queue(), threading.Event()
        compilers = [_second, *(_Process() for _ in range(min(processes, _MOST, len(of_each)) - 1))]
        threads = [threading.Thread(target=_work, args=(c, tasks, done, over), daemon=True) for c in compilers]
        progress = _Progress(len(wanted))
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and not stop():
                with suppress(Empty):
                    done.get(timeout=0.1)
                    progress.done += 1
                progress.show()
            progress.done += done.qsize()
        finally:
            over.set()
            progress.end()
            busy = any(thread.is_alive() for thread in threads)
            for compiler in compilers if busy else compilers[1:]:
                compiler.end()
            waited += perf_counter() - start


def _work(compiler, tasks, done, over):
    """A thread of ``compile_all``: hands one process a function after the other, as long as it answers."""
    with suppress(Exception):  # no task is left; no process could be started
        while True:
            py_func, signatures = tasks.get_nowait()
            for signature in signatures:
                if over.is_set() or compiler.ask(py_func, signature) == b"":
                    return
                done.put(signature)


class _Progress:
    """How far compiling is: a line that a terminal shows anew each second; anywhere else the line of ``announce``.

    The cursor stays at the line's beginning, so that what is printed meanwhile is written over it and not behind it.
    """

    def __init__(self, total):
        global _announced
        self.total, self.done, self.began, self.shown = total, 0, perf_counter(), None
        self.terminal = sys.stderr.isatty()
        if self.terminal:
            _announced = True
        else:
            announce()
        self.show()

    def show(self, end="\r"):
        seconds = int(perf_counter() - self.began)
        line = f"npgpt: compiling kernels (once, then cached): {self.done} of {self.total}, {seconds} s"
        if self.terminal and (line != self.shown or end == "\n"):
            print(line, end=end, file=sys.stderr, flush=True)
            self.shown = line

    def end(self):
        self.show("\n")


def compile_here():
    """From now on this process compiles: there is no second one, or what it saves can't be loaded."""
    global _useful
    _useful = False
    _second.end()


class _Process:
    """A process that compiles: started when it is first asked, and again if it has ended meanwhile."""

    def __init__(self):
        self.popen = None

    def ask(self, py_func, signature) -> bytes:
        """-> its answer, or nothing if it died over the request. Raises OSError if it can't be started."""
        request = pickle.dumps((py_func.__module__, py_func.__name__, signature))
        for _ in range(2):
            if self.popen is None or self.popen.poll() is not None:
                self._start()
            process = self.popen
            with suppress(BrokenPipeError):
                process.stdin.write(request)
                process.stdin.flush()
            answer = process.stdout.readline()
            if answer or process.wait() != 0:
                return answer
            # It had been idle, and ended just now.
        return b""

    def _start(self):
        self.end()
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(_IDLE_SECONDS)],
            env={**os.environ, _MARK: "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us alone
        )
        self.popen.stdin.write(pickle.dumps([_ROOT, *sys.path]))

    def end(self):
        process, self.popen = self.popen, None
        if process is None:
            return
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()


_second = _Process()  # the one that compiles what is met and missing


@atexit.register
def _end():
    _second.end()


def _forget():
    global _second, _lock
    _second, _lock = _Process(), threading.Lock()


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
