"""python -m npgpt.info : the contents of a checkpoint, and warnings about it."""

from npgpt.commandline import Parser, pathname
from npgpt.errors import CheckpointError
from npgpt.model_flags import add_checkpoint_flag
from npgpt.process import run


def main() -> int:
    parser = Parser("info", "Print what is in a checkpoint of any format that npgpt reads.")
    source = "a run, a model's folder or file, or its name on the hub"
    parser.add_argument("path", metavar="PATH", type=pathname, help=source)
    add_checkpoint_flag(parser)
    given = parser.parse_args()

    from npgpt.checkpoints import find_checkpoint
    from npgpt.checkpoints.shared.validate import check_fit

    checkpoint = find_checkpoint(given.path, given.checkpoint)
    odd = []
    try:
        check_fit(checkpoint.config, checkpoint.tensors, checkpoint.source)
    except CheckpointError as error:
        odd.append(f"it can't be loaded: {error}")
    _print_summary(checkpoint, odd)
    _print_tensors(checkpoint, odd)
    print("warnings:" if odd else "no warnings")
    for line in odd:
        print(f"  {line}")
    return 0


def _print_summary(checkpoint, odd):
    config = checkpoint.config
    embeddings = ("wte.", "wpe.", "lm_head.")
    total = sum(tensor.size for tensor in checkpoint.tensors.values())
    inside = sum(tensor.size for name, tensor in checkpoint.tensors.items() if not name.startswith(embeddings))
    stored = sum(file.size for file in checkpoint.files)
    print(checkpoint.source)
    print(f"format      {checkpoint.format}, {stored:,} bytes")
    for i, (name, value) in enumerate(config.to_dict().items()):
        print(f"{'config' if i == 0 else '':<11} {name} = {value}")
    print(f"parameters  {total:,}; without embeddings {inside:,}")
    if checkpoint.ignored_keys:
        shown = ", ".join(repr(name[:60]) for name in checkpoint.ignored_keys[:2])
        more = f" and {len(checkpoint.ignored_keys) - 2:,} more" if len(checkpoint.ignored_keys) > 2 else ""
        print(f"left out    {shown}{more}")
    try:
        tokenizer = checkpoint.tokenizer
        print(f"tokenizer   {f'{tokenizer.name}, {tokenizer.vocab_size:,} ids' if tokenizer else 'unknown'}")
        if not tokenizer:
            odd.append("what its ids mean is unknown: commands that need its text refuse it")
        elif tokenizer.vocab_size < config.vocab_size:
            odd.append(f"{config.vocab_size - tokenizer.vocab_size:,} ids of the vocabulary have no token")
    except CheckpointError as error:
        print("tokenizer   can't be read")
        odd.append(f"the tokenizer can't be read: {error}")


def _print_tensors(checkpoint, odd):
    from npgpt.checkpoints.shared.names import short_name
    from npgpt.checkpoints.shared.statistics import survey, warnings

    print(f"{'tensors':<32} {'shape':<14} {'dtype':<6} {'norm':>10} {'largest':>10}")
    surveys = {}
    for name, tensor in sorted(checkpoint.streaming().items(), key=lambda item: _place(item[0])):
        shape = " x ".join(map(str, tensor.shape)) or "()"
        row = f"  {short_name(name):<30} {shape:<14} {tensor.dtype:<6}"
        if tensor.is_float:
            s = surveys[name] = survey(tensor)
            row += f" {s.norm:>10.4g} {s.largest:>10.4g}"
        print(row)
    odd += warnings(checkpoint, surveys)


_ORDER = ["wte", "wpe", "h", "ln_1", "attn", "ln_2", "mlp", "ln_f", "lm_head"]
_ORDER += ["c_attn", "c_fc", "c_proj", "weight", "bias"]


def _place(name: str) -> tuple:
    """The sort key of a tensor: embeddings, layer after layer, the head, then unknown names."""

    def place(part):
        if part in _ORDER:
            return _ORDER.index(part), 0
        return len(_ORDER), int(part) if part.isdecimal() and len(part) < 10 else 0

    return [place(part) for part in name.split(".")], name


if __name__ == "__main__":
    run(main)
