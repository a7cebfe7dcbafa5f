"""The options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradscope.errors import UsageError
from gradscope.records import Report, Severity, Skipped, Status

if TYPE_CHECKING:
    from gradscope.reports.nodes import Detail
    from gradscope.subject import Subject

__all__ = ["FailOn", "Format"]


class FailOn(StrEnum):
    """From which severity on findings make the exit status 1."""

    ERROR = "error"
    WARNING = "warning"
    NEVER = "never"

    def counts(self, severity: Severity) -> bool:
        return self is not FailOn.NEVER and severity.rank <= Severity(self.value).rank


class Format(StrEnum):
    """What a report can be written as."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    MARKDOWN = "markdown"
    SARIF = "sarif"
    JUNIT = "junit"


Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="A subject file (path/to/file.py), a module (package.module), either with :NAME for "
        "a function that builds the model; a checkpoint; or a Hugging Face folder.",
    ),
]
Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET...",
        help="A subject file (path/to/file.py), a module (package.module), either with :NAME for "
        "a function that builds the model; a Hugging Face folder; "
        "or a checkpoint, several of one run, or a folder of them.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="Build the model with FILE.py:NAME. The weights of a checkpoint are put into it; for "
        "one, SPEC may also be a Hugging Face folder or a .pt2.",
    ),
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="SPEC", help="Take batches from FILE.py:NAME.")
]
Loss = Annotated[
    str | None,
    typer.Option(
        "--loss", metavar="SPEC", help="Compute the loss with FILE.py:NAME(output, batch)."
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        metavar="3,32,32",
        help="Examine on random inputs of this shape, without the batch; without data and shape "
        "one is found out.",
    ),
]
Steps = Annotated[
    int, typer.Option("--steps", min=1, help="How many batches are passed to measure.")
]
Select = Annotated[
    str | None,
    typer.Option(
        "--select",
        metavar="CODES",
        help="Run these rules only, such as GS1,GS201, whatever pyproject.toml says.",
    ),
]
Ignore = Annotated[
    str | None,
    typer.Option(
        "--ignore",
        metavar="CODES",
        help="Leave these rules out too, beside those of pyproject.toml.",
    ),
]
Fail = Annotated[
    FailOn, typer.Option("--fail-on", help="The severity from which the exit status is 1.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the weights and everything drawn.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="D", help="Such as cpu, cuda, cuda:1, mps.")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="What the report is written as.")]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Write the report here.")
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="No progress; of text, the verdict and the names of the findings alone.",
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Text: all there is, with every fold opened.")
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="REPORT.json",
        help="A report that was saved before: what it has does not make the exit status 1.",
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Run the code in a pickled checkpoint. Only your own!"),
]

DEFAULT_STEPS = 8
"""As gradscope.profile.DEFAULT_STEPS, which cannot be imported without torch; a test compares."""


def codes(text: str | None) -> list[str] | None:
    """The entries of a comma-separated list, None where there is no list.

    Raises:
        UsageError: the list is empty.
    """
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not entries:
        raise UsageError(f"{text!r} names no rule; give codes such as GS1,GS201.")
    return entries


def detail(quiet: bool, verbose: bool) -> Detail:
    """How much of a report the text shows.

    Raises:
        UsageError: both were given.
    """
    from gradscope.reports.nodes import Detail

    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other; give one of them.")
    return Detail.QUIET if quiet else Detail.VERBOSE if verbose else Detail.NORMAL


def exit_status(report: Report, fail_on: FailOn) -> int:
    """What ``scan`` exits with; findings that its baseline has do not count."""
    new = (finding for finding in report.findings if not finding.known)
    return int(any(fail_on.counts(finding.severity) for finding in new))


def fix_status(report: Report, fail_on: FailOn) -> int:
    """What ``fix`` exits with: 0 when it is fixed, or nothing counts that would be to fix."""
    settled = (Status.FIXED, Status.NOTHING_TO_FIX)
    if report.verdict is not None and report.verdict.status in settled:
        return 0
    return exit_status(report, fail_on)


def one(targets: list[str]) -> str:
    """The only target.

    Raises:
        UsageError: there are several, which only checkpoints can be.
    """
    if len(targets) > 1:
        raise UsageError(
            f"{len(targets)} targets were given; subject files are scanned one at a time."
        )
    if not targets[0]:
        raise UsageError("The target is empty; name a subject file, a checkpoint or a folder.")
    return targets[0]


def refuse_trust_pickle(trusted: bool, target: str) -> None:
    """Of a target that is no checkpoint nothing is unpickled.

    Raises:
        UsageError: ``--trust-pickle`` was given.
    """
    if trusted:
        raise UsageError(f"--trust-pickle is for checkpoints, and {target} is none; leave it out.")


def refuse_without_model(target: str, **given: object) -> None:
    """A checkpoint alone is not run, so there is nothing that options of a run could mean.

    Raises:
        UsageError: one was given; they are named as in Python.
    """
    for name, value in given.items():
        if value is not None:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option} needs a model to run, and {target} is a checkpoint; give its code with "
                "--model FILE.py:NAME too."
            )


def subject_of(
    target: str,
    *,
    model: str | None,
    data: str | None,
    loss: str | None,
    input_shape: str | None,
    device: str | None,
    trust_pickle: bool = False,
) -> Subject:
    """The subject that a target and the options beside it describe.

    Raises:
        UsageError: options contradict each other or cannot be read.
        CheckpointError: the target is a checkpoint that does not fit the model, or is damaged.
        SubjectError: something they name does not exist.
    """
    from gradscope.huggingface import has_weights
    from gradscope.loading import is_checkpoint, load_callable, load_subject
    from gradscope.subject import step_from_loss

    if model is not None and (is_checkpoint(target) or has_weights(target)):
        subject = _restored(target, model, trust_pickle)
    elif is_checkpoint(target):
        raise UsageError(
            f"{target} is a checkpoint, which holds weights and nothing to run; give the code of "
            "its model with --model FILE.py:NAME."
        )
    else:
        refuse_trust_pickle(trust_pickle, target)
        subject = load_subject(target, model)
    if data is not None:
        if input_shape is not None:
            raise UsageError("--data and --input-shape exclude each other; give one of them.")
        subject = _on_own_data(subject, load_callable(data, "build_data"))
    if loss is not None:
        subject = replace(subject, step=step_from_loss(load_callable(loss, "loss")))
    if input_shape is not None:
        from gradscope.inputs import on_random_inputs

        subject = on_random_inputs(subject, _shape(input_shape), has_loss=loss is not None)
        subject = replace(subject, skipped=_without_data(subject))
    elif loss is not None and subject.build_data is None:
        from gradscope.inputs import on_inferred_inputs

        # A loss that was named is meant, also where there are no targets for it.
        subject = on_inferred_inputs(subject, has_loss=True)
    return subject if device is None else subject.on(_device(device))


def _on_own_data(subject: Subject, build_data: Callable[[], Iterable[Any]]) -> Subject:
    from gradscope.subject import own_loss_step

    # A loss that was made up for inputs that were says nothing of real ones.
    step = own_loss_step(subject.name) if subject.synthetic else subject.step
    return replace(
        subject,
        build_data=build_data,
        step=step,
        synthetic=False,
        skipped=_without_data(subject),
    )


def _without_data(subject: Subject) -> tuple[Skipped, ...]:
    """What was left out, without which inputs were made up."""
    return tuple(each for each in subject.skipped if each.what != "data")


def _restored(target: str, model: str, trust_pickle: bool) -> Subject:
    from gradscope.checkpoints import open_checkpoint
    from gradscope.exported import is_program
    from gradscope.loading import load_model
    from gradscope.restoring import restored

    checkpoint = open_checkpoint(target, trust_pickle=trust_pickle)
    subject, where = load_model(model, trust_pickle=trust_pickle)
    if is_program(model) and Path(target).samefile(model):
        # The graph has its own weights already.
        return subject
    return restored(subject, checkpoint, where)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(entry) for entry in text.split(","))
    except ValueError:
        shape = ()
    if not shape or any(extent < 1 for extent in shape):
        raise UsageError(f"--input-shape is {text!r}; write positive numbers such as 3,32,32.")
    return shape


def _device(name: str) -> str:
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--device {name} cannot be used here: {reason:.200}") from error
    return name
