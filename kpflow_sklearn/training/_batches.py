"""The order in which samples are trained on."""

from __future__ import annotations

import numpy as np
import torch


class Batches:
    """Index batches for ever; every pass over the samples is shuffled afresh.

    Parameters
    ----------
    n_samples : int
        Number of samples.
    batch_size : int or None
        Size of a batch; None or too large for all of them, in order.
    generator : torch.Generator
        Source of the shuffling.
    """

    def __init__(self, n_samples: int, batch_size: int | None, generator: torch.Generator) -> None:
        self.n_samples, self.generator = n_samples, generator
        self.is_full = batch_size is None or batch_size >= n_samples
        self.size = n_samples if batch_size is None else min(batch_size, n_samples)
        self.order, self.start = torch.arange(n_samples), 0 if self.is_full else n_samples

    def __next__(self) -> np.ndarray:
        """Return the indices of the next batch."""
        if self.is_full:
            return self.order.numpy()
        if self.start >= self.n_samples:
            self.order = torch.randperm(self.n_samples, generator=self.generator)
            self.start = 0
        batch = self.order[self.start : self.start + self.size]
        self.start += self.size
        return batch.numpy()
