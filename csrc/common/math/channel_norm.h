// Normalisation over the channels of a position, element by element, with both derivatives: what layer norm and RMS
// norm of images share. Derivation and notation: the docs page of the first.
//
//   y_c = w_c z_c + b_c,   z_c = s (x_c - mean),   s = (variance + eps)^(-1/2)
//
// Not centred, the mean is 0 and the variance that of 0. Everything that mixes channels is a mean over the row, which
// the caller takes; what is left is arithmetic on one element.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

// Of a row: z = ((x - centre) - shift) scale. The centre is the mean as it was first rounded, the shift what that is
// off by: for a row far from 0 their sum has no digits for it.
template <class T>
struct RowMoments {
  T shift, scale;

  HANDGRAD_MATH T normalised(T from_centre) const { return (from_centre - shift) * scale; }
};

template <class T, bool Centred>
struct ChannelNorm {
  static constexpr bool kCentred = Centred;
  T eps, inverse_count;

  ChannelNorm(double eps_value, int64_t channels)
      : eps(static_cast<T>(eps_value)), inverse_count(T(1) / static_cast<T>(channels)) {}

  // Given the sums of x - centre and of its square.
  HANDGRAD_MATH RowMoments<T> moments(T sum, T squares) const {
    const T shift = Centred ? sum * inverse_count : T(0);
    const T square = squares * inverse_count;
    // Where squares overflow there is nothing to correct, and two infinities would be NaN.
    const T variance = square > std::numeric_limits<T>::max() ? square : square - shift * shift;
    // Rounding below 0; NaN passes.
    return {shift, inverse_square_root((variance < 0 ? T(0) : variance) + eps)};
  }

  HANDGRAD_MATH T value(T z, T weight, T bias) const { return weight * z + bias; }

  // ---- backward: h = w g, given the means of h and of h z -----------------------------------------------------------

  // s P h, the Jacobian of z times h; it is symmetric.
  HANDGRAD_MATH T projected(T scale, T z, T h, T mean_h, T mean_hz) const {
    return scale * ((Centred ? h - mean_h : h) - z * mean_hz);
  }

  // ---- double backward: v is grad_grad_input, k = (grad_grad_weight) g ----------------------------------------------

  // The means of v, v z, h, h z, of (v - mean v) h, of k and of k z.
  struct Means {
    T v, vz, h, hz, vh, k, kz;
  };

  HANDGRAD_MATH T from_mean(T x, T mean) const { return Centred ? x - mean : x; }
  HANDGRAD_MATH T grad_grad_output(T projected_v, T z, T weight, T direction_weight, T direction_bias) const {
    return weight * projected_v + (direction_weight * z + direction_bias);
  }
  HANDGRAD_MATH T second_grad_input(T scale, T z, T v, T h, T k, const Means& m) const {
    const T bent = z * (m.vh - 3 * m.vz * m.hz) + (m.hz * from_mean(v, m.v) + m.vz * from_mean(h, m.h));
    return projected(scale, z, k, m.k, m.kz) - scale * (scale * bent);
  }
};

}  // namespace handgrad
