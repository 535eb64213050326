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
    """The alignment matrices of all snapshots.

    Attributes
    ----------
    iterations : list of int
        Iterations of the snapshots.
    names : ndarray of shape (n_tasks,)
        Names of the tasks.
    matrices : dict of str to ndarray of shape (n_snapshots, n_tasks, n_tasks)
        The matrices of each kind.
    matched : bool
        Whether update compares trials of matched conditions.
    n_groups : int or None
        Number of groups to form; None for the number with the best silhouette score.
    """

    iterations: list[int]
    names: np.ndarray
    matrices: dict[str, np.ndarray]
    matched: bool
    n_groups: int | None

    def cumulative(self) -> dict[str, np.ndarray]:
        """Return the mean of each matrix over training up to each snapshot.

        The integral over iterations, by the trapezoidal rule, is divided by the number of
        iterations so far; at the first snapshot the mean is the matrix itself. If an entry is NaN
        at one end of an interval, the mean of that entry leaves this interval out.
        """
        steps = np.diff(self.iterations).astype(float)[:, None, None]
        out = {}
        for kind, series in self.matrices.items():
            # Means between snapshots, (n_snapshots - 1, n_tasks, n_tasks), as the arrays below.
            between = (series[1:] + series[:-1]) / 2
            is_finite = np.isfinite(between)
            total = np.cumsum(np.where(is_finite, between, 0) * steps, axis=0)
            weight = np.cumsum(is_finite * steps, axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = total / weight
            out[kind] = np.concatenate([series[:1], mean])
        return out

    @property
    def operator_kind(self) -> str:
        """The matrix that shows the groups of the operators: update if matched, else flow."""
        return "update" if self.matched else "flow"

    @property
    def final_groups(self) -> np.ndarray:
        """The groups of the defining source at the last snapshot, (n_tasks,)."""
        if self.defining_source == "state":
            return group_tasks(self.matrices["state"][-1], self.n_groups)
        return group_tasks(self.cumulative()[self.operator_kind][-1], self.n_groups)

    @property
    def defining_source(self) -> str:
        """The source of the final groups.

        Outputs share all states, so their groups are those of the cumulative operators.
        """
        return "state" if "state" in self.matrices else f"cumulative {self.operator_kind}"

    @property
    def transition(self) -> int | None:
        """The iteration from which on the groups of the states are the final ones, or None."""
        return self.lasting_from("state")

    @property
    def lead(self) -> int | None:
        """Number of iterations by which cumulative operators show the final groups earlier."""
        operators, states = self.lasting_from(f"cumulative {self.operator_kind}"), self.transition
        return None if states is None or operators is None else states - operators

    def groupings(self) -> pd.DataFrame:
        """Return the groups that each source shows at each snapshot, as ``grouping_history_``.

        The sources are "state", "cumulative state", "cumulative update" or "cumulative flow", and
        "cumulative gradient". The columns ``margin`` and ``chance`` are those of the final groups;
        ``chance`` is NaN for the matrix from which the final groups were formed.
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
        """Return the iteration from which on a source of `groupings` shows the final groups.

        It is None if the source shows other groups at the last snapshot, if there are no groups to
        tell apart (fewer than three tasks, one group, or one group per task), or if there is only
        one snapshot.
        """
        n_groups = self.final_groups.max() + 1
        if len(self.iterations) < 2 or n_groups in (1, len(self.names)) or len(self.names) < 3:
            return None
        kind = source.removeprefix("cumulative ")
        if kind not in self.matrices:
            return None
        series = self.matrices[kind] if source == kind else self.cumulative()[kind]
        groupings = [group_tasks(matrix, self.n_groups) for matrix in series]
        first = first_lasting(groupings, self.final_groups)
        return None if first is None else self.iterations[first]

    def frame(self, series: np.ndarray) -> pd.DataFrame:
        """Return matrices (n_snapshots, n_tasks, n_tasks) as a table with rows (iteration, task).

        ``.loc[iteration]`` is the matrix of one snapshot, with one column per task.
        """
        index = pd.MultiIndex.from_product(
            [self.iterations, self.names], names=["iteration", "task"]
        )
        columns = pd.Index(self.names, name="other_task")
        return pd.DataFrame(series.reshape(-1, len(self.names)), index=index, columns=columns)
