// grid_sample on the CPU.
//
// The taps of a point are the same for all channels, and so are found once for a block of them, some points at a time
// (grid_sample_taps.h). Channels are innermost, in memory or in a copy of a block (grid_sample_blocks.h).
//
// Backward, a block of channels of an image is one thread's, which adds to its own part of the gradient, in the order
// of points; of an image of one block that is small or lies in place, threads share the pixels and each looks at all
// points. So every sum has one order, whatever the number of threads. The gradient of the grid is summed over blocks in
// their order.
//
// In order of appearance: the walks over blocks, points, pixels and images of few channels, of what a thread does
// (grid_sample_worker.h); the choice of a width; the host entries.
#include <memory>

#include "abi/registration.h"
#include "grid_sample_worker.h"

namespace handgrad::grid_sample {
namespace {

// Points that a thread takes at a time where it needs no copy of an image.
constexpr int64_t kChunk = 16 * kRun;
// Channels that are planes by themselves, below so many; and in a block, of images that have fewer pixels than so many:
// what a copy of it may take.
constexpr int64_t kPlanar = 4, kSmallImage = int64_t{1} << 16;
// Pixels of an image that may be turned into quads, and how many for each point; numbers of images that are turned
// together, which a cache holds.
constexpr int64_t kMostQuads = int64_t{1} << 20, kQuadsOfPoint = 8, kTurnedTogether = int64_t{1} << 19;
// Blocks that there should be, so that threads find work.
constexpr int64_t kEnoughBlocks = 8;

// ---- walks ----------------------------------------------------------------------------------------------------------

int64_t work_of_points(const Geometry& geometry, int64_t points, int64_t channels) {
  return points * channels * geometry.taps(0) * geometry.taps(1) * geometry.taps(2);
}

// Block by block of all images.
template <int64_t Width, Order What, int Parts, class C>
void by_blocks(const Geometry& geometry, const Operands<C>& operands) {
  const int64_t blocks = (geometry.channels + Width - 1) / Width;
  const bool sums = Parts & kSums && operands.grad_grid;
  Contributions<C> contributions(geometry, sums ? blocks : 1);
  for_each_block_range<Width>(
      geometry.batch, geometry.channels, work_of_points(geometry, geometry.points, Width) + geometry.pixels * Width,
      [&](int64_t begin, int64_t end) {
        Worker<C, Width, What, Parts> worker(geometry, operands);
        for (int64_t i = begin; i < end; ++i) {
          worker.take_block(channel_block<Width>(geometry.batch, geometry.channels, i), contributions);
        }
      });
  if (sums) contributions.add_to(operands.grad_grid.data);
}

// Chunk by chunk of the points of images [first, last), whose blocks all lie in place.
template <int64_t Width, Order What, int Parts, class C>
void by_points(const Geometry& geometry, const Operands<C>& operands, int64_t first, int64_t last) {
  const int64_t chunks = (geometry.points + kChunk - 1) / kChunk;
  parallel_for((last - first) * chunks, work_of_points(geometry, kChunk, geometry.channels),
               [&](int64_t begin, int64_t end) {
                 Worker<C, Width, What, Parts> worker(geometry, operands);
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t point = i % chunks * kChunk;
                   worker.take_chunk(first + i / chunks, point, std::min(geometry.points, point + kChunk));
                 }
               });
}
template <int64_t Width, Order What, int Parts, class C>
void by_points(const Geometry& geometry, const Operands<C>& operands) {
  by_points<Width, What, Parts>(geometry, operands, 0, geometry.batch);
}

// The gradient of images that are one block, or whose channels are planes by themselves, in place: as many pieces of an
// image as threads find work in, which changes no bit of it.
template <int64_t Width, class C>
void by_pixels(const Geometry& geometry, const Operands<C>& operands, const Tensor& grad_input) {
  if (Width == 1) fill_zero(grad_input);
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t work = work_of_points(geometry, geometry.points, geometry.channels);
  const int64_t pieces = work < kElementsPerThread ? 1 : (threads + geometry.batch - 1) / geometry.batch;
  parallel_for(geometry.batch * pieces, work / pieces, [&](int64_t begin, int64_t end) {
    Worker<C, Width, kWeights, kScatter> worker(geometry, operands);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t piece = i % pieces;
      worker.take_pixels(i / pieces, static_cast<int32_t>(geometry.pixels * piece / pieces),
                         static_cast<int32_t>(geometry.pixels * (piece + 1) / pieces));
    }
  });
}

// Images of two to four channels: some at a time are turned, so that a pixel is one vector, and then sampled; all
// threads share both.
template <Order What, int Parts, class C>
void by_quads(const Geometry& geometry, const Operands<C>& operands) {
  const int64_t image = (geometry.pixels + 1) * kQuad, pieces = (geometry.pixels + kTurned - 1) / kTurned;
  const int64_t together = std::clamp<int64_t>(kTurnedTogether / image, 1, geometry.batch);
  const auto memory = std::make_unique_for_overwrite<C[]>(static_cast<size_t>(together * image));
  Operands<C> turned = operands;
  turned.turned = memory.get();
  for (int64_t n = 0; n < together; ++n) std::fill_n(memory.get() + n * image, kQuad, C(0));
  for (int64_t first = 0; first < geometry.batch; first += together) {
    const int64_t last = std::min(geometry.batch, first + together);
    parallel_for((last - first) * pieces, kTurned * kQuad, [&](int64_t begin, int64_t end) {
      Turning<kQuad, C> turning;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / pieces, pixel = i % pieces * kTurned;
        load_group<kQuad>(operands.input, {first + n, 0, geometry.channels}, pixel,
                          std::min(kTurned, geometry.pixels - pixel), turning,
                          memory.get() + n * image + (pixel + 1) * kQuad);
      }
    });
    turned.first_turned = first;
    by_points<kQuad, What, Parts>(geometry, turned, first, last);
  }
}

// ---- widths ---------------------------------------------------------------------------------------------------------

// Channels of a block. It depends on sizes alone, as the order of sums does.
template <class C>
int64_t width_of(const Geometry& geometry) {
  if (geometry.channels < kPlanar) return 1;
  const int64_t wide = (geometry.channels + kBlockChannels - 1) / kBlockChannels * geometry.batch;
  const bool narrow = std::is_same_v<C, double> || geometry.channels <= kFewChannels || geometry.pixels > kSmallImage ||
                      wide < kEnoughBlocks;
  return narrow ? kFewChannels : kBlockChannels;
}

// Whether the channels of every pixel are so many that lie side by side.
template <int64_t Width, class C>
bool all_in_place(const Geometry& geometry, const StoredView<const C, 3>& image) {
  return geometry.channels % Width == 0 && is_in_place<Width>(image, Width);
}

// Whether it pays to turn images into quads, and takes little memory. (Of doubles they are planes: code that is rarely
// run is carried by everybody.)
template <class C>
constexpr bool kHasQuads = std::is_same_v<C, float>;
bool suits_quads(const Geometry& geometry) {
  return geometry.channels > 1 && geometry.channels <= kQuad && geometry.pixels <= kMostQuads &&
         geometry.pixels <= kQuadsOfPoint * geometry.points;
}

template <class C>
void forward(const Geometry& geometry, const Operands<C>& operands) {
  if constexpr (kHasQuads<C>) {
    if (suits_quads(geometry)) return by_quads<kWeights, kOutput>(geometry, operands);
  }
  if (geometry.channels < kPlanar) {
    if (all_in_place<1>(geometry, operands.input)) return by_points<1, kWeights, kOutput>(geometry, operands);
    return by_blocks<1, kWeights, kOutput>(geometry, operands);
  }
  if constexpr (std::is_same_v<C, float>) {
    constexpr int64_t kWide = kBlockChannels;
    if (all_in_place<kWide>(geometry, operands.input)) return by_points<kWide, kWeights, kOutput>(geometry, operands);
    if (width_of<C>(geometry) == kWide) return by_blocks<kWide, kWeights, kOutput>(geometry, operands);
  }
  constexpr int64_t kFew = kFewChannels;
  if (all_in_place<kFew>(geometry, operands.input)) return by_points<kFew, kWeights, kOutput>(geometry, operands);
  by_blocks<kFew, kWeights, kOutput>(geometry, operands);
}

template <class C>
void backward(const Geometry& geometry, const Operands<C>& operands, const Results& results) {
  constexpr int kBoth = kScatter | kSums;
  if constexpr (kHasQuads<C>) {
    if (suits_quads(geometry)) {
      const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
      // Of whole images both gradients are found at once: the same numbers, if there is an image for each thread.
      if (geometry.batch == threads || geometry.batch >= 2 * threads) {
        return by_blocks<kQuad, kSlopes, kBoth>(geometry, operands);
      }
      if (results.wants_input) by_pixels<kQuad>(geometry, operands, results.grad_input);
      if (results.wants_grid) by_quads<kSlopes, kSums>(geometry, operands);
      return;
    }
  }
  const int64_t width = width_of<C>(geometry);
  if (width == 1 && all_in_place<1>(geometry, operands.input)) {
    if (results.wants_input) by_pixels<1>(geometry, operands, results.grad_input);
    if (results.wants_grid) by_points<1, kSlopes, kSums>(geometry, operands);
    return;
  }
  if (width == 1) return by_blocks<1, kSlopes, kBoth>(geometry, operands);
  if constexpr (std::is_same_v<C, float>) {
    if (width == kBlockChannels) return by_blocks<kBlockChannels, kSlopes, kBoth>(geometry, operands);
  }
  by_blocks<kFewChannels, kSlopes, kBoth>(geometry, operands);
}

template <class C>
void double_backward(const Geometry& geometry, const Operands<C>& operands) {
  constexpr int kAll = kOutput | kScatter | kSums;
  if (geometry.channels < kPlanar) return by_blocks<1, kChanges, kAll>(geometry, operands);
  by_blocks<kFewChannels, kChanges, kAll>(geometry, operands);
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor grid_sample_cpu(const Tensor& input,  // [N, C, (D,) H, W]
                       const Tensor& grid,   // [N, (Do,) Ho, Wo, 2 or 3]
                       int64_t mode, int64_t padding_mode, bool align_corners) {
  const Geometry geometry = check_arguments(input, grid, mode, padding_mode, align_corners);
  const Tensor output = empty_output(geometry, input, grid);
  if (output.numel() == 0) return output;
  const ChannelTensor image(input), result(output);
  const GridTensor points(grid);
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C>(image), operands.grid = points.view<C>();
    operands.output = mutable_stored_view<C>(result);
    forward(geometry, operands);
  });
  return output;
}

std::tuple<Tensor, Tensor> grid_sample_backward_cpu(const Tensor& grad_output,  // [N, C, (Do,) Ho, Wo]
                                                    const Tensor& input,        // [N, C, (D,) H, W]
                                                    const Tensor& grid,         // [N, (Do,) Ho, Wo, 2 or 3]
                                                    int64_t mode, int64_t padding_mode, bool align_corners,
                                                    const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, grid, mode, padding_mode, align_corners);
  check_grad_output(geometry, grad_output, input, grid);
  const auto mask = as_output_mask<2>(kOp, output_mask);
  const Results results(geometry, input, grid, {false, mask[0], mask[1]});
  if (results.is_done()) return {results.grad_input, results.gradient_of(grid)};
  const ChannelTensor image(input), gradient(grad_output);
  const GridTensor points(grid);
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C>(image), operands.grid = points.view<C>();
    operands.grad_output = stored_view<C>(gradient);
    if (results.wants_input) operands.grad_input = mutable_stored_view<C>(ChannelTensor(results.grad_input));
    operands.grad_grid = points_of<C>(results.wants_grid, geometry, results.grad_grid);
    backward(geometry, operands, results);
  });
  return {results.grad_input, results.gradient_of(grid)};
}

std::tuple<Tensor, Tensor, Tensor> grid_sample_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, (D,) H, W]
    const std::optional<Tensor>& grad_grad_grid,   // [N, (Do,) Ho, Wo, 2 or 3]
    const Tensor& grad_output,                     // [N, C, (Do,) Ho, Wo]
    const Tensor& input,                           // [N, C, (D,) H, W]
    const Tensor& grid,                            // [N, (Do,) Ho, Wo, 2 or 3]
    int64_t mode, int64_t padding_mode, bool align_corners, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, grid, mode, padding_mode, align_corners);
  check_grad_output(geometry, grad_output, input, grid);
  const Directions along(geometry, grad_grad_input, grad_grad_grid, input, grid);
  Results results(geometry, input, grid, as_output_mask<3>(kOp, output_mask));
  results.clear_without(along.input.has_value(), along.grid.has_value());
  if (results.is_done()) return {results.grad_grad_output, results.grad_input, results.gradient_of(grid)};
  const ChannelTensor image(input), gradient(grad_output), v_image(along.input ? *along.input : input);
  const GridTensor points(grid), v_points(along.grid ? *along.grid : grid);
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C>(image), operands.grid = points.view<C>();
    if (along.input) operands.v_input = stored_view<C>(v_image);
    if (along.grid) operands.v_grid = v_points.view<C>();
    operands.grad_output = stored_view<C>(gradient);
    if (results.wants_output) operands.output = mutable_stored_view<C>(ChannelTensor(results.grad_grad_output));
    if (results.wants_input) operands.grad_input = mutable_stored_view<C>(ChannelTensor(results.grad_input));
    operands.grad_grid = points_of<C>(results.wants_grid, geometry, results.grad_grid);
    double_backward(geometry, operands);
  });
  return {results.grad_grad_output, results.grad_input, results.gradient_of(grid)};
}

}  // namespace
}  // namespace handgrad::grid_sample

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::grid_sample::grid_sample_cpu>(library, "grid_sample");
  handgrad::implement<handgrad::grid_sample::grid_sample_backward_cpu>(library, "_grid_sample_backward");
  handgrad::implement<handgrad::grid_sample::grid_sample_double_backward_cpu>(library, "_grid_sample_double_backward");
}
