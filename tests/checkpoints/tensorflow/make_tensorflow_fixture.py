"""Write fixture/: a GPT-2 with two tiny layers as OpenAI's code saves it, by TensorFlow itself.

    python tests/checkpoints/tensorflow/make_tensorflow_fixture.py      needs tensorflow (2.21 wrote the stored files)

What is in them follows from the tensors' names, so the tests know it without TensorFlow.

    hparams.json, checkpoint, model.ckpt.*      as released: float32, one shard
    tuned-7.*                                   two shards, several dtypes, and the state of an optimizer
"""

import hashlib
import json
from math import prod
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("fixture")
HPARAMS = {"n_vocab": 17, "n_ctx": 6, "n_embd": 8, "n_head": 2, "n_layer": 2}


def shapes() -> dict[str, tuple[int, ...]]:
    """The variables of OpenAI's src/model.py."""
    C = HPARAMS["n_embd"]
    found = {"model/wte": (HPARAMS["n_vocab"], C), "model/wpe": (HPARAMS["n_ctx"], C)}
    for layer in range(HPARAMS["n_layer"]):
        for part, inside, outside in [
            ("attn/c_attn", C, 3 * C),
            ("attn/c_proj", C, C),
            ("mlp/c_fc", C, 4 * C),
            ("mlp/c_proj", 4 * C, C),
        ]:
            found[f"model/h{layer}/{part}/w"] = (1, inside, outside)
            found[f"model/h{layer}/{part}/b"] = (outside,)
        for part in ("ln_1", "ln_2"):
            found |= {f"model/h{layer}/{part}/g": (C,), f"model/h{layer}/{part}/b": (C,)}
    return found | {"model/ln_f/g": (C,), "model/ln_f/b": (C,)}


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers from -1 up to 1 that follow from the name, each exact in bfloat16 too (8 bits)."""
    data = np.frombuffer(hashlib.shake_128(name.encode()).digest(prod(shape)), np.int8)
    return (data / np.float32(128)).astype(np.float32).reshape(shape)


def tuned_dtype(name: str) -> str:
    """The dtype that ``tuned-7`` has a variable in."""
    return ("float32", "float16", "bfloat16", "float64")[len(name) % 4]


def main():
    import tensorflow as tf

    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "hparams.json").write_text(json.dumps(HPARAMS, indent=2) + "\n")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(n, initializer=values(n, s)) for n, s in shapes().items()]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables)
        saver.save(session, str(FOLDER / "model.ckpt"), write_meta_graph=False)
    # The path as it is saved from a script beside the folder: the name alone.
    (FOLDER / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )

    tensors = {n: tf.constant(values(n, s), tuned_dtype(n)) for n, s in shapes().items()}
    tensors |= {"model/wte/Adam": tf.zeros((17, 8)), "model/wte/Adam_1": tf.ones((17, 8))}
    tensors |= {"beta1_power": tf.constant(0.5), "global_step": tf.constant(7, tf.int64), "note": tf.constant("seven")}
    parts = []
    for shard in range(2):
        names = sorted(tensors)[shard::2]
        parts.append(str(FOLDER / f"part{shard}"))
        tf.raw_ops.SaveV2(
            prefix=parts[-1],
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tensors[n] for n in names],
        )
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(FOLDER / "tuned-7"))


if __name__ == "__main__":
    main()
