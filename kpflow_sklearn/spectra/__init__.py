"""Spectra of K, P and PKP*: exact where structure allows it, estimated with an error elsewhere.

``_functions`` are the public functions, ``_operator_spectra`` answers all questions about one
operator, ``_routes`` chooses how, by cost, and ``_plan`` adds the costs up. Exact: ``_units`` (K)
and ``_gramians`` (P). ``_counts`` interpolates P's rank between counts of eigenvalues. Estimated:
``_half_factor`` (A of G = A A^T, by chunks of trials), ``_sketch`` and ``_sketches`` (its random
vectors), ``_moments`` (traces), ``_krylov``, ``_lanczos_rank``; ``_modes`` are leading
eigenvectors, ``_spectrum`` holds a Gram's eigenvalues and their errors. ``_growth`` follows
perturbations along the Jacobians.
"""

from kpflow_sklearn._common.public import public_names
from kpflow_sklearn.spectra._functions import effective_dimension, rank, spectrum, trace
from kpflow_sklearn.spectra._gramians import AXES as AXES
from kpflow_sklearn.spectra._gramians import DENSE_LIMIT as DENSE_LIMIT
from kpflow_sklearn.spectra._gramians import dense_gram as dense_gram
from kpflow_sklearn.spectra._growth import Growth as Growth
from kpflow_sklearn.spectra._growth import follow as follow
from kpflow_sklearn.spectra._modes import Modes as Modes
from kpflow_sklearn.spectra._modes import fix_signs as fix_signs
from kpflow_sklearn.spectra._moments import middle_over_norm as middle_over_norm
from kpflow_sklearn.spectra._moments import widening as widening
from kpflow_sklearn.spectra._operator_spectra import GRAMS as GRAMS
from kpflow_sklearn.spectra._operator_spectra import METHODS as METHODS
from kpflow_sklearn.spectra._operator_spectra import REDUCTIONS as REDUCTIONS
from kpflow_sklearn.spectra._operator_spectra import TOL as TOL
from kpflow_sklearn.spectra._operator_spectra import OperatorSpectra
from kpflow_sklearn.spectra._plan import Operations as Operations
from kpflow_sklearn.spectra._plan import planned_operations as planned_operations
from kpflow_sklearn.spectra._spectrum import Spectrum
from kpflow_sklearn.spectra._spectrum import missing_spectrum as missing_spectrum
from kpflow_sklearn.spectra._spectrum import spectrum_of_eigenvalues as spectrum_of_eigenvalues
from kpflow_sklearn.spectra._spectrum import spectrum_of_gram as spectrum_of_gram
from kpflow_sklearn.spectra._units import map_blocks as map_blocks
from kpflow_sklearn.spectra._units import parameter_gram as parameter_gram
from kpflow_sklearn.spectra._units import unit_grams as unit_grams

__all__ = ["OperatorSpectra", "Spectrum", "effective_dimension", "rank", "spectrum", "trace"]

__dir__ = public_names(__all__)
