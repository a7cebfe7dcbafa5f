"""What the experiments share; they stand one folder up, as ``examples/*.py``.

To add one: a file in ``examples`` with a ``main`` and ``tables(run)``, its name in ``EXPERIMENTS``
of ``tests/examples/test_examples.py``, a run of it with ``--json docs/experiments/NAME.json``, and
``make docs``, which writes a page from that: the docstring, the command and settings, the tables.

To add an arm to the paper's tables: an entry of ``ARMS`` in its file. To add a derivative to the
search: a line in ``candidates.py``. A test then asks for the cells that the kept run lacks; all
draw their numbers from seeds, so that only these need be trained, with ``--only`` where there is
such an option, and added to the file.

- ``results.py``: tables, and the file a run is kept in; ``command_line.py``: options and processes.
- ``ensemble.py``: many small networks trained as one; ``handover.py``: when they use the artificial
  derivative; ``approximation.py``: cells of the paper's Tables 2 and 4; ``significance.py``.
- ``candidates.py``: what the search for a default compares.
- ``alexnet.py``, ``colour_images.py``, ``cifar100.py``: networks and data of Figures 7 to 9.
"""
