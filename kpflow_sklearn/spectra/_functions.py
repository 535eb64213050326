"""Spectra of operators on trajectories: trace, effective dimension and rank on each axis.

For an operator O the Gram G is K for K, PKP* for PKP* and O O* for P and anything else
(``gram="natural"``), or O O* for all (``gram="square"``). The axes "trial", "time" and "hidden"
keep one axis and reduce G by the partial trace over the others; "all" keeps the whole space.

effective dimension = (tr G)^2 / tr G^2, and rank = the least r for which the r largest eigenvalues
sum to at least ``rank_threshold`` times the whole trace, tr G.
"""

from __future__ import annotations

from kpflow_sklearn._common.checks import check_choice, check_real
from kpflow_sklearn.operators import LinearOperator
from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra._gramians import AXES
from kpflow_sklearn.spectra._operator_spectra import OperatorSpectra
from kpflow_sklearn.spectra._spectrum import Spectrum

__all__ = ["OperatorSpectra", "Spectrum", "effective_dimension", "rank", "spectrum", "trace"]


def spectrum(op: LinearOperator, axis: str = "all", **options: object) -> Spectrum:
    """Return the spectrum of an operator's Gram on one axis.

    Equation: the eigenvalues of the partial trace of G over the other axes, with G = K for K,
    PKP* for PKP* and O O* for P and any other operator O.

    Parameters
    ----------
    op : LinearOperator
        K, P, PKP* or any other operator onto trajectories (n_trials, n_timesteps, n_states).
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis that is kept.
    **options
        The options of `OperatorSpectra`.

    Returns
    -------
    Spectrum
        Eigenvalues, trace, effective dimension and their standard errors.

    Raises
    ------
    ValueError
        If the axis or an option has a value that is not listed.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> from kpflow_sklearn.spectra import spectrum
    >>> module = torch.nn.ModuleDict({"rnn": torch.nn.RNN(1, 4), "out": torch.nn.Linear(4, 1)})
    >>> on_time = spectrum(linearize(module, torch.ones(2, 6, 1)).P, "time")
    >>> on_time.method, len(on_time.eigenvalues)
    ('exact', 6)
    """
    check_choice(axis, "axis", AXES)
    return OperatorSpectra(op, axes=(axis,), **options).on(axis)  # type: ignore[arg-type]


def trace(op: LinearOperator, axis: str = "all", **options: object) -> Estimate:
    """Return the trace of an operator's Gram.

    Equation: tr G, with G = K for K, PKP* for PKP* and O O* for P and any other operator O.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis that is kept. The trace is the same on all axes, but its error may differ.
    **options
        The options of `OperatorSpectra`.

    Returns
    -------
    Estimate
        Value and standard error.

    Raises
    ------
    ValueError
        If the axis or an option has a value that is not listed.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> from kpflow_sklearn.spectra import trace
    >>> exact = trace(lin.K, "time")
    >>> exact.value > 0, exact.std_error
    (True, 0.0)
    """
    return spectrum(op, axis, **options).trace


def effective_dimension(op: LinearOperator, axis: str = "all", **options: object) -> Estimate:
    """Return (tr G)^2 / tr G^2 of an operator's Gram.

    Equation: (sum lambda)^2 / sum lambda^2, with lambda the eigenvalues of G on the axis; n equal
    eigenvalues give n.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis that is kept.
    **options
        The options of `OperatorSpectra`.

    Returns
    -------
    Estimate
        Value and standard error.

    Raises
    ------
    ValueError
        If the axis or an option has a value that is not listed.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> from kpflow_sklearn.spectra import effective_dimension
    >>> 1 <= effective_dimension(lin.P, "time").value <= 5
    True
    """
    return spectrum(op, axis, **options).effective_dimension


def rank(
    op: LinearOperator, axis: str = "time", *, rank_threshold: float = 0.95, **options: object
) -> Estimate:
    """Return the rank: the least r for which the r largest eigenvalues reach a share of the trace.

    Equation: min r with lambda_1 + ... + lambda_r >= rank_threshold * tr G.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    axis : {"all", "trial", "time", "hidden"}, default="time"
        The axis that is kept.
    rank_threshold : float, default=0.95
        Share of the trace.
    **options
        The options of `OperatorSpectra`.

    Returns
    -------
    Estimate
        Value and standard error, or a missing value with its reason.

    Raises
    ------
    ValueError
        If the value of the axis, the threshold or an option is not as described.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> from kpflow_sklearn.spectra import rank
    >>> 1 <= rank(lin.P, "time").value <= 5
    True
    """
    check_choice(axis, "axis", AXES)
    check_real(rank_threshold, "rank_threshold", 0, 1, open_minimum=True)
    return OperatorSpectra(op, axes=(axis,), **options).rank(axis, rank_threshold)  # type: ignore[arg-type]
