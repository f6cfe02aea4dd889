// The same on CUDA devices.
//
// Forward: a thread for a bin and a few channels, which share the sampling points that it looks at. The gradient of the
// image is not scattered but gathered, by tiles. So nothing is atomic, the order of every sum is that of the boxes, on
// every run, each number of the result is written once, and there is no memory beside it. The gradient of the boxes is
// a block for each box, with sums of fixed order.
//
// An op brings its kernels, of blocks of kThreads:
//
//   struct MyKernels {
//     template <class T, bool Twice>
//     static constexpr auto output = output_kernel<T, Twice>;  // and grad_input, grad_boxes
//   };
//
// In order of appearance: Operands, the tensors of a call; OutputPlace and TilePlace, what a thread of an output and a
// block of a gradient have; OnCuda, the launches.
#pragma once

#include <string>

#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "kinds/sampled_roi.h"

namespace handgrad::sampled_roi {

inline constexpr int kThreads = 256;
// Channels of the output that a thread makes.
inline constexpr int kOutputChannels = 4;
// Pixels along the side of a gradient's tile; channels of a block, and of a thread.
inline constexpr int kSide = 8, kTileChannels = 32, kPixelChannels = 8;
static_assert(kSide * kSide * (kTileChannels / kPixelChannels) == kThreads);

// What is differentiated, and how it moves (in a double backward only; what is null stands still).
template <class T>
struct Operands {
  View<const T, 4> input;             // [N, C, H, W]
  View<const Compute<T>, 2> boxes;    // [K, columns]
  View<const T, 4> v_input;           // [N, C, H, W]
  View<const Compute<T>, 2> v_boxes;  // [K, columns]
};

// Thread i of an output has every `groups`-th channel, from `group` on, of bin (p, q) of box k. Neighbours are what is
// neighbours in the output's memory.
struct OutputPlace {
  int32_t k, group, p, q;

  __device__ OutputPlace(const RoiGeometry& geometry, int32_t groups, bool channels_last, int64_t i) {
    const int64_t bins = geometry.bins(), of_box = groups * bins;
    k = static_cast<int32_t>(i / of_box);
    const int64_t rest = i - k * of_box, outer = rest / (channels_last ? groups : bins);
    const int64_t inner = rest - outer * (channels_last ? groups : bins);
    group = static_cast<int32_t>(channels_last ? inner : outer);
    const int64_t bin = channels_last ? outer : inner;
    p = static_cast<int32_t>(bin / geometry.pooled_w);
    q = static_cast<int32_t>(bin - int64_t{p} * geometry.pooled_w);
  }
};

// Blocks of a gradient are (channels, image, tile).
struct TilePlace {
  int32_t first_channel, image, first_y, first_x;

  __device__ TilePlace(const RoiGeometry& geometry, int32_t tiles_h, int32_t tiles_w) {
    const int64_t tiles = int64_t{tiles_h} * tiles_w, block = blockIdx.x, rest = block / tiles;
    first_channel = static_cast<int32_t>(rest / geometry.batch) * kTileChannels;
    image = static_cast<int32_t>(rest % geometry.batch);
    const int64_t tile = block - rest * tiles;
    first_y = static_cast<int32_t>(tile / tiles_w) * kSide;
    first_x = static_cast<int32_t>(tile % tiles_w) * kSide;
  }
};

template <class Kernels>
struct OnCuda {
  template <class Geometry>
  static void forward(const Geometry& geometry, const Tensor& input, const Tensor& boxes, const Tensor& output) {
    const DeviceOf device(input);
    dispatch_floating(geometry.op, input.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const Operands<T> operands{view<T, 4>(input), view<Compute<T>, 2>(boxes), {}, {}};
      launch_output<T, false>(geometry, device, operands, output);
    });
  }

  template <class Geometry>
  static void backward(const Geometry& geometry, const Differentiated& tensors, const RoiGradients& results) {
    const DeviceOf device(tensors.input);
    dispatch_floating(geometry.op, tensors.input.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const Operands<T> operands{view<T, 4>(tensors.input), view<Compute<T>, 2>(tensors.boxes), {}, {}};
      launch_gradients<T, false>(geometry, device, operands, tensors, results);
    });
  }

  template <class Geometry>
  static void double_backward(const Geometry& geometry, const Differentiated& tensors,
                              const RoiSecondGradients& results) {
    const DeviceOf device(tensors.input);
    dispatch_floating(geometry.op, tensors.input.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const View<const Compute<T>, 2> boxes = view<Compute<T>, 2>(tensors.boxes);
      const Operands<T> operands{view<T, 4>(tensors.input), boxes, view<T, 4>(tensors.v_input),
                                 view<Compute<T>, 2>(tensors.v_boxes)};
      if (results.wants_grad_output && operands.v_boxes) {
        launch_output<T, true>(geometry, device, operands, results.grad_grad_output);
      } else if (results.wants_grad_output) {
        // The output is linear in the image.
        launch_output<T, false>(geometry, device, {operands.v_input, boxes, {}, {}}, results.grad_grad_output);
      }
      launch_gradients<T, true>(geometry, device, operands, tensors, results);
    });
  }

 private:
  template <class Geometry>
  static std::string named(const Geometry& geometry, const char* kernel) {
    return std::string(geometry.op) + kernel;
  }

  template <class T, bool Twice, class Geometry>
  static void launch_output(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                            const Tensor& output) {
    const int32_t groups = (geometry.channels + kOutputChannels - 1) / kOutputChannels;
    launch(named(geometry, "_output").c_str(), Kernels::template output<T, Twice>, device,
           blocks_for(int64_t{geometry.boxes} * groups * geometry.bins(), kThreads), geometry, operands, groups,
           !output.is_contiguous(), mutable_view<T, 4>(output));
  }

  template <class T, bool Twice, class Geometry>
  static void launch_gradients(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                               const Differentiated& tensors, const RoiGradients& results) {
    const View<const T, 4> grad_output = view<T, 4>(tensors.grad_output);
    if (results.wants_input) {
      const int32_t tiles_h = (geometry.height + kSide - 1) / kSide, tiles_w = (geometry.width + kSide - 1) / kSide;
      const int64_t chunks = (geometry.channels + kTileChannels - 1) / kTileChannels;
      launch(named(geometry, "_grad_input").c_str(), Kernels::template grad_input<T, Twice>, device,
             {chunks * geometry.batch * tiles_h * tiles_w, dim3(kThreads, 1, 1)}, geometry, operands, grad_output,
             tiles_h, tiles_w, mutable_view<T, 4>(results.grad_input));
    }
    if (results.wants_boxes) {
      launch(named(geometry, "_grad_boxes").c_str(), Kernels::template grad_boxes<T, Twice>, device,
             {geometry.boxes, dim3(kThreads, 1, 1)}, geometry, operands, grad_output,
             mutable_view<Compute<T>, 2>(results.grad_boxes));
    }
  }
};

}  // namespace handgrad::sampled_roi
