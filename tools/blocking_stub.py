"""Writes src/mxfast/blocking.pyi: the types of `mxfast.blocking`, from those it is made of.

    python tools/blocking_stub.py

Run it when a method of an asynchronous class was added or changed; a test says when.
"""

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import mxfast
from mxfast.facade import facade_of

STUB = Path(mxfast.__file__).with_name("blocking.pyi")
SPECIAL = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__anext__": "__next__",
    "aclose": "close",
}
PLAIN = {"__len__", "__getitem__", "__contains__"}
ITERATORS = {"AsyncIterator": "Iterator", "AsyncGenerator": "Iterator"}


def classes() -> list[type]:
    """Return every asynchronous class that a user meets, bases before what derives from them."""
    found: dict[type, None] = {}

    def add(cls: Any) -> None:
        if not isinstance(cls, type) or cls in found or not cls.__module__.startswith("mxfast."):
            return
        if facade_of(cls) is None:
            return
        for base in cls.__bases__:
            add(base)
        found[cls] = None
        for name, member in vars(cls).items():
            if name.startswith("_"):
                continue
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if inspect.isfunction(function):
                annotation = inspect.get_annotations(function, eval_str=True).get("return")
                for each in _parts(annotation):
                    add(each)

    for name in mxfast.__all__:
        add(getattr(mxfast, name))
    return list(found)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    yield getattr(annotation, "__origin__", None)
    for each in get_args(annotation):
        yield from _parts(each)


class Names(ast.NodeTransformer):
    """Gives names of one module the form that they have in the stub, and notes their imports."""

    def __init__(self, module: ModuleType, made: set[str], imports: set[str]) -> None:
        self.made = made
        self.imports = imports
        self.known: dict[str, tuple[str, str]] = {}
        tree = ast.parse(inspect.getsource(module))
        for node in tree.body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name
                    self.known[name] = (name, f"import {alias.name} as {name}")
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    line = f"from {node.module} import {alias.name}"
                    self.known[alias.asname or alias.name] = (alias.name, line)
            elif isinstance(node, ast.ClassDef):
                self._define(module, node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        self._define(module, target.id)

    def _define(self, module: ModuleType, name: str) -> None:
        self.known[name] = (name, f"from {module.__name__} import {name}")

    def visit_Name(self, node: ast.Name) -> ast.Name:  # noqa: D102
        name = ITERATORS.get(node.id, node.id)
        if name != node.id:
            self.imports.add(f"from collections.abc import {name}")
        elif name not in self.made and name in self.known:
            name, line = self.known[name]
            self.imports.add(line)
        return ast.Name(name)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:  # noqa: D102
        if isinstance(node.value, ast.Name) and node.value.id == "Literal":
            self.visit(node.value)
            return node  # its strings are no names
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:  # noqa: D102
        if isinstance(node.value, str):  # a name that is not defined yet there
            return self.visit(ast.parse(node.value, mode="eval").body)  # type: ignore[no-any-return]
        return node


def class_stub(cls: type, made: set[str], imports: set[str]) -> str:
    """Return the stub of one class."""
    module = inspect.getmodule(cls)
    assert module is not None
    names = Names(module, made, imports)
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    bases = [ast.unparse(names.visit(base)) for base in tree.bases]
    derived = f"({', '.join(bases)})" if bases else ""
    lines = [f"class {cls.__name__}{derived}:"]
    for node in tree.body:
        if getattr(node, "name", "") != "__init__" or "connect" in vars(cls):
            lines += _member_stub(node, names)
    if "__anext__" in vars(cls):
        lines.append("def __iter__(self) -> Self: ...")
        imports.add("from typing import Self")
    return "\n    ".join(lines if len(lines) > 1 else [*lines, "..."])


def _member_stub(node: ast.stmt, names: Names) -> list[str]:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        if node.target.id.startswith("_"):
            return []
        annotation = ast.unparse(names.visit(node.annotation))
        return ["@property", f"def {node.target.id}(self) -> {annotation}: ..."]
    if isinstance(node, ast.Assign):
        value = ast.unparse(node.value)
        return [f"{ast.unparse(each)} = {value}" for each in node.targets if _is_public(each)]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    name = SPECIAL.get(node.name, node.name)
    if node.name == name and name.startswith("_") and name not in {*PLAIN, "__init__"}:
        return []
    made = ast.FunctionDef(
        name,
        _arguments(node.args, names),
        [ast.Expr(ast.Constant(...))],
        node.decorator_list,
        names.visit(node.returns) if node.returns is not None else None,
    )
    for decorator in made.decorator_list:
        names.visit(decorator)  # for its import
    text = ast.unparse(ast.fix_missing_locations(made))
    return [*text.replace(":\n    ...", ": ...").splitlines()]


def _is_public(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and not target.id.startswith("_")


def _arguments(arguments: ast.arguments, names: Names) -> ast.arguments:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for each in [*every, arguments.vararg, arguments.kwarg]:
        if each is not None and each.annotation is not None:
            each.annotation = names.visit(each.annotation)
    for default in [*arguments.defaults, *arguments.kw_defaults]:
        if isinstance(default, ast.Name | ast.Attribute):
            names.visit(default)  # for its import
    return arguments


def stub() -> str:
    """Return the text of the stub, formatted."""
    found = classes()
    made = {cls.__name__ for cls in found}
    imports: set[str] = set()
    bodies = [class_stub(cls, made, imports) for cls in found]
    body = "\n\n".join(bodies)
    for name in ("TypeVar", "Generic"):
        if name in body:
            imports.add(f"from typing import {name}")
    text = "\n".join(
        [
            "# Generated by tools/blocking_stub.py from the asynchronous classes: do not edit.",
            *sorted(imports),
            "",
            f"__all__ = {sorted(made & set(mxfast.__all__))!r}",
            "",
            body,
            "",
        ]
    )
    for rule in (["check", "--select=I", "--fix"], ["format"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *rule,
            "--quiet",
            "--stdin-filename",
            str(STUB),
            "-",
        ]
        text = subprocess.run(
            command, input=text, capture_output=True, text=True, check=True
        ).stdout
    return text


if __name__ == "__main__":
    STUB.write_text(stub())
