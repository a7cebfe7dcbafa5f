"""Draw the weights anew, at the scale that the layers' fan and activation ask for."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import nn

from gradscope.errors import PlanError
from gradscope.profile.operators import saturation
from gradscope.records import Change, Finding, Prescription, Profile, Refusal, Role
from gradscope.remedies import Remedy, Undo, child
from gradscope.remedies.first_batch import on_first_batch
from gradscope.remedies.freshness import is_trained
from gradscope.remedies.schemes import (
    FITTED,
    LAYERS,
    RECURRENT,
    SCHEMES,
    can_be_drawn,
    draw,
    draw_tied,
    drawable,
    tied_heads,
    unit_variance,
)

__all__ = ["ReInitialise"]

# The slides' "weight increasing": a sigmoid's derivative is at most 1/4, so weights four times as
# large keep a backward signal that Xavier's let decay.
_GAIN_OF_SIGMOID = 4.0
_SLIDES_SIGMA = 1.0

_REASONS = {
    "he": "weights of variance 2 / fan-in keep the signal's scale",
    "xavier": "weights of variance 2 / (fan-in + fan-out) keep the signal's scale",
    "lsuv": "orthogonal weights are scaled until each layer's output has unit variance on data",
    "orthogonal": "orthogonal weights keep the length of every signal, in both directions",
}


class ReInitialise(Remedy):
    """Draw the weights anew, at the scale that the layers' fan and activation ask for.

    ## What it does
    Draws the weights of linear layers, convolutions, attention's projections and recurrent layers
    from a normal distribution: He's, Xavier's (times a gain), one of a given sigma, or from
    orthogonal matrices; biases are set to zero. LSUV draws orthogonal weights and, on the first
    batch that the model sees, divides those of each layer by the standard deviation of its output,
    one layer after the other; attention and recurrent layers have no part in it. Frozen,
    parametrised and shared weights stay.

    In RNN, LSTM, GRU and their cells each gate's matrix is drawn by itself. Whatever the scheme,
    but for ``normal``, those from hidden state to hidden state are orthogonal with gain 1, which
    keeps a signal's length over time (Saxe et al.; Le, Jaitly, Hinton for the identity; Keras has
    it as its default, with Xavier's for the inputs). The bias of an LSTM's forget gate is set to
    one, so that it forgets little at first (Jozefowicz et al.).

    An embedding that is the model's head as well (one tensor, or a function that takes it) is drawn
    once, at the head's scale: with He's and Xavier's scheme of variance 1 / width, since no
    activation is behind it. As PyTorch draws embeddings, from N(0, 1), logits would be as large as
    the root of the width. Other embeddings stay.

    For sigmoids, larger weights are tried too: Xavier's times 4, and N(0, 1) as in the slides. With
    N(0, 10), also there, most units are saturated; write ``"sigma": 10`` into a plan to see.

    ## When it applies
    To weights that have not learned anything yet: a scale that makes the signal decay, grow or
    die is repaired at its source, and so are units that start alike.

    ## When it must not be applied
    To trained weights: they are lost. It is refused where the first loss, or how much the rows of
    weights differ, shows that they are trained. In several processes, pass one batch before
    wrapping a model with LSUV in DDP, so that all of them start alike.

    ## Fix safety
    Unsafe: the parameters change. An optimizer has to forget what it knows of them.

    ## References
    The slides (Weight Increasing); Hu, Zhang, Ge, equations 13 and 14; Glorot, Bengio 2010, eq. 12
    and 16; He et al. 2015, eq. 10; Saxe, McClelland, Ganguli 2014 (orthogonal); Mishkin, Matas 2016
    (LSUV), algorithm 1; Le, Jaitly, Hinton 2015 (A simple way to initialize recurrent networks of
    rectified linear units); Jozefowicz, Zaremba, Sutskever 2015 (An empirical exploration of
    recurrent network architectures), section 2.2; Press, Wolf 2017 (Using the output embedding to
    improve language models).
    """

    name = "re-initialise"
    changes = (Change.PARAMETERS,)
    treats = (
        "GS101", "GS102", "GS201", "GS202", "GS203", "GS204", "GS206", "GS302", "GS303", "GS504",
        "GS601", "GS703",
    )  # fmt: skip
    parameters: ClassVar[dict[str, str]] = {
        "scheme": f"one of {', '.join(SCHEMES)}",
        "gain": "of xavier (default 1) and orthogonal (default the root of 2)",
        "sigma": "of normal: the standard deviation (default 0.05)",
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        own, tied = drawable(model), [*tied_heads(model), *_called_heads(model, profile)]
        sites = [name for name, _ in model.named_modules() if name in own or name in tied]
        if not sites or "" in sites:
            return [
                self.refusal(
                    "there is no linear, convolution, attention or recurrent layer that is trained "
                    "and has weights of its own"
                )
            ]
        # Rows that are alike have not been trained apart; nothing is lost with them.
        if is_trained(profile) and finding.code != "GS302":
            return [self.refusal("the weights are trained, and what they know would be lost")]
        modules = list(model.modules())
        bounded = any(
            saturation(module) is not None
            or (isinstance(module, RECURRENT) and getattr(module, "nonlinearity", "") != "relu")
            for module in modules
        )
        sigmoid = any(isinstance(module, nn.Sigmoid) for module in modules)
        decays = finding.code in ("GS101", "GS204", "GS703")
        choices: list[dict[str, str | float]] = [{"scheme": "xavier" if bounded else "he"}]
        if sigmoid and decays:
            larger: dict[str, str | float] = {"scheme": "xavier", "gain": _GAIN_OF_SIGMOID}
            choices = [larger, *choices, {"scheme": "normal", "sigma": _SLIDES_SIGMA}]
        elif decays or finding.code in ("GS102", "GS206", "GS303"):
            choices += [{"scheme": "lsuv"}, {"scheme": "orthogonal"}]
        return [
            self.prescription(finding, _reason(choice), suited, **choice)
            for choice in choices
            if (suited := _suited(model, sites, tied, choice))
        ]

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        scheme = str(prescription.parameters.get("scheme"))
        draw_one = draw(dict(prescription.parameters))
        fitted = scheme == "lsuv"
        heads = {model.get_submodule(name) for name in tied_heads(model)}
        modules = [child(model, site, self.name) for site in prescription.sites]
        for site, module in zip(prescription.sites, modules, strict=True):
            if not isinstance(module, LAYERS) or not can_be_drawn(module):
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, which is a {type(module).__name__}; "
                    "it needs layers with weights (linear, convolution, attention, recurrent or "
                    "an embedding that is the head, too) that are trained and their own: not "
                    "frozen or parametrised."
                )
            if fitted and (not isinstance(module, FITTED) or module in heads):
                raise PlanError(
                    f"{self.name} with scheme lsuv is prescribed for {site!r}, which has no weight "
                    "whose output it could look at alone; it needs linear or convolution layers "
                    "with weights that no other layer has."
                )
        tensors = [
            (module, tensor) for module in modules for tensor in module.parameters(recurse=False)
        ]
        values = [tensor.detach().clone() for _, tensor in tensors]

        def put_back() -> None:
            with torch.no_grad():
                for (_, tensor), value in zip(tensors, values, strict=True):
                    tensor.copy_(value)

        try:
            with torch.no_grad():
                for module, tensor in tensors:
                    draw_one(module, tensor)
                    if tensor.ndim > 1 and (module in heads or isinstance(module, nn.Embedding)):
                        draw_tied(model, tensor, scheme)
        except Exception as error:
            put_back()
            raise PlanError(
                f"{self.name} cannot draw the weights of {', '.join(prescription.sites)}: {error}."
            ) from error
        calls_off = [on_first_batch(module, unit_variance) for module in modules if fitted]

        def undo() -> None:
            for call_off in calls_off:
                call_off()
            put_back()

        return undo

    def renewed(self, model: nn.Module, prescription: Prescription) -> list[nn.Parameter]:
        return [
            parameter
            for site in prescription.sites
            for parameter in child(model, site, self.name).parameters(recurse=False)
        ]


def _called_heads(model: nn.Module, profile: Profile) -> list[str]:
    """Embeddings whose weight a function takes as the model's head.

    An output without a weight of its own is taken to be tied to the embedding of as many rows, as
    rule GS303 takes it.
    """
    others = {
        id(weight)
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
    }
    heads = []
    for site in profile.sites:
        if not (site.is_output and site.is_call and site.role is Role.LAYER):
            continue
        around = model.get_submodule(site.module)
        if any(each.ndim > 1 and site.units in each.shape for each in around.parameters(False)):
            continue
        fitting = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding)
            and module.num_embeddings == site.units
            and can_be_drawn(module)
            and id(module.weight) not in others
        ]
        heads += fitting if len(fitting) == 1 else []
    return list(dict.fromkeys(heads))


def _suited(
    model: nn.Module, sites: list[str], tied: list[str], choice: dict[str, str | float]
) -> list[str]:
    """LSUV looks at outputs of one weight; attention and recurrent layers have others inside."""
    if choice["scheme"] != "lsuv":
        return sites
    return [
        site for site in sites if isinstance(model.get_submodule(site), FITTED) and site not in tied
    ]


def _reason(choice: dict[str, str | float]) -> str:
    if "gain" in choice:
        return "a sigmoid's derivative is at most 1/4; weights four times Xavier's make up for it"
    if "sigma" in choice:
        return "larger weights make up for the small derivative of the sigmoid, as in the slides"
    return _REASONS[cast(str, choice["scheme"])]
