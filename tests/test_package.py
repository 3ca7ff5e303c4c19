"""The package: its version, its public names, and what a wheel of it holds."""

import ast
import configparser
import importlib
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import npgpt


def test_setup_cfg_and_the_package_have_the_same_version():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert setup["metadata"]["version"] == npgpt.__version__


def test_the_installed_package_is_this_one():
    try:
        installed = importlib.metadata.metadata("npgpt")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("npgpt is not installed")
    assert installed["Version"] == npgpt.__version__
    assert {"test", "reference"} <= set(installed.get_all("Provides-Extra"))


def test_public_names(python):
    assert set(npgpt.__all__) <= set(dir(npgpt))
    code = (
        "from npgpt import Tensor, no_grad, ops, GPT, GPTConfig, AdamW, load, CheckpointError, optim\n"
        "from npgpt import *\n"
        "import npgpt\n"
        "assert npgpt.optim.AdamW is AdamW and npgpt.ops.gelu and npgpt.GPTConfig is GPTConfig\n"
        "assert issubclass(CheckpointError, ValueError) and callable(load) and Tensor(1.0) is not None\n"
    )
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")
    with pytest.raises(AttributeError, match="no attribute 'transformer'"):
        npgpt.transformer  # noqa: B018


@pytest.mark.slow  # pip makes an environment for setuptools first
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what belongs to the package is told from git")
def test_a_wheel_holds_the_package_and_works(tmp_path):
    """Built from a copy, so that nothing is left in the checkout; unpacked, it works by itself."""
    copy = tmp_path / "copy"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in listed.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, copy], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"npgpt-{npgpt.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        found = set(file.namelist())
        file.extractall(tmp_path / "unpacked")
    info = f"npgpt-{npgpt.__version__}.dist-info"
    assert {name.split("/")[0] for name in found} == {"npgpt", info}
    assert any(name.startswith(info) and name.endswith("/LICENSE") for name in found)
    sources = {name for name in listed.split("\0") if name.startswith("npgpt/")}
    assert {name for name in found if name.startswith("npgpt/")} == sources
    assert {"npgpt/text/gpt2.tiktoken", "npgpt/py.typed"} <= sources
    code = "import npgpt; print(npgpt.__file__, npgpt.tokenizers.GPT2Tokenizer().encode('The verdict'))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "unpacked", capture_output=True, text=True)
    assert ended.stdout == f"{tmp_path}/unpacked/npgpt/__init__.py [  464 15593]\n", ended


@pytest.mark.parametrize("name", ["npgpt", "npgpt.checkpoints", "npgpt.gradcheck"])
def test_type_checkers_see_the_names_that_are_imported_late(name):
    module = importlib.import_module(name)
    body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
    (block,) = (node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {}
    exec(compile(ast.Module(block.body, []), module.__file__, "exec"), seen)
    names = {name for name in seen if not name.startswith("__")} - {"batches"}  # which is npgpt.data
    if name == "npgpt":
        assert names == {*npgpt._HOME, *npgpt._MODULES}
        assert set(npgpt.__all__) == {*npgpt._HOME, "ops", "optim"}
    for late in names:
        assert getattr(module, late) is seen[late]
