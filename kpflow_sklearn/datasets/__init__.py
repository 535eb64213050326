"""Tasks on which recurrent networks are trained and analysed, and tools for users' own trials.

Each synthetic task has its own file. ``_periods`` divides trials into periods, ``_padding`` pads
trials of unequal lengths, ``_neurogym`` fetches the tasks of NeuroGym, and ``_example_run`` loads
a trained network.
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
