"""The cache of compiled kernels: it never gives wrong code, and is never the reason why something doesn't work."""

import os
import runpy
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from npgpt import kernels
from npgpt.kernels import cache, compiler, jit, progress, stamps


def triple(x):
    return 3 * x


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """calls(): what a process does that starts with what is in the folder; 1 if it had to compile, otherwise 0."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(progress, "_announced", True)
    compile, compiled = cache.KernelCache._compile, []
    monkeypatch.setattr(
        cache.KernelCache, "_compile", lambda self, *types: compiled.append(types) or compile(self, *types)
    )

    def call(x=2, function=triple):
        compiled.clear()
        assert jit.jit(function)(x) == 3 * x
        return len(compiled)

    return call


def files(tmp_path):
    return sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_what_is_compiled_once_is_loaded_from_then_on(calls, tmp_path):
    assert [calls(), calls(), calls(0.5), calls(0.5), calls()] == [1, 0, 1, 0, 0]
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda code: b"",
        lambda code: code[: len(code) // 2],
        lambda code: code[:999] + bytes([code[999] ^ 1]) + code[1000:],
    ],
    ids=["empty", "cut off", "one bit"],
)
def test_a_damaged_file_is_compiled_anew(calls, tmp_path, damage):
    calls()
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert [calls(), calls()] == [1, 0]


@pytest.mark.parametrize(
    ("name", "other"), [("_VERSIONS", "another Numba"), ("stamp", lambda path: "another source"), ("UNIT", "a unit")]
)
def test_what_was_compiled_from_or_by_or_for_another_is_not_taken(calls, monkeypatch, name, other):
    calls()
    monkeypatch.setattr(cache, name, other)
    assert [calls(), calls()] == [1, 0]


def test_a_file_that_was_edited_after_its_import(calls, tmp_path):
    """What is compiled is the function that was imported, and it is not kept as that of the file as it is now."""
    source, results = tmp_path / "edited.py", []
    for factor in (3, 4):
        stamps.stamp.cache_clear(), stamps._compiled.cache_clear()
        source.write_text(f"def scaled(x):\n    return {factor} * x\n")
        function = jit.jit(runpy.run_path(str(source))["scaled"])
        source.write_text("def scaled(x):\n    return 4 * x\n")
        results.append(function(2))
    assert results == [6, 8]


def times(factor):
    def product(x):
        return factor * x

    return product


@pytest.mark.parametrize("notebook", [False, True])
def test_a_function_whose_source_does_not_tell_all_is_compiled_each_time(calls, tmp_path, notebook):
    """One that closes over a variable, and one that has no file."""
    for factor in (3, 4):
        names = {}
        exec(f"def product(x):\n    return {factor} * x", names)
        assert jit.jit(names["product"] if notebook else times(factor))(2) == 2 * factor
    assert files(tmp_path) == []


def test_a_full_disk_leaves_the_cache_as_it_was(calls, tmp_path, monkeypatch, capsys):
    """And the user is told, once."""

    def no_space(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    calls()
    monkeypatch.setattr(progress, "_loss_announced", False)
    with monkeypatch.context() as full:
        full.setattr(cache.Path, "write_bytes", no_space)
        full.setattr(cache, "stamp", lambda path: "another source")
        assert [calls(), calls()] == [1, 1]
    first, second = capsys.readouterr().err.splitlines()
    (folder,) = tmp_path.iterdir()
    assert first == f"npgpt: kernels can't be kept in {folder}: No space left on device"
    assert second == "npgpt: the next start compiles again; NUMBA_CACHE_DIR names another folder"
    assert calls() == 0, "what was there has been damaged"
    assert len(files(tmp_path)) == 1


def test_no_folder_for_a_cache(calls, tmp_path, monkeypatch):
    """Neither where NUMBA_CACHE_DIR says nor beside the source nor in the user's folder."""

    def nowhere(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(cache, "CompileResultCacheImpl", nowhere)
    assert [calls(), calls()] == [1, 1]
    assert files(tmp_path) == []


def test_what_the_packages_owner_compiled_is_used_by_those_who_may_not_write_there(calls, tmp_path, monkeypatch):
    """What is missing there is kept in a folder of the user's own."""
    beside, own = tmp_path / "package" / "__pycache__", tmp_path / "own"
    beside.mkdir(parents=True)
    own.mkdir()
    source = beside.parent / "kernel.py"
    source.write_text("def triple(x):\n    return 3 * x\n")
    locator = SimpleNamespace(get_cache_path=lambda: str(beside))
    monkeypatch.setattr(cache, "CompileResultCacheImpl", lambda function: SimpleNamespace(locator=locator))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    names = runpy.run_path(str(source))
    assert [calls(2, names["triple"]) for _ in range(2)] == [1, 0]
    locator.get_cache_path = lambda: str(own)
    assert [calls(x, names["triple"]) for x in (2, 0.5, 0.5)] == [0, 1, 0]
    assert [len(files(folder)) for folder in (beside, own)] == [1, 1]
    (tmp_path / "~" / "nowhere").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    locator.get_cache_path = lambda: "~/nowhere"
    assert [calls(x, names["triple"]) for x in (2, 0.5)] == [0, 1]


def test_a_user_without_a_home_gets_no_folder_that_is_called_tilde(calls, tmp_path, monkeypatch, capsys):
    class Locator:
        def get_cache_path(self):
            os.makedirs("~/.cache/numba/npgpt")  # as Numba, to see whether it can be written
            return "~/.cache/numba/npgpt"

    monkeypatch.setattr(cache, "CompileResultCacheImpl", lambda function: SimpleNamespace(locator=Locator()))
    monkeypatch.setattr(progress, "_announced", False)
    monkeypatch.chdir(tmp_path)
    assert [calls(), calls()] == [1, 1]
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == (
        "npgpt: compiling kernels (at each start: no folder for them can be written; NUMBA_CACHE_DIR names one)\n"
    )


def test_versions_that_take_turns_compile_once_each(calls, monkeypatch):
    """Two environments in which the same checkout is installed."""
    compiled = []
    for versions in ("one Numba", "another", "one Numba", "another"):
        monkeypatch.setattr(cache, "_VERSIONS", versions)
        compiled.append(calls())
    assert compiled == [1, 1, 0, 0]


def test_compiling_is_announced_once(calls, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_announced", False)
    seconds = progress.seconds
    assert calls(1) + calls(1.5) == 2
    line = "npgpt: compiling kernels (once, under half a minute; cached for the next start)\n"
    assert capsys.readouterr().err == line
    assert progress.seconds > seconds


def test_the_code_that_runs_is_the_code_that_was_saved(calls):
    """Also in the process that compiles: what Numba made there may differ in the last bits."""
    function = jit.jit(triple)
    function(2)
    (result,) = function.overloads.values()
    assert result.metadata is None, "that is what Numba has compiled, and not what was loaded"
    assert result.library.codegen is not function.targetctx.codegen(), "functions of the same name would be taken"


@jit.jit
def one_more(x):
    return x + 1


def thrice(x):
    return 3 * one_more(x) + one_more(one_more(x))


def twice(x):
    return 2 * one_more(x)


def test_a_kernel_becomes_machine_code_once_with_what_it_calls(tmp_path, monkeypatch):
    """A part, which doesn't, is found by the next kernel that calls it; Python calls a kernel of the same function."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(progress, "_announced", True)
    generated, generate = [], compiler._Library.generate_machine_code
    linked, link = [], compiler._linked
    monkeypatch.setattr(
        compiler._Library, "generate_machine_code", lambda self: generated.append(self.name) or generate(self)
    )
    monkeypatch.setattr(
        compiler, "_linked", lambda function, *types: linked.append(function.__name__) or link(function, *types)
    )
    for kernel, result in (thrice, 9), (twice, 4):
        called = jit.jit(one_more.py_func)  # as a new process would have it
        monkeypatch.setitem(kernel.__globals__, "one_more", called)
        assert jit.jit(kernel)(1) == result
        assert not called.overloads, "Python's own versions"
    assert generated == ["thrice", "twice"]
    assert linked == ["thrice", "one_more", "twice"]
    assert [path.suffix for path in files(tmp_path)] == [".part", ".kernel", ".kernel"]
    assert called(1) == 2
    assert generated == ["thrice", "twice", "one_more"]


def test_what_is_compiled_by_numba_alone_can_call_what_is_compiled_here():
    @numba.njit
    def two_more(x):
        return one_more(one_more(x))

    assert two_more(2) == 4


def test_every_compiled_function_is_cached_and_keeps_nan_and_infinity():
    """The options are given in one place, jit.py; here they are read off the functions themselves."""
    values = [
        getattr(value, "dispatcher", value)  # of what runs in parallel, which is wrapped
        for module in vars(kernels).values()
        if getattr(module, "__name__", "").startswith("npgpt.kernels.")
        for value in vars(module).values()
    ]
    compiled = {v for v in values if hasattr(v, "py_func") and v.py_func.__module__.startswith("npgpt.kernels.")}
    assert len(compiled) > 15
    for function in compiled:
        assert not {"nnan", "ninf", "fast"} & set(function.targetoptions["fastmath"]), function
        assert function.targetoptions["error_model"] == "numpy", function
        assert isinstance(function._cache, cache.KernelCache), function


LARGE = np.zeros(1 << 20)


def test_a_kernel_that_holds_an_address_is_refused(calls, tmp_path):
    """Numba compiles in the address of a large global array; another process has something else there."""
    with pytest.raises(TypeError, match="element holds an address"):
        jit.jit(element)(0)
    assert files(tmp_path) == []


def test_a_kernel_that_calls_one_is_refused(calls, tmp_path, monkeypatch):
    monkeypatch.setitem(first.__globals__, "element", jit.jit(element))
    with pytest.raises(TypeError, match="element holds an address"):
        jit.jit(first)()
    assert files(tmp_path) == []


def element(i):
    return LARGE[i]


def first():
    return element(0)
