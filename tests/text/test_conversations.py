"""Conversations: what text they become, which of it is the assistant's, and every bad line with its number."""

import json

import numpy as np
import pytest
from conftest import ROOT
from helpers.commands import TINY, command, everything, train

from npgpt import GPT, GPTConfig
from npgpt.errors import ConfigError, DataError
from npgpt.text import conversations
from npgpt.text.batches import TokenDataset
from npgpt.text.conversations import ConversationFile
from npgpt.text.corpus import iter_text, read_corpus, tokenizer_for, train_val_split
from npgpt.text.files import progress
from npgpt.text.tokenizers import ByteTokenizer, GPT2Tokenizer, make_tokenizer
from npgpt.training.data import TrainingData
from npgpt.training.evaluation import Evaluation
from npgpt.training.settings import TrainSettings

BYTE, GPT2 = ByteTokenizer(), GPT2Tokenizer()
PAIR = {"user": "Hi", "assistant": "Good day."}
LONG = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A: 三?\nAssistant: x"},
        {"role": "assistant", "content": "  Yes.\n\nNo"},
        {"role": "user", "content": "é"},
        {"role": "assistant", "content": "👩 ok"},
    ]
}
LONG_TEXT = "System: Be brief.\nHuman: A: 三?\nAssistant: x\nAssistant:   Yes.\n\nNo\n\nHuman: é\nAssistant: 👩 ok\n\n"


def write(path, *lines):
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def read(path):
    with progress([path], "Reading") as bar:
        return list(ConversationFile(path).read(bar))


def refusal(path) -> str:
    with pytest.raises(DataError) as error:
        read(path)
    return str(error.value)


def test_both_forms_become_text(tmp_path):
    path = write(tmp_path / "a.jsonl", "\ufeff" + json.dumps(PAIR), "", LONG, "  ")
    assert [c.text for c in read(path)] == ["Human: Hi\nAssistant: Good day.\n\n", LONG_TEXT]


@pytest.mark.parametrize("name", ["byte", "gpt2", "bpe:300", "char"])
def test_the_assistants_tokens_are_told(tmp_path, name):
    path = write(tmp_path / "a.jsonl", LONG)
    (conversation,) = read(path)
    tokenizer = make_tokenizer(name, iter_text(path))
    ids, said = conversation.encode(tokenizer)
    assert tokenizer.decode(ids) == LONG_TEXT
    assert ids.tolist() == tokenizer.encode(LONG_TEXT).tolist()
    assert tokenizer.decode(ids[said]) == "   Yes.\n\nNo\n\n 👩 ok\n\n"


def test_a_corpus_of_conversations(tmp_path):
    path = write(tmp_path / "a.jsonl", PAIR, {**PAIR, "id": 7, "user": "Ho"}, LONG)
    corpus = read_corpus([path], BYTE)
    assert (corpus.conversations, len(corpus.documents)) == (3, 3)
    assert BYTE.decode(corpus.tokens).split("<|endoftext|>") == [c.text for c in read(path)]
    ends = np.flatnonzero(corpus.tokens == BYTE.end_of_text)
    assert corpus.answers[ends].all()  # the model learns to end, too
    assert BYTE.decode(corpus.tokens[: ends[0]][corpus.answers[: ends[0]]]) == " Good day.\n\n"
    assert any("3 conversations are few" in line for line in corpus.warnings)
    assert any("'id' (1 times)" in line for line in corpus.warnings)
    assert read_corpus([write(tmp_path / "b.jsonl", *[PAIR] * 10)], BYTE).warnings == ()


def test_conversations_and_texts_together_keep_their_order(tmp_path):
    text = tmp_path / "b.txt"
    text.write_text("Some text.")
    paths = [write(tmp_path / "c.jsonl", PAIR), text, write(tmp_path / "a.jsonl", PAIR)]
    corpus = read_corpus(paths, BYTE)
    pair = "Human: Hi\nAssistant: Good day.\n\n"
    assert BYTE.decode(corpus.tokens) == f"{pair}<|endoftext|>Some text.<|endoftext|>{pair}"
    assert corpus.conversations == 2
    begins = corpus.documents[1:]
    assert corpus.answers[begins - 1].tolist() == [True, False]  # <|endoftext|> after a text is no answer
    folder = read_corpus(tmp_path, BYTE)  # by name
    assert BYTE.decode(folder.tokens).startswith("Human") and len(folder.documents) == 3  # noqa: PT018


BAD = [
    ("{", "not JSON"),
    ("[1]", "a JSON object was expected, not a list"),
    ('{"user": "a"}', "the field 'assistant' is missing"),
    ('{"prompt": "a"}', "the field 'user' is missing"),
    ('{"user": 1, "assistant": "b"}', "user must be a string, not a number"),
    ('{"user": "a", "assistant": null}', "assistant must be a string, not null"),
    ('{"user": " ", "assistant": "b"}', "user has no text"),
    ('{"user": "a", "user": "a", "assistant": "b"}', "the key 'user' is there twice"),
    ('{"user": NaN, "assistant": "b"}', "NaN"),
    (r'{"user": "a\ud83d", "assistant": "b"}', "user has half of a surrogate pair"),
    (r'{"user": "ab\u0000", "assistant": "b"}', r"control character, '\x00' (U+0000), at offset 2"),
    ('{"user": "a", "assistant": "b\x7f"}', "assistant has a control character"),
    ("\ud800", "not UTF-8 at byte 0"),
    ('{"messages": "x"}', "messages must be a list, not a string"),
    ('{"messages": []}', "the last message must be of the role 'assistant'"),
    ('{"messages": [3]}', "message 1 must be a JSON object"),
    ('{"messages": [{"role": "tool", "content": "x"}]}', "message 1: role 'tool' is none of system, user, assistant"),
    ('{"messages": [{"role": "user"}]}', "message 1: content is missing"),
    ('{"messages": [{"role": "assistant", "content": "x"}]}', "message 1 is of the role 'assistant'"),
    ('{"messages": [{"role": "system", "content": "x"}, {"role": "system", "content": "x"}]}', "message 2 is of"),
    ('{"messages": [{"role": "user", "content": "x"}]}', "the last message must be"),
    ('{"messages": [], "user": "x"}', "messages and 'user' are both there"),
    ("[" * 100_000, "nested too deeply"),
    ("1" * 5000, "too many digits"),
]


@pytest.mark.parametrize(("line", "words"), BAD)
def test_a_bad_line_is_named(tmp_path, line, words):
    path = write(tmp_path / "a.jsonl", PAIR, "", line, PAIR)
    message = refusal(path)
    assert message.startswith(f"{path}: 1 of 3 lines can't be read as conversations:\nline 3: ")
    assert words in message


def test_all_bad_lines_are_counted_and_the_first_ones_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(conversations, "MAX_LINE_BYTES", 100)
    path = write(tmp_path / "a.jsonl", PAIR, "x" * 1000, PAIR, *["{}"] * 12, "x" * 101)
    lines = refusal(path).split("\n")
    assert "14 of 16 lines" in lines[0]
    assert lines[1] == "line 2: longer than 100 bytes"
    assert [line.split(":")[0] for line in lines[2:11]] == [f"line {n}" for n in range(4, 13)]
    assert lines[11:] == ["and 4 more"]


def test_files_without_conversations_are_refused(tmp_path):
    assert "is empty" in refusal(write(tmp_path / "a.jsonl", "", " "))
    with pytest.raises(DataError, match="can't read"), progress([], "") as bar:
        list(ConversationFile(tmp_path / "gone.jsonl").read(bar))


def settings_for(path, **changes):
    return TrainSettings(texts=(str(path),), batch_size=2, **changes)


def many(path, count=12):
    return write(path, *({"user": f"What is {i}?", "assistant": f"It is {i}."} for i in range(count)))


def test_a_run_is_split_between_conversations_and_samples_an_answer(tmp_path):
    data = TrainingData(settings_for(many(tmp_path / "a.jsonl")), BYTE, 60)
    assert data.validation[:6].tobytes() == BYTE.encode("Human:").tobytes()
    assert data.train[-1] == BYTE.end_of_text
    assert data.beginning == "Human: What is 0?\nAssistant:"
    assert data.describe(5).startswith("text:  12 conversations, ")
    assert TrainingData(settings_for(tmp_path / "a.jsonl"), BYTE, 32).beginning == "Human:"  # no room for a question
    by_token = TrainingData(settings_for(tmp_path / "a.jsonl", split_by="tokens", val_fraction=0.5), BYTE, 48)
    assert abs(len(by_token.train) - len(by_token.validation)) <= 1


def test_loss_on_the_assistant_alone(tmp_path):
    data = TrainingData(settings_for(many(tmp_path / "a.jsonl"), loss_on="assistant"), BYTE, 16)
    splits = data.evaluation_splits()
    for ids, targets in [data.batches.batch(k) for k in range(8)] + splits["train"] + splits["val"]:
        learned = targets != -100
        assert learned.any(axis=1).all()  # no window without a target
        assert (targets[:, :-1] == ids[:, 1:])[learned[:, :-1]].all()
        for row, mask in zip(targets, learned, strict=True):
            assert set(BYTE.decode(row[mask]).replace("<|endoftext|>", "")) <= set(" It is0123456789.\n")
    everything = TrainingData(settings_for(tmp_path / "a.jsonl"), BYTE, 16)
    assert (everything.batches.batch(0)[1] >= 0).all()
    assert f"{np.count_nonzero(data.answers[0]):,} of them to learn" in data.describe(5)


def test_loss_on_the_assistant_needs_conversations_alone(tmp_path):
    for paths in ([ROOT / "data" / "the-verdict.txt"], [many(tmp_path / "a.jsonl"), ROOT / "data" / "the-verdict.txt"]):
        settings = TrainSettings(texts=tuple(map(str, paths)), loss_on="assistant")
        with pytest.raises(ConfigError, match="--loss-on assistant needs conversations"):
            TrainingData(settings, BYTE, 16)


def test_windows_are_those_with_an_answer():
    answers = np.zeros(30, bool)
    answers[[9, 20]] = True
    windows = TokenDataset(np.arange(30), context=4, answers=answers)
    ids, targets = windows.batch(np.arange(len(windows)))
    assert ids[:, 0].tolist() == [8, 16]
    assert targets.tolist() == [[9, -100, -100, -100], [-100, -100, -100, 20]]
    with pytest.raises(DataError, match="no token of an assistant"):
        TokenDataset(np.arange(30), context=4, answers=np.arange(30) < 1)  # the first token is no target


def test_one_conversation_can_not_be_split(tmp_path):
    corpus = read_corpus(write(tmp_path / "a.jsonl", PAIR), GPT2)
    with pytest.raises(DataError, match="give several, or split by tokens"):
        train_val_split(corpus, 0.1, "documents")
    assert "1 conversation is little" in corpus.warnings[0]


def test_tokenizers_are_made_of_what_the_model_reads(tmp_path):
    path = write(tmp_path / "a.jsonl", *[PAIR] * 3)
    assert set(tokenizer_for("char", path).characters) == set("Human: Hi\nAssistant: Good day.\n\n")
    assert "Human" in [token.decode() for token in tokenizer_for("bpe:290", path).tokens[256:]]


def test_an_evaluation_is_the_mean_over_the_learned_tokens(tmp_path):
    data = TrainingData(settings_for(many(tmp_path / "a.jsonl"), loss_on="assistant"), BYTE, 16)
    model = GPT(GPTConfig(vocab_size=257, block_size=16, n_layer=1, n_head=1, n_embd=4), seed=0)
    splits = {"train": data.evaluation_splits()["train"]}
    found = Evaluation(model, splits, data.settings.resolve(1, 16)).losses(1, lambda: False)["train"]
    ids, targets = (np.concatenate(arrays) for arrays in zip(*splits["train"], strict=True))
    assert len({np.count_nonzero(t != -100) for _, t in splits["train"]}) > 1  # batches that count differently
    assert found == pytest.approx(model.loss(ids, targets).item(), rel=1e-5)


def test_a_run_on_conversations_is_resumed_bit_for_bit(tmp_path):
    path = many(tmp_path / "a.jsonl")
    flags = (path.name, *TINY, "--loss-on", "assistant", "--decay-steps", 4, "--sample-tokens", 3, "--eval-every", 2)
    whole, ended = train(tmp_path, *flags, "--max-steps", 4, "--out", "whole")
    assert "    | Human:" in ended.err
    part, _ = train(tmp_path, *flags, "--max-steps", 2, "--out", "part")
    assert command("train", "--resume", part, "--max-steps", 4, cwd=tmp_path).code == 0
    a, b = everything(whole), everything(part)
    assert a["arrays"] == b["arrays"]
    many(path, 13)
    refusal = command("train", "--resume", part, "--max-steps", 6, cwd=tmp_path)
    assert (refusal.code, "the text is not the one" in refusal.err) == (2, True)
