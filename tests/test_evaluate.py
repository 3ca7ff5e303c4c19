"""python -m npgpt.evaluate: the figures arrive, in the table and in JSON, and every mistake gets a clear message."""

import contextlib
import json
import math
import signal
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from conftest import TEXT
from helpers.commands import Ended, command, process, refused, without_compiling
from helpers.models import with_random_parameters
from helpers.sample_runs import make_run, make_runs
from test_commandline import NOT_FROM_0, in_a_fresh_python

from npgpt import GPT, GPTConfig, load
from npgpt.checkpoints import runs, save
from npgpt.evaluate import EvaluateSettings
from npgpt.generation.packed_model import PackedGPT
from npgpt.kernels import precision
from npgpt.scoring.divergence import compare
from npgpt.scoring.last_words import last_words, read_last_words
from npgpt.scoring.multiple_choice import multiple_choice, read_questions
from npgpt.scoring.perplexity import perplexity, token_sizes
from npgpt.scoring.report import shortened
from npgpt.scoring.spans import sliding_windows
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer

TOKENIZER = ByteTokenizer()
WORDS = [{"text": "the jury sat four"}, {"text": "a drowned pig"}, {"text": "nobody ate"}]
QUESTIONS = [
    {"activity_label": "A", "ctx": "he", "endings": ["ate", "sat it", "is"], "label": label} for label in (0, 2, 1)
]


@pytest.fixture(scope="module")
def _work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    make_runs(folder, TOKENIZER)
    (folder / "text.txt").write_text(TEXT[:100])
    for name, lines in (("words.jsonl", WORDS), ("questions.jsonl", QUESTIONS)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def work(_work):
    """A working folder with runs/a, the newer one, and runs/b; a text, last words and questions."""
    yield _work
    (_work / "out.json").unlink(missing_ok=True)


def evaluate(work, *arguments) -> list:
    """The results in JSON, after a comparison with the table."""
    (work / "out.json").unlink(missing_ok=True)
    ended = command("evaluate", *arguments, "--json", "out.json", cwd=work)
    assert (ended.code, ended.err) == (0, ""), ended
    values = json.loads((work / "out.json").read_text())
    check_table(ended.out, values)
    return values["results"]


def check_table(out, values):
    """Every figure of the JSON is in the table, in its place."""
    first, head, *lines = out.splitlines()
    window = values["settings"]
    assert first == f"{shortened(values['model'], 48)}: context {window['context']}, stride {window['stride']}"
    assert head.split() == ["file", "task", "figure", "value", "std.", "error"]
    assert max(map(len, out.splitlines())) <= 80
    for result in values["results"]:
        against = result.pop("against", {})
        labels = {"file": result.pop("file"), "task": result.pop("task"), "against": against.pop("model", None)}
        assert lines[0].split()[:2] == [labels["file"], labels["task"]]
        for name, value in [*result.items(), *against.items()]:
            line = lines.pop(0)
            number, error = (value["value"], value["standard_error"]) if isinstance(value, dict) else (value, None)
            assert line[39:54].strip() == name.replace("_", " ")
            assert float(line[55:66].replace(",", "")) == pytest.approx(number, rel=1e-4)
            assert bool(line[66:].strip()) == (error is not None)
            if error is not None:
                assert float(line[66:].replace(",", "")) == pytest.approx(error, rel=0.06)
        result.update({name: value for name, value in labels.items() if value is not None})
        result["against"] = against
    assert not lines


def expected(figures) -> dict:
    """A result as JSON has it."""
    values = {name: value for name, value in vars(figures).items() if isinstance(value, int)}
    for name, estimate in vars(figures).items():
        if name not in values:
            values[name] = {"value": pytest.approx(estimate.value), "standard_error": estimate.error}
            if estimate.error is not None:
                values[name]["standard_error"] = pytest.approx(estimate.error)
    return values


def windows(context=16, stride=8, prefix=True, text=TEXT[:100]):
    return sliding_windows(TOKENIZER.encode(text), np.array([0]), context, stride, 256, prefix)


def figures_of(result) -> dict:
    return {name: value for name, value in result.items() if name not in ("file", "task", "against")}


SIZES = token_sizes(TOKENIZER)


def test_a_text_by_the_newest_run(work):
    (result,) = evaluate(work, "text.txt")
    assert (result["file"], result["task"]) == ("text.txt", "perplexity")
    assert figures_of(result) == expected(perplexity(load(work / "runs" / "a"), windows(), SIZES))
    assert (result["tokens"], result["bytes"]) == (100, 100)


def test_which_model(work):
    a, b = (expected(perplexity(load(work / "runs" / name), windows(), SIZES)) for name in "ab")
    assert a != b
    assert figures_of(evaluate(work, "text.txt", "--model", "runs/b")[0]) == b
    best = work / "runs" / "a" / "best.safetensors"
    best.write_bytes((work / "runs" / "b" / "last.safetensors").read_bytes())
    try:
        assert figures_of(evaluate(work, "text.txt", "--checkpoint", "best")[0]) == b
        assert figures_of(evaluate(work, "text.txt", "--model", best)[0]) == b
        assert figures_of(evaluate(work, "text.txt")[0]) == a
    finally:
        best.unlink()


def test_the_settings_of_windows_arrive(work):
    model = load(work / "runs" / "a")
    for typed, w in [
        (["--context", 9], windows(9, 4)),
        (["--block_size=9", "--stride", 9], windows(9, 9)),
        (["--stride", 3], windows(16, 3)),
        (["--context", 1], windows(1, 1)),
        (["--no-end-of-text"], windows(prefix=False)),
        (["--limit", 2], windows().first(2)),
        (["--limit", 999], windows()),
        (["--batch-size", 3], windows()),
        (["--task", "perplexity"], windows()),
    ]:
        (result,) = evaluate(work, "text.txt", *typed)
        assert figures_of(result) == expected(perplexity(model, w, SIZES)), typed


def test_last_words_and_questions(work):
    model = load(work / "runs" / "a")
    of_words, of_questions = evaluate(work, "words.jsonl", "questions.jsonl")
    assert [of_words["task"], of_questions["task"]] == ["lambada", "hellaswag"]
    assert figures_of(of_words) == expected(last_words(model, read_last_words(work / "words.jsonl", TOKENIZER, 16)))
    questions = read_questions(work / "questions.jsonl", TOKENIZER, 16)
    assert figures_of(of_questions) == expected(multiple_choice(model, questions))
    found = evaluate(work, "words.jsonl", "questions.jsonl", "--limit", 2, "--context", 12)
    assert [result["examples"] for result in found] == [2, 2]
    assert found[0]["nats_per_word"] == expected(
        last_words(model, read_last_words(work / "words.jsonl", TOKENIZER, 12, 2))
    )["nats_per_word"]  # fmt: skip


def test_the_task_may_be_told(work):
    text = (work / "words.jsonl").read_text()
    (work / "words.txt").write_text(text)
    assert evaluate(work, "words.txt")[0]["task"] == "lambada"
    (result,) = evaluate(work, "words.txt", "--task", "perplexity")
    assert figures_of(result) == expected(perplexity(load(work / "runs" / "a"), windows(text=text), SIZES))


def test_conversations_are_measured_as_they_are_learned(work):
    (work / "talk.jsonl").write_text(
        '{"user": "Who?", "assistant": "A pig"}\n{"user": "And?", "assistant": "Nobody"}\n'
    )
    (result,) = evaluate(work, "talk.jsonl")
    texts = b"Human: Who?\nAssistant: A pig\n\n", b"Human: And?\nAssistant: Nobody\n\n"
    ids = [*texts[0], 256, *texts[1]]
    documents = sliding_windows(np.array(ids), np.array([0, len(texts[0]) + 1]), 16, 8, 256)
    assert figures_of(result) == expected(perplexity(load(work / "runs" / "a"), documents, SIZES))


def test_folders_and_token_files(work):
    (work / "texts").mkdir()
    (work / "texts" / "1.txt").write_text("The jury sat")
    (work / "texts" / "2.txt").write_text("four days")
    ids = [*b"The jury sat", 256, *b"four days"]
    np.array([*ids, 256], "<u2").tofile(work / "tokens.bin")
    in_folder, in_tokens = (figures_of(result) for result in evaluate(work, "texts", "tokens.bin"))
    documents = sliding_windows(np.array(ids), np.array([0, 13]), 16, 8, 256)
    assert in_folder == in_tokens == expected(perplexity(load(work / "runs" / "a"), documents, SIZES))
    assert (in_folder["tokens"], in_folder["windows"]) == (12 + 9, 2)


def test_against_another_model(work):
    a, b = (load(work / "runs" / name) for name in "ab")
    (result,) = evaluate(work, "text.txt", "--against", "runs/b")
    found, against = compare(a, b, windows(), SIZES)
    assert figures_of(result) == expected(found)
    assert result["against"] == expected(against)
    assert result["against"]["nats_per_token"]["value"] == pytest.approx(
        perplexity(b, windows(), SIZES).nats_per_token.value
    )


def test_two_models_see_what_both_can(folder):
    """The smaller context counts, whichever model has it; and the weights' format is the first one's."""
    (folder / "text.txt").write_text(TEXT[:100])
    models = []
    for seed, context in enumerate((16, 12)):
        config = GPTConfig(vocab_size=257, block_size=context, n_layer=1, n_head=2, n_embd=32)
        models.append(with_random_parameters(GPT(config), seed))
        save(models[-1], folder / f"{context}.safetensors", tokenizer=TOKENIZER)
    typed = ("evaluate", "text.txt", "--model", "16.safetensors", "--against", "12.safetensors", "--weights", "int8")
    ended = command(*typed, "--json", "out.json", cwd=folder)
    assert ended.out.startswith("16.safetensors in int8: context 12, stride 6\n")
    (result,) = json.loads((folder / "out.json").read_text())["results"]
    found, against = compare(PackedGPT(models[0], "int8"), models[1], windows(12, 6), SIZES)
    assert figures_of(result) == expected(found)
    assert result["against"] == {"model": "12.safetensors"} | expected(against)
    padded = GPT(GPTConfig(vocab_size=300, block_size=16, n_layer=1, n_head=2, n_embd=32))
    save(padded, folder / "padded.safetensors", tokenizer=TOKENIZER)
    words = ["padded.safetensors and 12.safetensors have 300 and 257 ids: one is padded"]
    refused(*typed[:3], "padded.safetensors", *typed[4:6], cwd=folder, words=words)


def test_what_json_holds(work):
    ended = command("evaluate", "text.txt", "words.jsonl", "--json", "out.json", "--limit", 2, cwd=work)
    assert ended.code == 0
    values = json.loads((work / "out.json").read_text())
    assert list(values) == ["model", "format", "settings", "results"]
    assert (values["model"], values["format"]) == ("runs/a", "run of npgpt")
    settings = {f.name: f.default for f in fields(EvaluateSettings)}
    settings |= {"files": ["text.txt", "words.jsonl"], "model": "runs/a", "context": 16, "stride": 8}
    assert values["settings"] == settings | {"limit": 2, "json": "out.json"}
    assert [result["file"] for result in values["results"]] == ["text.txt", "words.jsonl"]


def test_figures_that_json_cannot_hold(work):
    """An infinite perplexity, and no standard error where one example says nothing of it."""
    model, _ = make_run(work / "runs" / "c", tokenizer=TOKENIZER)
    try:
        weights = model.state_dict()
        weights["ln_f.weight"] = np.full(8, 1e4, np.float32)
        runs.save_weights(work / "runs" / "c" / "last.safetensors", weights, model.config)
        ended = command("evaluate", "text.txt", "--limit", 1, "--json", "out.json", "--model", "runs/c", cwd=work)
        values = json.loads((work / "out.json").read_text())["results"][0]
    finally:
        for file in (work / "runs" / "c").iterdir():
            file.unlink()
        (work / "runs" / "c").rmdir()
    assert ended.code == 0
    assert values["nats_per_token"]["value"] > 710
    assert values["perplexity"] == {"value": None, "standard_error": None}
    assert "perplexity              inf\n" in ended.out


def test_weights_arrive(work):
    model = PackedGPT(load(work / "runs" / "a"), "int8")
    ended = command("evaluate", "text.txt", "--weights", "int8", "--json", "out.json", cwd=work)
    (result,) = json.loads((work / "out.json").read_text())["results"]
    assert figures_of(result) == expected(perplexity(model, windows(), SIZES))
    assert ended.out.startswith("runs/a in int8: context 16, stride 8\n")


def test_the_precision_and_the_threads_arrive(work, monkeypatch):
    asked = []
    monkeypatch.setattr(precision, "set_matmul_precision", asked.append)
    evaluate(work, "text.txt", "--matmul-precision", "medium")
    evaluate(work, "text.txt")
    assert asked == ["medium", "highest"]
    code = "from npgpt.evaluate import main; main(); import numba; print(numba.get_num_threads())"
    typed = [sys.executable, "-c", code, "text.txt", "--threads", "1"]
    ended = subprocess.run(typed, cwd=work, capture_output=True, text=True)
    out = command("evaluate", "text.txt", cwd=work).out
    assert Ended(ended.returncode, ended.stdout, without_compiling(ended.stderr)) == (0, out + "1\n", "")


def test_ctrl_c(work, monkeypatch):
    """Also where its exception is lost, as in a callback of LLVM's: it ends after the batch."""

    def interrupted(*models, **how):
        signal.raise_signal(signal.SIGINT)

    def losing_it(*models, progress, **how):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        progress(1)
        pytest.fail("it went on")

    before = signal.getsignal(signal.SIGINT)
    words = command("evaluate", "words.jsonl", cwd=work).out
    for measure in (interrupted, losing_it):
        monkeypatch.setattr("npgpt.scoring.perplexity.perplexity", measure)
        ended = command("evaluate", "words.jsonl", "text.txt", "--json", "out.json", cwd=work)
        assert (ended.code, ended.out, ended.err) == (130, words, "stopped\n")  # what was measured is shown
        assert not (work / "out.json").exists()
        assert signal.getsignal(signal.SIGINT) is before


# Mistakes


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["nothing.txt"], "can't read nothing.txt: No such file"),
        (["text.txt", "nothing.txt"], "can't read nothing.txt"),  # before the first one is measured
        (["nothing.txt", "--task", "lambada"], "can't read nothing.txt"),
        (["nothing.txt", "--task", "perplexity"], "there is no file or folder nothing.txt"),
        (["runs"], "the folder runs has no .txt or .jsonl file"),
        (["runs", "--task", "hellaswag"], "can't read runs: Is a directory"),
        (["text.txt", "--task", "lambada"], "text.txt, line 1: not JSON"),
        (["words.jsonl", "--task", "hellaswag"], "words.jsonl, line 1: the field 'ctx' is missing"),
        (["words.jsonl", "--context", 4], "words.jsonl, line 1: ' four' has 5 tokens, more than the context of 4"),
        (["text.txt", "--context", 17], "--context 17 is beyond runs/a's 16"),
        (["text.txt", "--stride", 17], "the stride must be at least 1 and at most the context, 16, not 17"),
        (["text.txt", "--stride", 9, "--context", 8], "--stride 9 is beyond --context 8"),
        (["text.txt", "--json", "text.txt"], "text.txt is there already"),
        (["text.txt", "--json", "nowhere/out.json"], "nowhere is not a folder"),
        (["text.txt", "--model", "runs/none"], "runs/none: there is no such file or folder"),
        (["text.txt", "--model", "./gpt2"], "./gpt2: there is no such file or folder"),  # not the model of that name
        (["text.txt", "--against", "text.txt"], "not a file format that npgpt reads"),
        (["words.jsonl", "--against", "runs/b"], "words.jsonl: --against compares models on texts"),
        (["text.txt", "--against", "runs/b", "--task", "lambada"], "on texts: leave out --task"),
        ([], "the following arguments are required: FILE"),
    ],
)
def test_mistakes(work, typed, words):
    refused("evaluate", *typed, cwd=work, words=[words])


def test_texts_that_can_not_be_measured(folder):
    model, _ = make_run(folder / "runs" / "a", tokenizer=CharTokenizer("ab", has_end_of_text=True))
    (folder / "a.txt").write_text("a")
    (folder / "c.txt").write_text("abc")
    (folder / "c.jsonl").write_text('{"text": "a c"}')
    refused("evaluate", "a.txt", "--no-end-of-text", cwd=folder, words=["a.txt: there is no token in it"])
    refused("evaluate", "c.txt", cwd=folder, words=["c.txt: the character 'c'"])
    refused("evaluate", "c.jsonl", cwd=folder, words=["c.jsonl, line 1: the character ' '"])
    assert command("evaluate", "a.txt", cwd=folder).code == 0
    other = with_random_parameters(GPT(model.config), 1)
    runs.save_weights(folder / "other.safetensors", other.state_dict(), model.config)
    refused("evaluate", "a.txt", "--against", "other.safetensors", cwd=folder, words=["no tokenizer is known"])
    make_run(folder / "runs" / "b", tokenizer=CharTokenizer("ac"))
    refused(
        *("evaluate", "a.txt", "--model", "runs/a", "--against", "runs/b"),
        cwd=folder,
        words=["runs/a and runs/b have different tokens"],
    )


def test_weights_that_give_no_finite_loss(folder):
    model, _ = make_run(folder / "runs" / "a", tokenizer=TOKENIZER)
    weights = {**model.state_dict(), "ln_f.weight": np.full(8, 3e38, np.float32)}
    runs.save_weights(folder / "runs" / "a" / "last.safetensors", weights, model.config)
    (folder / "text.txt").write_text("The jury")
    with np.errstate(all="ignore"):
        refused("evaluate", "text.txt", cwd=folder, words=["runs/a: the model's losses are not finite"])


BAD = (
    [(f, v) for f in ("context", "stride", "limit", "batch-size", "threads") for v in [*NOT_FROM_0, "0", "1.5"]]
    + [("checkpoint", v) for v in ("", "x")]
    + [("task", v) for v in ("", "Lambada", "bits")]
    + [("matmul-precision", v) for v in ("", "low")]
    + [("weights", v) for v in ("", "int2")]
    + [("end-of-text", v) for v in ("", "1")]
    + [(f, "") for f in ("model", "adapter", "against", "json")]
)


def test_every_flag_with_every_bad_value(work):
    flags = {f.name.replace("_", "-") for f in fields(EvaluateSettings) if "type" in f.metadata}
    assert flags == {flag for flag, _ in BAD}
    for flag, value in BAD:
        refused("evaluate", "text.txt", f"--{flag}={value}", cwd=work, words=[f"--{flag}"])


def test_the_two_parts_of_a_prepared_folder_are_not_one(work):
    (work / "parts").mkdir()
    for name in ("train.bin", "val.bin"):
        TOKENIZER.encode(TEXT[:50]).astype("<u2").tofile(work / "parts" / name)
    words = ["parts has two parts, parts/train.bin and parts/val.bin: name the one to measure"]
    refused("evaluate", "parts", cwd=work, words=words)
    assert evaluate(work, "parts/val.bin")[0]["tokens"] == 50


def test_help_and_a_mistake_come_before_anything_slow(python):
    ended, imported = in_a_fresh_python(python, "evaluate", "--help")
    assert (ended.code, ended.err, imported) == (0, "", [])
    assert max(map(len, ended.out.splitlines())) < 80
    for f in fields(EvaluateSettings):
        assert f"--{f.name.replace('_', '-')}" in ended.out or f.name == "files"
    ended, imported = in_a_fresh_python(python, "evaluate", "x", "--stride", "9", "--context", "8")
    assert (ended.code, imported) == (2, [])


def test_in_a_process_of_its_own(work):
    typed = ("text.txt", "words.jsonl", "questions.jsonl", "--against", "runs/b")
    assert process("evaluate", *typed[:3], cwd=work) == command("evaluate", *typed[:3], cwd=work)
    refused("evaluate", *typed, cwd=work, words=["words.jsonl: --against"], run=process)


def test_a_perplexity_is_the_exponential_of_a_loss(work):
    (result,) = evaluate(work, "text.txt")
    loss = result["nats_per_token"]["value"]
    assert result["perplexity"]["value"] == pytest.approx(math.exp(loss))
    assert result["bits_per_byte"]["value"] == pytest.approx(loss / math.log(2))
