"""Adapters: small matrices that are trained beside a frozen model (LoRA), which may be held in 4 bits (QLoRA).

    lora.py        the layer with an adapter; attach, use, detach, merge; several at once, switched at run time
    adapter.py     an adapter by itself: its configuration and arrays
    quantized.py   a GPT whose matrices are in NF4 and bfloat16, for gradients to pass through
    frozen.py      its operations
    matrices.py    an adapter's arrays, read from a file's tensors
    peft.py        adapters in the files of Hugging Face's peft, read and written
    files.py       the adapter at a path, be it a run's or peft's; the checkpoint it makes of its base

>>> from npgpt import GPT, GPTConfig, adapters
>>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4), seed=0)
>>> for seed, name in enumerate(["poems", "letters"]):
...     adapters.attach(model, adapters.new_adapter(model.config, adapters.LoRAConfig(rank=2), seed), name)
>>> adapters.use(model, "poems")
>>> adapters.attached(model)
['poems', 'letters']
>>> adapters.use(model, None)  # the model as it was
"""

from npgpt.adapters.adapter import Adapter, LoRAConfig, new_adapter
from npgpt.adapters.files import find_adapter, open_adapter
from npgpt.adapters.lora import adapter_of, attach, attached, detach, merge, use
from npgpt.adapters.peft import write_peft
from npgpt.adapters.quantized import load_quantized

__all__ = [
    "Adapter",
    "LoRAConfig",
    "adapter_of",
    "attach",
    "attached",
    "detach",
    "find_adapter",
    "load_quantized",
    "merge",
    "new_adapter",
    "open_adapter",
    "use",
    "write_peft",
]
