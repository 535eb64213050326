"""The command: python -m tests.tools.benchmarks --help."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence

import torch

from tests.tools.benchmarks.check import check
from tests.tools.benchmarks.fit import fit
from tests.tools.benchmarks.memory import child, memory
from tests.tools.benchmarks.problems import CELLS, Size
from tests.tools.benchmarks.products import products
from tests.tools.benchmarks.scaling import scaling
from tests.tools.benchmarks.spectra import spectra
from tests.tools.benchmarks.tables import Report, Table

SECTIONS = ("products", "spectra", "fit", "memory", "scaling")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the defaults are the scale of the paper."""
    parser = argparse.ArgumentParser("python -m tests.tools.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    add("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    add("--hidden", nargs="+", type=int, default=[64, 256, 512], help="numbers of units")
    add("--trials", type=int, default=50)
    add("--steps", type=int, default=90)
    add("--probes", type=int, default=30)
    add("--noise", type=float, default=0.0, help="of the inputs; raises the activity's rank")
    add("--repeats", type=int, default=5, help="slow ones (20 s) twice, very slow (100 s) once")
    add("--threads", type=int, help="torch.set_num_threads")
    add("--max-gb", type=float, default=6.0, help="do not store Jacobians larger than this")
    add("--output", metavar="FILE", help="write the tables to a markdown file")
    add("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Yield the tables of the chosen sections as they are finished."""
    for section in options.sections:
        for cell in options.cells:
            sizes = [
                Size(cell, h, options.trials, options.steps, options.probes, options.noise)
                for h in sorted(options.hidden)
            ]
            if section == "scaling":
                yield scaling(sizes[len(sizes) // 2], options.repeats)
                continue
            for size in sizes:
                if section == "products":
                    yield from products(size, options.repeats, options.max_gb)
                elif section == "spectra":
                    yield spectra(size, options.repeats)
                elif section == "fit":
                    yield fit(size, options.repeats)
                else:
                    yield memory(size, options.max_gb)


def main() -> None:
    """Run the benchmarks."""
    # Forward mode loads torch's own decompositions through a deprecated name.
    warnings.simplefilter("ignore", DeprecationWarning)
    options = parse()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.child is not None:
        child(options.child)
        return
    report = Report(options.output, "python -m tests.tools.benchmarks " + shlex.join(sys.argv[1:]))
    print(f"check: {check()} products agree with ours to 1e-4", end="\n\n", flush=True)
    for table in tables(options):
        report.add(table)


if __name__ == "__main__":
    main()
