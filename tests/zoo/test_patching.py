"""Every activation of the families is reached, and nothing but the backward pass changes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from gradscope.batches import call_model
from gradscope.derivatives import Derivative, derivatives
from gradscope.errors import PlanError
from gradscope.patching import operators_of, reach
from gradscope.profile import profile_steps
from gradscope.profile.preserve import preserved, same_bits
from gradscope.profile.sharding import bare
from gradscope.records import Profile, Role
from tests.zoo.families import FAMILIES, Family

# Counted by a module's class and a function's name; the first derivative of an operator is taken.
BY_OPERATOR: dict[str, Derivative] = {}
BY_CLASS: dict[type[nn.Module], Derivative] = {}
for kind in derivatives().values():
    for operator in operators_of(kind):
        BY_OPERATOR.setdefault(operator, kind())
    if kind.native is not None:
        BY_CLASS.setdefault(kind.native, kind())

NO_GRADIENT_CHANGES = {
    "activation-of-the-input": "no parameter lies before the activation",
    "conv3d": "no slope of its ELUs is below the floor",
}
FEWER_USES = {"teacher": "one call is made without gradients"}
MORE_USES = {"checkpoint": "used again when the segment is recomputed"}
OTHER_OUTPUTS = {"force": "its output contains a gradient"}

REACHED: Counter[str] = Counter()
"""Kinds of sites that were reached, and families; printed at the end."""


@pytest.fixture(autouse=True, scope="module")
def _prints() -> Iterator[None]:
    yield
    print(f"\nreached: {dict(REACHED)}")


def passed(model: nn.Module, family: Family, training: bool) -> dict[str, Tensor | None]:
    """The loss and all gradients of one step; nothing of it stays on the model."""
    batch = family.batches()[0]
    with preserved(model, seed=0), torch.enable_grad():
        model.train(training)
        if family.step is not None:
            loss = family.step(model, batch)
        else:
            loss = family.loss(call_model(model, batch), batch)
        loss.backward()
        found: dict[str, Tensor | None] = {"loss": loss.detach()}
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            dense = gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient
            found[name] = None if dense is None else dense.clone()
    return found


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return (one is None) == (other is None) and (
        one is None or other is None or same_bits(one, other)
    )


def differing(one: dict[str, Tensor | None], other: dict[str, Tensor | None]) -> list[str]:
    return [name for name in one if not same(one[name], other[name])]


def structure(model: nn.Module) -> list[object]:
    return [
        (name, type(module), id(module), sorted(vars(module)), sorted(module._forward_hooks))
        for name, module in model.named_modules(remove_duplicate=False)
    ]


def sites_of(model: nn.Module, profile: Profile) -> list[tuple[str, str, Derivative]]:
    """Each activation with a derivative: its own name, that of all its kind, the derivative."""
    found = []
    for site in profile.sites:
        if site.role not in (Role.ACTIVATION, Role.GATE):
            continue
        if site.is_call:
            operator = site.name.partition("::")[2].partition("@")[0]
            derivative, everything = BY_OPERATOR.get(operator), site.name.partition("@")[0]
            one = site.name
        else:
            derivative = BY_CLASS.get(type(bare(model).get_submodule(site.module)))
            everything = site.name.partition("@")[0]
            one = site.name if "@" in site.name else f"{site.name}@0"
        if derivative is not None:
            found.append((one, everything, derivative))
    return found


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_activation_is_reached(family: Family) -> None:
    if family.needs is not None:
        pytest.importorskip(family.needs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch and transformers say of a model is theirs
        check(family)


def check(family: Family) -> None:
    model = family.build()
    step = family.step or (lambda model, batch: family.loss(call_model(model, batch), batch))
    profile = profile_steps(model, family.batches()[:1], step, steps=1)
    sites = sites_of(model, profile)
    if not sites:
        REACHED["families without an activation that has a derivative"] += 1
        return
    before = {mode: passed(model, family, mode) for mode in (True, False)}
    state, places = model.state_dict(), structure(model)

    uses = Counter((everything, derivative) for _, everything, derivative in sites)
    reached = reach(bare(model), list(uses))
    expected = list(uses.values())
    after = passed(model, family, True)
    called = [setting.calls for setting in reached.settings]
    if family.name in MORE_USES:
        assert all(map(int.__ge__, called, expected))
    elif family.name in FEWER_USES:
        assert all(map(int.__le__, called, expected))
    else:
        assert called == expected
    for mode, seen in ((True, after), (False, passed(model, family, False))):
        assert same(seen["loss"], before[mode]["loss"]) is (family.name not in OTHER_OUTPUTS)
    changed = differing(before[True], after)
    assert bool(changed) is (family.name not in NO_GRADIENT_CHANGES)
    assert list(model.state_dict()) == list(state)
    for setting in reached.settings:
        setting.set(0.0)
    assert not differing(before[True], passed(model, family, True))
    reached()
    assert structure(model) == places
    assert not differing(before[True], passed(model, family, True))
    assert not differing(before[False], passed(model, family, False))
    assert all(same(value, model.state_dict()[key]) for key, value in state.items())

    if family.step is None and family.name not in FEWER_USES:
        # The same, each use by its own name. Several passes in one step begin anew.
        single = reach(bare(model), [(one, derivative) for one, _, derivative in sites])
        alone = passed(model, family, True)
        assert not differing(after, alone)
        if family.name not in MORE_USES:
            assert [setting.calls for setting in single.settings] == [1] * len(sites)
        single()
        assert structure(model) == places
    REACHED["families"] += 1
    REACHED["modules"] += sum("::" not in one for one, _, _ in sites)
    REACHED["calls"] += sum("::" in one for one, _, _ in sites)


def test_most_families_were_reached() -> None:
    if REACHED.total() < len(FAMILIES) // 2:
        pytest.skip("needs the tests above")
    assert REACHED["families"] >= 100


COMPILED = (
    "mlp-relu", "reused", "functional", "highway", "frozen-first", "resnet", "wavenet", "swin",
    "encoder-post-norm-relu", "lstm-by-hand", "siamese", "deep-sets", "frames", "autocast",
)  # fmt: skip


def breaks(model: nn.Module, family: Family) -> int:
    torch._dynamo.reset()
    batch = family.batches()[0]
    with preserved(model, seed=0):
        explained = torch._dynamo.explain(lambda batch: call_model(model, batch))(batch)
    return int(explained.graph_break_count)


# torch.compile itself makes an instance of autograd.Function, which torch warns of.
@pytest.mark.filterwarnings("ignore")
def test_compiled_families_have_no_more_graph_breaks() -> None:
    more = {}
    for name in COMPILED:
        model = FAMILIES[name].build()
        before = breaks(model, FAMILIES[name])
        for kind in ("relu-logistic", "sigmoid-min", "tanh-min"):
            for site in ("*", "*::*"):
                # Many have none of that kind.
                with suppress(PlanError):
                    reach(model, [(site, derivatives()[kind]())])
        added = breaks(model, FAMILIES[name]) - before
        if added:
            more[name] = added
    torch._dynamo.reset()
    print(f"\ncompiled: {len(COMPILED)} families, graph breaks more than unpatched: {more or 0}")
    assert not more
