"""Which modules a syntax tree imports, as absolute dotted names."""

import ast
from collections.abc import Iterator


def module_name(path: str) -> str:
    """`prsmed/data/__init__.py` is `prsmed.data`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_names(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, also of those inside functions.

    `from a import b` gives `a.b`, since `b` may be a module; for rules on prefixes that is as good as `a`.
    """
    package = module_name(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def is_within(name: str, rooms: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the rooms or lies inside one."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)
