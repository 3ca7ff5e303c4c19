"""Formulas: those of a docstring, as mathematics that a browser sets.

The docstrings of ops/ have lines such as

    Forward     y_no = sum_i x_ni W_io + b_o
    Backward    dx_ni = sum_o dy_no W_io        dx = dy W^T

A column with a sign of a formula in it is set as MathML, given as nested lists: ["msub", ["mi", "y"], ["mi", "no"]].
Other columns are remarks, given as text. Nothing is worked out: it is the docstring's text in the signs of mathematics.
"""

import re
from typing import Any

_SIGNS = {
    "*": "∗",
    "->": "→",
    "-": "−",
    "<=": "≤",
    ">=": "≥",
    "pi": "π",
    "Phi": "Φ",
    "phi": "φ",
}
_FORMULA = re.compile(r"=|^\w+_\w+$")
_REMARK = re.compile(r"^(over|since|the|each|summed|where|of|in|with|a|after|which)\b|^0 where")
_TOKEN = re.compile(r"\d[\d.]*(?:e-?\d+)?|[^\W\d_]+(?:_(?:\{[^}]*\}|\w+))?|->|<=|>=|\s+|.")


def formulas(docstring: str) -> dict[str, list[list[Any]]]:
    """{"Forward": lines, "Backward": lines}; a line is a list of texts and of formulas.

    >>> formulas("y = x + b:  dx = dy")["Backward"]
    [[['mrow', ['mi', 'dx'], ['mo', '='], ['mi', 'dy']]]]
    """
    one_line = re.match(r"(\S+ = .*?|.* -> .*?):  (.*= .*)", docstring.strip().split("\n")[0])
    if one_line:
        return {"Forward": [_columns(one_line[1])], "Backward": [_columns(one_line[2])]}
    found: dict[str, list[list[Any]]] = {}
    section = ""
    for line in docstring.split("\n"):
        begin = re.match(r"\s*(Forward|Backward)\s{2,}(.*)", line)
        if begin:
            section, line = begin[1], begin[2]
        elif not line.strip():
            section = ""
        if section:
            found.setdefault(section, []).append(_columns(line))
    return found


def _columns(line):
    columns = [text.strip().rstrip(",") for text in re.split(r"\s{2,}", re.sub(r"\s+= ", " = ", line.strip()))]
    return [typeset(text) if _is_formula(text) else text for text in columns if text]


def _is_formula(text):
    return bool(_FORMULA.search(text)) and not _REMARK.match(text)


def typeset(text: str) -> list[Any]:
    """One formula as MathML.

    >>> typeset("dx = dy W^T")
    ['mrow', ['mi', 'dx'], ['mo', '='], ['mi', 'dy'], ['mspace'], ['msup', ['mi', 'W'], ['mi', 'T']]]
    """
    return ["mrow", *_rows(_TOKEN.findall(text))]


def _rows(tokens):
    items: list[Any] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        place += 1
        if token == "sqrt" and place < len(tokens):
            place += tokens[place] == " "
            inside, place = _group(tokens, place)
            items.append(["msqrt", ["mrow", *_rows(inside)]])
        elif token in ("^", "_") and items:
            inside, place = _group(tokens, place)
            items.append([{"^": "msup", "_": "msub"}[token], items.pop(), _single(_rows(inside))])
        elif token.isspace():
            if items and place < len(tokens) and _needs_space(items[-1], tokens[place]):
                items.append(["mspace"])
        else:
            items.append(_leaf(token))
    return items


def _group(tokens, place):
    """The tokens of what follows: one, with its sign, or all within brackets -> them and the place after them."""
    if place < len(tokens) and tokens[place] in "({":
        depth, end = 1, place + 1
        while end < len(tokens) and depth:
            depth += (tokens[end] in "({") - (tokens[end] in ")}")
            end += 1
        return tokens[place + 1 : end - 1], end
    end = place + 1 + (place < len(tokens) and tokens[place] == "-")
    return tokens[place:end], end


def _single(items):
    return items[0] if len(items) == 1 else ["mrow", *items]


def _needs_space(before, after):
    """Between two factors or words, and after a comma."""
    if before in (["mo", ","], ["mo", ";"]):
        return True
    operand = before[0] in ("mi", "mn", "msub", "msup", "msqrt") or before in (["mo", ")"], ["mo", "]"])
    return operand and bool(re.match(r"[\w(]", after))


def _leaf(token):
    base, under, index = token.partition("_")
    if under and base:
        index = index.strip("{}")
        head = ["mo", "∑"] if base == "sum" else _leaf(base)
        return ["msub", head, _single(_rows(_TOKEN.findall(index)))]
    if token[0].isdigit():
        return ["mn", token]
    if token[0].isalpha() or token == "∂":
        return ["mi", _SIGNS.get(token, token)]
    return ["mo", _SIGNS.get(token, token)]
