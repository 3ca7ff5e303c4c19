"""Who may import whom: read off the source with ast, so that imports inside functions count too."""

import ast
import configparser
import re
import sys
from functools import cache

import pytest
from conftest import ROOT

# A module may import modules of earlier rows, and of its own. A package's name stands for all that is in it, except for
# what has a row of its own. A new module needs its place here.
ORDER = [
    ["errors", "config"],
    ["kernels.machine.cpu", "kernels.stamps", "kernels.progress"],
    ["kernels.cache"],
    ["kernels.jit"],
    ["kernels.chunks", "kernels.exp", "kernels.row_max", "kernels.blocked_product"],
    ["kernels.normal_cdf"],
    ["kernels.machine"],
    ["kernels"],
    ["tensor"],
    ["ops"],
    ["layers"],
    ["activation_checkpointing"],
    ["generation"],
    ["gpt"],
    ["optim"],
    ["text"],
    ["checkpoints"],
    ["checking"],
    ["precompile"],
    ["commandline"],
    ["training"],
    ["train", "sample", "gradcheck", "info", "convert"],
]

NEEDED = {"numpy", "numba", "tiktoken", "tqdm"}
EXTRAS = {"torch", "transformers", "safetensors", "huggingface_hub", "gguf", "llama_cpp", "pytest", "hypothesis"}


@cache
def modules() -> dict:
    """{name without "npgpt.": the path of its file}; the package itself is ""."""
    folder = ROOT / "npgpt"
    names = {path: ".".join(path.relative_to(folder).with_suffix("").parts) for path in sorted(folder.rglob("*.py"))}
    return {name.removesuffix("__init__").rstrip("."): path for path, name in names.items()}


@cache
def imports(module: str) -> set[str]:
    """What a module imports anywhere: "numpy", "npgpt.tensor"; "npgpt" for a name that npgpt itself looks up."""
    found = set()
    path = modules()[module]
    package = ["npgpt", *module.split(".")] if module else ["npgpt"]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if name.removeprefix("npgpt.") in modules() else base)
    return found


def own_imports(module: str) -> set[str]:
    """Those of npgpt, without "npgpt."."""
    return {name.removeprefix("npgpt").lstrip(".") for name in imports(module) if name.split(".")[0] == "npgpt"}


def row(module: str) -> int:
    """The place in ORDER: that of the longest name there which covers the module."""
    places = {name: i for i, names in enumerate(ORDER) for name in names}
    covering = [name for name in places if f"{module}.".startswith(f"{name}.")]
    assert covering, f"npgpt.{module} has no place in ORDER (tests/test_architecture.py)"
    return places[max(covering, key=len)]


def test_imports_are_found():
    """The reader itself, on files whose imports are known."""
    assert own_imports("tensor") == {"kernels"}
    assert {"numpy", "contextlib", "npgpt.kernels"} < imports("tensor")
    assert own_imports("kernels.attention") == {
        "kernels.dropout",
        "kernels.exp",
        "kernels.jit",
        "kernels.row_max",
        "kernels.machine.product",
        "kernels.precision",
    }
    assert "kernels.table" in own_imports("kernels")
    assert "llvmlite" in imports("kernels.machine.microkernel")


@pytest.mark.parametrize("module", [m for m in modules() if m])
def test_imports_run_one_way(module):
    for other in own_imports(module):
        assert other, f"npgpt.{module} imports a name from npgpt itself; import it from the module that defines it"
        assert row(other) <= row(module), f"npgpt.{module} imports npgpt.{other}, which stands after it in ORDER"


def test_no_module_imports_itself_through_others():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for other in sorted(own_imports(module)):
                visit(other)
            path.pop()
            done.add(module)

    for module in modules():
        visit(module)


def test_order_names_what_there_is():
    for names in ORDER:
        for name in names:
            assert name in modules(), f"there is no npgpt.{name}"


@pytest.mark.parametrize("module", [m for m in modules() if m.split(".")[0] == "kernels"])
def test_kernels_know_numpy_and_numba_only(module):
    machine = {"llvmlite"} if module.startswith("kernels.machine.") else set()
    for name in imports(module):
        top = name.split(".")[0]
        if top == "npgpt":
            assert name == "npgpt.errors" or name.startswith("npgpt.kernels.")
        else:
            assert top in {"numpy", "numba"} | machine | sys.stdlib_module_names


@pytest.mark.parametrize("module", modules())
def test_only_kernels_machine_reaches_below_numba(module):
    if not module.startswith("kernels.machine."):
        assert not {"llvmlite", "ctypes"} & {name.split(".")[0] for name in imports(module)}


@pytest.mark.parametrize("module", modules())
def test_only_the_cache_uses_what_numba_does_not_document(module):
    undocumented = {name for name in imports(module) if name.startswith("numba.")} - {"numba.extending"}
    assert not undocumented or module == "kernels.cache"


def test_what_is_imported_is_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = {re.match(r"\w+", line)[0] for line in setup["options"]["install_requires"].split("\n") if line}
    assert declared == NEEDED
    tops = {name.split(".")[0] for module in modules() for name in imports(module)}
    brought = {"llvmlite"}  # by Numba
    extra = {"huggingface_hub"}  # imported only where it is used, as test_importing_all_of_npgpt... holds
    assert tops - sys.stdlib_module_names == NEEDED | {"npgpt"} | brought | extra
    assert [module for module in modules() if extra & imports(module)] == ["checkpoints.huggingface.hub"]
    extras = setup["options.extras_require"]
    assert extra == {re.match(r"\w+", extras["hub"].strip())[0]}


def loaded_by(python, code) -> set[str]:
    """The top names in sys.modules after running ``code`` in a fresh interpreter."""
    done = python(f"{code}\nimport sys; print('loaded:', *{{name.split('.')[0] for name in sys.modules}})")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("loaded:")[1].split())


def test_importing_npgpt_loads_nothing_heavy(python):
    assert not loaded_by(python, "import npgpt; npgpt.__version__") & (NEEDED | EXTRAS)


def test_importing_all_of_npgpt_loads_none_of_the_extras(python):
    names = [f"npgpt.{module}" for module in modules() if module]
    loaded = loaded_by(python, f"import importlib\nfor name in {names}: importlib.import_module(name)")
    assert "numba" in loaded
    assert not loaded & EXTRAS


def test_public_names_are_found(python):
    done = python("import npgpt; print(*[getattr(npgpt, name).__name__ for name in npgpt.__all__])")
    assert done.returncode == 0, done.stderr
