"""Errors defined by this package."""


class UnsupportedNetworkError(ValueError):
    """The analysis does not support this kind of network, for the reason that the message gives.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import UnsupportedNetworkError, linearize
    >>> try:
    ...     linearize(torch.nn.Linear(2, 2), torch.ones(1, 3, 2))
    ... except UnsupportedNetworkError:
    ...     print("no recurrent part")
    no recurrent part
    """


class CheckpointError(ValueError):
    """A saved state does not match the network, or holds values that cannot be used.

    Examples
    --------
    >>> from kpflow_sklearn import CheckpointError
    >>> issubclass(CheckpointError, ValueError)
    True
    """
