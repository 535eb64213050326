"""Synthetic tasks on which recurrent networks are trained and analysed, and helpers for data."""

from ._example_run import load_example_run
from ._flip_flop import make_flip_flop
from ._memory_pro import make_memory_pro
from ._multitask import make_multitask
from ._neurogym import fetch_neurogym
from ._padding import pad_sequences, trials_first

__all__ = [
    "fetch_neurogym",
    "load_example_run",
    "make_flip_flop",
    "make_memory_pro",
    "make_multitask",
    "pad_sequences",
    "trials_first",
]
