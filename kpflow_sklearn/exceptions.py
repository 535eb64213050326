"""The errors that are this package's own."""


class UnsupportedNetworkError(ValueError):
    """The network is of a kind that the analysis cannot take, and the message says why."""


class CheckpointError(ValueError):
    """A saved state does not fit the network it is to be loaded into."""
