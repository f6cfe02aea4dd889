// RoIAlign on CUDA devices.
//
// Forward: a thread for a bin and a few channels, which share the places that it looks at.
//
// The gradient of the image is not scattered but gathered: a block has a tile of pixels of one image and a few
// channels, and goes through the boxes in order. For each box that reaches the tile it makes the weights of the tile's
// rows and columns, once for all pixels and channels; then every thread adds to its own pixel what that pixel gave. So
// nothing is atomic, the order is that of the boxes on every run, each number of the result is written once, and there
// is no memory beside it.
//
// The gradient of the boxes is a block for each box, with sums of fixed order.
#include <limits>

#include "abi/registration.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "roi_align_host.h"

namespace handgrad {
namespace {

using namespace roi_align;

constexpr int kThreads = 256;
// Channels of a thread: of the output, and of a pixel's gradient.
constexpr int kOutputChannels = 4, kGradChannels = 8;
// A tile is kSide x kSide pixels; its weights are made for kSide x kSide bins at a time. A thread for each.
constexpr int kSide = 16;
static_assert(kSide * kSide == kThreads);

Blocks blocks_for(int64_t threads) { return {(threads + kThreads - 1) / kThreads, dim3(kThreads, 1, 1), 0}; }

template <class C>
__device__ __forceinline__ Box<C> load_box(const BoxTable<const C>& boxes, int64_t k) {
  return {load(boxes.at(k, 0)), load(boxes.at(k, 1)), load(boxes.at(k, 2)), load(boxes.at(k, 3)), load(boxes.at(k, 4))};
}

// What is differentiated, and how it moves (Second only; what is null stands still).
template <class T>
struct Operands {
  Field<const T> input, v_input;
  BoxTable<const Compute<T>> boxes, v_boxes;
};

// A row or column beside a place, low and high: the weights, and how they change with the coordinates and along a
// motion of them.
template <class C>
struct Beside {
  int64_t pixel[2];
  C weight[2], change[2];
  // Of the high one; of the low one it is the negative.
  C by_first, by_second;

  __device__ Beside(const BoxAxis<C>& axis, int64_t p, int64_t i, C v_first, C v_second) {
    const AxisSample<C> sample = axis.sample(axis.place(p, i));
    const C share = axis.share();
    pixel[0] = sample.low, pixel[1] = sample.high;
    weight[0] = (1 - sample.weight) * share, weight[1] = sample.weight * share;
    by_first = sample.slope * share * axis.by_first(p, i);
    by_second = sample.slope * share * axis.by_second(p, i);
    change[1] = v_first * by_first + v_second * by_second;
    change[0] = -change[1];
  }
};

// How the coordinates of a box move.
template <class C>
struct Motion {
  C x1 = 0, y1 = 0, x2 = 0, y2 = 0;
};

template <bool Second, class C>
__device__ __forceinline__ Motion<C> load_motion(const BoxTable<const C>& v_boxes, int64_t k) {
  Motion<C> motion;
  if (Second && v_boxes.data) {
    motion.x1 = load(v_boxes.at(k, 1)), motion.y1 = load(v_boxes.at(k, 2));
    motion.x2 = load(v_boxes.at(k, 3)), motion.y2 = load(v_boxes.at(k, 4));
  }
  return motion;
}

// ---- kernels
// ---------------------------------------------------------------------------------------------------------

// The output; for Second its change along the motion. Thread i has every `groups`-th channel of one bin. Neighbours are
// what is neighbours in the output's memory.
template <class T, bool Second>
__global__ void __launch_bounds__(kThreads, Second ? 1 : kMinBlocks)
    output_kernel(Geometry at, Operands<T> on, int64_t groups, bool channels_last, Field<T> output) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, bins = at.options.pooled_h * at.options.pooled_w;
  if (i >= at.boxes * groups * bins) return;
  const int64_t k = i / (groups * bins), rest = i - k * groups * bins;
  const int64_t group = channels_last ? rest % groups : rest / bins, bin = channels_last ? rest / groups : rest % bins;
  const int64_t p = bin / at.options.pooled_w, q = bin % at.options.pooled_w;
  const Box<C> box = load_box(on.boxes, k);
  const int64_t image = box.image_of(at.batch);
  const BoxAxis<C> rows = box.rows(at), columns = box.columns(at);
  const Motion<C> v = load_motion<Second>(on.v_boxes, k);
  const bool lost = image < 0 || rows.lost || columns.lost;

  C sums[kOutputChannels];
#pragma unroll
  for (int j = 0; j < kOutputChannels; ++j) sums[j] = lost ? std::numeric_limits<C>::quiet_NaN() : C(0);
  const int64_t row_end = lost ? 0 : rows.end(p), column_begin = columns.begin(q), column_end = columns.end(q);
  for (int64_t iy = lost ? 0 : rows.begin(p); iy < row_end; ++iy) {
    const Beside<C> row(rows, p, iy, v.y1, v.y2);
    for (int64_t ix = column_begin; ix < column_end; ++ix) {
      const Beside<C> column(columns, q, ix, v.x1, v.x2);
#pragma unroll
      for (int j = 0; j < kOutputChannels; ++j) {
        const int64_t c = group + j * groups;
        if (c >= at.channels) continue;
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          const int a = corner / 2, b = corner % 2;
          const int64_t y = row.pixel[a], x = column.pixel[b];
          const C weight = row.weight[a] * column.weight[b], pixel = widen(load(on.input.at(image, c, y, x)));
          if constexpr (Second) {
            const C change = row.change[a] * column.weight[b] + row.weight[a] * column.change[b];
            const C moving = on.v_input.data ? widen(load(on.v_input.at(image, c, y, x))) : C(0);
            sums[j] += weight * moving + change * pixel;
          } else {
            sums[j] += weight * pixel;
          }
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kOutputChannels; ++j) {
    const int64_t c = group + j * groups;
    if (c < at.channels) store(output.at(k, c, p, q), narrow<T>(sums[j]));
  }
}

// What bin p weighs a pixel of an axis by, and how that changes along a motion of the coordinates.
template <class C>
__device__ void weigh(const BoxAxis<C>& axis, int64_t p, int64_t pixel, C v_first, C v_second, C& weight, C& change) {
  weight = change = 0;
  if (p >= axis.bins || pixel >= axis.size) return;
  const int64_t end = axis.end(p, pixel);
  for (int64_t i = axis.begin(p, pixel); i < end; ++i) {
    const Beside<C> beside(axis, p, i, v_first, v_second);
    for (int side = 0; side < 2; ++side) {
      if (beside.pixel[side] == pixel) weight += beside.weight[side], change += beside.change[side];
    }
  }
}

// The gradient of the image, or what the double backward adds to it: blocks are (channels, image, tile).
template <class T, bool Second>
__global__ void __launch_bounds__(kThreads, Second ? 1 : kMinBlocks)
    grad_input_kernel(Geometry at, Operands<T> on, Field<const T> grad_output, int64_t tiles_h, int64_t tiles_w,
                      Field<T> grad_input) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ bool reaches[kThreads];
  __shared__ C row_weight[kSide][kSide], row_change[kSide][kSide];
  __shared__ C column_weight[kSide][kSide], column_change[kSide][kSide];
  const int64_t block = blockIdx.x, tile = block % (tiles_h * tiles_w), rest = block / (tiles_h * tiles_w);
  const int64_t image = rest % at.batch, first_channel = rest / at.batch * kGradChannels;
  const int64_t first_y = tile / tiles_w * kSide, first_x = tile % tiles_w * kSide;
  const int in_row = static_cast<int>(threadIdx.x) / kSide, in_column = static_cast<int>(threadIdx.x) % kSide;
  const int64_t y = first_y + in_row, x = first_x + in_column;
  const bool inside = y < at.height && x < at.width;

  C sums[kGradChannels] = {};
  for (int64_t some = 0; some < at.boxes; some += kThreads) {
    // A thread for each of the next boxes: is it of this image, and does it reach the tile?
    const int64_t mine = some + threadIdx.x;
    bool hit = false;
    if (mine < at.boxes) {
      const Box<C> box = load_box(on.boxes, mine);
      const BoxAxis<C> rows = box.rows(at), columns = box.columns(at);
      hit = box.image_of(at.batch) == image && rows.may_touch(first_y, first_y + kSide) &&
            columns.may_touch(first_x, first_x + kSide);
    }
    reaches[threadIdx.x] = hit;
    __syncthreads();
    for (int64_t k = some; k < at.boxes && k < some + kThreads; ++k) {
      if (!reaches[k - some]) continue;
      const Box<C> box = load_box(on.boxes, k);
      const BoxAxis<C> rows = box.rows(at), columns = box.columns(at);
      const Motion<C> v = load_motion<Second>(on.v_boxes, k);
      for (int64_t p = 0; p < at.options.pooled_h; p += kSide) {
        for (int64_t q = 0; q < at.options.pooled_w; q += kSide) {
          // Bin in_row of these, pixel in_column of the tile.
          weigh(rows, p + in_row, first_y + in_column, v.y1, v.y2, row_weight[in_row][in_column],
                row_change[in_row][in_column]);
          weigh(columns, q + in_row, first_x + in_column, v.x1, v.x2, column_weight[in_row][in_column],
                column_change[in_row][in_column]);
          __syncthreads();
          for (int a = 0; inside && a < kSide && p + a < at.options.pooled_h; ++a) {
            const C weight_y = row_weight[a][in_row], change_y = row_change[a][in_row];
            if (weight_y == 0 && change_y == 0) continue;
            for (int b = 0; b < kSide && q + b < at.options.pooled_w; ++b) {
              const C weight_x = column_weight[b][in_column], change_x = column_change[b][in_column];
              const C weight = Second ? change_y * weight_x + weight_y * change_x : weight_y * weight_x;
              if (weight == 0) continue;
#pragma unroll
              for (int j = 0; j < kGradChannels; ++j) {
                if (first_channel + j < at.channels) {
                  sums[j] += weight * widen(load(grad_output.at(k, first_channel + j, p + a, q + b)));
                }
              }
            }
          }
          __syncthreads();
        }
      }
    }
    __syncthreads();
  }
  if (!inside) return;
#pragma unroll
  for (int j = 0; j < kGradChannels; ++j) {
    if (first_channel + j < at.channels) store(grad_input.at(image, first_channel + j, y, x), narrow<T>(sums[j]));
  }
}

// The gradient of one box by a block: the sum over its bins and channels.
template <class T, bool Second>
__global__ void __launch_bounds__(kThreads, Second ? 1 : kMinBlocks)
    grad_boxes_kernel(Geometry at, Operands<T> on, Field<const T> grad_output, BoxTable<Compute<T>> grad_boxes) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t k = blockIdx.x, bins = at.options.pooled_h * at.options.pooled_w;
  const Box<C> box = load_box(on.boxes, k);
  const int64_t image = box.image_of(at.batch);
  const BoxAxis<C> rows = box.rows(at), columns = box.columns(at);
  const Motion<C> v = load_motion<Second>(on.v_boxes, k);
  // x1, y1, x2, y2
  double sums[4] = {};
  const bool lost = image < 0 || rows.lost || columns.lost;
  for (int64_t i = threadIdx.x; !lost && i < at.channels * bins; i += kThreads) {
    const int64_t c = i / bins, p = i % bins / at.options.pooled_w, q = i % at.options.pooled_w;
    const C grad = widen(load(grad_output.at(k, c, p, q)));
    const int64_t row_end = rows.end(p), column_begin = columns.begin(q), column_end = columns.end(q);
    C of_bin[4] = {};
    for (int64_t iy = rows.begin(p); iy < row_end; ++iy) {
      const Beside<C> row(rows, p, iy, v.y1, v.y2);
      for (int64_t ix = column_begin; ix < column_end; ++ix) {
        const Beside<C> column(columns, q, ix, v.x1, v.x2);
        // In each of the two rows: the sum over columns that the row's derivative is of, and in each column likewise.
        C of_row[2] = {}, of_column[2] = {};
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          const int a = corner / 2, b = corner % 2;
          const C pixel = widen(load(on.input.at(image, c, row.pixel[a], column.pixel[b])));
          if constexpr (Second) {
            const C moving =
                on.v_input.data ? widen(load(on.v_input.at(image, c, row.pixel[a], column.pixel[b]))) : C(0);
            of_row[a] += column.weight[b] * moving + column.change[b] * pixel;
            of_column[b] += row.weight[a] * moving + row.change[a] * pixel;
          } else {
            of_row[a] += column.weight[b] * pixel;
            of_column[b] += row.weight[a] * pixel;
          }
        }
        of_bin[0] += column.by_first * (of_column[1] - of_column[0]);
        of_bin[1] += row.by_first * (of_row[1] - of_row[0]);
        of_bin[2] += column.by_second * (of_column[1] - of_column[0]);
        of_bin[3] += row.by_second * (of_row[1] - of_row[0]);
      }
    }
    for (int d = 0; d < 4; ++d) sums[d] += static_cast<double>(grad * of_bin[d]);
  }
  if (threadIdx.x == 0) store(grad_boxes.at(k, 0), C(0));
  for (int d = 0; d < 4; ++d) {
    const double total = block_sum<kThreads>(sums[d]);
    if (threadIdx.x == 0) store(grad_boxes.at(k, d + 1), static_cast<C>(total));
    // block_sum's memory is about to be written again.
    __syncthreads();
  }
}

// ---- host entries
// ----------------------------------------------------------------------------------------------------

template <class T, bool Second>
void launch_output(const Geometry& at, const DeviceOf& device, const Operands<T>& on, const Tensor& output) {
  const int64_t groups = (at.channels + kOutputChannels - 1) / kOutputChannels;
  launch("roi_align_output", output_kernel<T, Second>, device, blocks_for(at.boxes * groups * at.bins()), at, on,
         groups, !output.is_contiguous(), mutable_field<T>(output));
}

template <class T, bool Second>
void launch_grad_input(const Geometry& at, const DeviceOf& device, const Operands<T>& on, const Tensor& grad_output,
                       const Tensor& grad_input) {
  const int64_t tiles_h = (at.height + kSide - 1) / kSide, tiles_w = (at.width + kSide - 1) / kSide;
  const int64_t chunks = (at.channels + kGradChannels - 1) / kGradChannels;
  launch("roi_align_grad_input", grad_input_kernel<T, Second>, device,
         {chunks * at.batch * tiles_h * tiles_w, dim3(kThreads, 1, 1)}, at, on, field<T>(grad_output), tiles_h, tiles_w,
         mutable_field<T>(grad_input));
}

template <class T, bool Second>
void launch_grad_boxes(const Geometry& at, const DeviceOf& device, const Operands<T>& on, const Tensor& grad_output,
                       const Tensor& grad_boxes) {
  launch("roi_align_grad_boxes", grad_boxes_kernel<T, Second>, device, {at.boxes, dim3(kThreads, 1, 1)}, at, on,
         field<T>(grad_output), mutable_box_table<Compute<T>>(grad_boxes));
}

template <class T>
Operands<T> operands(const Tensor& input, const Tensor& boxes) {
  return {field<T>(input), {}, box_table<Compute<T>>(boxes), {}};
}

Tensor roi_align_cuda(const Tensor& input, const Tensor& boxes, int64_t pooled_h, int64_t pooled_w,
                      double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const Geometry at = check_arguments(input, boxes, {pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned});
  const Tensor output = empty_output(at, input);
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_output<T, false>(at, device, operands<T>(input, boxes), output);
  });
  return output;
}

std::tuple<Tensor, Tensor> roi_align_backward_cuda(const Tensor& grad_output, const Tensor& input, const Tensor& boxes,
                                                   int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                   int64_t sampling_ratio, bool aligned,
                                                   const std::vector<bool>& output_mask) {
  const Backward call(grad_output, input, boxes, {pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned},
                      output_mask);
  const Geometry& at = call.at;
  const Tensor &grad_input = call.grad_input, &grad_boxes = call.grad_boxes;
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> on = operands<T>(input, boxes);
    if (call.wants_input) launch_grad_input<T, false>(at, device, on, grad_output, grad_input);
    if (call.wants_boxes) launch_grad_boxes<T, false>(at, device, on, grad_output, grad_boxes);
  });
  return {grad_input, grad_boxes};
}

std::tuple<Tensor, Tensor, Tensor> roi_align_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_boxes,
    const Tensor& grad_output, const Tensor& input, const Tensor& boxes, int64_t pooled_h, int64_t pooled_w,
    double spatial_scale, int64_t sampling_ratio, bool aligned, const std::vector<bool>& output_mask) {
  const DoubleBackward call(grad_grad_input, grad_grad_boxes, grad_output, input, boxes,
                            {pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned}, output_mask);
  const Geometry& at = call.at;
  const Tensor &grad_grad_output = call.grad_grad_output, &grad_input = call.grad_input, &grad_boxes = call.grad_boxes;
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Operands<T> on = operands<T>(input, boxes);
    if (grad_grad_input) on.v_input = field<T>(*grad_grad_input);
    if (grad_grad_boxes) on.v_boxes = box_table<Compute<T>>(*grad_grad_boxes);
    if (call.wants_grad_output && grad_grad_boxes) launch_output<T, true>(at, device, on, grad_grad_output);
    // The output is linear in the image.
    if (call.wants_grad_output && !grad_grad_boxes) {
      launch_output<T, false>(at, device, operands<T>(*grad_grad_input, boxes), grad_grad_output);
    }
    if (call.wants_input) launch_grad_input<T, true>(at, device, on, grad_output, grad_input);
    if (call.wants_boxes) launch_grad_boxes<T, true>(at, device, on, grad_output, grad_boxes);
  });
  return {grad_grad_output, grad_input, grad_boxes};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::roi_align_cuda>(library, "roi_align");
  handgrad::implement<handgrad::roi_align_backward_cuda>(library, "_roi_align_backward");
  handgrad::implement<handgrad::roi_align_double_backward_cuda>(library, "_roi_align_double_backward");
}
