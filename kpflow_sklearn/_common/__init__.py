"""What every folder uses; its files are imported by name.

``arrays`` converts user input to arrays, ``checks`` validates it, ``estimators`` holds what all
estimators share, ``callbacks`` shows progress, ``files`` writes files whole, ``fingerprints``
identifies what a run was made of, ``memory`` handles running out of it, ``random`` draws,
``tensors`` converts to torch, ``public`` hides private names from completion, ``version`` is the
package's version.
"""
