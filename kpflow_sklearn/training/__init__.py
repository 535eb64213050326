"""Training a network, or reading the checkpoints of one that was trained elsewhere.

``_recurrent_trainer`` and ``_feedforward_trainer`` train, ``_recurrent_saved`` and
``_feedforward_saved`` read checkpoints; ``_recurrent_model`` and ``_feedforward_model`` are what
both give. ``_loop`` is the one training loop, ``_batches`` its minibatches, ``_run_folder`` a run
on disk, ``_checkpoint_files`` which files are read and in which order, ``_state_dicts`` what their
keys mean.
"""

from kpflow_sklearn.training._checkpoint_files import find_sources
from kpflow_sklearn.training._feedforward_model import TrainingRecord, check_table, check_values
from kpflow_sklearn.training._feedforward_saved import as_feedforward_trainer
from kpflow_sklearn.training._feedforward_trainer import FeedForwardTrainer
from kpflow_sklearn.training._loop import Snapshot
from kpflow_sklearn.training._recurrent_saved import SavedTraining, as_trainer
from kpflow_sklearn.training._recurrent_trainer import RecurrentTrainer

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
]
