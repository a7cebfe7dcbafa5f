"""What the experiments share: ensembles, networks, data, tables. They stand one folder up.

An experiment is an example that prints tables of many trainings. It has a ``main``, and a function
``tables`` that makes the tables out of a run as it is kept (``results.py``); ``make docs`` writes a
page from the same.
"""
