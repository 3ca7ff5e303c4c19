"""What comes out of a pickle is not always a tree: things may be used twice, be very deep, or be inside themselves."""

from npgpt.errors import CheckpointError

MAX_DEPTH = 100  # containers in one another; a checkpoint has some five


class OrderedDict(dict):
    """A collections.OrderedDict in the pickle. It may have attributes there, which are dropped."""

    __slots__ = ()


def check_nesting(root) -> None:
    """Raise CheckpointError if a container is inside itself, or too deep. Each is looked at once, without recursion."""
    if not _children(root):
        return
    levels = {}  # by a container's id, how many levels of containers begin with it; 0 while we are inside it
    path = [[root, iter(_children(root)), 1]]
    levels[id(root)] = 0
    while path:
        container, children, deepest = path[-1]
        for child in children:
            if not _children(child):
                continue
            known = levels.get(id(child))
            if known == 0:
                raise CheckpointError(f"a {type(child).__name__} is inside itself")
            if len(path) + (known or 1) > MAX_DEPTH:
                raise CheckpointError(f"more than {MAX_DEPTH} lists, tuples and dicts inside one another")
            if known is None:
                levels[id(child)] = 0
                path.append([child, iter(_children(child)), 1])
                break
            path[-1][2] = deepest = max(deepest, 1 + known)
        else:
            path.pop()
            levels[id(container)] = deepest
            if path:
                path[-1][2] = max(path[-1][2], 1 + deepest)


def _children(value):
    """What a container holds; nothing for other objects."""
    if type(value) in (list, tuple):
        return value
    return value.values() if type(value) in (dict, OrderedDict) else ()
