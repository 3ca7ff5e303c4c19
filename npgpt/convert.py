"""python -m npgpt.convert : a checkpoint of one format to another, or the differences between two."""

import os
import sys
import warnings
from pathlib import Path

from npgpt.checkpoints import formats
from npgpt.commandline import Parser, pathname
from npgpt.errors import CheckpointWarning, ConfigError
from npgpt.model_flags import add_checkpoint_flag
from npgpt.process import run
from npgpt.signals import StopRequest


def main() -> int:
    parser = Parser("convert", "Write a checkpoint of any format that npgpt reads in another one.")
    source = "a run, a model's folder or file, or its name on the hub"
    target = "what to write: a new folder, or a new .safetensors, .bin or .gguf"
    format = "the new format (default: by DST's ending; without one, a Hugging Face folder)"
    parser.add_argument("src", metavar="SRC", type=pathname, help=source)
    parser.add_argument("dst", metavar="DST", type=pathname, help=target)
    parser.add_argument("--to", choices=[*formats.WRITTEN, "peft"], help=format)
    parser.add_argument("--dtype", type=str.upper, choices=formats.DTYPES, help="how weights are stored (default: F32)")
    add_checkpoint_flag(parser)
    merge = "of an adapter: write its base with the adapter merged in"
    parser.add_argument("--merge", action="store_true", help=merge)
    parser.add_argument("--diff", action="store_true", help="write nothing, and compare SRC and DST tensor by tensor")
    given = parser.parse_args()
    src, dst = given.src, given.dst
    if given.diff:
        for flag, value in (("--to", given.to), ("--dtype", given.dtype), ("--merge", given.merge)):
            if value:
                raise ConfigError(f"--diff writes nothing: leave out {flag}")
        return _print_differences(src, dst, given.checkpoint)
    if given.to == "peft":
        return _write_adapter(given)
    suffix = Path(dst).suffix.lower()
    if suffix[1:].isdigit():  # a folder gpt-2.1
        suffix = ""
    to = given.to or formats.by_suffix(suffix)
    if to is None or (given.to is None and Path(dst).name == "pytorch_model.bin"):
        endings = ", ".join(row.suffix for row in formats.WRITTEN.values() if row.suffix)
        wanted = f"Name a folder or a file that ends in {endings}, or give --to"
        raise ConfigError(f"{dst}: files with this ending aren't written.\n{wanted}.")
    dtype = formats.written(to).check_dtype(given.dtype)

    from npgpt.checkpoints import check_can_write, open_checkpoint, write_checkpoint

    check_can_write(dst)  # before anything is downloaded
    _check_merge(given)
    checkpoint = open_checkpoint(src, given.checkpoint)
    with StopRequest():  # SIGTERM and SIGHUP leave nothing either
        write_checkpoint(dst, checkpoint, to, dtype)
    for line in _lost(checkpoint, open_checkpoint(dst)):
        print(f"{to} doesn't keep {line}", file=sys.stderr)
    if checkpoint.chat_template is not None:
        said = f"npgpt writes no chat templates, and leaves this one out ({checkpoint.chat_template}).\n"
        advice = f"Give it to the program that chats with {dst}: llama-server takes --chat-template-file"
        warnings.warn(said + advice, CheckpointWarning, stacklevel=1)
    total = sum(tensor.size for tensor in checkpoint.tensors.values())
    print(f"{src} ({checkpoint.format}) -> {dst} ({to}, {dtype}): {total:,} parameters")
    return 0


def _check_merge(given) -> None:
    """Raise ConfigError if SRC is an adapter and --merge isn't given, or the other way round."""
    from npgpt.adapters import find_adapter

    adapter = find_adapter(given.src, given.checkpoint) if os.path.exists(given.src) else None
    if adapter is not None and not given.merge:
        raise ConfigError(
            f"{given.src} is an adapter: --merge writes the model that it makes of its base, and --to peft\n"
            "the adapter alone"
        )
    if adapter is None and given.merge:
        raise ConfigError(f"{given.src} is no adapter: there is nothing to --merge")


def _write_adapter(given) -> int:
    from npgpt.adapters import open_adapter, write_peft
    from npgpt.checkpoints import check_can_write

    if given.merge or given.dtype:
        flag = "--merge" if given.merge else "--dtype"
        raise ConfigError(f"--to peft writes an adapter alone, in float32: leave out {flag}")
    check_can_write(given.dst)
    adapter = open_adapter(given.src, given.checkpoint)
    with StopRequest():
        write_peft(given.dst, adapter)
    print(f"{given.src} (adapter) -> {given.dst} (peft): {adapter.num_parameters():,} parameters")
    return 0


def _different(first, second):
    """Yield (setting, its two values) where two configurations differ. An n_inner of None is one of 4 n_embd."""
    meaning = {"n_inner": "inner_size", "qkv_bias": "has_qkv_bias"}
    for name, value in first.to_dict().items():
        other, means = getattr(second, name), meaning.get(name, name)
        if value != other and getattr(first, means) != getattr(second, means):
            yield name, value, other


def _lost(before, after):
    """Yield what the format could not store, a line each."""
    for name, value, now in _different(before.config, after.config):
        yield f"{name} = {value}: it reads as {now}"
    tokenizer, found = before.tokenizer, after.tokenizer
    if tokenizer and not (found and found.to_dict() == tokenizer.to_dict()):
        yield f"the tokenizer ({tokenizer.name})"


def _print_differences(a: str, b: str, checkpoint: str) -> int:
    """Print what differs -> 1 if anything does. Dropout doesn't count: it changes training alone."""
    from npgpt.checkpoints import find_checkpoint
    from npgpt.checkpoints.shared.names import short_name
    from npgpt.checkpoints.shared.statistics import difference

    first, second = find_checkpoint(a, checkpoint), find_checkpoint(b, checkpoint)
    differ = 0
    for name, value, other in _different(first.config, second.config):
        differ += name != "dropout"
        note = " (of training: no difference)" if name == "dropout" else ""
        print(f"config {name}: {value} and {other}{note}")
    xs, ys = first.streaming(), second.streaming()
    names = list(xs | ys)
    for name in names:
        x, y = xs.get(name), ys.get(name)
        what = None
        if x is None or y is None:
            what = f"only in {a if y is None else b}"
        elif x.shape != y.shape:
            what = f"{x.shape} and {y.shape}"
        elif not (x.is_float and y.is_float):
            what = f"{x.dtype} and {y.dtype}: not compared"
        elif found := difference(x, y):
            what = f"differs by up to {found.largest:.3g}, {found.relative:.3g} of its norm"
        if what:
            differ += 1
            print(f"{short_name(name):<26} {what}")
    print(f"{len(names)} tensors, {differ} differences" if differ else f"{len(names)} tensors, all equal")
    return 1 if differ else 0


if __name__ == "__main__":
    run(main)
