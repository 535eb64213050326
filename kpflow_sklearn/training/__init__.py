"""Training a network, or reading the checkpoints of one that was trained elsewhere.

``_recurrent_trainer`` and ``_feedforward_trainer`` train, ``_recurrent_saved`` and
``_feedforward_saved`` read checkpoints. ``_saved_network`` is the copy of the network into which
the former loads them, ``_recurrent_parts`` copies what it is given. Both kinds share
``_recurrent_model`` or ``_feedforward_model``, and all of them ``_source``; ``_given_trainer`` is
what an analyzer may be given; ``_layout`` warns of data with other axes first. ``_loop`` is the
one training loop, ``_run`` the run that it advances, ``_snapshots`` the states that the run keeps,
``_run_folder`` the run on disk. ``_checkpoint_files`` finds and reads files, ``_names`` reads
iterations in their names, ``_stand_ins`` leaves out other objects than weights, and
``_state_dicts`` fits the contents to a network.
"""

from kpflow_sklearn.training._checkpoint_files import find_sources
from kpflow_sklearn.training._feedforward_model import TrainingRecord, check_table, check_values
from kpflow_sklearn.training._feedforward_trainer import FeedForwardTrainer
from kpflow_sklearn.training._given_trainer import (
    as_feedforward_trainer,
    as_trainer,
    is_classifying,
)
from kpflow_sklearn.training._recurrent_saved import SavedTraining
from kpflow_sklearn.training._recurrent_trainer import RecurrentTrainer
from kpflow_sklearn.training._snapshots import Snapshot

__all__ = [
    "FeedForwardTrainer",
    "RecurrentTrainer",
    "SavedTraining",
    "Snapshot",
    "TrainingRecord",
    "as_feedforward_trainer",
    "as_trainer",
    "check_table",
    "check_values",
    "find_sources",
    "is_classifying",
]
