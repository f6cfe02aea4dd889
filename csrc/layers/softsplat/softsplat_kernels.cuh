// The kernels of softsplat on CUDA devices. One for Twice serves the double backward.
//
// Sources are sorted by the cell that they land in, the square between four targets, by torch's stable sort; cells of
// an image have a row and a column more than it has pixels. A target goes through the sources of its four cells, a
// source reads its four targets: nothing is atomic, and the order of every sum is that of cells, then of sources.
//
// In order of appearance: Operands and Lists; the keys of the sort; what targets are divided by; the output; what
// sources read of the output's gradient; what the sum of weights has for a gradient; the gradients of the points.
#pragma once

#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "softsplat_host.h"

namespace handgrad::softsplat {

inline constexpr int kThreads = 128;
// Channels of a thread: as many loads are under way together.
inline constexpr int kChannels = 8;

// ---- operands -------------------------------------------------------------------------------------------------------

// Numbers of targets or of sources, an array behind the other: [arrays, N, pixels].
template <class C>
struct Numbers {
  C* data = nullptr;
  int64_t stride = 0;

  __device__ C read(int which, int64_t index) const { return load(data + which * stride + index); }
  __device__ void write(int which, int64_t index, C value) const { store(data + which * stride + index, value); }
};

// What Numbers hold of a target, in the order of Field; what only Twice has comes last.
enum OfTarget { kLargest, kScale, kPull, kGradTotal, kScaleChange, kGradTotalChange };

template <class T>
struct Operands {
  using C = Compute<T>;

  View<const T, 3> input, v_input, grad_output;  // [N, C, pixels]
  View<const C, 3> flow, v_flow;                 // [N, 2, pixels]
  View<const C, 3> metric, v_metric;             // [N, 1, pixels]
  Numbers<C> fields;                             // of targets
  // Products of the gradient of the output at the four targets with the source, and behind them, for Twice, with its
  // motion.
  Numbers<C> dots;

  __device__ Landing<C> landing(const Geometry& geometry, int64_t n, int32_t source) const {
    const int32_t row = source / geometry.width, column = source - row * geometry.width;
    const C y = static_cast<C>(row) + load_constant(flow.at(n, 1, source));
    const C x = static_cast<C>(column) + load_constant(flow.at(n, 0, source));
    return Landing<C>(y, x, geometry.height, geometry.width);
  }
  __device__ C metric_of(int64_t n, int32_t source) const {
    return metric ? load_constant(metric.at(n, 0, source)) : C(0);
  }
  __device__ Motion<C> motion(int64_t n, int32_t source) const {
    Motion<C> v{0, 0, 0};
    if (v_flow) v.x = load_constant(v_flow.at(n, 0, source)), v.y = load_constant(v_flow.at(n, 1, source));
    if (v_metric) v.metric = load_constant(v_metric.at(n, 0, source));
    return v;
  }
  __device__ C largest(const Geometry& geometry, int64_t index) const {
    return geometry.mode == kSoftmax ? fields.read(kLargest, index) : C(0);
  }
  __device__ C scale(const Geometry& geometry, int64_t index) const {
    return geometry.divides() ? fields.read(kScale, index) : C(1);
  }
  __device__ C scale_change(const Geometry& geometry, int64_t index) const {
    return geometry.divides() ? fields.read(kScaleChange, index) : C(0);
  }
};

// The sources of each cell: sorted by decreasing cell, those that land nowhere behind them. The list of cell k is
// sources [starts[k + 1], starts[k]) of the order.
struct Lists {
  int64_t cells;
  int32_t* keys;         // [N, pixels]
  const int64_t* order;  // [N, pixels]
  int32_t* starts;       // [N, cells + 1]

  // body(source, corner): the sources that reach a target, and which of their four it is.
  template <class Body>
  __device__ void for_sources(const Geometry& geometry, int64_t n, int32_t target, const Body& body) const {
    const int32_t row = target / geometry.width, column = target - row * geometry.width;
#pragma unroll 1
    for (int q = 3; q >= 0; --q) {
      const int64_t cell = int64_t{row + 1 - q / 2} * (geometry.width + 1) + (column + 1 - q % 2);
      const int32_t* const ends = starts + n * (cells + 1) + cell;
      const int32_t last = load_constant(ends);
#pragma unroll 1
      for (int32_t i = load_constant(ends + 1); i < last; ++i) {
        body(static_cast<int32_t>(load_constant(order + n * geometry.pixels + i)), q);
      }
    }
  }
};

// The image and the pixel of a thread.
struct Item {
  int64_t index, n;
  int32_t pixel;

  __device__ explicit Item(const Geometry& geometry)
      : index(int64_t{blockIdx.x} * kThreads + threadIdx.x),
        n(index / geometry.pixels),
        pixel(static_cast<int32_t>(index - n * geometry.pixels)) {}
};

// ---- the keys of the sort -------------------------------------------------------------------------------------------

// The cell of each source, or -1.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    keys_kernel(Geometry geometry, Operands<T> operands, int32_t* keys) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const Item item(geometry);
  if (item.n >= geometry.batch) return;
  const Landing<Compute<T>> landing = operands.landing(geometry, item.n, item.pixel);
  const int32_t cell = (landing.row + 1) * (geometry.width + 1) + landing.column + 1;
  store(keys + item.index, landing.lands ? cell : -1);
}

// Where each cell begins: before how many sources there are larger cells. A thread has a cell.
__global__ void __launch_bounds__(kThreads, kMinBlocks) starts_kernel(Geometry geometry, Lists lists) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x, n = index / (lists.cells + 1);
  if (n >= geometry.batch) return;
  // Element k + 1 is where cell k begins; element 0, where those without one do, is where cell 0 ends.
  const int64_t cell = index - n * (lists.cells + 1) - 1;
  const int32_t* const keys = lists.keys + n * geometry.pixels;
  int32_t low = 0, high = static_cast<int32_t>(geometry.pixels);
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (load_constant(keys + middle) > cell) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  store(lists.starts + index, low);
}

// ---- what targets are divided by ------------------------------------------------------------------------------------

// A thread has a target.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    fields_kernel(Geometry geometry, Operands<T> operands, Lists lists) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const Item item(geometry);
  if (item.n >= geometry.batch) return;
  C largest = 0;
  if (geometry.mode == kSoftmax) {
    constexpr C kNone = -std::numeric_limits<C>::infinity();
    C found = kNone;
    lists.for_sources(geometry, item.n, item.pixel, [&](int32_t source, int q) {
      const Landing<C> landing = operands.landing(geometry, item.n, source);
      const C metric = operands.metric_of(item.n, source);
      if (Corner<C>(q, landing.down, landing.right).value > 0 && metric > found) found = metric;
    });
    largest = found > kNone ? found : C(0);
    operands.fields.write(kLargest, item.index, largest);
  }
  C total = 0, change = 0;
  lists.for_sources(geometry, item.n, item.pixel, [&](int32_t source, int q) {
    const Landing<C> landing = operands.landing(geometry, item.n, source);
    const Corner<C> corner(q, landing.down, landing.right);
    const Importance<C> importance(geometry.mode, operands.metric_of(item.n, source), largest);
    total += corner.value * importance.value;
    if constexpr (Twice) change += product_change(corner, importance, operands.motion(item.n, source));
  });
  const Divisor<C> divisor(geometry.mode, geometry.normalization, static_cast<C>(geometry.eps), total, largest);
  operands.fields.write(kScale, item.index, divisor.scale);
  operands.fields.write(kPull, item.index, divisor.pull);
  if constexpr (Twice) {
    operands.fields.write(kScaleChange, item.index, scale_change(divisor.scale, divisor.pull, change));
  }
}

// ---- the output -----------------------------------------------------------------------------------------------------

// A thread has a target and some channels, `groups` apart, so that neighbouring threads write what are neighbours in
// memory: targets, or channels.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(Geometry geometry, Operands<T> operands, Lists lists, int64_t groups, bool channels_innermost,
                  View<T, 3> output) {  // [N, C, pixels]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= geometry.batch * groups * geometry.pixels) return;
  const int64_t inner = channels_innermost ? groups : geometry.pixels, rest = i / inner, last = i - rest * inner;
  const int64_t outer = channels_innermost ? geometry.pixels : groups;
  const int64_t n = rest / outer, middle = rest - n * outer;
  const int64_t first = channels_innermost ? last : middle;
  const int32_t target = static_cast<int32_t>(channels_innermost ? middle : last);
  const int64_t field = n * geometry.pixels + target;
  const C largest = operands.largest(geometry, field), scale = operands.scale(geometry, field);
  const C scale_moves = Twice ? operands.scale_change(geometry, field) : C(0);
  // Otherwise the change is 0, and 0 times infinity would be NaN.
  const bool moves = !Twice || operands.v_flow || operands.v_metric;
  C sums[kChannels] = {};
  lists.for_sources(geometry, n, target, [&](int32_t source, int q) {
    const Landing<C> landing = operands.landing(geometry, n, source);
    const Corner<C> corner(q, landing.down, landing.right);
    const Importance<C> importance(geometry.mode, operands.metric_of(n, source), largest);
    const C weight = weight_of(corner, importance, scale);
    C change = weight;
    if constexpr (Twice) {
      change = weight_change(corner, importance, scale, scale_moves, operands.motion(n, source));
    }
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      const int64_t c = first + j * groups;
      if (c >= geometry.channels) continue;
      if (moves) sums[j] += change * widen(load_constant(operands.input.at(n, c, source)));
      if (Twice && operands.v_input) sums[j] += weight * widen(load_constant(operands.v_input.at(n, c, source)));
    }
  });
#pragma unroll
  for (int j = 0; j < kChannels; ++j) {
    const int64_t c = first + j * groups;
    if (c < geometry.channels) store(output.at(n, c, target), narrow<T>(sums[j]));
  }
}

// ---- what sources read ----------------------------------------------------------------------------------------------

// A thread has a source, and goes through its channels in their order: its gradient, where that is wanted, and dots.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    read_kernel(Geometry geometry, Operands<T> operands, View<T, 3> grad_input) {  // [N, C, pixels]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const Item item(geometry);
  if (item.n >= geometry.batch) return;
  const Landing<C> landing = operands.landing(geometry, item.n, item.pixel);
  const C metric = operands.metric_of(item.n, item.pixel);
  C dots[4] = {}, v_dots[4] = {};
#pragma unroll 1
  for (int64_t first = 0; first < geometry.channels; first += kChannels) {
    C features[kChannels], sums[kChannels] = {};
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      const bool reads = operands.dots.data && first + j < geometry.channels;
      features[j] = reads ? widen(load_constant(operands.input.at(item.n, first + j, item.pixel))) : C(0);
    }
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int32_t target = landing.target(q, geometry.height, geometry.width);
      if (target < 0) continue;
      const int64_t field = item.n * geometry.pixels + target;
      const Corner<C> corner(q, landing.down, landing.right);
      const Importance<C> importance(geometry.mode, metric, operands.largest(geometry, field));
      const C scale = operands.scale(geometry, field);
      C weight = weight_of(corner, importance, scale);
      if constexpr (Twice) {
        weight = weight_change(corner, importance, scale, operands.scale_change(geometry, field),
                               operands.motion(item.n, item.pixel));
      }
#pragma unroll
      for (int j = 0; j < kChannels; ++j) {
        const int64_t c = first + j;
        if (c >= geometry.channels) continue;
        const C grad = widen(load_constant(operands.grad_output.at(item.n, c, target)));
        sums[j] += weight * grad;
        dots[q] += features[j] * grad;
        if (Twice && operands.v_input && operands.dots.data) {
          v_dots[q] += widen(load_constant(operands.v_input.at(item.n, c, item.pixel))) * grad;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      const int64_t c = first + j;
      if (grad_input && c < geometry.channels) store(grad_input.at(item.n, c, item.pixel), narrow<T>(sums[j]));
    }
  }
  if (!operands.dots.data) return;
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    operands.dots.write(q, item.index, dots[q]);
    if (Twice && operands.v_input) operands.dots.write(4 + q, item.index, v_dots[q]);
  }
}

// ---- what the sum of weights has for a gradient ---------------------------------------------------------------------

// A thread has a target.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_totals_kernel(Geometry geometry, Operands<T> operands, Lists lists) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const Item item(geometry);
  if (item.n >= geometry.batch) return;
  const C largest = operands.largest(geometry, item.index);
  C sum = 0, change = 0;
  lists.for_sources(geometry, item.n, item.pixel, [&](int32_t source, int q) {
    const Landing<C> landing = operands.landing(geometry, item.n, source);
    const Corner<C> corner(q, landing.down, landing.right);
    const Importance<C> importance(geometry.mode, operands.metric_of(item.n, source), largest);
    const int64_t index = item.n * geometry.pixels + source;
    const C product = corner.value * importance.value, dot = operands.dots.read(q, index);
    sum += product * dot;
    if constexpr (Twice) {
      change += product_change(corner, importance, operands.motion(item.n, source)) * dot;
      if (operands.v_input) change += product * operands.dots.read(4 + q, index);
    }
  });
  const C scale = operands.fields.read(kScale, item.index), pull = operands.fields.read(kPull, item.index);
  operands.fields.write(kGradTotal, item.index, grad_total(scale, pull, sum));
  if constexpr (Twice) {
    const C moves = operands.fields.read(kScaleChange, item.index);
    operands.fields.write(kGradTotalChange, item.index, grad_total_change(scale, pull, moves, sum, change));
  }
}

// ---- the gradients of points and metric -----------------------------------------------------------------------------

// A thread has a source.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    points_kernel(Geometry geometry, Operands<T> operands, View<Compute<T>, 3> grad_flow,  // [N, 2, pixels]
                  View<Compute<T>, 3> grad_metric) {                                       // [N, 1, pixels]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const Item item(geometry);
  if (item.n >= geometry.batch) return;
  const Landing<C> landing = operands.landing(geometry, item.n, item.pixel);
  const C metric = operands.metric_of(item.n, item.pixel);
  Motion<C> grad{0, 0, 0};
#pragma unroll 1
  for (int q = 0; q < 4; ++q) {
    const int32_t target = landing.target(q, geometry.height, geometry.width);
    if (target < 0) continue;
    const int64_t index = item.n * geometry.pixels + target;
    Field<C> field{operands.largest(geometry, index), operands.scale(geometry, index), 0, 0, 0, 0};
    if (geometry.divides()) field.grad_total = operands.fields.read(kGradTotal, index);
    const Corner<C> corner(q, landing.down, landing.right);
    const Importance<C> importance(geometry.mode, metric, field.largest);
    const C dot = operands.dots.read(q, item.index);
    if constexpr (Twice) {
      field.scale_change = operands.scale_change(geometry, index);
      if (geometry.divides()) field.grad_total_change = operands.fields.read(kGradTotalChange, index);
      const C v_dot = operands.v_input ? operands.dots.read(4 + q, item.index) : C(0);
      add_second_gradient(corner, importance, field, dot, v_dot, operands.motion(item.n, item.pixel), grad);
    } else {
      add_gradient(corner, importance, field, dot, grad);
    }
  }
  if (grad_flow) store(grad_flow.at(item.n, 0, item.pixel), grad.x), store(grad_flow.at(item.n, 1, item.pixel), grad.y);
  if (grad_metric) store(grad_metric.at(item.n, 0, item.pixel), grad.metric);
}

}  // namespace handgrad::softsplat
