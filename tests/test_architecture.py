"""The order of imports between modules, read from the source with ast, so that imports inside functions count too."""

import ast
import configparser
import re
import sys
from functools import cache

import pytest
from conftest import ROOT

# A room is a module, or a package and all that is in it which has no name of its own here. A room may import from rooms
# in earlier rows and from itself; those in one row know nothing of each other. A new module needs its place here.
ORDER = [
    ["errors"],
    ["config", "signals", "shell", "streams", "schedules", "name_patterns", "machine_line", "html_page"],
    ["kernels.machine.cpu", "kernels.machine.memory", "kernels.stamps", "kernels.progress", "kernels.compiler"],
    ["kernels.cache"],
    ["kernels.jit"],
    ["kernels.chunks", "kernels.exp", "kernels.row_max", "kernels.blocked_product"],
    ["kernels.normal_cdf"],
    ["kernels.machine"],
    ["kernels"],
    ["autograd"],
    ["tensor"],
    ["ops"],
    ["layers"],
    ["activation_checkpointing", "hooks"],
    ["gpt"],
    ["optim", "text"],
    ["checkpoints.formats"],
    ["checkpoints.shared"],
    ["text.conversations", "text.token_files"],
    ["text.corpus"],
    [f"checkpoints.{name}" for name in ("safetensors", "pytorch", "tensorflow", "gguf", "llmc")],
    ["checkpoints.huggingface", "checkpoints.nanogpt"],
    ["checkpoints.pytorch.model", "checkpoints.runs"],
    ["checkpoints.run_states"],
    ["adapters"],
    ["checkpoints.reading", "checkpoints.writing"],
    ["checkpoints"],
    ["generation"],
    ["scoring"],
    ["checking", "precompile", "commandline", "process", "reporting"],
    ["model_flags"],
    ["generation_settings"],
    ["training", "teaching", "chatting", "serving", "notebook"],
    ["train", "prepare", "sample", "chat", "serve", "evaluate", "convert", "info", "report"],
    ["gradcheck", "explain", "exercises", "__main__"],
]
# Imported inside functions against the order, for convenience: generate and stream of GPT and Decoder.
LATE = {("gpt", "generation"), ("generation.decoder", "generation.stream")}

NEEDED = {"numpy", "numba", "tiktoken", "tqdm"}
USE_LLVM = "kernels.machine.", "kernels.compiler"
EXTRAS = {"torch", "transformers", "safetensors", "huggingface_hub", "gguf", "matplotlib", "tensorboard", "mpi4py"}
EXTRAS |= {"ipywidgets", "pytest", "hypothesis"}
# {package: (its extra, the module that imports it, where it is used)}
WHERE = {
    "huggingface_hub": ("hub", "checkpoints.huggingface.hub"),
    "tensorboard": ("tensorboard", "training.tensorboard"),
    "ipywidgets": ("notebook", "notebook.controls"),
    "mpi4py": ("mpi", "training.launch"),
}
# Of the extra "serve"; FastAPI brings pydantic and Starlette. Modules of the room serving are built on them, so these
# import them at their top.
WEB = {"fastapi", "uvicorn", "pydantic", "starlette"}
EXTRAS |= WEB


@cache
def modules() -> dict:
    """{name without "npgpt.": the path of its file}; the package itself is ""."""
    folder = ROOT / "npgpt"
    names = {path: ".".join(path.relative_to(folder).with_suffix("").parts) for path in sorted(folder.rglob("*.py"))}
    return {name.removesuffix("__init__").rstrip("."): path for path, name in names.items()}


@cache
def imports(module: str) -> set[str]:
    """A module's imports, wherever they are: "numpy", "npgpt.tensor"; "npgpt" for a name of npgpt/__init__.py."""
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
    """A module's imports from npgpt, without "npgpt." and without those in LATE."""
    own = {name.removeprefix("npgpt").lstrip(".") for name in imports(module) if name.split(".")[0] == "npgpt"}
    return {other for other in own if (module, other) not in LATE}


def room(module: str) -> tuple[int, str]:
    """The row in ORDER and the room: the longest name there which covers the module."""
    rows = {name: i for i, names in enumerate(ORDER) for name in names}
    covering = [name for name in rows if f"{module}.".startswith(f"{name}.")]
    assert covering, f"npgpt.{module} has no place in ORDER (tests/test_architecture.py)"
    name = max(covering, key=len)
    return rows[name], name


def test_imports_are_found_in_known_files():
    assert own_imports("tensor") == {"kernels", "autograd"}
    assert {"numpy", "math", "npgpt.kernels"} < imports("tensor")
    assert "kernels.table" in own_imports("kernels")
    assert "llvmlite" in imports("kernels.machine.microkernel")


@pytest.mark.parametrize("module", [m for m in modules() if m])
def test_imports_run_one_way(module):
    for other in own_imports(module):
        assert other, f"npgpt.{module} imports a name from npgpt itself; import it from the module that defines it"
        allowed = room(other) == room(module) or room(other)[0] < room(module)[0]
        assert allowed, f"npgpt.{module} imports npgpt.{other}, which isn't in an earlier row of ORDER"


def test_late_imports_are_inside_functions():
    for module, other in LATE:
        assert f"npgpt.{other}" in imports(module)
        at_the_top = ast.parse(modules()[module].read_text(encoding="utf-8")).body
        names = {node.module for node in at_the_top if isinstance(node, ast.ImportFrom)}
        assert f"npgpt.{other}" not in names


def test_there_is_no_cycle_of_imports():
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


def test_every_module_in_order_exists():
    for names in ORDER:
        for name in names:
            assert name in modules(), f"there is no npgpt.{name}"


@pytest.mark.parametrize("module", [m for m in modules() if m.split(".")[0] == "kernels"])
def test_kernels_know_numpy_and_numba_only(module):
    llvm = {"llvmlite"} if module.startswith(USE_LLVM) else set()
    for name in imports(module):
        top = name.split(".")[0]
        if top == "npgpt":
            assert name == "npgpt.errors" or name.startswith("npgpt.kernels.")
        else:
            assert top in {"numpy", "numba"} | llvm | sys.stdlib_module_names


@pytest.mark.parametrize("module", modules())
def test_only_kernels_machine_and_the_compiler_use_llvmlite_and_ctypes(module):
    if not module.startswith(USE_LLVM):
        assert not {"llvmlite", "ctypes"} & {name.split(".")[0] for name in imports(module)}


@pytest.mark.parametrize("module", modules())
def test_two_modules_use_what_numba_does_not_document(module):
    undocumented = {name for name in imports(module) if name.startswith("numba.")} - {"numba.extending"}
    assert not undocumented or module in ("kernels.cache", "kernels.compiler")


def test_imported_packages_are_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    declared = {re.match(r"\w+", line)[0] for line in setup["options"]["install_requires"].split("\n") if line}
    assert declared == NEEDED
    tops = {name.split(".")[0] for module in modules() for name in imports(module)}
    brought = {"llvmlite"}  # by Numba
    assert tops - sys.stdlib_module_names == NEEDED | {"npgpt"} | brought | set(WHERE) | WEB
    for package, (extra, where) in WHERE.items():  # imported only where it is used, as a test below holds
        importing = [m for m in modules() if package in {name.split(".")[0] for name in imports(m)}]
        assert importing == [where]
        assert package == re.match(r"\w+", setup["options.extras_require"][extra].strip())[0]


def test_only_the_server_knows_the_web():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert re.findall(r"^\w+", setup["options.extras_require"]["serve"], re.MULTILINE) == ["fastapi", "uvicorn"]
    for module in modules():
        web = WEB & {name.split(".")[0] for name in imports(module)}
        assert not web or module.startswith("serving."), f"npgpt.{module} imports {web}"


def needs_the_web(module) -> bool:
    return bool(WEB & {name.split(".")[0] for name in imports(module)}) or (
        module.startswith("serving.") and any(map(needs_the_web, own_imports(module)))
    )


def loaded_by(python, code) -> set[str]:
    """The top names in sys.modules after running ``code`` in a fresh interpreter."""
    done = python(f"{code}\nimport sys; print('loaded:', *{{name.split('.')[0] for name in sys.modules}})")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("loaded:")[1].split())


def test_importing_npgpt_loads_nothing_heavy(python):
    code = "import npgpt; npgpt.__version__, npgpt.GPTConfig, npgpt.CheckpointError"
    assert not loaded_by(python, code) & (NEEDED | EXTRAS)


def test_importing_all_of_npgpt_loads_none_of_the_extras(python):
    names = [f"npgpt.{module}" for module in modules() if module and not needs_the_web(module)]
    assert {"npgpt.serve", "npgpt.serving.engine", "npgpt.serving.settings"} < set(names)
    loaded = loaded_by(python, f"import importlib\nfor name in {names}: importlib.import_module(name)")
    assert "numba" in loaded
    assert not loaded & EXTRAS


def test_only_kernels_are_compiled():
    """All of Numba's options are in kernels/jit.py."""
    for module in modules():
        if not module.startswith("kernels"):
            text = ROOT / "npgpt" / f"{module.replace('.', '/')}.py"
            assert not text.exists() or "njit" not in text.read_text(encoding="utf-8"), module
