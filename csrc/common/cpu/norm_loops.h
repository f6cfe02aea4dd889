// The loops of a normalisation over channels on the CPU: over a tile of rows side by side, where positions lie densely
// in memory, and over one row, where channels do. The arithmetic is math/channel_norm.h's, and named as there.
//
// A tile is `steps` channels of kRowLanes rows, `stride` elements apart; what is summed over channels is held in
// registers, which the compiler only does for arrays of a function's own: therefore so many pointers, and no calls.
#pragma once

#include "cpu/row_tiles.h"
#include "math/channel_norm.h"

namespace handgrad {

template <class C>
void copy_lanes(const C* __restrict from, C* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t lane = 0; lane < kRowLanes; ++lane) to[lane] = from[lane];
}

// What is known of each row of a tile.
template <class C>
struct TileMoments {
  alignas(kCacheLine) C shift[kRowLanes], scale[kRowLanes];
};

// The means that second derivatives are made of, of each row of a tile.
template <class C>
struct TileMeans {
  alignas(kCacheLine) C v[kRowLanes], vz[kRowLanes], h[kRowLanes], hz[kRowLanes], vh[kRowLanes], k[kRowLanes],
      kz[kRowLanes];
};

template <class C, bool Centred>
struct NormTile {
  using Norm = ChannelNorm<C, Centred>;
  const Norm norm;
  const int64_t steps, stride;

  [[gnu::noinline]] void sum(const C* __restrict x, C* __restrict sums) const {
    alignas(kCacheLine) C total[kRowLanes] = {};
    for (int64_t step = 0; step < steps; ++step, x += stride) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) total[lane] += x[lane];
    }
    copy_lanes(total, sums);
  }

  // x becomes x - centre.
  [[gnu::noinline]] void centre(C* __restrict x, const C* __restrict means, C* __restrict sums,
                                C* __restrict squares) const {
    alignas(kCacheLine) C mean[kRowLanes], total[kRowLanes] = {}, square[kRowLanes] = {};
    copy_lanes(means, mean);
    for (int64_t step = 0; step < steps; ++step, x += stride) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C d = norm.from_mean(x[lane], mean[lane]);
        if constexpr (Centred) x[lane] = d;
        total[lane] += d;
        square[lane] += d * d;
      }
    }
    copy_lanes(total, sums);
    copy_lanes(square, squares);
  }

  // Lanes from `rows` on have no row: they add nothing to sums over rows, whatever eps is.
  void find_moments(C* x, int64_t rows, TileMoments<C>& row) const {
    alignas(kCacheLine) C means[kRowLanes] = {};
    if constexpr (Centred) {
      sum(x, means);
      average(means);
    }
    centre(x, means, row.shift, row.scale);
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kRowLanes; ++lane) {
      const RowMoments<C> moments = norm.moments(row.shift[lane], row.scale[lane]);
      row.shift[lane] = moments.shift;
      row.scale[lane] = moments.scale;
    }
    for (int64_t lane = rows; lane < kRowLanes; ++lane) row.scale[lane] = 0;
  }
  void average(C* __restrict sums) const {
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kRowLanes; ++lane) sums[lane] *= norm.inverse_count;
  }

  [[gnu::noinline]] void value(C* __restrict x, const TileMoments<C>& row, const C* weight, const C* bias) const {
    for (int64_t step = 0; step < steps; ++step, x += stride) {
      const C w = weight[step], b = bias[step];
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        x[lane] = norm.value(RowMoments<C>{row.shift[lane], row.scale[lane]}.normalised(x[lane]), w, b);
      }
    }
  }

  // The means of weight g and of weight g z.
  [[gnu::noinline]] void find_means(const C* __restrict x, const C* __restrict g, const TileMoments<C>& row,
                                    const C* __restrict weight, C* __restrict means, C* __restrict means_z) const {
    alignas(kCacheLine) C h[kRowLanes] = {}, hz[kRowLanes] = {}, shift[kRowLanes], scale[kRowLanes];
    copy_lanes(row.shift, shift);
    copy_lanes(row.scale, scale);
    for (int64_t step = 0; step < steps; ++step, x += stride, g += stride) {
      const C w = weight[step];
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C product = w * g[lane];
        h[lane] += product;
        hz[lane] += product * RowMoments<C>{shift[lane], scale[lane]}.normalised(x[lane]);
      }
    }
    copy_lanes(h, means);
    copy_lanes(hz, means_z);
    average(means);
    average(means_z);
  }

  // Adds each row's part of the gradients of weight and bias to the lanes of these.
  [[gnu::noinline]] void add_to_channels(const C* __restrict x, const C* __restrict g, const TileMoments<C>& row,
                                         C* __restrict weight, C* __restrict bias) const {
    for (int64_t step = 0; step < steps; ++step, x += stride, g += stride, weight += kRowLanes, bias += kRowLanes) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        weight[lane] += g[lane] * RowMoments<C>{row.shift[lane], row.scale[lane]}.normalised(x[lane]);
        bias[lane] += g[lane];
      }
    }
  }

  // By itself, so that the product is rounded before its mean is taken away: through one channel the gradient is 0.
  [[gnu::noinline]] void weigh(C* __restrict g, const C* __restrict weight) const {
    for (int64_t step = 0; step < steps; ++step, g += stride) {
      const C w = weight[step];
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) g[lane] *= w;
    }
  }

  // The weighted g becomes the gradient of x.
  [[gnu::noinline]] void gradient(const C* __restrict x, C* __restrict g, const TileMoments<C>& row,
                                  const C* __restrict means, const C* __restrict means_z) const {
    for (int64_t step = 0; step < steps; ++step, x += stride, g += stride) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C z = RowMoments<C>{row.shift[lane], row.scale[lane]}.normalised(x[lane]);
        g[lane] = norm.projected(row.scale[lane], z, g[lane], means[lane], means_z[lane]);
      }
    }
  }

  void find_second_means(const C* x, const C* g, const C* v, const TileMoments<C>& row, const C* ones, const C* weight,
                         const C* direction, TileMeans<C>& means) const {
    find_means(x, v, row, ones, means.v, means.vz);
    find_means(x, g, row, weight, means.h, means.hz);
    find_means(x, g, row, direction, means.k, means.kz);
    find_product(g, v, weight, means.v, means.vh);
  }
  [[gnu::noinline]] void find_product(const C* __restrict g, const C* __restrict v, const C* __restrict weight,
                                      const C* __restrict means_v, C* __restrict means) const {
    alignas(kCacheLine) C vh[kRowLanes] = {}, mean[kRowLanes];
    copy_lanes(means_v, mean);
    for (int64_t step = 0; step < steps; ++step, g += stride, v += stride) {
      const C w = weight[step];
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) vh[lane] += norm.from_mean(v[lane], mean[lane]) * (w * g[lane]);
    }
    copy_lanes(vh, means);
    average(means);
  }

  // Adds each row's part of the second gradient of the weight to its lanes.
  [[gnu::noinline]] void add_second_to_channels(const C* __restrict x, const C* __restrict g, const C* __restrict v,
                                                const TileMoments<C>& row, const TileMeans<C>& means,
                                                C* __restrict weight) const {
    for (int64_t step = 0; step < steps; ++step, x += stride, g += stride, v += stride, weight += kRowLanes) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C z = RowMoments<C>{row.shift[lane], row.scale[lane]}.normalised(x[lane]);
        weight[lane] += g[lane] * norm.projected(row.scale[lane], z, v[lane], means.v[lane], means.vz[lane]);
      }
    }
  }

  // g becomes the gradient of x, v that of g.
  [[gnu::noinline]] void second(const C* __restrict x, C* __restrict g, C* __restrict v, const TileMoments<C>& row,
                                const TileMeans<C>& means, const C* __restrict weight, const C* __restrict direction,
                                const C* __restrict bias) const {
    for (int64_t step = 0; step < steps; ++step, x += stride, g += stride, v += stride) {
      const C w = weight[step], u = direction[step], b = bias[step];
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C z = RowMoments<C>{row.shift[lane], row.scale[lane]}.normalised(x[lane]);
        const C g_i = g[lane], v_i = v[lane];
        const C projected = norm.projected(row.scale[lane], z, v_i, means.v[lane], means.vz[lane]);
        v[lane] = norm.grad_grad_output(projected, z, w, u, b);
        g[lane] = norm.second_grad_input(row.scale[lane], z, v_i, w * g_i, u * g_i,
                                         {means.v[lane], means.vz[lane], means.h[lane], means.hz[lane], means.vh[lane],
                                          means.k[lane], means.kz[lane]});
      }
    }
  }
};

// One row, whose channels lie densely.
template <class C, bool Centred>
struct NormRow {
  using Norm = ChannelNorm<C, Centred>;
  const Norm norm;
  const int64_t channels;

  // Of a row: its centre, and the moments around it.
  struct Moments {
    C centre;
    RowMoments<C> around;
    C z(C x) const { return around.normalised(Centred ? x - centre : x); }
  };

  Moments moments(const C* __restrict x) const {
    C centre = 0, sum = 0, squares = 0;
    if constexpr (Centred) {
#pragma omp simd reduction(+ : centre)
      for (int64_t c = 0; c < channels; ++c) centre += x[c];
      centre *= norm.inverse_count;
    }
#pragma omp simd reduction(+ : sum, squares)
    for (int64_t c = 0; c < channels; ++c) {
      const C d = norm.from_mean(x[c], centre);
      sum += d;
      squares += d * d;
    }
    return {centre, norm.moments(sum, squares)};
  }

  void value(const C* __restrict x, const C* __restrict weight, const C* __restrict bias, C* __restrict y) const {
    const Moments row = moments(x);
    HANDGRAD_SIMD
    for (int64_t c = 0; c < channels; ++c) y[c] = norm.value(row.z(x[c]), weight[c], bias[c]);
  }

  // `sums_weight` and `sums_bias` may be null, together, and so may `grad_input`.
  void gradient(const C* __restrict x, const C* __restrict g, const C* __restrict weight, C* __restrict sums_weight,
                C* __restrict sums_bias, C* __restrict grad_input) const {
    const Moments row = moments(x);
    if (sums_weight) {
      HANDGRAD_SIMD
      for (int64_t c = 0; c < channels; ++c) {
        sums_weight[c] += g[c] * row.z(x[c]);
        sums_bias[c] += g[c];
      }
    }
    if (!grad_input) return;
    C h = 0, hz = 0;
#pragma omp simd reduction(+ : h, hz)
    for (int64_t c = 0; c < channels; ++c) {
      const C product = weight[c] * g[c];
      h += product;
      hz += product * row.z(x[c]);
    }
    const C mean_h = h * norm.inverse_count, mean_hz = hz * norm.inverse_count;
    HANDGRAD_SIMD
    for (int64_t c = 0; c < channels; ++c) {
      grad_input[c] = norm.projected(row.around.scale, row.z(x[c]), weight[c] * g[c], mean_h, mean_hz);
    }
  }

  typename Norm::Means second_means(const Moments& row, const C* __restrict x, const C* __restrict g,
                                    const C* __restrict v, const C* __restrict weight,
                                    const C* __restrict direction) const {
    C sum_v = 0, vz = 0, h = 0, hz = 0, vh = 0, k = 0, kz = 0;
#pragma omp simd reduction(+ : sum_v, vz, h, hz, k, kz)
    for (int64_t c = 0; c < channels; ++c) {
      const C z = row.z(x[c]), h_c = weight[c] * g[c], k_c = direction[c] * g[c];
      sum_v += v[c];
      vz += v[c] * z;
      h += h_c;
      hz += h_c * z;
      k += k_c;
      kz += k_c * z;
    }
    const C one = norm.inverse_count, mean_v = sum_v * one;
#pragma omp simd reduction(+ : vh)
    for (int64_t c = 0; c < channels; ++c) vh += norm.from_mean(v[c], mean_v) * (weight[c] * g[c]);
    return {mean_v, vz * one, h * one, hz * one, vh * one, k * one, kz * one};
  }

  // Each result may be null.
  void second(const C* __restrict x, const C* __restrict g, const C* __restrict v, const C* __restrict weight,
              const C* __restrict direction, const C* __restrict bias, C* __restrict sums,
              C* __restrict grad_grad_output, C* __restrict grad_input) const {
    const Moments row = moments(x);
    const typename Norm::Means means = second_means(row, x, g, v, weight, direction);
    const auto projected = [&](int64_t c) {
      return norm.projected(row.around.scale, row.z(x[c]), v[c], means.v, means.vz);
    };
    if (sums) {
      HANDGRAD_SIMD
      for (int64_t c = 0; c < channels; ++c) sums[c] += g[c] * projected(c);
    }
    if (grad_grad_output) {
      HANDGRAD_SIMD
      for (int64_t c = 0; c < channels; ++c) {
        grad_grad_output[c] = norm.grad_grad_output(projected(c), row.z(x[c]), weight[c], direction[c], bias[c]);
      }
    }
    if (!grad_input) return;
    HANDGRAD_SIMD
    for (int64_t c = 0; c < channels; ++c) {
      grad_input[c] =
          norm.second_grad_input(row.around.scale, row.z(x[c]), v[c], weight[c] * g[c], direction[c] * g[c], means);
    }
  }
};

}  // namespace handgrad
