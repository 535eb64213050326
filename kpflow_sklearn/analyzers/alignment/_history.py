"""Alignment matrices over training: their cumulative means, groups, transition and lead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kpflow_sklearn.analyzers.alignment._grouping import (
    chance_of_margin,
    describe_groups,
    first_lasting,
    group_tasks,
    margin,
)


@dataclass(frozen=True)
class AlignmentHistory:
    """The matrices of every snapshot.

    Attributes
    ----------
    iterations : list of int
        Of the snapshots.
    names : ndarray of shape (n_tasks,)
        Tasks.
    matrices : dict of str to ndarray of shape (n_snapshots, n_tasks, n_tasks)
        One for each kind.
    matched : bool
        Whether update compares matched trials.
    n_groups : int or None
        How many groups to make; None for the best silhouette.
    """

    iterations: list[int]
    names: np.ndarray
    matrices: dict[str, np.ndarray]
    matched: bool
    n_groups: int | None

    def cumulative(self) -> dict[str, np.ndarray]:
        """Return the mean of each matrix over training up to each snapshot.

        The matrices between two snapshots are taken as the mean of both, weighted by the
        iterations between (trapezoidal rule), and the sum is divided by all iterations so far.
        The first snapshot stands for itself. NaN entries are left out of the mean.
        """
        steps = np.diff(self.iterations).astype(float)[:, None, None]
        out = {}
        for kind, series in self.matrices.items():
            between = (series[1:] + series[:-1]) / 2
            known = np.isfinite(between)
            total = np.cumsum(np.where(known, between, 0) * steps, axis=0)
            weight = np.cumsum(known * steps, axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = total / weight
            out[kind] = np.concatenate([series[:1], mean])
        return out

    @property
    def operator_kind(self) -> str:
        """The matrix by which the operators call the groups: update if matched, else flow."""
        return "update" if self.matched else "flow"

    @property
    def final_groups(self) -> np.ndarray:
        """The groups of the final states; of outputs, which share theirs, of the operators."""
        if self.defining_source == "state":
            return group_tasks(self.matrices["state"][-1], self.n_groups)
        return group_tasks(self.cumulative()[self.operator_kind][-1], self.n_groups)

    @property
    def defining_source(self) -> str:
        """Where the final groups come from."""
        return "state" if "state" in self.matrices else f"cumulative {self.operator_kind}"

    def groupings(self) -> pd.DataFrame:
        """Return the groups that each source shows at each snapshot.

        Returns
        -------
        DataFrame
            Columns iteration, source ("state", "cumulative state", "cumulative update" or
            "cumulative flow", "cumulative gradient"), groups, is_final, margin (of the final
            groups: mean similarity within less that between) and chance (share of permuted
            task labels with at least that margin; NaN for the matrix that the final groups were
            cut from).
        """
        cumulative, final = self.cumulative(), self.final_groups
        sources = {f"cumulative {self.operator_kind}": cumulative[self.operator_kind]}
        if "state" in self.matrices:
            sources |= {
                "state": self.matrices["state"],
                "cumulative state": cumulative["state"],
            }
        sources["cumulative gradient"] = cumulative["gradient"]
        rows = []
        for source, series in sources.items():
            for iteration, matrix in zip(self.iterations, series, strict=True):
                groups = group_tasks(matrix, self.n_groups)
                symmetric = (matrix + matrix.T) / 2
                defining = source == self.defining_source and iteration == self.iterations[-1]
                rows.append(
                    {
                        "iteration": iteration,
                        "source": source,
                        "groups": describe_groups(self.names, groups),
                        "is_final": bool(np.array_equal(groups, final)),
                        "margin": margin(symmetric, final),
                        "chance": np.nan if defining else chance_of_margin(symmetric, final),
                    }
                )
        return pd.DataFrame(rows)

    def lasting_from(self, source: str) -> int | None:
        """Return the first iteration from which a source's groups stay the final ones.

        Parameters
        ----------
        source : str
            One of those that `groupings` names.

        Returns
        -------
        int or None
            None if they are others at the end, if there are no groups to tell apart (fewer than
            three tasks, all in one group or each in its own), or but one snapshot.
        """
        n_groups = self.final_groups.max() + 1
        if len(self.iterations) < 2 or n_groups in (1, len(self.names)) or len(self.names) < 3:
            return None
        kind = source.removeprefix("cumulative ")
        if kind not in self.matrices:
            return None
        series = self.matrices[kind] if source == kind else self.cumulative()[kind]
        groupings = [group_tasks(matrix, self.n_groups) for matrix in series]
        place = first_lasting(groupings, self.final_groups)
        return None if place is None else self.iterations[place]

    def frame(self, series: np.ndarray) -> pd.DataFrame:
        """Return matrices over training as a table, rows (iteration, task), columns tasks.

        Parameters
        ----------
        series : ndarray of shape (n_snapshots, n_tasks, n_tasks)
            Matrices.

        Returns
        -------
        DataFrame
            ``.loc[iteration]`` is one of them.
        """
        index = pd.MultiIndex.from_product(
            [self.iterations, self.names], names=["iteration", "task"]
        )
        columns = pd.Index(self.names, name="other_task")
        return pd.DataFrame(series.reshape(-1, len(self.names)), index=index, columns=columns)
