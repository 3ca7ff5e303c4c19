"""python -m npgpt.prepare TEXT... --out FOLDER : large text to token files, which training maps instead of reading."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from npgpt.commandline import Parser, choice, flag, number, pathname
from npgpt.errors import ConfigError, DataError
from npgpt.process import run
from npgpt.signals import StopRequest
from npgpt.text import SPLITS
from npgpt.training import plan as defaults
from npgpt.training.settings import tokenizer_flag

TOKENS = "tokens"
COPIED = 2**22  # bytes moved at a time


@dataclass(frozen=True)
class PrepareSettings:
    out: str | None = flag(None, pathname, "the folder to make, a new one", TOKENS)
    tokenizer: str = flag(defaults.TOKENIZER, tokenizer_flag, "kind of tokens; bpe:N is trained on the text", TOKENS)
    val_fraction: float = flag(0.1, number("X", 0, 1, open_low=True, open_high=True), "part that is val.bin", TOKENS)
    split_by: str | None = flag(
        None,
        choice(*SPLITS),
        "val.bin begins at any token, or with a document (default: tokens; documents for conversations)",
        TOKENS,
    )


def main() -> int:
    parser = Parser("prepare", "Write train.bin and val.bin, nanoGPT's format, and the tokenizer beside them.")
    parser.add_argument("texts", nargs="+", type=pathname, metavar="TEXT", help="text files, .jsonl, or folders")
    parser.add_flags(PrepareSettings)
    given = vars(parser.parse_args())
    texts = given.pop("texts")
    settings = PrepareSettings(**given)
    if settings.out is None:
        raise ConfigError("where should the tokens go? Name a new folder: --out FOLDER")

    from npgpt.checkpoints.shared.atomic import atomic_folder, write_json
    from npgpt.checkpoints.shared.tokenizers import OUR_TOKENIZER_FILE
    from npgpt.checkpoints.writing import check_can_write
    from npgpt.text.corpus import tokenizer_for
    from npgpt.text.files import find_texts
    from npgpt.text.token_files import find_token_files

    paths = [Path(text) for text in texts]
    check_can_write(settings.out)  # before the work, not after it
    if find_token_files(paths):
        raise DataError(f"{paths[0]} has tokens already: python -m npgpt.train takes it as it is")
    found = find_texts(paths)
    with StopRequest(), atomic_folder(settings.out) as folder:  # Ctrl-C and SIGTERM leave nothing
        tokenizer = tokenizer_for(settings.tokenizer, paths)
        try:
            lines = _write(found, tokenizer, settings, folder)
        except OSError as error:
            raise DataError(f"{settings.out}: can't be written: {error.strerror}") from error
        write_json(folder / OUR_TOKENIZER_FILE, tokenizer.to_dict())
    for line in lines:
        print(line, file=sys.stderr)
    print(f"train on them with: python -m npgpt.train {settings.out}")
    return 0


def _write(found, tokenizer, settings, folder) -> list[str]:
    """Write the two files -> what there is to say about them."""
    import numpy as np

    from npgpt.text.corpus import TokenWriter, split_position
    from npgpt.training.data import few_ids

    with open(folder / "train.bin", "w+b") as train, open(folder / "val.bin", "wb") as validation:
        writer = TokenWriter(tokenizer, train)
        writer.write(found)
        by = settings.split_by or ("documents" if writer.conversations else "tokens")
        cut = split_position(writer.count, np.array(writer.documents), settings.val_fraction, by)
        if cut in (0, writer.count):
            raise DataError(f"{writer.count:,} tokens are too few to keep {settings.val_fraction:g} of them apart")
        _move_end(train, validation, cut * tokenizer.dtype.itemsize)
    warnings = [*writer.warnings, *few_ids(settings.tokenizer, tokenizer)]
    if tokenizer.dtype.itemsize == 4:
        ids = f"the tokenizer has {tokenizer.vocab_size:,} ids, so tokens are uint32"
        warnings.append(f"{ids}: nanoGPT reads uint16 and can't use these files")
    counted = f"{writer.characters:,} characters, {writer.count:,} tokens ({writer.count - cut:,} in val.bin)"
    return [f"{settings.out}: {counted}, {tokenizer.dtype}", *(f"warning: {warning}" for warning in warnings)]


def _move_end(source: BinaryIO, target: BinaryIO, start: int) -> None:
    """Move what is in a file from ``start`` on to another one, and put both on the disk."""
    source.seek(start)
    while part := source.read(COPIED):
        target.write(part)
    source.truncate(start)
    for file in (source, target):
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    run(main)
