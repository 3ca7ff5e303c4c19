"""GPT-2 as PyTorch does it best: its own fused attention, GELU, cross-entropy and AdamW, and nothing unusual.

Parameters have the names of GPT-2's checkpoint. A linear layer's weight is (out, in) here and (in, out) there.
"""

import torch
from torch import nn
from torch.nn import functional as F

from npgpt.config import GPTConfig


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.c_attn = nn.Linear(C, 3 * C, config.has_qkv_bias)
        self.c_proj = nn.Linear(C, C, config.bias)
        self.n_head = config.n_head

    def forward(self, x, cache=None):
        q, k, v = (z.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for z in self.c_attn(x).chunk(3, dim=-1))
        if cache is not None:
            k, v = cache.append(k, v)
        # a single query comes last, and may look at all there are
        y = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner_size, config.bias)
        self.c_proj = nn.Linear(config.inner_size, config.n_embd, config.bias)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=config.bias)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x, cache=None):
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Tied weights, learned positions, no dropout."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=config.bias)

    def features(self, ids, caches=None):
        first = caches[0].length if caches else 0
        x = self.wte(ids) + self.wpe.weight[first : first + ids.shape[1]]
        for i, block in enumerate(self.h):
            x = block(x, caches[i] if caches else None)
        return self.ln_f(x)

    def forward(self, ids):
        """ids (B, T) -> logits (B, T, V)"""
        return F.linear(self.features(ids), self.wte.weight)

    def loss(self, ids, targets):
        """ids, targets (B, T) -> the mean cross-entropy"""
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())

    @torch.inference_mode()
    def generate(self, ids, max_new_tokens, temperature=1.0, top_k=None):
        """ids (B, T) -> (B, T + max_new_tokens). temperature=0 is greedy. Past block_size the window slides."""
        config, caches = self.config, None
        for _ in range(max_new_tokens):
            if ids.shape[1] > config.block_size:
                caches, new = None, ids[:, -config.block_size :]
            elif caches is None:
                caches, new = [KeyValueCache(config, len(ids)) for _ in self.h], ids
            else:
                new = ids[:, -1:]
            logits = F.linear(self.features(new, caches)[:, -1], self.wte.weight)
            ids = torch.cat([ids, _next_tokens(logits, temperature, top_k)], dim=1)
        return ids


class KeyValueCache:
    """One layer's keys and values, (B, H, block_size, D) each."""

    def __init__(self, config, batch):
        shape = batch, config.n_head, config.block_size, config.head_size
        self.keys, self.values = torch.empty(shape), torch.empty(shape)
        self.length = 0

    def append(self, k, v):
        first, self.length = self.length, self.length + k.shape[2]
        self.keys[:, :, first : self.length] = k
        self.values[:, :, first : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


def _next_tokens(logits, temperature, top_k):
    """logits (B, V) -> ids (B, 1)"""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    candidates = None
    if top_k is not None:
        logits, candidates = logits.topk(min(top_k, logits.shape[-1]))
    chosen = torch.multinomial((logits / temperature).softmax(dim=-1), 1)
    return chosen if candidates is None else candidates.gather(1, chosen)


def from_npgpt(config: GPTConfig, weights: dict[str, torch.Tensor]) -> GPT:
    """The model with npgpt's weights {name: tensor}, which are copied."""
    choices = (config.position, config.activation, config.tie_weights, config.dropout)
    if choices != ("learned", "gelu_new", True, 0) or config.scale_attn_by_inverse_layer_idx:
        raise ValueError("this is plain GPT-2: no other positions, activations or heads, no dropout")
    with torch.device("meta"):  # takes no time for initial values
        model = GPT(config)
    state = {name: w.clone() for name, w in weights.items()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            state[f"{name}.weight"] = state[f"{name}.weight"].T.contiguous()
    model.load_state_dict(state, assign=True)
    return model.requires_grad_()


def loss_function(model: GPT, autocast: bool, compile: bool, matmul_precision: str):
    """(ids, targets) -> loss, as ``model.loss``, in one of torch's ways: as nanoGPT goes about it.

    Under autocast, products and attention are in bfloat16, weights stay float32. backward() is called outside of it.
    Compiled, each new shape is compiled for itself, which makes the faster code.
    """
    torch.set_float32_matmul_precision(matmul_precision)
    function = torch.compile(model.loss, dynamic=False) if compile else model.loss

    def loss(ids, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return function(ids, targets)

    return loss


def adamw(model: GPT, **settings) -> torch.optim.AdamW:
    """The fused AdamW of what trains, with decay on matrices only."""
    decay = settings.pop("weight_decay")
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, fused=True, **settings)
