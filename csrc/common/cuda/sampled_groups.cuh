// Groups of channels that look at points of their own, on CUDA devices: the kernels, but for the gradient of the value
// (sampled_groups_grad.cuh). One for Twice serves the double backward.
//
// A warp has one group of one query, and its lanes have neighbouring channels: a corner of a sample is one run of
// memory, whole sectors of it. What all channels have in common, a sample's pixels and weights, each lane makes for one
// sample, and leaves it to all in shared memory.
//
// In order of appearance: Operands, the tensors of a call; Item, a group of a query; Corners, what a warp shares; the
// output; the gradients of coordinates and factors.
#pragma once

#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "math/sampled_group.h"

namespace handgrad::sampled_groups {

inline constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

// What is differentiated, and how it moves (Twice only; what is null stands still).
template <class T>
struct Operands {
  View<const T, 4> value, v_value;                       // [B, S, groups, channels]
  View<const Compute<T>, 6> coordinates, v_coordinates;  // [B, Q, groups, levels, points, 2]
  View<const Compute<T>, 5> factors, v_factors;          // [B, Q, groups, levels, points]
};

// A group of a query of an image.
struct Item {
  int32_t n, query, group;

  // Groups innermost. At most 2^31 - 1 of them, as the host entries check.
  template <class Geometry>
  __device__ Item(const Geometry& geometry, uint32_t i) {
    const uint32_t outer = i / static_cast<uint32_t>(geometry.groups);
    group = static_cast<int32_t>(i - outer * static_cast<uint32_t>(geometry.groups));
    n = static_cast<int32_t>(outer / static_cast<uint32_t>(geometry.queries));
    query = static_cast<int32_t>(outer - static_cast<uint32_t>(n) * static_cast<uint32_t>(geometry.queries));
  }
  __device__ Item(int32_t n, int32_t query, int32_t group) : n(n), query(query), group(group) {}

  template <class Geometry, class T>
  __device__ GroupSample<Compute<T>> sample(const Geometry& geometry, const Operands<T>& operands, int32_t l,
                                            int32_t p) const {
    return geometry.template points_of<Compute<T>>(l, query).sample(
        p, load(operands.coordinates.at(n, query, group, l, p, 0)),
        load(operands.coordinates.at(n, query, group, l, p, 1)), load(operands.factors.at(n, query, group, l, p)));
  }

  template <class T>
  __device__ GroupMotion<Compute<T>> motion(const Operands<T>& operands, int32_t l, int32_t p) const {
    GroupMotion<Compute<T>> v{0, 0, 0};
    if (operands.v_coordinates) {
      v.x = load(operands.v_coordinates.at(n, query, group, l, p, 0));
      v.y = load(operands.v_coordinates.at(n, query, group, l, p, 1));
    }
    if (operands.v_factors) v.factor = load(operands.v_factors.at(n, query, group, l, p));
    return v;
  }
};

// The corners of as many samples as a warp has lanes: their positions, below zero (~) for one outside the level, where
// the nearest pixel is read nevertheless, since a load that hangs on a condition is not under way together with others.
struct Corners {
  alignas(16) int32_t positions[kWarpSize][4];

  template <class C>
  __device__ void put(const Level& level, const GroupSample<C>& sample) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int64_t row = within(sample.row + q / 2, level.height), column = within(sample.column + q % 2, level.width);
      const int32_t position = static_cast<int32_t>(level.start + row * level.width + column);
      positions[lane][q] = sample.has(q) ? position : ~position;
    }
  }

  // Corner q of sample j; group is where the position 0 of a channel is.
  template <class T>
  __device__ Compute<T> read(const T* group, int64_t stride, int j, int q) const {
    const int32_t position = positions[j][q];
    const Compute<T> pixel = widen(load_constant(group + (position < 0 ? ~position : position) * stride));
    return position < 0 ? Compute<T>(0) : pixel;
  }

 private:
  __device__ static int64_t within(int64_t pixel, int64_t size) {
    return pixel < 0 ? 0 : pixel < size ? pixel : size - 1;
  }
};

// What each corner counts in one sample; for Twice how that changes too.
template <class C, bool Twice>
struct CornerWeights {
  alignas(16) C weights[kWarpSize][4];
  alignas(16) C changes[Twice ? kWarpSize : 1][4];
};

// ---- the output -----------------------------------------------------------------------------------------------------

// The output; for Twice its change along the motion.
template <class T, bool Twice, class Geometry>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(Geometry geometry, Operands<T> operands, uint32_t items,
                  View<T, 3> output) {  // [B, Q, groups * channels]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ Corners all_corners[kWarps];
  __shared__ CornerWeights<C, Twice> all_weights[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const uint32_t i = static_cast<uint32_t>(blockIdx.x) * kWarps + static_cast<uint32_t>(warp);
  if (i >= items) return;
  Corners& corners = all_corners[warp];
  CornerWeights<C, Twice>& weights = all_weights[warp];
  const Item item(geometry, i);
  const int32_t samples = static_cast<int32_t>(geometry.samples()), points = static_cast<int32_t>(geometry.points);
  for (int64_t first_channel = 0; first_channel < geometry.channels; first_channel += kWarpSize) {
    const int64_t channel = first_channel + lane;
    const bool has_channel = channel < geometry.channels;
    const T* const group = operands.value.at(item.n, 0, item.group, has_channel ? channel : 0);
    const T* const v_group =
        Twice && operands.v_value ? operands.v_value.at(item.n, 0, item.group, has_channel ? channel : 0) : nullptr;
    C sum = 0;
    for (int32_t first = 0; first < samples; first += kWarpSize) {
      const int32_t count = samples - first < kWarpSize ? samples - first : kWarpSize;
      if (lane < count) {
        const int32_t l = (first + lane) / points, p = first + lane - l * points;
        const GroupSample<C> sample = item.sample(geometry, operands, l, p);
        corners.put(geometry.levels[l], sample);
        GroupMotion<C> v{0, 0, 0};
        if constexpr (Twice) v = item.motion(operands, l, p);
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          weights.weights[lane][q] = sample.weight(q);
          if constexpr (Twice) weights.changes[lane][q] = sample.weight_change(q, v);
        }
      }
      __syncwarp();
      if (has_channel) {
#pragma unroll 2
        for (int32_t j = 0; j < count; ++j) {
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const C pixel = corners.read(group, operands.value.strides[1], j, q);
            if constexpr (Twice) {
              sum += weights.changes[j][q] * pixel;
              if (v_group) sum += weights.weights[j][q] * corners.read(v_group, operands.v_value.strides[1], j, q);
            } else {
              sum += weights.weights[j][q] * pixel;
            }
          }
        }
      }
      __syncwarp();
    }
    if (has_channel) store(output.at(item.n, item.query, item.group * geometry.channels + channel), narrow<T>(sum));
  }
}

// ---- the gradients of coordinates and weights
// -------------------------------------------------------------------------

// Sums over a group's channels: of the gradient of the output times each corner of each sample.
template <class C>
struct CornerSums {
  alignas(16) C of_value[kWarpSize][4], of_v[kWarpSize][4];
};

template <class T, bool Twice, class Geometry>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_points_kernel(Geometry geometry, Operands<T> operands, uint32_t items,
                       View<const T, 3> grad_output,          // [B, Q, groups * channels]
                       View<Compute<T>, 6> grad_coordinates,  // [B, Q, groups, levels, points, 2]
                       View<Compute<T>, 5> grad_factors) {    // [B, Q, groups, levels, points]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ Corners all_corners[kWarps];
  __shared__ CornerSums<C> all_sums[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const uint32_t i = static_cast<uint32_t>(blockIdx.x) * kWarps + static_cast<uint32_t>(warp);
  if (i >= items) return;
  Corners& corners = all_corners[warp];
  CornerSums<C>& sums = all_sums[warp];
  const Item item(geometry, i);
  const T* const group = operands.value.at(item.n, 0, item.group, 0);
  const T* const v_group = Twice && operands.v_value ? operands.v_value.at(item.n, 0, item.group, 0) : nullptr;
  const T* const grads = grad_output.at(item.n, item.query, item.group * geometry.channels);
  // Usually there are no further channels.
  const C grad = lane < geometry.channels ? widen(load(grads + lane * grad_output.strides[2])) : C(0);
  const int32_t samples = static_cast<int32_t>(geometry.samples()), points = static_cast<int32_t>(geometry.points);
  for (int32_t first = 0; first < samples; first += kWarpSize) {
    const int32_t count = samples - first < kWarpSize ? samples - first : kWarpSize;
    const int32_t l = lane < count ? (first + lane) / points : 0, p = lane < count ? first + lane - l * points : 0;
    if (lane < count) corners.put(geometry.levels[l], item.sample(geometry, operands, l, p));
    __syncwarp();
    for (int32_t j = 0; j < count; ++j) {
      C of_value[4] = {}, of_v[4] = {};
      for (int64_t channel = lane; channel < geometry.channels; channel += kWarpSize) {
        const C g = channel == lane ? grad : widen(load_constant(grads + channel * grad_output.strides[2]));
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          of_value[q] += g * corners.read(group + channel * operands.value.strides[3], operands.value.strides[1], j, q);
          if constexpr (Twice) {
            if (v_group) {
              of_v[q] +=
                  g * corners.read(v_group + channel * operands.v_value.strides[3], operands.v_value.strides[1], j, q);
            }
          }
        }
      }
      const C sum = warp_sum_of_four(of_value);
      if (lane % 8 == 0) sums.of_value[j][lane / 8] = sum;
      if constexpr (Twice) {
        const C v_sum = warp_sum_of_four(of_v);
        if (lane % 8 == 0) sums.of_v[j][lane / 8] = v_sum;
      }
    }
    __syncwarp();
    if (lane < count) {
      // Made once more, which takes less than to keep it.
      const GroupSample<C> sample = item.sample(geometry, operands, l, p);
      GroupMotion<C> v{0, 0, 0};
      if constexpr (Twice) v = item.motion(operands, l, p);
      const C(&of_value)[4] = sums.of_value[lane];
      const C(&of_v)[4] = sums.of_v[lane];
      if (grad_coordinates) {
        store(grad_coordinates.at(item.n, item.query, item.group, l, p, 0),
              Twice ? sample.second_grad_point_x(v, of_value, of_v) : sample.grad_point_x(of_value));
        store(grad_coordinates.at(item.n, item.query, item.group, l, p, 1),
              Twice ? sample.second_grad_point_y(v, of_value, of_v) : sample.grad_point_y(of_value));
      }
      if (grad_factors) {
        store(grad_factors.at(item.n, item.query, item.group, l, p),
              Twice ? sample.second_grad_of_factor(v, of_value, of_v) : sample.grad_of_factor(of_value));
      }
    }
  }
}

}  // namespace handgrad::sampled_groups
