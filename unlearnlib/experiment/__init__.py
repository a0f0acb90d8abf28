"""Notebooks as experiments: their parameters, what is missing of what they ask for, computing it.

`parameters.py` checks what a notebook was given, `experiment.py` finds the records that it asks
for, `effort.py` says how long the others take, `work.py` computes them, and `everything.py` does so
for all studies of a profile.
"""
