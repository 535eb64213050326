"""Tables of results and their vocabulary, without torch.

``_estimate`` is a value with its error, ``_table`` the tidy table and its files, and
``_bottleneck`` the table of ranks that names the narrower operator.
"""

from kpflow_sklearn._common.public import public_names
from kpflow_sklearn.results._bottleneck import RANK_COLUMNS as RANK_COLUMNS
from kpflow_sklearn.results._bottleneck import bottleneck_table as bottleneck_table
from kpflow_sklearn.results._estimate import NOISY as NOISY
from kpflow_sklearn.results._estimate import OPERATORS as OPERATORS
from kpflow_sklearn.results._estimate import OVERFLOW as OVERFLOW
from kpflow_sklearn.results._estimate import ZERO as ZERO
from kpflow_sklearn.results._estimate import Estimate as Estimate
from kpflow_sklearn.results._table import COLUMNS as COLUMNS
from kpflow_sklearn.results._table import SCHEMA_VERSION as SCHEMA_VERSION
from kpflow_sklearn.results._table import provenance as provenance
from kpflow_sklearn.results._table import read_results, select, write_results
from kpflow_sklearn.results._table import row as row
from kpflow_sklearn.results._table import to_csv as to_csv
from kpflow_sklearn.results._table import to_frame as to_frame
from kpflow_sklearn.results._table import with_whole_numbers as with_whole_numbers

__all__ = ["read_results", "select", "write_results"]

__dir__ = public_names(__all__)
