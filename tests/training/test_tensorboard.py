"""TensorBoard's event files, read again by its own reader."""

import sys
from importlib.util import find_spec

import pytest
from helpers.commands import RUN, command, metrics, refused, train

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard")


def events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run))
    found.Reload()
    return found


@needs_tensorboard
def test_all_numbers_and_samples_are_there_once_after_a_resume(folder):
    run, _ = train(folder, *RUN, "--tensorboard", "--sample-every", 4, "--sample-tokens", 3)
    assert command("train", "--resume", run, "--max-steps", 6, cwd=folder).code == 0
    assert len(list(run.glob("events.out.tfevents.*"))) == 2
    found = events(run)
    for kind, name in (("train", "loss"), ("train", "lr"), ("train", "tokens"), ("eval", "val_loss")):
        points = [(event.step, event.value) for event in found.Scalars(f"{kind}/{name}")]
        assert points == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in metrics(run, kind)]
    layers = [line["gradient"]["h.0"] for line in metrics(run, "layers")]
    assert [event.value for event in found.Scalars("gradient/h.0")] == pytest.approx(layers, rel=1e-6)
    assert {"weight/wte", "activation/h.0.mlp"} <= set(found.Tags()["scalars"])
    texts = [event.tensor_proto.string_val[0].decode() for event in found.Tensors("sample")]
    assert texts == [line["text"] for line in metrics(run, "sample")]


@needs_tensorboard
def test_steps_that_were_lost_are_taken_back(tmp_path):
    from npgpt.training.tensorboard import EventFiles

    first = EventFiles(tmp_path, 0)
    for step in (1, 2, 3):
        first.write("train", step, {"loss": 5.0 - step})
    first.close()
    second = EventFiles(tmp_path, 1)
    second.write("train", 2, {"loss": 2.5})
    second.close()
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("train/loss")] == [(1, 4), (2, 2.5)]


def test_without_the_package_nothing_is_begun(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    refused("train", *RUN, "--tensorboard", cwd=folder, words=["pip install 'npgpt[tensorboard]'"])


@needs_tensorboard
def test_a_full_disk_is_mentioned_once(tmp_path, capsys, monkeypatch):
    from npgpt.training.tensorboard import EventFiles

    files = EventFiles(tmp_path, 0)

    def full(event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files._writer, "add_event", full)
    for step in (1, 2):
        files.write("train", step, {"loss": 1.0})
    monkeypatch.setattr(files._writer, "close", lambda: full(None))
    files.close()
    assert capsys.readouterr().err.count("TensorBoard's file can't be written: No space left") == 1
