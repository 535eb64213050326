"""Targets, the loss, and the score that judges outputs by them.

``_targets`` encodes targets, which consist of ``_target_values``; ``_target_scores`` judges
outputs by them, and ``_objective`` is the loss with its error signal. A function given as loss is
called by ``_user_loss``, has the targets of ``_user_targets`` and is checked by
``_user_loss_checks``.
"""

from kpflow_sklearn.networks.loss._objective import Objective
from kpflow_sklearn.networks.loss._target_values import Targets, as_labels
from kpflow_sklearn.networks.loss._targets import TargetEncoder
from kpflow_sklearn.networks.loss._user_loss import Loss
from kpflow_sklearn.networks.loss._user_loss_checks import check_user_loss
from kpflow_sklearn.networks.loss._user_targets import target_encoder

__all__ = [
    "Loss",
    "Objective",
    "TargetEncoder",
    "Targets",
    "as_labels",
    "check_user_loss",
    "target_encoder",
]
