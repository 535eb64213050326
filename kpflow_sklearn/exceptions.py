"""The errors that are this package's own."""


class UnsupportedNetworkError(ValueError):
    """The network is of a kind that the analysis cannot take, and the message says why.

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
    """A saved state does not fit the network it is to be loaded into.

    Examples
    --------
    >>> from kpflow_sklearn import CheckpointError
    >>> issubclass(CheckpointError, ValueError)
    True
    """
