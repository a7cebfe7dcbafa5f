"""Cold evidence: how far what a checkpoint tells is to be trusted.

    python -m tests.benchmarks.bench_cold

Small networks are trained, some of them faulty, and saved as scripts do: the model's state_dict
and the optimizer's. Cold is what ``gradscope scan`` says of that file, with neither code nor data:
dead units from rows of the optimizer's moments that remember no gradient, vanishing from the
gradient of the first layers over that of the last. Warm is what ``gradscope.profile`` and
``diagnose`` say of the same weights on the data they were trained on, the saved optimizer going on.

The declared networks are each of MLP, CNN and Transformer with each of SGD, Adam and AdamW,
healthy and with each fault, all on Fashion-MNIST; the rates that kill were chosen by what a run
shows, and none was removed after its checkpoint had been looked at. The held-out ones are drawn at
random with other widths, depths, data, learning rates, schedules and faults, by a seed that no
limit was set by; some of the faults do not take, and a run says so. The hard ones are there because
their checkpoints tell less than a run does, or something else.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that it also starts as a file

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would print where each profile starts and ends

from gradscope.examples.experiments.command_line import (
    add_options,
    all_of,
    command,
    finish,
    natural,
)
from gradscope.examples.experiments.results import Run
from tests.benchmarks.cold_cases import DECLARED
from tests.benchmarks.cold_hard import HARD
from tests.benchmarks.cold_held_out import held_out
from tests.benchmarks.cold_tables import SETS, tables
from tests.benchmarks.cold_truth import examined

SEED = 2027
"""Of the held-out networks. Limits were set by the declared and hard ones, and by 1 and 2026."""


def one(name: str, number: int, seed: int) -> dict[str, Any]:
    """A network of a set, by its place there: what builds it cannot be handed to a process."""
    cases = {"declared": DECLARED, "hard": HARD, "held-out": held_out(seed)}
    return {"set": name, **examined(cases[name][number])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seed", type=natural, default=SEED, help="of the held-out networks")
    add_options(parser)
    arguments = parser.parse_args()
    sizes = {"declared": len(DECLARED), "held-out": len(held_out(0)), "hard": len(HARD)}
    calls = [
        (one, (name, number, arguments.seed))
        for name in arguments.sets
        for number in range(sizes[name])
    ]
    results = all_of(calls, arguments.jobs, "networks")
    settings = {**{name: sizes[name] for name in arguments.sets}, "seed": arguments.seed}
    made_by = command("-m tests.benchmarks.bench_cold", parser, arguments)
    finish(Run(made_by, settings, results), tables, arguments.json)


if __name__ == "__main__":
    main()
