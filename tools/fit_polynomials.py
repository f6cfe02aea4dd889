"""Prints the polynomials of csrc/common/math/scalar_math.h and angle.h: Chebyshev fits with the largest error of each.

python tools/fit_polynomials.py        (needs mpmath, which torch brings)
"""

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60


def fit(name: str, function: Callable[[mp.mpf], mp.mpf], low: mp.mpf, high: mp.mpf, terms: int, digits: int) -> None:
    coefficients, error = mp.chebyfit(function, [low, high], terms, error=True)
    print(f"{name}: {terms} terms, error {mp.nstr(error, 3)}")
    print("  " + ", ".join(mp.nstr(c, digits) for c in reversed(coefficients)))


def atanh_over_s(s2: mp.mpf) -> mp.mpf:
    return 2 * mp.atanh(mp.sqrt(s2)) / mp.sqrt(s2) if s2 else mp.mpf(2)


def atan_over_t(t2: mp.mpf) -> mp.mpf:
    return mp.atan(mp.sqrt(t2)) / mp.sqrt(t2) if t2 else mp.mpf(1)


if __name__ == "__main__":
    # A little wider than needed, because the reduced argument is rounded too.
    half_ln2 = mp.log(2) / 2 * mp.mpf("1.0001")
    fit("exp, float", mp.exp, -half_ln2, half_ln2, 7, 10)
    fit("exp, double", mp.exp, -half_ln2, half_ln2, 13, 19)
    ninth = mp.mpf(1) / 9
    fit("2 atanh(s)/s in s^2 on [0, 1/9], float", atanh_over_s, mp.mpf(0), ninth, 5, 10)
    fit("2 atanh(s)/s in s^2 on [0, 1/9], double", atanh_over_s, mp.mpf(0), ninth, 11, 19)
    fit("exp, for a power of floats", mp.exp, -half_ln2, half_ln2, 8, 14)
    largest = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.001")
    fit(
        "2 atanh(s)/s in s^2 for m in [1/sqrt 2, sqrt 2], for a power of floats",
        atanh_over_s,
        mp.mpf(0),
        largest,
        5,
        14,
    )
    eighth = mp.tan(mp.pi / 8) ** 2 * mp.mpf("1.001")
    fit("atan(t)/t in t^2 for t <= tan(pi/8), float", atan_over_t, mp.mpf(0), eighth, 6, 10)
    fit("atan(t)/t in t^2 for t <= tan(pi/8), double", atan_over_t, mp.mpf(0), eighth, 13, 19)
