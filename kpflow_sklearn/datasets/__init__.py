"""Synthetic tasks on which recurrent networks are trained and analysed."""

from ._flip_flop import make_flip_flop
from ._memory_pro import make_memory_pro
from ._multitask import make_multitask

__all__ = ["make_flip_flop", "make_memory_pro", "make_multitask"]
