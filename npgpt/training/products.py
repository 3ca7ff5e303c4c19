"""The way in which a run makes its large matrix products: chosen for its machine when it begins, and kept.

Results depend on it in their last digits, and in "medium" in their third. So a resumed run goes on as it began, or says
why it can't.
"""

from pathlib import Path

from npgpt import kernels
from npgpt.checkpoints.runs import read_way_of_products
from npgpt.kernels import precision
from npgpt.training.log import log


def choose_products(word: str) -> dict[str, str]:
    """Set the precision of products, "highest", "high" or "medium". -> what config.json says of it: {word: way}"""
    precision.set_matmul_precision(word)
    return {word: precision.get_way()} if kernels.BACKEND == "numba" else {}


def keep_products(folder: Path, word: str) -> dict[str, str]:
    """As ``choose_products``, for a run that is resumed: in the way that it began with, if this machine has that."""
    began = read_way_of_products(folder, word)
    chosen = choose_products(word)
    if began is None or not chosen or chosen[word] == began:
        return chosen
    if not precision.IS_ASKED_FOR and began in precision.ways(word):
        precision.set_matmul_precision(word, began)
        return {word: began}
    why = "NPGPT_CPU says so" if precision.IS_ASKED_FOR else f"this machine has no {began}"
    log(f"products were made by {began} so far, and are made by {chosen[word]} now: {why}")
    return chosen
