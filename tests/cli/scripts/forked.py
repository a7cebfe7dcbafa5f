"""Runs the scripts beside it, each in a fork of this process, plain and with ``gradscope run``.

Imports take longer than these trainings; in a fork they are done already. Called with a folder for
what comes of it, ``JOB/plain`` and ``JOB/run``, and with jobs: a script and its arguments, perhaps
behind ``--model=NAME``.
"""

from __future__ import annotations

import gc
import importlib
import os
import shlex
import sys
from pathlib import Path

import torch._dynamo  # noqa: F401  (every optimizer imports it)

import gradscope.monitor  # noqa: F401
from gradscope.cli import main

HERE = Path(__file__).parent
IMPORTED = {"lightning_module": "pytorch_lightning", "hf_trainer": "transformers.trainer"}

place, *jobs = sys.argv[1:]
ways = [(job, how) for job in jobs for how in ("plain", "run")]
for job, how in ways:
    words = shlex.split(job)
    options = [words.pop(0)] if words[0].startswith("-") else []
    script, *arguments = words
    if script in IMPORTED:
        importlib.import_module(IMPORTED[script])
    folder = Path(place, job.replace(" ", "-"), how)
    folder.mkdir(parents=True)
    # Or every fork would look through all that is imported once more when it ends.
    gc.freeze()
    child = os.fork()
    if not child:
        break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    (folder / "status").write_text(str(status))
else:
    sys.exit()

os.chdir(folder)
for name, stream in (("stdout", 1), ("stderr", 2)):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
path = str(HERE / f"{script}.py")
if how == "run":
    sys.argv = ["gradscope", "run", *options, path, *arguments]
    main()
else:
    # Not runpy: its frames would be in the tracebacks.
    sys.argv = [path, *arguments]
    sys.path[0] = str(HERE)
    globals().update(__file__=path, __doc__=None)
    exec(compile(Path(path).read_text(), path, "exec", dont_inherit=True))
