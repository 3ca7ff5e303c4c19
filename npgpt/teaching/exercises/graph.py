"""The chain rule by hand, broadcasting undone, and the walk through the graph."""

import numpy as np

from npgpt.autograd import Node, backpropagate, unbroadcast
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.teaching.exercises.values import values
from npgpt.tensor import Tensor

# The chain rule


def _error(w, x, b, target):
    return w * x + b - target


CHAIN_RULE = Exercise(
    name="chain_rule",
    title="The chain rule by hand: a weight and a bias.",
    task="""
    y = w x + b             the answer
    e = y - target          how far off it is
    q = e^2                 what it costs

All are numbers. q goes on into some loss, and dq, the slope of that loss for
q, is given. Write dw, dx and db, the slopes for w, x and b: go backward, one
line at a time, from dq to de, from de to dy, and from dy to the three.
""",
    read="docs/course/01-numbers-and-slopes.md, npgpt/tensor.py: __mul__, __add__ and __pow__ (after you tried)",
    signature="chain_rule(dq, w, x, b, target)",
    gives="five numbers -> dw, dx, db",
    outputs=("dw", "dx", "db"),
    forward=lambda w, x, b, target: _error(w, x, b, float(target)) ** 2,
    cases=(
        Case("w = 2, x = 3, b = 1, target = 5", {"w": 2.0, "x": 3.0, "b": 1.0, "target": 5.0}),
        Case("the answer is too small", {"w": -0.5, "x": 1.5, "b": 0.25, "target": 4.0}),
        Case("the answer is right", {"w": 2.0, "x": 3.0, "b": 1.0, "target": 7.0}, by_differences=False),
    ),
    mistakes=(
        Mistake(
            lambda dq, w, x, b, t: (dq * _error(w, x, b, t) * x, dq * _error(w, x, b, t) * w, dq * _error(w, x, b, t)),
            "What is the slope of e^2? At e = 3, is it 3?",
        ),
        Mistake(
            lambda dq, w, x, b, t: (2 * _error(w, x, b, t) * x, 2 * _error(w, x, b, t) * w, 2 * _error(w, x, b, t)),
            "Where is dq? q is not the loss: each slope is dq times the slope of q.",
        ),
        Mistake(
            lambda dq, w, x, b, t: (
                (dq + 2 * _error(w, x, b, t)) * x,
                (dq + 2 * _error(w, x, b, t)) * w,
                dq + 2 * _error(w, x, b, t),
            ),
            "dq was added. The slopes of steps that follow each other are multiplied.",
        ),
        Mistake(
            lambda dq, w, x, b, t: (dq * 2 * _error(w, x, b, t) * w, dq * 2 * _error(w, x, b, t) * x, None),
            "If w grows by h, does y grow by w h or by x h?",
        ),
        Mistake(
            lambda dq, w, x, b, t: (dq * 2 * _error(w, x, b, t),) * 3,
            "If w grows by h, by how much does y grow? That factor is missing.",
        ),
        Mistake(
            lambda dq, w, x, b, t: (dq * 2 * (w * x + b) * x, dq * 2 * (w * x + b) * w, dq * 2 * (w * x + b)),
            "The square is of e, and not of y: what was subtracted?",
        ),
    ),
)

# Broadcasting

_STRETCHED = (
    "A (2, 1) array was used as if it were (2, 3): how many elements of the gradient belong to each of its own? "
    "The axes that were stretched have to be added up, too."
)

UNBROADCAST = Exercise(
    name="unbroadcast",
    title="Undo broadcasting in a gradient.",
    task="""
In x + b with x (2, 3) and b (3,), NumPy uses b once for each row. So each
element of b has two consumers, and its gradient is the sum of two elements.

NumPy does two things, and both must be undone:

    axes are added in front         (3,) is used as if it were (2, 3)
    an axis of 1 is stretched       (2, 1) is used as if it were (2, 3)

``gradient`` has the shape after that, and the result must have ``shape``, the
one before: add up over all copies of each element.
""",
    read="docs/course/03-linear.md (why the rows of db add up), npgpt/autograd.py: unbroadcast (after you tried)",
    signature="unbroadcast(gradient, shape)",
    gives="gradient, an array; shape, a tuple -> the gradient of the array before it was repeated, of that shape",
    outputs=("result",),
    reference=unbroadcast,
    cases=(
        Case("(2, 3) of (3,)", {"gradient": values(2, 3), "shape": (3,)}),
        Case("(2, 3) of (2, 1)", {"gradient": values(2, 3), "shape": (2, 1)}),
        Case("(2, 4, 3) of (4, 1)", {"gradient": values(2, 4, 3), "shape": (4, 1)}),
        Case("(2, 3) of (), a number", {"gradient": values(2, 3), "shape": ()}),
        Case("(2, 3) of (2, 3): nothing was repeated", {"gradient": values(2, 3), "shape": (2, 3)}),
        Case("(2, 1) of (1, 1)", {"gradient": values(2, 1), "shape": (1, 1)}),
        Case("(3, 3) of (3,): two axes of one size", {"gradient": values(3, 3), "shape": (3,)}),
    ),
    mistakes=(
        Mistake(
            lambda g, shape: g.sum(axis=tuple(range(g.ndim - len(shape)))),
            _STRETCHED,
        ),
        Mistake(
            lambda g, shape: g.sum(axis=tuple(range(g.ndim - len(shape))), keepdims=True).reshape(shape),
            _STRETCHED,
        ),
        Mistake(
            lambda g, shape: g.mean(axis=tuple(range(g.ndim - len(shape)))),
            "That is the mean. Each copy changes the loss by itself, so the contributions add up.",
        ),
        Mistake(
            lambda g, shape: g[0] if g.ndim > len(shape) else g[:, :1],
            "That is the gradient of the first copy. What of the others?",
        ),
        Mistake(
            lambda g, shape: unbroadcast(g, shape).squeeze(),
            "Right numbers, other shape: see ``keepdims``, or reshape at the end.",
        ),
    ),
)

# The walk


def _walk(graph, grad):
    """npgpt's own walk, through Nodes that are made from the graph. Its dict is in the order of the parents."""
    names = {parent for parents in graph.values() for parent, _ in parents}
    sources = {name: Tensor(np.zeros(()), requires_grad=True) for name in names | graph.keys() if name not in graph}

    def node(slopes):
        return lambda dy, needs: tuple(np.asarray(slope * dy) for slope in slopes)

    for name, parents in graph.items():
        slopes = [slope for _, slope in parents]
        sources[name] = Node(tuple(sources[p] for p, _ in parents), node(slopes), (), np.dtype(np.float64))

    class Result:
        source = sources[list(graph)[-1]]

    found = {id(leaf): float(dy) for leaf, dy in backpropagate(Result, np.asarray(grad))}
    return {name: found[id(source)] for name, source in sources.items() if id(source) in found}


def _in_order_of_arrival(graph, grad):
    """Each node is processed once, when it is first reached."""
    result = list(graph)[-1]
    gradients, waiting, seen = {result: grad}, [result], {result}
    while waiting:
        name = waiting.pop(0)
        for parent, slope in graph.get(name, ()):
            gradients[parent] = gradients.get(parent, 0.0) + slope * gradients[name]
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return {name: dy for name, dy in gradients.items() if name not in graph}


def _after_each_contribution(graph, grad):
    """A node passes on all that it has, each time that something arrives. Raises OverflowError if that is too often."""
    gradients: dict[str, float] = {}
    waiting = [(list(graph)[-1], grad)]
    while waiting:
        if len(waiting) > 1000:
            raise OverflowError("too many ways through the graph")
        name, contribution = waiting.pop(0)
        gradients[name] = gradients.get(name, 0.0) + contribution
        waiting += [(parent, slope * gradients[name]) for parent, slope in graph.get(name, ())]
    return {name: dy for name, dy in gradients.items() if name not in graph}


def _overwritten(graph, grad):
    gradients = {list(graph)[-1]: grad}
    for name in reversed(graph):
        for parent, slope in graph[name]:
            gradients[parent] = slope * gradients.get(name, 0.0)
    return {name: dy for name, dy in gradients.items() if name not in graph}


def _with_all_nodes(graph, grad):
    gradients = {list(graph)[-1]: grad}
    for name in reversed(graph):
        for parent, slope in graph[name]:
            gradients[parent] = gradients.get(parent, 0.0) + slope * gradients.get(name, 0.0)
    return gradients


BACKPROPAGATE = Exercise(
    name="backpropagate",
    title="The walk through the graph, backward.",
    task="""
A graph says what was computed, and from what. For b = a + a, c = b * d (with
the values a = 1, d = 5):

    graph = {"b": [("a", 1.0), ("a", 1.0)], "c": [("b", 5.0), ("d", 2.0)]}

Each node has a list of (parent, slope of the node for this parent). Nodes are
in the order in which they were computed, and the last one is the result. The
leaves, a and d here, have no entry.

``grad`` is the result's gradient. Return {leaf: its gradient}. A node with the
gradient dy contributes slope * dy to each of its parents, and contributions
add up. A node may be processed only after all its consumers have contributed.
Don't use recursion: graphs may be deep.
""",
    read="docs/course/02-the-graph.md, npgpt/autograd.py (after you tried)",
    signature="backpropagate(graph, grad)",
    gives="a graph as above and the result's gradient -> {leaf: gradient}, a dict of numbers",
    outputs=("gradients",),
    reference=_walk,
    cases=(
        Case("b = a + a, c = b + b", {"graph": {"b": [("a", 1.0)] * 2, "c": [("b", 1.0)] * 2}, "grad": 1.0}),
        Case(
            "a is used early and late",
            {
                "graph": {"b": [("a", 3.0)], "c": [("b", 2.0), ("d", 0.5)], "e": [("b", -1.0), ("c", 4.0), ("a", 1.0)]},
                "grad": 0.5,
            },
        ),
        Case(
            "a residual stream: each node has two consumers",
            {"graph": {f"x{i + 1}": [(f"x{i}", 1.0), (f"x{max(0, i - 1)}", 0.5)] for i in range(6)}, "grad": 1.0},
        ),
        Case(
            "y = x + x, 60 times: 2^60 ways from the result to x0",
            {"graph": {f"x{i + 1}": [(f"x{i}", 1.0)] * 2 for i in range(60)}, "grad": 1.0},
        ),
        Case("a chain of 3,000 nodes", {"graph": {f"x{i + 1}": [(f"x{i}", 1.0)] for i in range(3000)}, "grad": 2.0}),
    ),
    mistakes=(
        Mistake(
            _after_each_contribution,
            "b = a + a; c = b + b: when may b's gradient be passed on to a? You pass it on after its first "
            "contribution, and then all of it again.",
        ),
        Mistake(
            _overwritten,
            "A later contribution overwrites the earlier one. b = a + a: how many contributions does a's gradient "
            "have?",
        ),
        Mistake(
            _in_order_of_arrival,
            "A node is processed before all its contributions are in. Which order of the nodes has every consumer "
            "before its parents?",
        ),
        Mistake(_with_all_nodes, "Right, but return the leaves alone: the nodes that have no entry in the graph."),
        Mistake(lambda graph, grad: _walk(graph, 1.0), "Where does the walk begin? The result's gradient is ``grad``."),
    ),
)
