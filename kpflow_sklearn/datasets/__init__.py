"""Synthetic tasks on which recurrent networks are trained and analysed, and helpers for data.

One file per task; ``_periods`` lays out the periods of a trial, ``_padding`` pads trials of
unequal lengths, ``_neurogym`` fetches NeuroGym's tasks, ``_example_run`` loads a trained network.
"""

from kpflow_sklearn._common.public import public_names
from kpflow_sklearn.datasets._example_run import load_example_run
from kpflow_sklearn.datasets._flip_flop import make_flip_flop
from kpflow_sklearn.datasets._memory_pro import make_memory_pro
from kpflow_sklearn.datasets._multitask import make_multitask
from kpflow_sklearn.datasets._neurogym import fetch_neurogym
from kpflow_sklearn.datasets._padding import pad_sequences, trials_first

__all__ = [
    "fetch_neurogym",
    "load_example_run",
    "make_flip_flop",
    "make_memory_pro",
    "make_multitask",
    "pad_sequences",
    "trials_first",
]

__dir__ = public_names(__all__)
