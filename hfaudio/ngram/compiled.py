"""numba's settings for code that runs millions of times."""

from numba import njit

# For code that makes no arrays: it does without numba's reference counts, as every call would count all arrays of its
# named tuples up and down again, which takes five times as long as a beam search itself. `inlined` is for what runs
# once for each label of each prefix; it doubles the speed again.
compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)  # type: ignore[call-overload]
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, inline="always")  # type: ignore[call-overload]
