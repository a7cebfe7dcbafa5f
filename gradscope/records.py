"""The nouns that flow through gradscope, as frozen dataclasses of plain Python values.

Nothing here imports torch, so reports can be read, rendered and validated without it.
Floats may be NaN or infinite where a model made them so: that is what findings are about.

A *step* is one batch passed forward and backward. A *site* is a place in the model whose
output is observed. A *unit* is a feature (last dimension of a linear layer's output) or a
channel (dimension 1 of a convolution's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from gradscope.history import TrainingHistory
from gradscope.severity import Severity
from gradscope.stored import Stored
from gradscope.trajectory import Snapshot

__all__ = [
    "DO_NOTHING",
    "SCHEMA_VERSION",
    "WHOLE",
    "Bias",
    "Change",
    "Finding",
    "Findings",
    "GradientNoise",
    "Invariant",
    "LayerInput",
    "LossCall",
    "Measure",
    "ModeLosses",
    "Origin",
    "ParameterBias",
    "ParameterProfile",
    "Plan",
    "Prescription",
    "Profile",
    "Refusal",
    "Report",
    "Role",
    "Severity",
    "SiteProfile",
    "Skipped",
    "Source",
    "Status",
    "Target",
    "Tool",
    "Trial",
    "Value",
    "Verdict",
]

WHOLE = "(model)"
"""The site of a model that is a single layer."""

DO_NOTHING = "do-nothing"
"""The arm of a comparison that trains the model as it is."""

SCHEMA_VERSION = 2
"""Of saved reports and plans. Raised whenever one gets keys that readers of before do not know.

Version 2 has ``Finding.known``, ``Report.limits`` and the command in ``Report.environment``. A key
that is new has a default, so that files of all versions before can be read; one that changes its
meaning or goes away needs to be changed in ``gradscope.reports.json`` as such files are read.
"""

Value = str | int | float | bool
"""What a parameter of a prescription may be."""


class Source(StrEnum):
    """Where a number came from."""

    MEASURED = "measured"
    OPTIMIZER_STATE = "optimizer-state"
    WEIGHTS = "weights"
    SYNTHETIC = "synthetic"


class Role(StrEnum):
    """What stands at a site.

    A non-linearity; a layer with weights of its own; a normalisation; a table that is looked up;
    attention (its softmax, or the whole of it where that is fused); or a gate, which is a
    non-linearity that only serves a larger activation around it.
    """

    ACTIVATION = "activation"
    LAYER = "layer"
    NORMALISATION = "normalisation"
    EMBEDDING = "embedding"
    ATTENTION = "attention"
    GATE = "gate"


class Change(StrEnum):
    """What a remedy changes. BACKWARD and TRAINING leave the model's function alone: safe."""

    BACKWARD = "backward"
    FORWARD = "forward"
    PARAMETERS = "parameters"
    STRUCTURE = "structure"
    TRAINING = "training"

    @property
    def safe(self) -> bool:
        return self in (Change.BACKWARD, Change.TRAINING)


class Status(StrEnum):
    """What verification found."""

    FIXED = "fixed"
    IMPROVED = "improved"
    NO_EFFECT = "no-effect"
    WORSE_UNDONE = "worse-undone"
    UNVERIFIED = "unverified"
    NOTHING_TO_FIX = "nothing-to-fix"


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was not measured or checked, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A remedy that was not proposed or not applied, and why."""

    remedy: str
    reason: str
    sites: tuple[str, ...] = ()


class _Shown:
    """Shows itself in a notebook. Printed anywhere else it is the record with all its fields.

    These two are IPython's protocol, and the only place where the core knows of reports: what is
    shown is decided there, and loaded when a notebook asks.
    """

    __slots__ = ()

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        from gradscope.reports.notebook import mimebundle

        return mimebundle(self, include, exclude)  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_(include=("text/html",))["text/html"]


# --- Profile ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """What was seen at one site. Series have one value per step, in step order.

    Attributes:
        name: ``layer1.0.relu``; the second use of the same module is ``layer1.0.relu@1``. A
            function or method called in a module's forward is ``layer1.0::relu@0``, counted for
            each module and function.
        role: what stands there.
        operator: class of the module, such as ``Sigmoid``, or name of the function.
        index: position in execution order, from 0.
        shape: of the output, samples moved to the front, as at the first step.
        unit_axis: the dimension of ``shape`` that counts units.
        is_output: whether this output is the model's own.
        forward_rms: root mean square of the output.
        variation: standard deviation across samples over RMS (dimensionless); 0 where all
            samples look the same. NaN for a batch of one.
        correlation: mean Pearson correlation between the outputs of two samples, of the first 64
            and over at most 1024 evenly spaced elements of each.
        backward_rms: RMS of dL/d(output) per sample, with the loss's mean over the batch (see
            ``Profile.reduction``) and its scale undone. NaN where no gradient arrived.
        forward_nonfinite, backward_nonfinite: how many elements were NaN or infinite.
        observations: samples times positions seen per unit, over all steps.
        dead: share of units that were never positive; None where the operator has no dead zone.
        always_positive: share of units positive on every observation; None as ``dead``.
        saturated: share of units whose derivative was below 1 % of its maximum on at least 95 %
            of the observations; None where the operator is not bounded.
        depth: how many sites the longest path of the autograd graph passes on its way here; where
            frozen parts have no graph, the path that the data takes.
        branch: whether there is a way around this site from the loss to every place where inputs
            enter that it depends on: it lies in a residual branch, or on one of several parallel
            paths between two sites.
        joins: for a branch, the first site behind it on the trunk, which every such way passes;
            else None.
        dtype: of the output, such as ``float32``.
        forward_peak: largest finite magnitude of the output.
        zeros: share of all elements that were exactly zero, over all steps.
        dormant: share of units with a mean magnitude of at most 2.5 % of the mean over the site's
            units (Sokar et al. 2023); None at other sites than activations.
        effective_rank: exponential of the entropy of the singular values' shares (Roy, Vetterli
            2007) of at most 128 evenly spaced observations by units, at the last step; None for
            fewer than two observations or units, or where one is not finite or all are zero.
        logit_peak: of attention, the largest magnitude among the scores that are not masked out;
            empty where the scores were not seen.
        entropy: of attention, mean over queries of the entropy of their weights in nats; empty as
            ``logit_peak``.
        backward_subnormal: of the gradient elements that are not zero, the share too small for
            ``dtype`` to hold in full precision, before the loss's scale is undone; NaN where all
            are zero, empty for types with the range of float32.
        time_steps: of a fused recurrent layer, how many its sequences have at most; else 0.
        time_decay: of a fused recurrent layer, the RMS over samples of the gradient that it gives
            back to its input at the end of time far from the loss, over that at the end near it.
            Near is each sample's last time step that any gradient reaches, far the first time
            step; of a bidirectional layer, far is the middle of what gradients reach and near the
            larger of its ends. Empty where unseen, as for packed sequences.
    """

    name: str
    role: Role
    operator: str
    index: int
    shape: tuple[int, ...]
    unit_axis: int
    is_output: bool
    forward_rms: tuple[float, ...]
    variation: tuple[float, ...]
    correlation: tuple[float, ...]
    backward_rms: tuple[float, ...]
    forward_nonfinite: tuple[int, ...]
    backward_nonfinite: tuple[int, ...]
    observations: int
    dead: float | None
    always_positive: float | None
    saturated: float | None
    depth: int = 0
    branch: bool = False
    joins: str | None = None
    dtype: str = "float32"
    forward_peak: tuple[float, ...] = ()
    zeros: float = 0.0
    dormant: float | None = None
    effective_rank: float | None = None
    logit_peak: tuple[float, ...] = ()
    entropy: tuple[float, ...] = ()
    backward_subnormal: tuple[float, ...] = ()
    time_steps: int = 0
    time_decay: tuple[float, ...] = ()

    @property
    def units(self) -> int:
        return self.shape[self.unit_axis]

    @property
    def is_call(self) -> bool:
        """Whether a function or method is called there, not a module."""
        return "::" in self.name

    @property
    def module(self) -> str:
        """Name of the module that stands there, or in which the function is called."""
        name = self.name.partition("::")[0].partition("@")[0]
        return "" if name == WHOLE else name


@dataclass(frozen=True, slots=True)
class ParameterProfile:
    """One parameter over the steps.

    Attributes:
        name: as in ``named_parameters()``.
        shape: as stored.
        trainable: ``requires_grad``.
        reached: whether the module that owns it ran and used it.
        weight_norm: Euclidean norm before the first step.
        nonfinite: how many of its elements were NaN or infinite before the first step.
        gradient_norm: per step the Euclidean norm of dL/dw, None where no gradient arrived.
        update_ratio: per step the norm of the actual update over the norm of the weight before
            it (dimensionless); empty where no optimizer was given.
        duplicate_rows: share of rows that are not all zero and equal another row, before the first
            step; 0 for fewer than two dimensions.
        symmetric_rows: share of rows that equal another one before the first step, and in the
            gradient of every step to half of the type's digits: no training tells them apart. Rows
            of zeros count where their gradients are zero too; 0 where no gradient arrived.
        row_spread: standard deviation of the norms of its rows over their mean, before the first
            step (dimensionless); 0 for fewer than two dimensions and frozen parameters.
    """

    name: str
    shape: tuple[int, ...]
    trainable: bool
    reached: bool
    weight_norm: float
    nonfinite: int
    gradient_norm: tuple[float | None, ...]
    update_ratio: tuple[float, ...]
    duplicate_rows: float = 0.0
    symmetric_rows: float = 0.0
    row_spread: float = 0.0

    @property
    def module(self) -> str:
        """Name of the module that owns it."""
        return self.name.rpartition(".")[0]

    @property
    def elements(self) -> int:
        product = 1
        for extent in self.shape:
            product *= extent
        return product


@dataclass(frozen=True, slots=True)
class GradientNoise:
    """How much the gradient of a batch owes to which samples are in it (McCandlish et al. 2018).

    Attributes:
        batches: how many were passed, whole and half.
        samples: in a half.
        squared_norm: unbiased estimate of the squared norm of the gradient over all data; noise
            can make it negative.
        covariance: estimate of the trace of the covariance of one sample's gradient.
    """

    batches: int
    samples: int
    squared_norm: float
    covariance: float

    @property
    def scale(self) -> float:
        """The simple noise scale in samples; NaN where no gradient stands out from the noise."""
        if not (self.squared_norm > 0 and self.covariance >= 0):
            return float("nan")
        return self.covariance / self.squared_norm


@dataclass(frozen=True, slots=True)
class LossCall:
    """The loss function of torch's that the loss was made with, and what it was given.

    Attributes:
        function: its name, such as ``cross_entropy``.
        behind: name of the operation that made its input, such as ``softmax``, ``sigmoid`` or
            ``relu``; empty where it is none with bounds of its own.
        outputs: of its input, how many values stand for one prediction: the classes of
            ``cross_entropy``, the last extent elsewhere.
        input_low, input_high: the range of its input over all steps.
        target_low, target_high: the range of its targets over all steps; class numbers where they
            are class numbers.
        targets_vary: whether the targets of a batch differ from each other.
        guess: the loss of a prediction that favours nothing: ln C for C classes, ln 2 for yes or
            no; NaN for other losses.
        constant: per step, the loss of the best prediction that is the same for all samples: the
            entropy of the labels, the variance of the targets; NaN where it is not known.
        total_low, total_high: the range of what one prediction adds up to over its classes: of the
            values where ``cross_entropy`` is given none below 0, of their exponentials for
            ``nll_loss``; NaN elsewhere.
    """

    function: str
    behind: str
    outputs: int
    input_low: float
    input_high: float
    target_low: float
    target_high: float
    targets_vary: bool
    guess: float
    constant: tuple[float, ...]
    total_low: float = float("nan")
    total_high: float = float("nan")


@dataclass(frozen=True, slots=True)
class LayerInput:
    """What a layer with weights was given that data reaches first: it has passed no site before.

    Attributes:
        site: its name.
        rms: per step.
        peak: per step, the largest finite magnitude.
        feature_spread: per step, the largest RMS of a feature (a channel of images) over the
            median of those that are not zero; NaN where all are.
    """

    site: str
    rms: tuple[float, ...]
    peak: tuple[float, ...]
    feature_spread: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModeLosses:
    """The loss of the same batches, with the weights after the steps, in both modes.

    Attributes:
        train, eval: mean over these batches, in ``train()`` and in ``eval()``.
        batches_averaged: on how many batches the running statistics of normalisations rest, the
            fewest of any; None where there are none.
        memory: how many batches their averages reach back: one over the momentum, the longest.
    """

    train: float
    eval: float
    batches_averaged: int | None
    memory: float | None


@dataclass(frozen=True, slots=True)
class Profile(_Shown):
    """Everything measured about a model over a few steps.

    Attributes:
        source: ``measured``, or ``synthetic`` where the inputs were made up.
        batch_size: samples in the first batch, over all processes.
        losses: one per step, their scale undone.
        input_variation: of the model's inputs, per step, as ``SiteProfile.variation``; empty
            where the inputs are not floating point.
        sites: in execution order.
        optimizer: class name of the optimizer that made the updates, or None.
        epsilon: the optimizer's ``eps`` where it divides by gradient magnitudes, else None.
        seed: what the random number generators were set to.
        skipped: what was not measured, and why.
        reduction: ``mean`` or ``sum``: how the loss reduces over samples, as its graph shows.
        gradient_noise: at the weights after the steps; None where it was skipped.
        processes: how many took part.
        losses_after: one per step: the loss of the same batch again after the update that was
            made from it; empty where no optimizer was given, or where it could not be computed.
        output_variation: of the first tensor that the model returned with a row for each sample
            (else several), per step, as ``SiteProfile.variation``; empty where there is none.
        loss_call: the loss function that was called; None where torch's were not.
        first_inputs: of each layer with weights that data reaches first; empty where it is in
            no floating point.
        clipping: per step, the gradient's norm that the optimizer's update was made from over the
            norm before hooks of the optimizer changed it; empty where no optimizer was given.
        modes: None where it was skipped.
        stored: what a checkpoint told; where nothing was run, all that is measured is empty.
        trajectory: of a run's checkpoints, of which this is the newest, in the order of training.
        training: of a run that a monitor recorded; all else is then of its newest samples.
    """

    source: Source
    batch_size: int
    losses: tuple[float, ...]
    input_variation: tuple[float, ...]
    sites: tuple[SiteProfile, ...]
    parameters: tuple[ParameterProfile, ...]
    optimizer: str | None
    epsilon: float | None
    seed: int
    skipped: tuple[Skipped, ...] = ()
    reduction: str = "mean"
    gradient_noise: GradientNoise | None = None
    processes: int = 1
    losses_after: tuple[float, ...] = ()
    output_variation: tuple[float, ...] = ()
    loss_call: LossCall | None = None
    first_inputs: tuple[LayerInput, ...] = ()
    clipping: tuple[float, ...] = ()
    modes: ModeLosses | None = None
    stored: Stored | None = None
    trajectory: tuple[Snapshot, ...] = ()
    training: TrainingHistory | None = None

    @property
    def steps(self) -> int:
        return len(self.losses)

    @property
    def measured(self) -> bool:
        """Whether the model was run, and not only read."""
        return self.steps > 0

    @property
    def activations(self) -> tuple[SiteProfile, ...]:
        return tuple(site for site in self.sites if site.role is Role.ACTIVATION)

    def site(self, name: str) -> SiteProfile:
        """The site of that name; KeyError where there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)


# --- Findings ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of evidence, the limit it was held against, and where it came from."""

    value: float
    limit: float | None
    source: Source


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault that one rule found.

    Attributes:
        code: of the rule, such as ``GS101``.
        name: of the rule, such as ``vanishing-gradient``.
        sites: where, first faulty first; names of sites or of parameters.
        message: one sentence with the numbers in it.
        evidence: by measure.
        cause: code of the finding that explains this one, or None.
        remedies: names of the remedies that treat it.
        since: the first step at which it shows, from 0. What shows earlier is caused by nothing
            that shows later.
        known: whether the baseline that the report was held against has it, at least as severe and
            at these sites; such findings do not fail a gate.
    """

    code: str
    name: str
    severity: Severity
    sites: tuple[str, ...]
    message: str
    evidence: dict[str, Measure]
    cause: str | None = None
    remedies: tuple[str, ...] = ()
    since: int = 0
    known: bool = False


@dataclass(frozen=True, slots=True)
class Findings(_Shown):
    """What diagnosis made of a profile. Iterates over its findings.

    Attributes:
        profile: what was diagnosed.
        items: the findings, causes first.
        skipped: what could not be measured or checked.
        checked: codes of the rules that were run; empty for all.
    """

    profile: Profile
    items: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()
    checked: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(finding.code for finding in self.items)


# --- Plan -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prescription:
    """One application of one remedy, complete enough to be carried out again on a fresh model.

    Attributes:
        remedy: its name.
        changes: what it changes.
        sites: the sites (or parameters' modules) it is applied to.
        parameters: the remedy's own settings.
        finding: code of the finding it treats.
        reason: why this remedy, here.
    """

    remedy: str
    changes: tuple[Change, ...]
    sites: tuple[str, ...]
    parameters: dict[str, Value]
    finding: str
    reason: str

    @property
    def safe(self) -> bool:
        return all(change.safe for change in self.changes)


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that a plan was read from.

    Attributes:
        name: of the file.
        line: the line of a place in it, such as ``("plan", "prescriptions", 0, "sites", 1)``.
    """

    name: str
    line: Callable[[tuple[int | str, ...]], int]


class _MayHaveOrigin:
    """Room for what is no part of a plan: equal plans need not come from the same file."""

    __slots__ = ("origin",)

    origin: Origin


@dataclass(frozen=True, slots=True)
class Plan(_Shown, _MayHaveOrigin):
    """What to do about the findings.

    One that was read from a file also has an ``origin``, for messages.

    Attributes:
        prescriptions: applied together, in this order, by ``gradscope.apply``.
        alternatives: other plans' prescriptions, best first, that verification also tries.
        refusals: remedies that do not apply here, with their reasons.
        seed: fixes every random number that applying the plan draws.
    """

    prescriptions: tuple[Prescription, ...] = ()
    alternatives: tuple[tuple[Prescription, ...], ...] = ()
    refusals: tuple[Refusal, ...] = ()
    seed: int = 0


# --- Verdict ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """One short training, from matched weights with a matched batch order.

    Attributes:
        arm: what was tried: ``do-nothing``, ``do-nothing, learning rate x3``, or remedies.
        seed: of the weights and the batch order.
        steps: optimizer steps taken.
        metric: the value after the last step; NaN where training diverged.
        curve: (step, mean training loss since the point before).
        matched: whether it belongs to the matched comparison, not to the selection before it.
    """

    arm: str
    seed: int
    steps: int
    metric: float
    curve: tuple[tuple[int, float], ...]
    matched: bool


@dataclass(frozen=True, slots=True)
class Invariant:
    """Something that a repair must not change, and whether it held."""

    name: str
    held: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ParameterBias:
    """Of one parameter, over all the batches.

    Attributes:
        name: as in ``named_parameters()``.
        cosine: between the artificial and the true gradient (dimensionless); NaN where one of the
            two is zero or is not finite.
        ratio: norm of the artificial gradient over that of the true one (dimensionless); NaN where
            both are zero, infinity where the true one is.
        true_zero, artificial_zero: whether all elements of that gradient are zero, or none came.
    """

    name: str
    cosine: float
    ratio: float
    true_zero: bool
    artificial_zero: bool

    @property
    def note(self) -> str:
        """What a NaN means, in words."""
        if self.true_zero and self.artificial_zero:
            return "both gradients are zero"
        if self.true_zero:
            return "the true gradient is zero"
        if self.artificial_zero:
            return "the artificial gradient is zero"
        return "a gradient is not finite" if math.isnan(self.cosine) else ""


@dataclass(frozen=True, slots=True)
class Bias:
    """How far artificial derivatives turn gradients; printing it makes a table.

    Attributes:
        whole: of all parameters taken together, named ``(all)``.
        parameters: one for each parameter that asks for a gradient, in the model's order.
        batches: how many batches the gradients are summed over.
    """

    whole: ParameterBias
    parameters: tuple[ParameterBias, ...]
    batches: int

    def __str__(self) -> str:
        rows = [self.whole, *self.parameters]
        width = max(len("parameter"), *(len(row.name) for row in rows))
        lines = [f"{'parameter':<{width}}  {'cosine':>9}  {'ratio':>9}"]
        for row in rows:
            line = f"{row.name:<{width}}  {_cosine(row.cosine):>9}  {_cosine(row.ratio):>9}"
            lines.append(f"{line}  {row.note}".rstrip())
        return "\n".join(lines)


def _cosine(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Verdict(_Shown):
    """What verification found.

    Attributes:
        metric: name of what is compared.
        higher_is_better: direction of the metric.
        before, after: mean over the matched seeds of do-nothing, and of the repair.
        interval: 95 % confidence interval of the mean paired difference after - before.
        p_value: of the paired t-test that the difference is zero (two-sided).
        effect_size: mean paired difference over its standard deviation (Cohen's d_z).
        seeds: the matched seeds.
        baselines: mean of every other arm that ran on the matched seeds.
        invariants: what was checked to be unchanged.
        bias: where the repair has an artificial derivative, how far it turns the gradient of the
            weights that training starts from.
        trials: all trainings, selection first.
        failed_before, failed_after: share of matched runs that diverged or ended no better than
            they started.
        remaining: codes of findings in the repaired and trained models, new ones too.
        profile: of the repaired model after its first matched trial.
        reason: one sentence that says why this status.
    """

    status: Status
    reason: str
    metric: str | None = None
    higher_is_better: bool = True
    before: float | None = None
    after: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    effect_size: float | None = None
    seeds: tuple[int, ...] = ()
    baselines: dict[str, float] = field(default_factory=dict)
    invariants: tuple[Invariant, ...] = ()
    bias: Bias | None = None
    trials: tuple[Trial, ...] = ()
    failed_before: float | None = None
    failed_after: float | None = None
    remaining: tuple[str, ...] = ()
    profile: Profile | None = None


# --- Report -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Target:
    """What was examined: the name it was given by, what kind of thing that is, its size."""

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Report(_Shown):
    """All of it, as it is saved, rendered and gated on.

    Attributes:
        environment: versions, device and, of the command line, the command.
        limits: the limits in force of each rule that was run, by its code and their names; empty
            for stored runs.
    """

    schema_version: int
    tool: Tool
    target: Target
    environment: dict[str, str]
    profile: Profile | None
    findings: tuple[Finding, ...]
    plan: Plan | None
    verdict: Verdict | None
    skipped: tuple[Skipped, ...]
    refusals: tuple[Refusal, ...]
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
