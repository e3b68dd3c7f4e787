"""Finds what a dotted name is and which parameters it takes by reading source files; nothing is imported.

Importing ``torch`` alone takes longer than composing, checking and printing a configuration, and importing a name that
a configuration wrote would already run it.
"""

from __future__ import annotations

import ast
import importlib.util
import keyword
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

__all__ = ["Definition", "NotFound", "find_definition"]

_DEEPEST = 12  # re-exports and base classes followed before we stop


class NotFound(Exception):
    """No such name. ``candidates`` are the names that stand where it was looked for."""

    def __init__(self, message: str, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.candidates = candidates


@dataclass(frozen=True)
class Definition:
    """Where a name is defined and, for what can be called, its parameters.

    ``open`` means that it takes keywords that the source does not list, ``variadic`` any number of positional values.
    ``annotations`` are as written, except that names for ``Literal`` are replaced by it. ``kind`` is ``unknown`` for
    names that exist only at run time (lazy modules, compiled code).
    """

    name: str
    kind: Literal["class", "function", "method", "module", "unknown"]
    file: Path | None = None
    line: int = 0
    parameters: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    open: bool = True
    annotations: Mapping[str, ast.expr] = field(default_factory=dict, compare=False)
    variadic: bool = False

    @property
    def module(self) -> str:
        """The module that holds it."""
        return self.name if self.kind == "module" else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class _Signature:
    parameters: tuple[str, ...]
    required: tuple[str, ...]
    open: bool
    annotations: Mapping[str, ast.expr] = field(default_factory=dict, compare=False)
    variadic: bool = False


_OPEN = _Signature((), (), True)
_CLOSED = _Signature((), (), False)


@lru_cache(maxsize=512)
def find_definition(target: str) -> Definition:
    """Follow ``target`` through packages, re-exports and aliases to its definition.

    Raises:
        NotFound: a component does not exist.
    """
    parts = target.split(".")
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise NotFound(f"'{target}' is not a dotted name")
    if _module_file(parts[0]) is None:
        raise NotFound(f"No module named '{parts[0]}'")
    found = Definition(parts[0], "module", _module_file(parts[0]))
    for index, part in enumerate(parts[1:], start=1):
        if found.kind == "unknown":
            return Definition(target, "unknown")
        if found.kind == "class":
            return Definition(f"{found.name}.{part}", "method", found.file, found.line)
        if found.kind != "module":
            raise NotFound(f"'{'.'.join(parts[:index])}' is a {found.kind} and has no '{part}'")
        found = _attribute(found.name, part, 0)
    return found


def _attribute(module: str, name: str, depth: int) -> Definition:
    found = _defined(module, name, depth)
    if found is None and _module_file(f"{module}.{name}") is not None:
        found = Definition(f"{module}.{name}", "module", _module_file(f"{module}.{name}"))
    if found is None:
        if _is_lazy(module):
            return Definition(f"{module}.{name}", "unknown")
        raise NotFound(f"module '{module}' has no '{name}'", tuple(_names(module)))
    return found


def _defined(module: str, name: str, depth: int) -> Definition | None:
    """The definition of ``name`` in the source of ``module``, or None where it has none."""
    file, tree = _source(module)
    if tree is None or depth > _DEEPEST:
        return Definition(f"{module}.{name}", "unknown", file)
    found: Definition | None = None
    stars: list[str] = []
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            signature = _class_signature(module, node, depth)
            found = Definition(f"{module}.{name}", "class", file, node.lineno, *_unpack(signature))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            signature = _function_signature(module, node, bound=False)
            found = Definition(f"{module}.{name}", "function", file, node.lineno, *_unpack(signature))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.partition(".")[0]) == name:
                    origin = alias.name if alias.asname else name
                    found = Definition(origin, "module", _module_file(origin))
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node)
            for alias in node.names:
                if alias.name == "*":
                    stars.append(origin)
                elif (alias.asname or alias.name) == name:
                    found = _imported(origin, alias.name, module, depth)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                found = _assigned(module, name, node.value, depth)
    for origin in stars if found is None else ():
        if _module_file(origin) is not None:
            found = _defined(origin, name, depth + 1)
            if found is not None:
                break
    return found


def _imported(origin: str, name: str, importer: str, depth: int) -> Definition:
    if origin != importer:
        found = _defined(origin, name, depth + 1) if _module_file(origin) is not None else None
        if found is not None:
            return found
    if _module_file(f"{origin}.{name}") is not None:
        return Definition(f"{origin}.{name}", "module", _module_file(f"{origin}.{name}"))
    return Definition(f"{origin}.{name}", "unknown")


def _assigned(module: str, name: str, value: ast.expr | None, depth: int) -> Definition:
    dotted = _dotted(value)
    if dotted is not None and dotted != name:
        found: Definition | None = None
        for part in dotted.split("."):
            if found is None:
                found = _defined(module, part, depth + 1)
            elif found.kind == "module":
                found = _attribute(found.name, part, depth + 1)
            if found is None:
                break
        if found is not None:
            return found
    return Definition(f"{module}.{name}", "unknown")


def _class_signature(module: str, node: ast.ClassDef, depth: int) -> _Signature:
    own = _constructor(node)
    if own is not None:
        return _function_signature(module, own, bound=True)
    if any(
        (_dotted(each.func if isinstance(each, ast.Call) else each) or "").endswith("dataclass")
        for each in node.decorator_list
    ):
        return _dataclass_signature(module, node, depth)
    for base in node.bases:
        signature = _base_signature(module, base, depth)
        if signature is not None:
            return signature
    return _CLOSED


def _base_signature(module: str, base: ast.expr, depth: int) -> _Signature | None:
    """The constructor that ``base`` brings, or None where it brings none."""
    if isinstance(base, ast.Subscript):
        base = base.value
    dotted = _dotted(base)
    if dotted is None or depth > _DEEPEST:
        return _OPEN
    if dotted.rpartition(".")[2] in ("object", "ABC", "Generic", "Protocol"):
        return None
    found = _assigned(module, "", base, depth)
    if found.kind != "class":
        return _OPEN
    signature = _Signature(found.parameters, found.required, found.open, found.annotations, found.variadic)
    return None if signature == _CLOSED else signature


def _dataclass_signature(module: str, node: ast.ClassDef, depth: int) -> _Signature:
    parameters: dict[str, bool] = {}
    annotations: dict[str, ast.expr] = {}
    is_open = False
    for base in node.bases:
        inherited = _base_signature(module, base, depth + 1)
        if inherited is not None:
            is_open = is_open or inherited.open
            parameters.update({name: name in inherited.required for name in inherited.parameters})
            annotations.update(inherited.annotations)
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            if "ClassVar" in ast.dump(each.annotation):
                continue
            options = _field_options(each.value)
            if options.get("init") is not False:
                parameters[each.target.id] = each.value is None or options.get("required", False)
                annotations[each.target.id] = _spelled_out(module, each.annotation)
    required = tuple(name for name, needed in parameters.items() if needed)
    return _Signature(tuple(parameters), required, is_open, annotations)


def _field_options(value: ast.expr | None) -> dict[str, bool]:
    if not (isinstance(value, ast.Call) and (_dotted(value.func) or "").endswith("field")):
        return {}
    keywords = {each.arg: each.value for each in value.keywords}
    init = keywords.get("init")
    return {
        "init": not (isinstance(init, ast.Constant) and init.value is False),
        "required": "default" not in keywords and "default_factory" not in keywords,
    }


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    for name in ("__init__", "__new__"):
        found = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == name]
        found = [
            each for each in found if not any((_dotted(d) or "").endswith("overload") for d in each.decorator_list)
        ]
        if found:
            return found[-1]
    return None


def _function_signature(module: str, node: ast.FunctionDef | ast.AsyncFunctionDef, *, bound: bool) -> _Signature:
    positional = [*node.args.posonlyargs, *node.args.args]
    required = positional[: len(positional) - len(node.args.defaults)]
    names = [each.arg for each in positional][1 if bound else 0 :]
    needed = [each.arg for each in required][1 if bound else 0 :]
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        names.append(argument.arg)
        if default is None:
            needed.append(argument.arg)
    annotations = {
        each.arg: _spelled_out(module, each.annotation)
        for each in [*positional, *node.args.kwonlyargs]
        if each.annotation is not None
    }
    is_open, variadic = node.args.kwarg is not None, node.args.vararg is not None
    return _Signature(tuple(names), tuple(needed), is_open, annotations, variadic)


def _unpack(signature: _Signature) -> tuple[tuple[str, ...], tuple[str, ...], bool, Mapping[str, ast.expr], bool]:
    return signature.parameters, signature.required, signature.open, signature.annotations, signature.variadic


def _spelled_out(module: str, annotation: ast.expr) -> ast.expr:
    """``annotation`` with the names that ``module`` gives to a ``Literal`` replaced by it: ``Kind | None``."""
    if isinstance(annotation, ast.Name):
        return _literal(module, annotation.id) or annotation
    if isinstance(annotation, ast.BinOp):
        left, right = _spelled_out(module, annotation.left), _spelled_out(module, annotation.right)
        return ast.copy_location(ast.BinOp(left, annotation.op, right), annotation)
    return annotation


def _literal(module: str, name: str, *, hop: bool = True) -> ast.expr | None:
    """The ``Literal`` that ``name`` stands for at the top of ``module`` or, one import away, of its own package."""
    _, tree = _source(module)
    for node in _statements(tree.body if tree else []):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                head = node.value.value if isinstance(node.value, ast.Subscript) else None
                return node.value if (_dotted(head) or "").rpartition(".")[2] == "Literal" else None
        elif isinstance(node, ast.ImportFrom) and hop:
            origin = _origin(module, node)
            for alias in node.names:
                near = origin.partition(".")[0] == module.partition(".")[0]
                if (alias.asname or alias.name) == name and near:
                    return _literal(origin, alias.name, hop=False)
    return None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, also inside ``if``, ``try`` and ``with``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _origin(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    file = _module_file(module)
    is_package = file is not None and file.name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _dotted(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        front = _dotted(node.value)
        return None if front is None else f"{front}.{node.attr}"
    return None


def _names(module: str) -> Iterator[str]:
    _, tree = _source(module)
    for node in _statements(tree.body if tree else []):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names if alias.name != "*")
            if any(alias.name == "*" for alias in node.names) and _origin(module, node) != module:
                yield from _names(_origin(module, node))
    folder = _module_file(module)
    if folder is not None and folder.name == "__init__.py":
        yield from (each.stem for each in folder.parent.glob("*.py") if each.stem != "__init__")
        yield from (each.parent.name for each in folder.parent.glob("*/__init__.py"))


def _is_lazy(module: str) -> bool:
    _, tree = _source(module)
    if tree is None:
        return True
    return any(
        (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")
        or (isinstance(node, ast.ImportFrom) and any("LazyModule" in alias.name for alias in node.names))
        for node in _statements(tree.body)
    )


@lru_cache(maxsize=256)
def _source(module: str) -> tuple[Path | None, ast.Module | None]:
    file = _module_file(module)
    if file is None or file.suffix != ".py":
        return file, None
    try:
        return file, ast.parse(file.read_bytes())
    except (SyntaxError, OSError):
        return file, None


@lru_cache(maxsize=1024)
def _module_file(module: str) -> Path | None:
    """The file of ``module``: found from its top-level package, since ``find_spec`` of a deeper one imports parents."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else Path(f"<{spec.name}>")
    folders = [Path(each) for each in spec.submodule_search_locations or ()]
    file: Path | None = None
    for name in rest:
        file = next((found for folder in folders for found in _candidates(folder, name)), None)
        if file is None:
            return None
        folders = [file.parent] if file.name == "__init__.py" else [file] if file.is_dir() else []
    return file


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    for file in (folder / name / "__init__.py", folder / f"{name}.py"):
        if file.is_file():
            yield file
    yield from folder.glob(f"{name}.*.so")
    if (folder / name).is_dir():
        yield folder / name  # a namespace package
