// The gradient of some bins of a box in shared memory, for kernels in which a block has some channels of a tile of an
// image and goes through the boxes that reach it.
#pragma once

#include "abi/view.h"
#include "cuda/access.cuh"

namespace handgrad {

// Bins x Bins bins of one box, [bin, channel]. Rows are padded, so that what a warp reads at a time lies in different
// banks.
template <class C, int Bins, int Channels>
struct SharedBins {
  alignas(16) C grads[Bins * Bins][Channels + 4];
};

// Fetches them. Neighbouring threads, of so many warps, read what is neighbours in memory: bins, or channels.
template <class T, int Bins, int Channels, int Warps>
struct BinFetcher {
  using C = Compute<T>;
  static_assert(Channels == kWarpSize);
  int lane, warp;
  int32_t first_channel, channels;

  __device__ BinFetcher(int thread, int32_t first_channel, int32_t channels)
      : lane(thread % kWarpSize), warp(thread / kWarpSize), first_channel(first_channel), channels(channels) {}

  // Bins (p, q) and on of box k, as far as there are so many rows and columns of them.
  __device__ void fill(const View<const T, 4>& grads, int32_t k, int32_t p, int32_t q, int32_t rows_left,
                       int32_t columns_left, SharedBins<C, Bins, Channels>& to) const {
    const int rows = rows_left < Bins ? rows_left : Bins, columns = columns_left < Bins ? columns_left : Bins;
    if (grads.strides[1] == 1) {
      const bool is_channel = first_channel + lane < channels;
      const T* const from = grads.at(k, first_channel + lane, p, q);
#pragma unroll 1
      for (int bin = warp; bin < Bins * Bins; bin += Warps) {
        const int a = bin / Bins, b = bin % Bins;
        if (a >= rows || b >= columns) continue;
        to.grads[bin][lane] = is_channel ? widen(load(from + a * grads.strides[2] + b * grads.strides[3])) : C(0);
      }
    } else if (const int b = lane % Bins; b < columns) {
#pragma unroll 1
      for (int c = lane / Bins + kWarpSize / Bins * warp; c < Channels; c += kWarpSize / Bins * Warps) {
        const bool is_channel = first_channel + c < channels;
        const T* const from = grads.at(k, first_channel + c, p, q + b);
        // All loads are under way before the first is waited for.
        C column[Bins];
#pragma unroll
        for (int a = 0; a < Bins; ++a) {
          column[a] = is_channel && a < rows ? widen(load(from + a * grads.strides[2])) : C(0);
        }
#pragma unroll
        for (int a = 0; a < Bins; ++a) to.grads[a * Bins + b][c] = column[a];
      }
    }
  }
};

// sums += weight x what bin `bin` has in the channels from `channel` on, in vectors of 16 bytes
template <int Count, class C, int Bins, int Channels>
__device__ __forceinline__ void add_bin(const SharedBins<C, Bins, Channels>& tile, int bin, int channel, C weight,
                                        C (&sums)[Count]) {
  constexpr int kWide = 16 / sizeof(C);
  const C* const grads = tile.grads[bin] + channel;
#pragma unroll
  for (int j = 0; j < Count; j += kWide) {
    const Vector<C, kWide> some = *reinterpret_cast<const Vector<C, kWide>*>(grads + j);
#pragma unroll
    for (int lane = 0; lane < kWide; ++lane) sums[j + lane] += weight * some.lane[lane];
  }
}

}  // namespace handgrad
