"""What the user named: how it is built here, and how a subject file builds it again."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import keyword
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gradscope.checked import call
from gradscope.errors import SubjectError, UsageError
from gradscope.huggingface import is_model_folder, load_folder
from gradscope.loading import BY_PATH, checked_model, is_checkpoint, load_module
from gradscope.scaffold.spelling import called, from_import, literal, on_the_path, place

__all__ = ["Source", "find"]

_FACTORIES = ("build_model", "make_model", "create_model", "get_model")
_CODE = "CODE"
_FOLDER = "FOLDER"
_MOST_NAMED = 6

_TAKEN = {
    *("build_model", "build_data", "build_optimizer", "loss", "step", "evaluate"),
    *("Path", "copy", "sys", "torch", "F", _CODE),
}
"""Names that the subject file gives to something else."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the model comes from.

    Attributes:
        label: what it is called.
        model: it, or None where nobody knows the arguments that it is made from.
        standard: lines that import from the standard library.
        others: statements that import packages.
        own: statements that make the user's code importable and import it.
        body: lines of ``build_model``.
        missing: the arguments that nobody knows.
    """

    label: str
    model: nn.Module | None
    standard: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def find(spec: str, output: Path) -> Source:
    """Finds what ``spec`` names and builds its model, once.

    Args:
        spec: ``path/to/file.py`` or ``package.module``, with ``:name`` for a function, a class or
            a model in it; or a Hugging Face folder.
        output: where the subject file will lie; paths in it are seen from there.

    Raises:
        UsageError: it is a checkpoint, or a subject file already, or names several models.
        SubjectError: it cannot be found or loaded, or is nothing that makes a model.
        ModelError: the model could not be built.
    """
    if not spec:
        raise UsageError("SPEC is empty; name FILE.py:NAME, or leave it out for a template.")
    if is_model_folder(spec):
        return _folder(spec, output)
    if is_checkpoint(spec):
        raise UsageError(_not_code(spec))
    known = set(sys.path)
    module, name = load_module(spec)
    if all(hasattr(module, each) for each in (name or "build_model", "build_data")) and (
        hasattr(module, "loss") or hasattr(module, "step")
    ):
        raise UsageError(
            f"{spec} is a subject file already, with model, data and loss: gradscope scan {spec}"
        )
    name = name or _only_model(module, spec)
    value = getattr(module, name, None)
    where = spec if spec.endswith(f":{name}") else f"{spec}:{name}"
    if value is None:
        raise SubjectError(f"{spec} has no {name}; {_choice(module, spec.rpartition(':')[0])}")
    if not callable(value):
        raise SubjectError(
            f"{where} is a {type(value).__name__}; name a function that builds the model, its "
            "class, or the model itself."
        )
    return _named(module, name, value, where, output, known)


def _not_code(spec: str) -> str:
    if Path(spec).is_dir():
        return (
            f"{spec} is a folder without a config.json, so it is no model of Hugging Face's; name "
            "the Python file that builds the model: gradscope init FILE.py:NAME."
        )
    return (
        f"{spec} is a checkpoint, which holds weights and no code. 'gradscope scan {spec}' needs "
        "no subject file; to run its model, name the code instead, gradscope init FILE.py:NAME, "
        f"and then gradscope scan {spec} --model FILE.py:NAME."
    )


def _named(
    module: ModuleType, name: str, value: Any, where: str, output: Path, known: set[str]
) -> Source:
    imported, spelled = _imported(module, name, output, known)
    source = replace(imported, label=where)
    if isinstance(value, nn.Module):
        copied = (
            "    # Each training begins from these weights; a function that builds the model would",
            "    # give fresh ones to each.",
            f"    return copy.deepcopy({spelled})",
        )
        return replace(
            source,
            model=call(copy.deepcopy, value, where=f"copying {where}"),
            standard=("import copy", *source.standard),
            body=copied,
        )
    missing = _required(value)
    if missing:
        body = (
            "    # FILL IN: the arguments that your model is made from.",
            "    raise NotImplementedError(",
            '        "fill in the arguments in build_model(), then take this line out of it"',
            "    )",
            *called(f"    return {spelled}", [f"{each}=..." for each in missing]),
        )
        return replace(source, body=body, missing=missing)
    build = checked_model(value, f"{name}() in {where.rpartition(':')[0]}")
    return replace(source, model=build(), body=(f"    return {spelled}()",))


def _required(value: Any) -> tuple[str, ...]:
    """The arguments without a default."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(
        each.name
        for each in parameters
        if each.default is inspect.Parameter.empty and each.kind not in variadic
    )


# --- Which of a module ------------------------------------------------------------------------


def _models(module: ModuleType) -> list[str]:
    """The classes of models that a module defines, else the models that lie in it."""
    content = vars(module).items()
    classes = [
        name
        for name, value in content
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
    ]
    return classes or [name for name, value in content if isinstance(value, nn.Module)]


def _only_model(module: ModuleType, spec: str) -> str:
    for name in _FACTORIES:
        if inspect.isroutine(getattr(module, name, None)):
            return name
    models = _models(module)
    if len(models) != 1:
        raise UsageError(f"{spec} does not say which model is meant; {_choice(module, spec)}")
    return models[0]


def _choice(module: ModuleType, spec: str) -> str:
    models = _models(module)[:_MOST_NAMED]
    if not models:
        return f"no model is defined there; name what builds it, such as {spec}:make_net."
    return f"name one: {', '.join(f'{spec}:{name}' for name in models)}."


# --- How it is imported -----------------------------------------------------------------------


def _imported(module: ModuleType, name: str, output: Path, known: set[str]) -> tuple[Source, str]:
    """How ``name`` is imported, and what it is called then."""
    path = Path(getattr(module, "__file__", None) or "").resolve()
    dotted = module.__name__
    by_path = dotted.startswith(BY_PATH)
    if by_path:
        dotted = path.stem
        if not _importable(dotted, path, output):
            return _loaded_by_path(path, output), f"code.{name}"
    spelled = f"my_{name}" if name in _TAKEN else name
    line = from_import(dotted, [f"{name} as {spelled}" if name in _TAKEN else name])
    root = _root(path, dotted)
    if root is None or (not by_path and _installed(root, known)):
        return Source("", None, others=(line,)), spelled
    if root == output.resolve().parent:
        return Source("", None, own=(line,)), spelled
    added = on_the_path(root, output)
    standard = ("import sys", "from pathlib import Path") if "Path(" in added else ("import sys",)
    return Source("", None, standard, own=(added, "", line)), spelled


def _root(path: Path, dotted: str) -> Path | None:
    """The folder that ``dotted`` is imported from; None where that is not how it was found."""
    *outer, last = dotted.split(".")
    for inside in ((*outer, f"{last}.py"), (*outer, last, "__init__.py")):
        if path.parts[-len(inside) :] == inside:
            return path.parents[len(inside) - 1]
    return None


def _loaded_by_path(path: Path, output: Path) -> Source:
    """For a file whose name is none that can be imported, or that something else has."""
    lines = (
        place(_CODE, path, output),
        f"sys.path.insert(0, str({_CODE}.parent))",
        f'specification = importlib.util.spec_from_file_location("code_of_the_model", {_CODE})',
        "code = importlib.util.module_from_spec(specification)",
        "sys.modules[specification.name] = code",
        "specification.loader.exec_module(code)",
    )
    standard = ("import importlib.util", "import sys", "from pathlib import Path")
    return Source("", None, standard, own=lines)


def _importable(stem: str, path: Path, output: Path) -> bool:
    """Whether the file is what is imported under its own name once its folder is on the path."""
    if not stem.isidentifier() or keyword.iskeyword(stem):
        return False
    if stem in sys.stdlib_module_names or stem == output.stem:
        return False
    try:
        found = importlib.util.find_spec(stem)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None and Path(found.origin).samefile(path)


def _installed(root: Path, known: set[str]) -> bool:
    """Whether what lies in ``root`` can be imported wherever Python is started."""
    places = {Path(each).resolve() for each in sysconfig.get_paths().values()}
    return root in places or (str(root) in known and root != Path.cwd())


# --- Folders of Hugging Face's ----------------------------------------------------------------


def _folder(spec: str, output: Path) -> Source:
    import transformers

    subject = load_folder(spec)
    model = subject.build_model()
    config: Any = model.config
    name = type(model).__name__
    if not hasattr(transformers, name):
        raise SubjectError(
            f"{spec} holds a {name}, which transformers does not offer by that name; gradscope "
            f"scan {spec} needs no subject file."
        )
    names, made = [name], f"{name}.from_pretrained({_FOLDER})"
    if "fresh weights" in subject.kind:
        names.append(type(config).__name__)
        made = f"{name}({names[1]}.from_pretrained({_FOLDER}))"
    body = [f"    return {made}"]
    if config.pad_token_id is not None and type(config).from_pretrained(spec).pad_token_id is None:
        body = [
            f"    model = {made}",
            "    # It looks for the padding of a sequence, and its config names no token for it.",
            f"    model.config.pad_token_id = {config.pad_token_id}",
            "    return model",
        ]
    return Source(
        f"{name} of {literal(spec)}",
        model,
        ("from pathlib import Path",),
        (from_import("transformers", names),),
        (place(_FOLDER, Path(spec), output),),
        tuple(body),
    )
