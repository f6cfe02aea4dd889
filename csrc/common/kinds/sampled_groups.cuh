// Groups of channels that look at points of their own, on CUDA devices: a warp for each group of each query
// (cuda/sampled_groups.cuh), and for the gradient of the value a block for each tile of pixels
// (cuda/sampled_groups_grad.cuh). No kernel adds atomically: results are the same in every run.
#pragma once

#include "cuda/sampled_groups_grad.cuh"
#include "kinds/sampled_groups.h"

namespace handgrad {
namespace sampled_groups {

// What kernels count in 32 bits.
inline void check_count(const char* op, const char* coordinates_name, int64_t count) {
  HANDGRAD_CHECK(count <= INT32_MAX, op, ": ", coordinates_name,
                 " must have fewer than 2^31 positions, points, and groups of queries to look at or from; got ", count);
}

template <class T>
Operands<T> operands_of(const SampledTensors& tensors) {
  using C = Compute<T>;
  Operands<T> operands{};
  operands.value = tensors.value.template view<T>();
  operands.v_value = tensors.v_value.template view<T>();
  operands.coordinates = tensors.coordinates.template view<C>();
  operands.v_coordinates = tensors.v_coordinates.template view<C>();
  operands.factors = tensors.factors.template view<C>();
  operands.v_factors = tensors.v_factors.template view<C>();
  return operands;
}

template <class Geometry>
uint32_t items_of(const Geometry& geometry) {
  return static_cast<uint32_t>(geometry.batch * geometry.queries * geometry.groups);
}

// A warp for each item.
template <class Geometry>
Blocks blocks_of(const Geometry& geometry) {
  return blocks_for(int64_t{items_of(geometry)} * kWarpSize, kThreads);
}

template <class T, bool Twice, class Geometry>
void launch_output(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                   const SampledTensors& tensors) {
  launch("sampled_groups_output", output_kernel<T, Twice, Geometry>, device, blocks_of(geometry), geometry, operands,
         items_of(geometry), tensors.output.template mutable_view<T>());
}

template <class T, bool Twice, class Geometry>
void launch_backward(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                     const SampledTensors& tensors) {
  using C = Compute<T>;
  const View<const T, 3> grad_output = tensors.grad_output.template view<T>();
  if (tensors.wants_sums()) {
    launch("sampled_groups_grad_points", grad_points_kernel<T, Twice, Geometry>, device, blocks_of(geometry), geometry,
           operands, items_of(geometry), grad_output, tensors.grad_coordinates.template mutable_view<C>(),
           tensors.grad_factors.template mutable_view<C>());
  }
  if (tensors.grad_value) {
    if (!geometry.covers_all) fill_zero(*tensors.grad_value.tensor);
    int64_t tiles = 0;
    for (int64_t l = 0; l < geometry.level_count; ++l) tiles += Tile::count(geometry.levels[l]);
    // Where there are several of both, a tile is spared most of the samples.
    const int64_t chunks = chunks_of(geometry),
                  count = geometry.batch * geometry.groups * geometry.level_count * chunks;
    std::optional<Tensor> memory;
    Reach* reaches = nullptr;
    if (chunks > 1 && tiles > geometry.level_count) {
      static_assert(sizeof(Reach) == 2 * sizeof(int64_t));
      memory = empty_indices(2 * count, *tensors.value.tensor);
      reaches = static_cast<Reach*>(memory->mutable_data_ptr());
      launch("sampled_groups_reach", reach_kernel<T, Geometry>, device, blocks_for(count * kWarpSize, kThreads),
             geometry, operands, chunks, count, reaches);
    }
    const int64_t pieces = (geometry.channels + kWarpSize - 1) / kWarpSize;
    launch("sampled_groups_grad_value", grad_value_kernel<T, Twice, Geometry>, device,
           Blocks{geometry.batch * geometry.groups * pieces * tiles, dim3(kThreads, 1, 1)}, geometry, operands,
           grad_output, reaches, tiles, tensors.grad_value.template mutable_view<T>());
  }
}

}  // namespace sampled_groups

struct SampledGroupsOnCuda {
  template <class Geometry>
  static void forward(const Geometry& geometry, const sampled_groups::SampledTensors& tensors) {
    run(geometry, tensors, [&]<class T>(const sampled_groups::Operands<T>& operands, const DeviceOf& device) {
      sampled_groups::launch_output<T, false>(geometry, device, operands, tensors);
    });
  }

  template <class Geometry>
  static void backward(const Geometry& geometry, const sampled_groups::SampledTensors& tensors) {
    run(geometry, tensors, [&]<class T>(const sampled_groups::Operands<T>& operands, const DeviceOf& device) {
      sampled_groups::launch_backward<T, false>(geometry, device, operands, tensors);
    });
  }

  template <class Geometry>
  static void double_backward(const Geometry& geometry, const sampled_groups::SampledTensors& tensors) {
    run(geometry, tensors, [&]<class T>(const sampled_groups::Operands<T>& operands, const DeviceOf& device) {
      if (tensors.output) sampled_groups::launch_output<T, true>(geometry, device, operands, tensors);
      sampled_groups::launch_backward<T, true>(geometry, device, operands, tensors);
    });
  }

 private:
  template <class Geometry, class Body>
  static void run(const Geometry& geometry, const sampled_groups::SampledTensors& tensors, const Body& body) {
    const auto check = [&](int64_t count) {
      sampled_groups::check_count(geometry.op, geometry.coordinates_name, count);
    };
    check(geometry.positions), check(geometry.samples()), check(geometry.batch * geometry.queries * geometry.groups);
    const Tensor& value = *tensors.value.tensor;
    dispatch_floating(geometry.op, value.scalar_type(), [&](auto tag) {
      body(sampled_groups::operands_of<typename decltype(tag)::type>(tensors), DeviceOf(value));
    });
  }
};

}  // namespace handgrad
