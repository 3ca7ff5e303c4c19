"""A Hugging Face GPT-2 folder, made of any checkpoint: what ``from_pretrained`` of transformers loads."""

from pathlib import Path

from npgpt.checkpoints.huggingface.config import config_to_huggingface
from npgpt.checkpoints.huggingface.tokenizer import write_tokenizer_files
from npgpt.checkpoints.safetensors import write_safetensors
from npgpt.checkpoints.shared.atomic import atomic_folder, write_json
from npgpt.checkpoints.shared.cast import rounded, with_all_biases
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.errors import CheckpointError


def write(folder: str | Path, checkpoint: Checkpoint, dtype: str = "F32") -> None:
    """Write config.json, generation_config.json, model.safetensors in ``dtype``, and the tokenizer's files, if known.

    Tensors have the names that GPT2LMHeadModel saves; biases that the model doesn't have are zeros. The folder must be
    new, and it is there with all its files or not at all. Raises CheckpointError.
    """
    tensors = rounded(checkpoint, dtype, folder)
    tokenizer = checkpoint.tokenizer
    values = config_to_huggingface(checkpoint.config, tokenizer, dtype, str(folder))
    _, tensors = with_all_biases(checkpoint.config, tensors)
    tensors = {name if name == "lm_head.weight" else f"transformer.{name}": t for name, t in tensors.items()}
    end = {key: values[key] for key in ("bos_token_id", "eos_token_id")}
    try:
        with atomic_folder(folder) as unfinished:
            write_safetensors(unfinished / "model.safetensors", tensors)
            write_json(unfinished / "config.json", values)
            write_json(unfinished / "generation_config.json", {"_from_model_config": True, **end})
            if tokenizer is not None:
                write_tokenizer_files(unfinished, tokenizer, checkpoint.config.block_size)
    except FileExistsError:
        raise CheckpointError(f"{folder} is there already: name a new file or folder") from None
    except CheckpointError as error:  # which may name the unfinished folder, of which nobody knows
        raise CheckpointError(str(error).replace(str(unfinished), str(folder))) from error
    except OSError as error:
        raise CheckpointError(f"{folder}: can't be written: {error.strerror}") from error
