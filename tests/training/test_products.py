"""A run's way of multiplying matrices: chosen, written down, kept."""

import json

import pytest
from helpers.commands import command, train

from npgpt import kernels
from npgpt.errors import CheckpointError
from npgpt.kernels import precision
from npgpt.training import products

pytestmark = pytest.mark.skipif(kernels.BACKEND != "numba", reason="NumPy has one way")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(has, takes) pretends that this machine has these ways, and takes one of them. -> the run's folder"""

    def machine(has, takes, asked=False):
        monkeypatch.setattr(precision, "ways", lambda word: dict.fromkeys(has))
        monkeypatch.setattr(precision, "chosen_way", lambda word: takes)
        monkeypatch.setattr(precision, "IS_ASKED_FOR", asked)
        return tmp_path

    yield machine
    precision.set_matmul_precision("highest")


def written(folder, **content):
    (folder / "config.json").write_text(json.dumps({"format": "npgpt run", **content}))


def test_a_new_run_takes_the_machines_way(machine):
    machine(["vectors", "pairs"], "pairs")
    assert products.choose_products("medium") == {"medium": "pairs"}
    assert (precision.get_matmul_precision(), precision.get_way()) == ("medium", "pairs")


def test_numpys_way_is_not_written(machine, monkeypatch):
    """So that a run goes on in whatever way Numba has, without a word."""
    machine(["vectors", "pairs"], "pairs")
    monkeypatch.setattr(kernels, "BACKEND", "numpy")
    assert products.choose_products("highest") == {}


def test_a_resumed_run_keeps_its_own(machine, capsys):
    folder = machine(["vectors", "pairs", "tiles"], "tiles")
    written(folder, products={"medium": "pairs"})
    assert products.keep_products(folder, "medium") == {"medium": "pairs"}
    assert precision.get_way() == "pairs"
    assert capsys.readouterr().err == ""


def test_one_from_before_ways_were_written_takes_the_machines(machine, capsys):
    folder = machine(["vectors", "pairs"], "pairs")
    written(folder)
    assert products.keep_products(folder, "medium") == {"medium": "pairs"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("has", "asked", "why"),
    [(["vectors"], False, "this machine has no tiles"), (["vectors", "tiles"], True, "NPGPT_CPU says so")],
)
def test_one_that_cannot_keep_it_says_why(machine, capsys, has, asked, why):
    folder = machine(has, "vectors", asked)
    written(folder, products={"highest": "tiles"})
    assert products.keep_products(folder, "highest") == {"highest": "vectors"}
    assert precision.get_way() == "vectors"
    assert capsys.readouterr().err == f"products were made by tiles so far, and are made by vectors now: {why}\n"


@pytest.mark.parametrize("damage", [{"medium": 3}, ["pairs"], "pairs", {"medium": {}}])
def test_damage_is_refused(machine, damage):
    folder = machine(["vectors", "pairs"], "pairs")
    written(folder, products=damage)
    with pytest.raises(CheckpointError, match=r"config.json: products: a JSON object of names was expected"):
        products.keep_products(folder, "medium")


def test_the_command_writes_it_and_reads_it_again(folder, monkeypatch):
    run, _ = train(
        folder, *("text.txt", "--tokenizer", "byte", "--max-steps", 1, "--preset", "nano", "--context", 8),
        *("--batch-size", 1, "--sample-every", 0, "--n-layer", 1),
    )  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert config["products"] == {"highest": precision.chosen_way("highest")}
    (run / "config.json").write_text(json.dumps({**config, "products": {"highest": "wheels"}}))
    ended = command("train", "--resume", run, "--max-steps", 2, cwd=folder)
    assert "products were made by wheels so far" in ended.err
    assert json.loads((run / "config.json").read_text())["products"] == config["products"]
