// Teams of threads that share a row of classes, and what they find of it together.
//
// Where positions lie densely in memory a row has one thread, so that a warp reads 32 neighbours of a class at once;
// where classes do, it has up to a warp, or for many classes a block. Thread `lane` of a team has the classes lane,
// lane + size, …; all of a team know what it finds.
#pragma once

#include "cuda/device.cuh"

#include "math/softmax_row.h"

namespace handgrad {

inline constexpr int kRowThreads = 256;
inline constexpr int kRowWarps = kRowThreads / kWarpSize;

// The largest logit and its class, -1 where there is none yet, and the sum of the others' exponentials.
template <class C>
struct RowPeak {
  C largest = 0, rest = 0;
  int32_t index = -1;

  __device__ static C decay(C a, C b) { return a == b ? C(1) : exp_decay(absolute(a - b)); }

  __device__ void add(C x, int32_t c) {
    const C power = decay(x, largest);
    const bool first = index < 0, larger = first || x > largest;
    rest = first ? C(0) : larger ? (rest + 1) * power : rest + power;
    largest = larger ? x : largest;
    index = larger ? c : index;
  }
  // Of the same row.
  __device__ void merge(const RowPeak& other) {
    if (other.index < 0) return;
    if (index < 0) {
      *this = other;
      return;
    }
    const C power = decay(largest, other.largest);
    const bool theirs = other.largest > largest || (other.largest == largest && other.index < index);
    rest = theirs ? other.rest + (1 + rest) * power : rest + (1 + other.rest) * power;
    largest = theirs ? other.largest : largest;
    index = theirs ? other.index : index;
  }
};

// Memory of a block in which its warps meet.
template <class C>
struct RowMeeting {
  static constexpr int kNumbers = 5;
  C numbers[kNumbers][kRowWarps];
  int32_t indices[kRowWarps];
};

template <class C>
struct RowTeam {
  int32_t size, lane;
  RowMeeting<C>& meeting;

  __device__ bool is_block() const { return size > kWarpSize; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / kWarpSize; }
  __device__ static bool is_first_of_warp() { return threadIdx.x % kWarpSize == 0; }

  // Each number summed over the team, in an order that is always the same.
  template <int N>
  __device__ void sum(C (&values)[N]) const {
    static_assert(N <= RowMeeting<C>::kNumbers);
    for (int32_t distance = (is_block() ? kWarpSize : size) / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] += __shfl_xor_sync(0xffffffffu, values[k], distance);
    }
    if (!is_block()) return;
    if (is_first_of_warp()) {
#pragma unroll
      for (int k = 0; k < N; ++k) meeting.numbers[k][warp()] = values[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; ++k) {
      values[k] = 0;
      for (int w = 0; w < kRowWarps; ++w) values[k] += meeting.numbers[k][w];
    }
    __syncthreads();
  }

  __device__ void merge(RowPeak<C>& peak) const {
    for (int32_t distance = (is_block() ? kWarpSize : size) / 2; distance > 0; distance /= 2) {
      RowPeak<C> other;
      other.largest = __shfl_xor_sync(0xffffffffu, peak.largest, distance);
      other.rest = __shfl_xor_sync(0xffffffffu, peak.rest, distance);
      other.index = __shfl_xor_sync(0xffffffffu, peak.index, distance);
      peak.merge(other);
    }
    if (!is_block()) return;
    if (is_first_of_warp()) {
      meeting.numbers[0][warp()] = peak.largest;
      meeting.numbers[1][warp()] = peak.rest;
      meeting.indices[warp()] = peak.index;
    }
    __syncthreads();
    peak = RowPeak<C>();
    for (int w = 0; w < kRowWarps; ++w) {
      RowPeak<C> other;
      other.largest = meeting.numbers[0][w];
      other.rest = meeting.numbers[1][w];
      other.index = meeting.indices[w];
      peak.merge(other);
    }
    __syncthreads();
  }
};

}  // namespace handgrad
