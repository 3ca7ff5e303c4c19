"""python -m npgpt.convert : a checkpoint of one format to another, or the differences between two."""

import sys
from dataclasses import dataclass
from pathlib import Path

from npgpt.checkpoints import formats
from npgpt.commandline import Parser, choice, flag, pathname, run
from npgpt.errors import ConfigError


@dataclass(frozen=True)
class ConvertSettings:
    """The flags of ``python -m npgpt.convert``."""

    to: str | None = flag(
        None,
        choice(*formats.WRITTEN),
        "the new format (default: by DST's ending; without one, a Hugging Face folder)",
        "format",
    )
    dtype: str | None = flag(None, choice(*formats.DTYPES), "how weights are stored (default: F32)", "format")
    checkpoint: str = flag(
        "last", choice("last", "best"), "of a run: the last, or the lowest validation loss", "format"
    )
    diff: bool = flag(False, bool, "write nothing, and compare SRC and DST tensor by tensor", "format")


def main() -> int:
    parser = Parser("convert", "Write a checkpoint of any format that npgpt reads in another one.")
    parser.add_argument(
        "src", metavar="SRC", type=pathname, help="a run, a model's folder or file, or its name on the hub"
    )
    parser.add_argument(
        "dst", metavar="DST", type=pathname, help="what to write: a new folder, or a new .safetensors, .bin or .gguf"
    )
    parser.add_flags(ConvertSettings)
    arguments = vars(parser.parse_args())
    src, dst = arguments.pop("src"), arguments.pop("dst")
    settings = ConvertSettings(**arguments)
    if settings.diff:
        return _print_differences(src, dst, settings.checkpoint)
    suffix = Path(dst).suffix.lower()
    if settings.to is None and (suffix in formats.NOT_WRITTEN or Path(dst).name == "pytorch_model.bin"):
        raise ConfigError(f"{dst}: such files aren't written: see --to for what is")
    to = settings.to or formats.by_suffix(suffix)
    dtype = formats.written(to).check_dtype(settings.dtype)

    from npgpt.checkpoints import check_can_write, open_checkpoint, write_checkpoint

    check_can_write(dst)  # before anything is downloaded
    checkpoint = open_checkpoint(src, settings.checkpoint)
    write_checkpoint(dst, checkpoint, to, dtype)
    for line in _lost(checkpoint, open_checkpoint(dst)):
        print(f"{to} doesn't keep {line}", file=sys.stderr)
    total = sum(tensor.size for tensor in checkpoint.tensors.values())
    print(f"{src} ({checkpoint.format}) -> {dst} ({to}, {dtype}): {total:,} parameters")
    return 0


def _lost(before, after):
    """Yield what the format could not store, a line each."""
    for name, value in before.config.to_dict().items():
        now = getattr(after.config, name)
        if now != value:
            yield f"{name} = {value}: it reads as {now}"
    tokenizer, now = before.tokenizer, after.tokenizer
    if tokenizer and not (now and now.to_dict() == tokenizer.to_dict()):
        yield f"the tokenizer ({tokenizer.name})"


def _print_differences(a: str, b: str, checkpoint: str) -> int:
    """Print what differs; 1 if anything does. Dropout doesn't count: it changes training, and not what is computed."""
    from npgpt.checkpoints import find_checkpoint
    from npgpt.checkpoints.shared.names import short_name
    from npgpt.checkpoints.shared.statistics import difference

    one, other = find_checkpoint(a, checkpoint), find_checkpoint(b, checkpoint)
    differ = 0
    for name, value in one.config.to_dict().items():
        others = getattr(other.config, name)
        if value != others:
            is_setting = name == "dropout"
            differ += not is_setting
            print(f"config {name}: {value} and {others}" + (" (of training: no difference)" if is_setting else ""))
    xs, ys = one.streaming(), other.streaming()
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
