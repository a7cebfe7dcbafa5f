"""The subject file for a model: what the model tells is filled in, what it does not is said."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gradscope.errors import ModelError
from gradscope.inputs import transformers_config
from gradscope.randomness import preserved_randomness
from gradscope.scaffold.losses import Loss, choose, output_of
from gradscope.scaffold.made_up import Inputs
from gradscope.scaffold.source import Source, find
from gradscope.scaffold.spelling import comment

__all__ = ["Draft", "Told", "draft"]

_BATCHES = 64

_HEADER = '''\
"""What gradscope examines: a model, its batches, its loss, its optimizer.

Written by `gradscope init`. GUESS marks what was guessed, FILL IN what only you know.
"""'''


@dataclass(frozen=True, slots=True)
class Told:
    """One thing in the file: what stands there, how sure that is, and what to check."""

    part: str
    what: str
    sure: str
    check: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A subject file, not written yet; ``complete`` says whether a scan can run on it already."""

    text: str
    told: tuple[Told, ...]
    complete: bool


def draft(spec: str, output: Path) -> Draft:
    """The subject file for the model that ``spec`` names, as it reads at ``output``.

    The model is built once, and passed made-up batches to find out what it takes.

    Raises:
        UsageError: the model need not or cannot be put into a subject file.
        TargetError: the model cannot be found, loaded or built.
    """
    with preserved_randomness(0):
        source = find(spec, output)
        found = _Found(source)
    blocks = [
        ("def build_model():", *source.body),
        *found.data(),
        found.loss(),
        found.optimizer(),
        found.evaluation(),
    ]
    uses = "\n".join(line for block in blocks for line in block if not line.startswith("#"))
    parts = (_head(source, "F." in uses), *("\n".join(block) for block in blocks))
    text = "\n\n\n".join(parts)
    return Draft(f"{text}\n", found.told(), found.complete)


def _head(source: Source, functional: bool) -> str:
    others = list(source.others)
    if functional:
        others.append("from torch.nn import functional as F")
    packages = "\n".join(["import torch", *sorted(others)])
    parts = (_HEADER, "\n".join(source.standard), packages, "\n".join(source.own))
    return "\n\n".join(part for part in parts if part)


class _Found:
    """What was found out of one model, and the parts of the file that follow from it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._inputs: Inputs | None = None
        self._failure = ""
        self._loss: Loss | None = None
        if source.model is not None:
            self._try(source.model)

    def _try(self, model: nn.Module) -> None:
        try:
            self._inputs = Inputs(model)
            self._loss = choose(output_of(model, self._inputs.batch), self._inputs.main)
        except ModelError as error:
            self._inputs = None
            # What follows is about options of a scan, which a file needs none of.
            what, _, advice = str(error).partition(";")
            self._failure = f"{what}." if "--data" in advice else str(error)

    @property
    def complete(self) -> bool:
        return self._inputs is not None and self._loss is not None and self._loss.code is not None

    # --- The parts of the file ----------------------------------------------------------------

    def data(self) -> list[tuple[str, ...]]:
        if self._source.model is None:
            remark = comment(
                "FILL IN: your data, a list of batches or a DataLoader: def build_data(). A batch "
                "is a tensor, a pair (inputs, targets), or a mapping whose keys are the arguments "
                "of forward. Without it a scan makes up inputs, and marks what it finds as "
                '"synthetic".'
            )
            return [tuple(remark)]
        if self._inputs is None:
            return [self._unknown_data(self._source.model)]
        return [(*self._without_data(), "#", *_commented(self._made_up_data()))]

    def _unknown_data(self, model: nn.Module) -> tuple[str, ...]:
        takes = ", ".join(_arguments(model))
        return (
            *comment(
                f"FILL IN: what it takes could not be found out: {self._failure} Its forward takes "
                f"({takes}). A batch is a tensor, a pair (inputs, targets), or a mapping whose "
                "keys are the arguments of forward; for anything else write step(model, batch), "
                "which returns the loss, in place of loss. Return a list of batches or a "
                "DataLoader."
            ),
            "def build_data():",
            "    raise NotImplementedError(",
            '        "fill in build_data() in this file: it returns batches for the model"',
            "    )",
        )

    def _without_data(self) -> list[str]:
        assert self._inputs is not None
        return comment(
            f"FILL IN: your data. These inputs pass: {self._inputs.described()}; other sizes may "
            "pass as well. As long as build_data() is a comment, a scan makes up inputs of that "
            'kind and a loss with them, its report says "synthetic", and no repair can be proved. '
            "Take the comment marks off and put your own tensors in, or return a DataLoader; it "
            "is gone through again and again."
        )

    def _made_up_data(self) -> list[str]:
        assert self._inputs is not None and self._loss is not None
        name = "inputs" if self._loss.targets else "batch"
        lines = self._inputs.lines(name)
        if self._loss.targets:
            lines.append(f"targets = {self._loss.targets}")
        appended = "(inputs, targets)" if self._loss.targets else name
        return [
            "def build_data():",
            "    batches = []",
            f"    for _ in range({_BATCHES}):",
            *(f"        {line}" for line in lines),
            f"        batches.append({appended})",
            "    return batches",
        ]

    @property
    def _by_name(self) -> bool:
        """Whether ``loss`` would not do: a mapping has no place for targets."""
        return (
            self._inputs is not None
            and isinstance(self._inputs.batch, Mapping)
            and self._loss is not None
            and self._loss.targets is not None
        )

    def loss(self) -> tuple[str, ...]:
        loss = self._loss
        if loss is None or loss.code is None:
            why = "what the model returns is not known" if loss is None else loss.why
            return (
                *comment(
                    f"FILL IN: the loss; {why}. It gets what the model returned and the whole "
                    "batch, and returns a scalar tensor that backward() can be called on."
                ),
                "def loss(output, batch):",
                '    raise NotImplementedError("fill in loss(output, batch) in this file")',
            )
        mark = "" if loss.sure == "known" else "GUESS: "
        used = "" if loss.targets is None else " It is used once there is build_data()."
        remark = comment(f"{mark}{loss.why}.{used}".replace("?.", "?"))
        if self._by_name:
            head = [
                "def step(model, batch):",
                "    inputs, targets = batch",
                "    output = model(**inputs)",
            ]
        else:
            head = ["def loss(output, batch):"]
            if loss.targets is not None:
                head.append("    targets = batch[1]")
        return (*remark, *head, f"    return {loss.code}")

    def optimizer(self) -> tuple[str, ...]:
        return (
            *comment(
                "GUESS: put in what you train with. What is a fault depends on it: Adam divides "
                "a small gradient by its own size and learns all the same, where SGD stands still."
            ),
            "def build_optimizer(parameters):",
            f"    return torch.optim.{self._optimizer()}",
        )

    def _optimizer(self) -> str:
        model = self._source.model
        if model is not None and transformers_config.is_of_its_kind(model):
            return "AdamW(parameters, lr=5e-5)"  # as transformers' TrainingArguments have it
        return "Adam(parameters, lr=1e-3)"  # as torch's Adam has it

    def evaluation(self) -> tuple[str, ...]:
        remark = comment(
            "FILL IN, if you like: what `gradscope fix` judges repairs by; without it the loss is. "
            "The first number counts, best of data that is not trained on (held_out here). "
            "The model is in eval mode, without gradients."
        )
        loss = self._loss
        if loss is not None and loss.classes:
            model = "model(**inputs)" if self._by_name else "model(inputs)"
            lines = [
                "HIGHER_IS_BETTER = True",
                "",
                "",
                "def evaluate(model):",
                "    inputs, targets = held_out()",
                f"    right = {model}.argmax(dim=1) == targets",
                '    return {"accuracy": right.float().mean().item()}',
            ]
        else:
            lines = [
                "def evaluate(model):",
                f"    losses = [{self._loss_of_batch()} for batch in held_out()]",
                '    return {"loss": sum(losses) / len(losses)}',
            ]
        return (*remark, "#", *_commented(lines))

    def _loss_of_batch(self) -> str:
        if self._by_name:
            return "step(model, batch).item()"
        if self._loss is None or self._loss.targets is not None:
            return "loss(model(batch[0]), batch).item()"
        mapping = self._inputs is not None and isinstance(self._inputs.batch, Mapping)
        return f"loss(model({'**' * mapping}batch), batch).item()"

    # --- What is said of it -------------------------------------------------------------------

    def told(self) -> tuple[Told, ...]:
        return (self._told_model(), *self._told_inputs(), self._told_loss(), self._told_optimizer())

    def _told_model(self) -> Told:
        source = self._source
        if source.model is None:
            missing = ", ".join(source.missing)
            return Told(
                "model", source.label, "missing", f"it needs {missing}: fill in build_model()"
            )
        count = sum(each.numel() for each in source.model.parameters())
        return Told("model", f"{source.label}, {count:,} parameters", "built")

    def _told_inputs(self) -> tuple[Told, ...]:
        if self._source.model is None:
            return (Told("data", "none", "missing", "fill in build_data()"),)
        if self._inputs is None:
            return (Told("data", self._failure.rstrip("."), "missing", "fill in build_data()"),)
        known = transformers_config.is_of_its_kind(self._source.model)
        return (
            Told(
                "inputs",
                self._inputs.described(),
                "likely" if known else "a guess",
                "they pass; are they of the size that you train on?",
            ),
            Told(
                "data",
                "none of yours yet",
                "missing",
                "fill in build_data(); until then reports say synthetic, and fix proves nothing",
            ),
        )

    def _told_loss(self) -> Told:
        if self._loss is None or self._loss.code is None:
            return Told("loss", "none", "missing", "fill in loss(output, batch)")
        check = "" if self._loss.sure == "known" else f"{self._loss.why}"
        return Told("loss", self._loss.short, self._loss.sure, check)

    def _told_optimizer(self) -> Told:
        return Told("optimizer", self._optimizer(), "a guess", "put in what you train with")


def _commented(lines: list[str]) -> list[str]:
    return [f"# {line}" if line else "#" for line in lines]


def _arguments(model: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return ["its own arguments"]
