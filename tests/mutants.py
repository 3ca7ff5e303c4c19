"""Do the tests notice when the code is wrong? Changes it in one place at a time, in a copy, and runs them.

    python tests/mutants.py                 all changes, two at a time: most of an hour
    python tests/mutants.py gelu optim      those with one of these words in their place or description
    python tests/mutants.py --list          only say what they are

Each change comes with the tests that should catch it. If they don't, all tests are run. What no test catches is printed
as SURVIVED, and the exit code is 1: then a test is missing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from time import monotonic

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 1200  # seconds for a change's tests; one that makes a loop endless is caught too


@dataclass(frozen=True)
class Mutant:
    what: str
    path: str  # in npgpt/
    old: str  # found there exactly once
    new: str
    tests: str  # in tests/, the ones that should catch it


def table(path, tests, *changes):
    return [Mutant(what, path, old, new, tests) for what, old, new in changes]


MUTANTS = [
    *table(
        "tensor.py",
        "test_tensor.py",
        ("a leaf's gradient overwritten, not accumulated", "leaf.grad += dy", "leaf.grad = dy"),
        ("a node's gradient overwritten by a second use", "gradients[id(parent)] += share", "gradients[id(parent)] = share"),
        ("shared gradients not copied", "share.copy() if _is_needed(share, shares[i + 1 :]) else share", "share"),
        ("a repeated gradient written to", "return not share.flags.writeable or any(", "return any("),
        ("a node passed on before all its shares are in", "stack.append((source, True))", "order.append(source)"),
        ("a - b: the sign of db", "unbroadcast(-dy, b)", "unbroadcast(dy, b)"),
        ("a / b: db not squared", "-dy * (a / b) / b", "-dy * (a / b)"),
        ("x ** n: the exponent of the derivative", "n * x ** (n - 1)", "n * x**n"),
        ("log: the derivative", "lambda dy: (dy / x,)", "lambda dy: (dy * x,)"),
        ("@: da without transposing b", "da = _matmul(dy, b.swapaxes(-1, -2))", "da = _matmul(dy, b)"),
        ("mean: the count", "total.size / self.size", "1 / self.size"),
        ("transpose: the permutation, not its inverse", "dy.transpose(np.argsort(axes))", "dy.transpose(axes)"),
        ("an index twice: the gradient of one", "np.add.at(dx, index, dy)", "dx[index] = dy"),
        ("unbroadcast: a stretched axis", "keepdims=True).reshape(shape)", "keepdims=True).reshape(shape) * 1.000001"),
        ("no_grad doesn't", "return _recording_is(False)", "return _recording_is(True)"),
        ("the graph kept after the walk", "node.parents, node.backward = (), _already_walked", "pass"),
    ),
    *table(
        "kernels/gelu.py",
        "kernels/test_gelu.py ops/test_gelu.py kernels/test_table.py",
        ("a digit of GELU's constant", "_CUBIC = 0.044715", "_CUBIC = 0.044716"),
        ("tanh form, backward, NumPy: 3 missing", "1 + 3 * _CUBIC * t * t", "1 + _CUBIC * t * t"),
        ("tanh form, backward, Numba: 3 missing", "a + number(3) * b * v * v", "a + b * v * v"),
        ("exact form, backward, NumPy: the density", "-0.5 * x * x) * (1", "-0.5 * x) * (1"),
        ("exact form, backward, Numba: the density", "v * exp(half * v * v) * scale", "exp(half * v * v) * scale"),
    ),
    *table(
        "kernels/normal.py",
        "kernels/test_gelu.py ops/test_gelu.py kernels/test_table.py",
        ("a coefficient's last digits", "_f(0.1075428814031766)", "_f(0.1075488814031766)"),
        ("the upper tail where the lower one is", "return tail if x < _f(0) else _f(1) - tail", "return tail"),
    ),
    *table(
        "kernels/largest.py",
        "kernels/test_softmax.py kernels/test_cross_entropy.py kernels/test_table.py",
        ("negative numbers the wrong way round", "bits[j] ^ ((bits[j] >> sign) & all_but_sign)", "bits[j]"),
        ("the place of a float64's sign", "np.int64(63)", "np.int64(31)"),
    ),
    *table(
        "kernels/softmax.py",
        "kernels/test_softmax.py ops/test_softmax.py kernels/test_table.py",
        ("backward, NumPy: the row sum missing", "dy - (dy * y).sum(axis=-1, keepdims=True)", "dy"),
        ("backward, Numba: the row sum missing", "y[r, j] * (dy[r, j] - dot)", "y[r, j] * dy[r, j]"),
        ("forward, NumPy: the maximum not subtracted", "x - x.max(axis=-1, keepdims=True, initial=-np.inf)", "x"),
        ("forward, Numba: the maximum not subtracted", "exp(x[r, j] - m)", "exp(x[r, j])"),
        ("forward, Numba: the last number left out", "        for j in range(N):\n            e =", "        for j in range(N - 1):\n            e ="),
    ),
    *table(
        "kernels/exp.py",
        "kernels/test_exp.py",
        ("a coefficient's last digits", "_f(1.6666665459e-1)", "_f(1.6666600000e-1)"),
        ("NaN swallowed", "_LOWEST if x < _LOWEST else x ", "x if x > _LOWEST else _LOWEST "),
        ("overflow at the wrong place", "_f(-104), _f(89)", "_f(-104), _f(88)"),
        ("subnormal results lost", "_f(-104), _f(89)", "_f(-87), _f(89)"),
    ),
    *table(
        "kernels/layernorm.py",
        "kernels/test_layernorm.py ops/test_layernorm.py kernels/test_table.py",
        ("epsilon outside the root, NumPy", "1 / np.sqrt(variance + eps)", "1 / (np.sqrt(variance) + eps)"),
        ("epsilon outside the root, Numba", "np.sqrt(squares / n + eps)", "(np.sqrt(squares / n) + eps)"),
        ("backward, NumPy: the mean of g kept", "(g - g.sum(axis=-1, keepdims=True) / C - xhat * along)", "(g - xhat * along)"),
        ("backward, Numba: the part along xhat kept", "dy_row[c] * weight[c] - total - (x_row[c] - m) * s * along", "dy_row[c] * weight[c] - total"),
        ("backward, Numba: dweight without rstd", "dweight[c] += dy_row[c] * ((x_row[c] - m) * s)", "dweight[c] += dy_row[c] * (x_row[c] - m)"),
        ("the variance of C - 1 numbers", "sum(axis=-1) / C  # float32", "sum(axis=-1) / max(C - 1, 1)  # float32"),
    ),
    *table(
        "kernels/cross_entropy.py",
        "kernels/test_cross_entropy.py ops/test_cross_entropy.py kernels/test_table.py",
        ("backward, NumPy: the right class not subtracted", "dlogits[n, targets[n]] -= 1", "dlogits[n, targets[n]] -= 0"),
        ("backward, Numba: the right class not subtracted", "dlogits[n, targets[n]] -= dlosses[n]", "pass"),
        ("forward, NumPy: ignored targets counted", "    n = np.flatnonzero(targets != ignore_index)\n    losses", "    n = np.arange(len(targets))\n    losses"),
        ("backward, Numba: an ignored row keeps what was there", "                dlogits[n, j] = 0\n", "                pass\n"),
    ),
    *table(
        "kernels/attention.py",
        "kernels/test_attention.py ops/test_attention.py kernels/test_table.py",
        ("the mask off by one, NumPy", "np.arange(Tk) > np.arange(Tq)[:, None]", "np.arange(Tk) >= np.arange(Tq)[:, None]"),
        ("the mask off by one, Numba, forward", "seen = i + Tk - Tq + 1\n                _scale_and_mask(row", "seen = i + Tk - Tq\n                _scale_and_mask(row"),
        ("the mask off by one, Numba, backward", "seen = i + Tk - Tq + 1\n                _scale_and_mask(p", "seen = i + Tk - Tq\n                _scale_and_mask(p"),
        ("padding looked at, Numba", "            if not real[j]:\n                row[j] = hidden", "            if not real[j]:\n                pass"),
        ("backward, NumPy: the row sum missing", "(dP - (dP * P).sum(axis=-1, keepdims=True))", "dP"),
        ("backward, Numba: the row sum missing", "p[j] * (dp[j] - along) * scale", "p[j] * dp[j] * scale"),
        ("backward, Numba: scale missing in dS", "p[j] * (dp[j] - along) * scale", "p[j] * (dp[j] - along)"),
        ("Q and K swapped in the gradients, NumPy", "dq[...] = (dS @ k)", "dq[...] = (dS @ q)"),
        ("dv without dropout's factors, NumPy", "dv[...] = ((P * M)", "dv[...] = (P"),
        ("dk of the last block only, Numba", "query, _step(q), 1, dkey, _step(dk), dkey", "query, _step(q), 1, 0, 0, dkey"),
        ("the dropout of another position, Numba, backward", "first = np.uint64((head * Tq + i) * Tk)\n                if threshold", "first = np.uint64((head * Tq + i) * Tk + 1)\n                if threshold"),
    ),
    *table(
        "kernels/matmul.py",
        "kernels/test_matmul.py kernels/test_product.py ops/test_linear.py kernels/test_table.py",
        ("the bias left out, Numba", "start + (i * start_row + j) * size if start else 0", "0"),
        ("added to another row, Numba", "start + (i * start_row + j) * size", "start + j * size"),
        ("rows and columns of a swapped", "return x, row // size, column // size", "return x, column // size, row // size"),
        ("few rows: the last of b's columns left out", "for j in range(part.size):\n                    total", "for j in range(part.size - 1):\n                    total"),
        ("the last part's rest left out", "(n + 95) // 96 * part // parts", "n // 96 * part // parts"),
    ),
    *table(
        "kernels/machine/product.py",
        "kernels/test_product.py kernels/test_matmul.py",
        ("the panels' memory given back too early", "    memory[0] = 0  # Numba", "    # Numba"),
        ("later steps of k written over the first ones", "if k0 == 0 else (c, c_row)", "if k0 == 0 else (start, start_row)"),
        ("a rest of steps left out", "for k0 in range(0, max(K, 1), STEPS)", "for k0 in range(0, max(K - STEPS + 1, 1), STEPS)"),
    ),
    *table(
        "kernels/machine/tile.py",
        "kernels/test_product.py kernels/test_matmul.py kernels/test_precision.py",
        ("a tile's last row left out", 'builder.icmp_signed("<", whole(r), rows)', 'builder.icmp_signed("<", whole(r + 1), rows)'),
        ("written beyond the width", "masks = [v.first(width, j * v.lanes)", "masks = [v.first(builder.add(width, whole(1)), j * v.lanes)"),
        ("the last number of an odd row twice, in pairs", "v.builder.and_(readable, v.splat_bit(is_second))", "readable"),
        ("nothing begun with", "before = v.masked_load(v.at(begin, j * v.lanes), begun[j])", "before = ir.Constant(v.vector, None)"),
    ),
    *table(
        "kernels/jit.py",
        "kernels/test_jit.py test_rehearsal.py",
        ("what is noted runs all the same", "            return None\n        if work is None", "        if work is None"),
        ("written by several at a time", "fcntl.LOCK_EX if write else fcntl.LOCK_SH", "fcntl.LOCK_SH"),
        ("what is cached compiled again", "missing = [(k.py_func, types) for k, types in cached if not k._cache.holds(types, k.targetctx)]", "missing = [(k.py_func, types) for k, types in cached]"),
    ),
    *table(
        "kernels/compiler.py",
        "kernels/test_compiler.py",
        ("a function given to two processes", "    for py_func in sorted(of_each, key=lambda f: len(f.__code__.co_code), reverse=True):\n        tasks.put((py_func, of_each[py_func]))", "    for py_func, signature in wanted:\n        tasks.put((py_func, [signature]))"),
        ("short functions first", "reverse=True", "reverse=False"),
        ("no end before the end", "and not stop()", ""),
        ("processes left over", "for compiler in compilers if busy else compilers[1:]", "for compiler in []"),
        ("the line behind what is printed", 'def show(self, end="\\r")', 'def show(self, end="\\n")'),
    ),
    *table(
        "rehearsal.py",
        "test_rehearsal.py",
        ("a step of the optimizer not rehearsed", "    AdamW(parameters).step()\n", ""),
        ("a sample's later tokens not rehearsed", "for T in (prompt, 1)", "for T in (prompt,)"),
        ("samples rehearsed that aren't wanted", "        if prompt:\n            _sample(model, prompt)", "        _sample(model, prompt or 1)"),
        ("a vocabulary too small", "min(config.vocab_size, 8192)", "min(config.vocab_size, 100)"),
    ),
    *table(
        "kernels/machine/vectors.py",
        "kernels/test_product.py kernels/test_precision.py",
        ("pairs in the wrong order", "_I32, count), [i // 2 + i % 2 * self.lanes for", "_I32, count), [i // 2 + (i + 1) % 2 * self.lanes for"),
        ("two registers rounded in the wrong order", "[second, first])", "[first, second])"),
    ),
    *table(
        "kernels/embedding.py",
        "kernels/test_embedding.py ops/test_embedding.py kernels/test_table.py",
        ("a repeated id collects once, NumPy", "np.add.at(dweight, ids.reshape(-1), dy.reshape(ids.size, dweight.shape[1]))", "dweight[ids.reshape(-1)] += dy.reshape(ids.size, dweight.shape[1])"),
        ("a repeated id collects once, Numba", "row[c] += share[c]", "row[c] = share[c]"),
    ),
    *table(
        "kernels/dropout.py",
        "kernels/test_dropout.py ops/test_dropout.py kernels/test_table.py",
        ("what is kept isn't scaled up, NumPy", "(keep_mask_numpy(x.shape, p, seed) * x.dtype.type(1 / (1 - p)))", "keep_mask_numpy(x.shape, p, seed)"),
        ("the mask of another generator", "z ^ (z >> _u(27))) * _MIX2\n    z = z ^ (z >> _u(31))\n    return ((z", "z ^ (z >> _u(28))) * _MIX2\n    z = z ^ (z >> _u(31))\n    return ((z"),
    ),
    *table(
        "kernels/sums.py",
        "kernels/test_sums.py kernels/test_table.py",
        ("squares added up in float32", "np.float64(x[i]) * np.float64(x[i])", "x[i]"),
        ("a block's last column left out", "min(C, (block + 1) * COLUMNS)", "min(C, block * COLUMNS + COLUMNS - 1)"),
        ("only the first of four rows", "(x0[c] + x1[c]) + (x2[c] + x3[c])", "x0[c]"),
    ),
    *table(
        "kernels/adamw.py",
        "kernels/test_adamw.py test_optim.py kernels/test_table.py",
        ("epsilon inside the root, NumPy", "(np.sqrt(v) * (1 / np.sqrt(1 - beta2**t)) + eps)", "np.sqrt(v / (1 - beta2**t) + eps)"),
        ("epsilon inside the root, Numba", "(np.sqrt(v[i]) * root + eps)", "np.sqrt(v[i] * root * root + eps)"),
        ("another parameter's decay", "keeps[owners[chunk]]", "keeps[0]"),
        ("decay through the gradient's scale", "p *= 1 - lr * weight_decay", "p *= 1 - weight_decay"),
        ("v without squares, Numba", "rest2 * (g[i] * g[i])", "rest2 * abs(g[i])"),
    ),
    *table(
        "kernels/machine/addresses.py",
        "kernels/test_adamw.py kernels/test_sums.py",
        ("every chunk is an array's first", "begins[:, None] * itemsize", "0 * begins[:, None]"),
        ("the last chunk read beyond its end", "np.minimum(CHUNK, sizes[owners] - begins)", "np.minimum(CHUNK, sizes[owners])"),
    ),
    *table(
        "kernels/precision.py",
        "kernels/test_precision.py",
        ("medium is highest", "return _precision == \"medium\" and UNIT.has_bf16", "return False"),
        ("high rounds", '_precision == "medium"', '_precision != "highest"'),
    ),
    *table(
        "ops/cross_entropy.py",
        "ops/test_cross_entropy.py test_gpt_stored.py",
        ("the loss not divided by the count", "total / count if count else", "total if count else"),
        ("the gradient divided by all targets", "dloss / max(count, 1)", "dloss / len(targets)"),
    ),
    *table(
        "ops/linear_cross_entropy.py",
        "ops/test_linear_cross_entropy.py test_gpt_stored.py",
        ("dx without dloss", "kernels.scale([dx, dW]", "kernels.scale([dW]"),
        ("dW without dloss", "kernels.scale([dx, dW]", "kernels.scale([dx]"),
        ("dW of the last rows only", ", add_to=dW)", ")"),
    ),
    *table(
        "ops/linear.py",
        "ops/test_linear.py",
        ("db of the first row only", "kernels.sum_rows(dy)", "dy[0]"),
    ),
    *table(
        "ops/rotary.py",
        "ops/test_rotary.py",
        ("the gradient turned the same way", "np.ascontiguousarray(dy), -sin", "np.ascontiguousarray(dy), sin"),
        ("frequencies of odd numbers", "-np.arange(0, D, 2) / D", "-np.arange(1, D + 1, 2) / D"),
    ),
    *table(
        "ops/attention.py",
        "ops/test_attention.py",
        ("dropped 1/sqrt(d)", "1 / math.sqrt(D) if scale is None", "1.0 if scale is None"),
        ("K and V swapped", "q, k, v = split_heads(qkv.data, n_head)", "q, v, k = split_heads(qkv.data, n_head)"),
    ),
    *table(
        "layers.py",
        "test_layers.py test_gpt_stored.py test_gpt.py generation/test_cache.py",
        ("dropped 1/sqrt(d) in the model", "self.scale = 1 / math.sqrt(config.head_size)", "self.scale = 1 / math.sqrt(config.n_embd)"),
        ("the layer's number from 0", "self.scale /= layer + 1", "self.scale /= max(1, layer)"),
        ("no residual around attention", "x = x + self.attn(self.ln_1(x), padding_mask, cache)", "x = self.attn(self.ln_1(x), padding_mask, cache)"),
        ("layer norm after the MLP", "return x + self.mlp(self.ln_2(x))", "return self.ln_2(x + self.mlp(x))"),
        ("rotary positions not offset under the cache", "first=0 if cache is None else cache.length", "first=0"),
        ("dropout while evaluating", "if self.training and self.p else x", "if self.p else x"),
    ),
    *table(
        "recompute.py",
        "test_recompute.py",
        ("other dropout masks the second time", "            rng.bit_generator.state = state\n", "            pass\n"),
        ("the generator left where the second time ends", "rng.bit_generator.state = state_now", "pass"),
        ("nothing recorded within no_grad", "with enable_grad():", "if True:"),
        ("a parameter of two names counted twice", "list(dict.fromkeys(p for _, p in module.named_parameters()))", "[p for _, p in module.named_parameters()]"),
        ("another mode the second time", "if module.training != training", "if False"),
    ),
    *table(
        "gpt.py",
        "test_recompute.py",
        ("recomputed under the cache", "if self.recompute and cache is None", "if self.recompute"),
        ("never recomputed", "if self.recompute and cache is None", "if False"),
    ),
    *table(
        "gpt.py",
        "test_gpt.py test_gpt_stored.py generation/test_cache.py test_layers.py",
        ("learned positions not offset under the cache", "self.wpe(np.arange(first, first + T))", "self.wpe(np.arange(T))"),
        ("a tied gradient from one side only", "self.features(ids, padding_mask), self.head, targets)", "self.features(ids, padding_mask), self.head.detach(), targets)"),
        ("residual projections not scaled", "math.sqrt(2 * self.config.n_layer)", "math.sqrt(self.config.n_layer)"),
        ("the last layer norm left out", "return self.ln_f(x)", "return x"),
        ("sine and cosine swapped", "columns % 2 == 0, np.sin(angles), np.cos(angles)", "columns % 2 == 0, np.cos(angles), np.sin(angles)"),
    ),
    *table(
        "generation/cache.py",
        "generation/test_cache.py",
        ("keys written over the old ones", "self.keys[:, self.length : end] = k", "self.keys[:, 0:T] = k"),
    ),
    *table(
        "generation/sampling.py",
        "generation/test_sampling.py",
        ("top_k keeps k + 1", "np.partition(x, -self.top_k, axis=-1)[:, -self.top_k, None]", "np.partition(x, -self.top_k - 1, axis=-1)[:, -self.top_k - 1, None]"),
        ("top_p leaves out the one that crosses the line", "before < self.top_p", "before + likeliest_first < self.top_p"),
        ("temperature multiplied", "keepdims=True)) / self.temperature", "keepdims=True)) * self.temperature"),
    ),
    *table(
        "optim.py",
        "test_optim.py test_gpt_stored.py",
        ("a bias correction off by one step", "self.steps += 1\n", "self.steps += 2 if self.steps == 0 else 1\n"),
        ("decay on biases", "self.weight_decay if p.ndim >= 2 else 0.0", "self.weight_decay"),
        ("clipping to twice the norm", "kernels.scale(gradients, max_norm / norm)", "kernels.scale(gradients, 2 * max_norm / norm)"),
        ("the norm of one gradient at a time", "math.sqrt(kernels.sum_of_squares(gradients))", "max(math.sqrt(kernels.sum_of_squares([g])) for g in gradients)"),
        ("warm-up begins at 0", "lr * (step + 1) / warmup", "lr * step / warmup"),
        ("a whole cosine", "math.cos(math.pi * progress)", "math.cos(2 * math.pi * progress)"),
    ),
    *table(
        "data.py",
        "test_data.py",
        ("targets are the inputs", "tokens[:, :-1].copy(), tokens[:, 1:].copy()", "tokens[:, :-1].copy(), tokens[:, :-1].copy()"),
        ("the last window left out", "(len(self.tokens) - self.context - 1) // self.stride + 1", "(len(self.tokens) - self.context - 1) // self.stride"),
        ("the same order in each epoch", "default_rng([self.seed, epoch])", "default_rng([self.seed, 0])"),
    ),
    *table(
        "trainer.py",
        "test_train.py test_resume.py test_recompute.py",
        ("clipping after the step", "        norm = clip_grad_norm([p for _, p in model.named_parameters()], s.grad_clip or math.inf)\n", "        norm = clip_grad_norm([p for _, p in model.named_parameters()], math.inf)\n"),
        ("micro-batches not averaged", "* (1 / s.grad_accum)", "* 1.0"),
        ("a random state not saved", 'self.model.rng.bit_generator.state = state["dropout_rng"]', "pass"),
        ("the optimizer's moments not restored", "self.optimizer.load_state_dict(moments, self.step)", "self.optimizer.steps = self.step"),
        ("the same batch for each micro-batch", "self.step * s.grad_accum + i", "self.step * s.grad_accum"),
        ("dropout in evaluations", "        self.model.eval()\n", ""),
        ("gradients not set to zero", "        self.optimizer.zero_grad()\n", ""),
        ("--recompute forgotten", "model.recompute = settings.recompute", "pass"),
    ),
    *table(
        "checkpoints/hub.py",
        "checkpoints/test_hub.py",
        ("any text in refs/main is a commit", "if not _COMMIT.fullmatch(commit):", "if not commit:"),
        ("any name is asked for", '_NAME.fullmatch(name) and ".." not in name and "--" not in name', '"/" in name'),
        ("names with two hyphens in a row", ' and "--" not in name', ""),
        ("a slip in a path is asked for", 'os.path.isdir(name.split("/")[0]) or name.endswith(_FILES)', "False"),
        ("old names not looked for", "(name, *(short for short, full in FULL_NAMES.items() if full == name))", "(name,)"),
        ("a snapshot without its config.json", "if not there or not os.path.isfile(snapshot / \"config.json\"):", "if not there:"),
        ("a snapshot without some shards", "or all(", "or any("),
        ("HF_HUB_OFFLINE ignored", 'if _is_true(os.environ.get(offline)):', "if False:"),
        ("the weights of another model downloaded", "config_from_huggingface(read_json_object(config), str(config))", "read_json_object(config)"),
        ("a commit that is none", 'if not _COMMIT.fullmatch(self.commit or ""):', "if self.commit is None:"),
        ("refs/main before the weights", "        for file in SMALL:\n", "        (self.storage / 'refs').mkdir(exist_ok=True)\n        (self.storage / 'refs/main').write_text(self.commit)\n        for file in SMALL:\n"),
        ("the sha256 not compared", "if found == sha256:", "if True:"),
        ("a damaged download kept", "                partial.unlink()\n", "                if begin:\n                    partial.unlink()\n"),
        ("a bad beginning kept for good", "if begin == 0:", "if True:"),
        ("what is there is not gone on with", 'open(partial, "ab")', 'open(partial, "wb")'),
        ("more than the file's size is gone on with", "if stream.tell() > size:", "if False:"),
        ("two at a time write to one file", "with self.lock(lock):", "if True:"),
        ("a full disk is not foreseen", "if needed > free:", "if False:"),
    ),
    *table(
        "checkpoints/__init__.py",
        "checkpoints/test_load.py test_convert.py",
        ("a model that gives NaN is loaded", "    if np.isfinite(logits).all():\n        return\n", "    return\n"),
        ("the configuration not compared with the tensors", "which)\n    check_fit(checkpoint.config, checkpoint.tensors, checkpoint.source)\n", "which)\n"),
        ("a file that is there written over", "    if os.path.lexists(path):", "    if False:"),
        ("the check takes a cache for the longest text", "replace(config, block_size=2)", "config"),
    ),
    *table(
        "checkpoints/stored.py",
        "checkpoints/test_stored.py",
        ("the last piece left out", "range(0, rows, step)", "range(0, rows - rows % step or rows, step)"),
        ("bfloat16 cut off, not rounded", "rounded = (bits + (0x7FFF + odd)) >> 16", "rounded = bits >> 16"),
        ("of two bfloat16 as near not the even one", "odd = (bits >> 16) & 1", "odd = 1"),
        ("transposed matrices copied as they lie", "target = out.T if self.transposed else", "target ="),
    ),
    *table(
        "checkpoints/mapped.py",
        "checkpoints/test_mapped.py",
        ("bytes beyond the end", "begin + length <= self.size", "begin + length <= self.size + 1"),
    ),
    *table(
        "checkpoints/fit.py",
        "checkpoints/test_fit.py",
        ("a head that isn't tied forgotten", "if not config.tie_weights:", "if False:"),
        ("tensors that have no place let pass", "if missing or unexpected:", "if missing:"),
        ("any context without a position embedding", 'if config.position != "learned" and', "if False and"),
        ("whole numbers taken for weights", "if not tensor.is_float:", "if False:"),
    ),
    *table(
        "checkpoints/mapping.py",
        "checkpoints/test_fit.py",
        ("(out, in) taken for (in, out)", "tensor = tensor.T if turned else tensor", "pass"),
        ("our names let through", "if name.startswith(_OURS):", "if False:"),
    ),
    *table(
        "checkpoints/survey.py",
        "checkpoints/test_survey.py",
        ("NaN equal to a number", "(np.isnan(x) & np.isnan(y))", "np.isnan(x)"),
        ("one NaN not counted", "not_finite += int(", "not_finite = int("),
    ),
    *table(
        "checkpoints/folders.py",
        "checkpoints/test_shards.py",
        ("shards from other folders", 'set(name) & set("/\\\\:")', "set()"),
        ("tensors that the index doesn't name", "if found.keys() != expected:", "if not found.keys() >= expected:"),
    ),
    *table(
        "checkpoints/huggingface.py",
        "checkpoints/test_huggingface.py",
        ("the file's layer norm epsilon ignored", '("layer_norm_epsilon", "layer_norm_epsilon", 1e-5)', '("layer_norm_epsilon", "layer_norm_eps", 1e-5)'),
    ),
    *table(
        "checkpoints/byte_level.py",
        "checkpoints/test_byte_level.py",
        ("later tokens used to make earlier ones", "parts = _encoded(token, ranks, rank)", "parts = _encoded(token, ranks, len(tokens))"),
        ("the soft hyphen stands for itself", "*range(0xAE, 0x100)", "*range(0xAD, 0x100)"),
        ("the last of two merges of the same rank first", "best, place = min((ranks.get(parts[i] + parts[i + 1], end), i)", "best, place = min((ranks.get(parts[i] + parts[i + 1], end), -i)"),
    ),
    *table(
        "checkpoints/quantized.py",
        "checkpoints/test_quantized.py",
        ("ties to the even number", "whole + np.trunc(2 * (x - whole))", "np.rint(x)"),
        ("0.5 added before cutting", "whole + np.trunc(2 * (x - whole))", "np.trunc(x + np.copysign(np.float32(0.5), x))"),
        ("divided by d as it is stored", "inverse = 1 / d", "inverse = 1 / blocks[\"d\"].astype(np.float32)[..., None]"),
        ("1 / 0 left infinite", "inverse[~np.isfinite(inverse)] = 0", "pass"),
        ("numbers without a scale let through", "if not np.isfinite(blocks[\"d\"]).all()", "if False"),
        ("Q4_0: halves the wrong way round", "shifts = np.arange(0, 8, bits, dtype=np.uint8)", "shifts = np.arange(8 - bits, -1, -bits)"),
        ("Q6_K: one scale for 8 numbers", "reshape(*blocks.shape, 16, 16)", "reshape(*blocks.shape, 16, 16)[..., ::-1]"),
    ),
    *table(
        "checkpoints/gguf_file.py",
        "checkpoints/test_gguf_file.py checkpoints/test_gguf_bad_files.py",
        ("axes in NumPy's order", ".tolist()[::-1])", ".tolist())"),
        ("offsets from the file's beginning", "begin, what = start + info.offset", "begin, what = info.offset"),
        ("32 for every file's alignment", "if \"general.alignment\" not in metadata", "if True"),
        ("overlaps let through", "if info.offset < end", "if False"),
        ("half blocks let through", "if shape[-1] % NUMBERS.get(type, 1)", "if False"),
        ("names there twice let through", "if info.name in names", "if False"),
        ("the end not padded", "file.write(bytes(_padded(size) - size))", "file.write(bytes(_padded(size) - size) if tensor is not [*tensors.values()][-1][0] else b\"\")"),
        ("tensors not padded", "offset += _padded(_size(type, tensor.shape))", "offset += _size(type, tensor.shape)"),
    ),
    *table(
        "checkpoints/gguf_metadata.py",
        "checkpoints/test_gguf_file.py checkpoints/test_gguf_bad_files.py",
        ("strings beyond the end let through", "            if begin > last:\n                raise _cut_off(place)\n", ""),
        ("numbers beyond the end let through", "    if begin > len(data):\n        raise _cut_off(place)\n    return begin", "    return begin"),
        ("no end of nesting", "if nesting == MAX_NESTING", "if False"),
        ("floats as the stored ones", "return float(str(found)) if found.dtype.kind == \"f\" else found.item()", "return found.item()"),
        ("keys there twice let through", "if key in values", "if False"),
        ("any type for any other", "if value.type != type or ", "if "),
    ),
    *table(
        "checkpoints/gguf_tokenizer.py",
        "checkpoints/test_gguf_tokenizer.py",
        ("the number of tokens is enough", "if tokens is not None and packed_strings(tokens) == stored", "if True"),
        ("no_vocab taken for nothing said", "if _MODEL not in metadata and count is None", "if count is None"),
        ("characters of two bytes to llama.cpp", "if not single and", "if False and"),
        ("two lists that differ", "packed_strings(tokens) != stored", "False"),
        ("padding as tokens", "types[tokenizer.vocab_size :] = _UNUSED", "pass"),
        ("merges forgotten", "merges(gpt2_bpe.tokens()) if", "[] if"),
    ),
    *table(
        "checkpoints/gguf.py",
        "checkpoints/test_gguf.py checkpoints/test_gguf_bad_models.py",
        ("queries, keys, values not turned", "\"h.{}.attn.c_attn.weight\", TURNED", "\"h.{}.attn.c_attn.weight\""),
        ("the position embedding in the file's dtype", " or name == \"position_embd.weight\"", ""),
        ("part of blocks in Q8_0", "if dtype == \"Q8_0\" and shape[-1] % NUMBERS[\"Q8_0\"]", "if False"),
        ("the activation not looked at", "(\"activation\", \"gelu_new\")", "(\"activation\", config.activation)"),
        ("a head that is the embedding kept", "and equal(tensors[\"lm_head.weight\"], tensors[\"wte.weight\"])", "and False"),
        ("grouped queries let through", "(\"gpt2.attention.head_count_kv\", \"uint32\", n_head)", "(\"gpt2.vocab_size\", \"uint32\", vocab_size)"),
    ),
]  # fmt: skip


class Checkout:
    """A copy of the working tree to change and to test in."""

    def __init__(self, folder: Path):
        self.folder = folder
        away = shutil.ignore_patterns(
            ".git", "__pycache__", "runs", ".venv", ".hypothesis", ".pytest_cache", "*.egg-info"
        )
        shutil.copytree(ROOT, folder / "checkout", ignore=away)

    def write(self, mutant: Mutant, text: str):
        (self.folder / "checkout" / "npgpt" / mutant.path).write_text(text, encoding="utf-8")

    def failure(self, tests: list[str], cache: str) -> str | None:
        """The first test that fails, or None."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(self.folder / cache)}
        try:
            done = subprocess.run(
                command, cwd=self.folder / "checkout", env=environment, capture_output=True, text=True, timeout=LONGEST
            )
        except subprocess.TimeoutExpired:
            return f"no end after {LONGEST} s"
        if done.returncode == 0:
            return None
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return found.group(1) if found else (done.stdout + done.stderr).strip().splitlines()[-1]

    def try_out(self, mutant: Mutant) -> str | None:
        """The test that catches it, or None."""
        original = source(mutant)
        # Kernels are compiled anew when one of them changes; what the unchanged ones compiled to is for the others.
        cache = "changed" if mutant.path.startswith("kernels/") else "unchanged"
        self.write(mutant, original.replace(mutant.old, mutant.new))
        try:
            return self.failure(paths(mutant), cache) or self.failure([], cache)
        finally:
            self.write(mutant, original)
            shutil.rmtree(self.folder / "changed", ignore_errors=True)


def source(mutant: Mutant) -> str:
    return (ROOT / "npgpt" / mutant.path).read_text(encoding="utf-8")


def paths(mutant: Mutant) -> list[str]:
    return [f"tests/{path}" for path in mutant.tests.split()]


def main():
    parser = argparse.ArgumentParser(description="Change the code in one place at a time and see whether a test fails.")
    parser.add_argument("words", nargs="*", help="only changes with one of these in their path or description")
    parser.add_argument("--list", action="store_true", help="print the changes and end")
    parser.add_argument("--jobs", type=int, default=2, help="changes tried at a time (default: 2)")
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if any(w in f"{m.path} {m.what}" for w in arguments.words or [""])]
    for mutant in MUTANTS:
        if source(mutant).count(mutant.old) != 1:
            sys.exit(f"{mutant.path}: {mutant.old!r} is not there exactly once: adapt the change to the code")
    if arguments.list or not chosen:
        print("\n".join(f"{m.path:<30} {m.what}" for m in chosen) + f"\n{len(chosen)} changes")
        return 0

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        checkouts = Queue()
        for i in range(arguments.jobs):
            checkouts.put(Checkout(Path(folder) / str(i)))
        checkout = checkouts.get()
        failure = checkout.failure(sorted({path for m in chosen for path in paths(m)}), "unchanged")
        checkouts.put(checkout)
        if failure:
            sys.exit(f"{failure} fails in the unchanged code")

        def try_out(mutant):
            checkout, began = checkouts.get(), monotonic()
            try:
                caught_by = checkout.try_out(mutant)
            finally:
                checkouts.put(checkout)
            print(
                f"{'caught' if caught_by else 'SURVIVED':<8} {monotonic() - began:>5.0f} s  {mutant.path}: {mutant.what}\n"
                f"                  {caught_by or ''}",
                flush=True,
            )
            return bool(caught_by)

        caught = sum(pool.map(try_out, chosen))
    print(f"{caught} of {len(chosen)} changes caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
