"""docs/playground.ipynb runs from top to bottom, and prints what it shows; a real kernel stops a text at a click."""

import json
from contextlib import contextmanager

import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "docs" / "playground.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [("".join(cell["source"]), cell["outputs"]) for cell in CELLS if cell["cell_type"] == "code"]


def printed(outputs):
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")


def test_cells_run_in_plain_python_and_print_what_is_shown(capsys):
    pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install 'npgpt[notebook]'")
    names = {}
    assert "npgpt.playground(" in CODE[-1][0]
    for code, outputs in CODE:
        exec(compile(code, NOTEBOOK.name, "exec"), names)
        assert capsys.readouterr().out == printed(outputs), code


def test_the_notebook_holds_no_noise():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["metadata"] == {"language_info": {"name": "python"}}
    for cell in CELLS:
        assert cell["metadata"] == {}
        assert cell.get("execution_count") is None
    assert NOTEBOOK.stat().st_size < 20_000


def test_a_kernel_runs_it_from_top_to_bottom():
    pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install 'npgpt[notebook]'")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install 'npgpt[notebook]'")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'npgpt[notebook]'")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, which nbclient brings")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=300).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [printed(cell.outputs) for cell in code] == [printed(outputs) for _, outputs in CODE]
    (shown,) = code[-1].outputs
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]


# A text of 1,000 tokens takes at least ten seconds, and is stopped long before.
SLOW = """
import threading, time
import npgpt
from npgpt.generation import Decoder
from npgpt.text.tokenizers import ByteTokenizer

threads = set()

class Slow(Decoder):
    def prefill(self, *given):
        threads.add(threading.get_ident())
        time.sleep(0.01)
        logits = super().prefill(*given)
        logits[:, 256] = -float("inf")
        return logits

model = npgpt.GPT(npgpt.GPTConfig(vocab_size=257, block_size=1, n_layer=1, n_head=1, n_embd=4))
playground = npgpt.playground(Slow(model, weights=None), ByteTokenizer(), "a")
playground.controls.length.value = 1000
print(playground.controls.button.comm.comm_id)
"""
LOOK = "print(playground.is_running, len(playground._written._pieces) if playground._written else 0)"


class _Kernel:
    """A kernel, to which a test sends what a page sends."""

    def __init__(self, client):
        self.client = client

    def run(self, code):
        """Run a cell -> what it prints."""
        said = []
        reply = self.client.execute_interactive(
            code, timeout=120, output_hook=lambda message: said.append(message["content"])
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(content["text"] for content in said if content.get("name") == "stdout")

    def click(self, button, subshell=None):
        content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
        message = self.client.session.msg("comm_msg", content)
        if subshell:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)

    def subshell(self):
        """A thread of the kernel that answers clicks."""
        self.client.control_channel.send(self.client.session.msg("create_subshell_request"))
        return self.client.get_control_msg(timeout=60)["content"]["subshell_id"]

    def until(self, code, wanted):
        """Run a cell until it prints the wanted words first; the text ends after 1,000 tokens in any case."""
        for _ in range(2000):
            said = self.run(code).split()
            if wanted(said):
                return said
        raise AssertionError(said)


@contextmanager
def started():
    pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install 'npgpt[notebook]'")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install 'npgpt[notebook]'")
    jupyter_client = pytest.importorskip("jupyter_client", reason="needs jupyter_client, which ipykernel brings")
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3")
    try:
        yield _Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_in_a_kernel_cells_run_and_a_click_stops_while_a_text_is_made():
    with started() as kernel:
        button = kernel.run(SLOW).strip()
        for subshell in (None, kernel.subshell()):
            kernel.click(button, subshell)
            kernel.until(LOOK, lambda said: said[0] == "True" and int(said[1]) > 0)  # a cell runs meanwhile
            kernel.click(button, subshell)
            made = kernel.until(LOOK, lambda said: said[0] == "False")[1]
            assert 0 < int(made) < 900
        assert kernel.run("print(threads == {threading.get_ident()})") == "True\n"  # all on the thread of the cells
