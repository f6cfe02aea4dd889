// Kernels of the sums on CUDA devices. A block takes the tiles of a chunk of one sample one after the other: all
// channels of a few neighbouring positions, read from global memory once into scratch memory, activated there, summed
// there by a warp for each channel, or turned into gradients there.
//
// The scratch is shared memory; where a tile of even a few positions is too large for that, a piece of global memory
// that belongs to the block. Partial sums of chunks are added by a kernel of their own, in order, in double: the same
// bits on every run.
//
// In order of appearance: Scratch; Block, which loads and activates a tile, sums it and writes its gradients; the
// kernels.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "overlap_sums_operands.cuh"

namespace handgrad::overlap_sums {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileWarps = kTileThreads / kWarpSize;

// A block's memory: of all channels the sums, or the gradients with respect to them; lines of a number for each
// position; and arrays of a tile.
template <class C, bool Second>
struct Scratch {
  double* totals;
  C *g, *classes, *counted, *dot, *moved_dot, *p, *t, *dp, *dt;

  static int64_t numbers(const Problem& problem, int64_t pitch) {
    const int64_t arrays = (problem.classes ? 1 : 2) * (Second ? 2 : 1);
    // Doubles are two floats each.
    return problem.channels * kSums * (static_cast<int64_t>(sizeof(double) / sizeof(C)) + 1) + 4 * pitch +
           arrays * problem.channels * pitch;
  }
  __device__ Scratch(const Geometry& geometry, bool has_classes, C* memory) {
    const int64_t sums = int64_t{geometry.channels} * kSums, array = int64_t{geometry.channels} * geometry.pitch;
    totals = reinterpret_cast<double*>(memory);
    g = reinterpret_cast<C*>(totals + sums);
    classes = g + sums;
    counted = classes + geometry.pitch;
    dot = counted + geometry.pitch;
    moved_dot = dot + geometry.pitch;
    p = moved_dot + geometry.pitch;
    dp = p + array;
    t = dp + (Second ? array : 0);
    dt = has_classes ? t : t + array;
  }
};

// A tile of sample n.
struct TileAt {
  int64_t n, first;
  int32_t width;
};

template <class C, bool Second>
struct Block {
  const Geometry& geometry;
  const Operands<C>& operands;
  Scratch<C, Second> scratch;
  Measure<C> measure;
  TileAt tile;

  __device__ Block(const Geometry& geometry, const Operands<C>& operands, C* memory)
      : geometry(geometry),
        operands(operands),
        scratch(geometry, operands.classes, memory),
        measure{operands.squared},
        tile{} {}

  template <class P>
  __device__ int64_t offset(const StoredView<P, 3>& view, int32_t c, int32_t j) const {
    return tile.n * view.strides[0] + c * view.strides[1] + (tile.first + j) * view.strides[2];
  }
  // body(channel, position, index in an array) for each element of the tile, neighbours in memory to neighbouring
  // threads.
  template <class Body>
  __device__ void for_each(const Body& body) const {
    const int32_t inner = geometry.channels_innermost ? geometry.channels : tile.width;
    const int32_t count = geometry.channels * tile.width;
    for (int32_t i = threadIdx.x; i < count; i += kTileThreads) {
      const int32_t outside = i / inner, inside = i - outside * inner;
      const int32_t c = geometry.channels_innermost ? inside : outside;
      const int32_t j = geometry.channels_innermost ? outside : inside;
      body(c, j, c * geometry.pitch + j);
    }
  }
  template <class Body>
  __device__ void for_each_position(const Body& body) const {
    for (int32_t j = threadIdx.x; j < tile.width; j += kTileThreads) body(j);
  }

  // ---- a target ----------------------------------------------------------------------------------------------------

  __device__ bool is_counted(int32_t j, int32_t index) const {
    return operands.classes ? scratch.classes[j] != C(-1) : scratch.t[index] != operands.ignored;
  }
  __device__ C target(int32_t c, int32_t j, int32_t index) const {
    if (!operands.classes) return only(is_counted(j, index), scratch.t[index]);
    // What is no class, and not ignored, is seen: NaN.
    const C found = scratch.classes[j];
    return found != found ? found : found == static_cast<C>(c) ? C(1) : C(0);
  }
  __device__ C target_direction(int32_t index) const { return operands.classes ? C(0) : scratch.dt[index]; }
  __device__ Sums<C> gradient_of_sums(int32_t c) const {
    const C* g = scratch.g + c * kSums;
    return {g[0], g[1], g[2]};
  }

  // ---- loading and activating --------------------------------------------------------------------------------------

  __device__ void begin(int64_t n) {
    tile.n = n;
    const int32_t sums = geometry.channels * static_cast<int32_t>(kSums);
    for (int32_t i = threadIdx.x; i < sums; i += kTileThreads) {
      scratch.totals[i] = 0;
      if (operands.grad_sums) scratch.g[i] = load(operands.grad_sums + n * sums + i);
    }
  }

  __device__ void load_tile() {
    for_each([&](int32_t c, int32_t j, int32_t index) {
      const C x = read(operands.inputs, offset(operands.inputs, c, j));
      scratch.p[index] = operands.activation == Activation::sigmoid ? sigmoid(x) : x;
      if (!operands.classes) scratch.t[index] = read_number(operands.targets, offset(operands.targets, c, j));
      if constexpr (Second) {
        scratch.dp[index] = operands.direction1 ? read(operands.direction1, offset(operands.direction1, c, j)) : C(0);
        if (!operands.classes) {
          scratch.dt[index] = operands.direction2 ? read(operands.direction2, offset(operands.direction2, c, j)) : C(0);
        }
      }
    });
    if (operands.classes) {
      for_each_position([&](int32_t j) {
        const C found = read_number(operands.targets, offset(operands.targets, 0, j));
        const bool is_class = found >= 0 && found < static_cast<C>(geometry.channels);
        scratch.classes[j] = found == operands.ignored ? C(-1) : is_class ? found : nan_of<C>();
      });
    }
    __syncthreads();
    if (operands.activation == Activation::softmax) for_each_position([&](int32_t j) { activate(j); });
    if constexpr (Second) {
      if (operands.activation == Activation::sigmoid) {
        for_each(
            [&](int32_t, int32_t, int32_t index) { scratch.dp[index] *= scratch.p[index] * (1 - scratch.p[index]); });
      }
    }
    __syncthreads();
  }

  template <class T>
  __device__ static T nan_of() {
    return std::numeric_limits<T>::quiet_NaN();
  }

  // The softmax of a position, its derivative along the direction, and whether any of its channels is counted.
  __device__ void activate(int32_t j) const {
    const int32_t channels = geometry.channels, pitch = geometry.pitch;
    C largest = -std::numeric_limits<C>::infinity(), sum = 0, any = 0;
    for (int32_t c = 0, i = j; c < channels; ++c, i += pitch) {
      largest = scratch.p[i] > largest ? scratch.p[i] : largest;
      if (is_counted(j, i)) any = 1;
    }
    for (int32_t c = 0, i = j; c < channels; ++c, i += pitch) {
      const C power = exp(scratch.p[i] - largest);
      scratch.p[i] = power;
      sum += power;
    }
    sum = 1 / sum;
    for (int32_t c = 0, i = j; c < channels; ++c, i += pitch) scratch.p[i] *= sum;
    scratch.counted[j] = any;
    if constexpr (Second) {
      C along = 0;
      for (int32_t c = 0, i = j; c < channels; ++c, i += pitch) along += scratch.p[i] * scratch.dp[i];
      for (int32_t c = 0, i = j; c < channels; ++c, i += pitch) scratch.dp[i] = scratch.p[i] * (scratch.dp[i] - along);
    }
  }

  // ---- the sums ----------------------------------------------------------------------------------------------------

  // Of the tile to those of the chunk: a warp for each channel, always the same one.
  __device__ void add_sums() const {
    const int32_t lane = threadIdx.x % kWarpSize;
    for (int32_t c = threadIdx.x / kWarpSize; c < geometry.channels; c += kTileWarps) {
      C overlap = 0, predictions = 0, targets = 0;
      for (int32_t j = lane; j < tile.width; j += kWarpSize) {
        const int32_t i = c * geometry.pitch + j;
        const bool counted = is_counted(j, i);
        Sums<C> one;
        if constexpr (Second) {
          one = measure.moved(only(counted, scratch.p[i]), target(c, j, i), only(counted, scratch.dp[i]),
                              only(counted, target_direction(i)));
        } else {
          one = measure.contribution(only(counted, scratch.p[i]), target(c, j, i));
        }
        overlap += one.overlap, predictions += one.predictions, targets += one.targets;
      }
      const double all[] = {warp_sum(static_cast<double>(overlap)), warp_sum(static_cast<double>(predictions)),
                            warp_sum(static_cast<double>(targets))};
      if (lane == 0) {
        for (int k = 0; k < 3; ++k) scratch.totals[c * kSums + k] += all[k];
      }
    }
  }
  __device__ void store_sums(int64_t item) const {
    const int32_t sums = geometry.channels * static_cast<int32_t>(kSums);
    for (int32_t i = threadIdx.x; i < sums; i += kTileThreads)
      store(operands.partial + item * sums + i, scratch.totals[i]);
  }

  // ---- the gradients -----------------------------------------------------------------------------------------------

  // With respect to p, and the derivative of that along the directions.
  __device__ C of_prediction(int32_t c, int32_t j, int32_t i) const {
    return only(is_counted(j, i), measure.of_prediction(gradient_of_sums(c), scratch.p[i], target(c, j, i)));
  }
  __device__ C of_prediction_moved(int32_t c, int32_t j, int32_t i) const {
    return only(is_counted(j, i), measure.of_prediction_moved(gradient_of_sums(c), scratch.dp[i], target_direction(i)));
  }

  // Under softmax the sums over channels that gradients need.
  __device__ void add_up_channels() const {
    for_each_position([&](int32_t j) {
      C dot = 0, moved = 0;
      for (int32_t c = 0, i = j; c < geometry.channels; ++c, i += geometry.pitch) {
        if (!is_counted(j, i)) continue;
        const C u = of_prediction(c, j, i);
        dot += scratch.p[i] * u;
        if constexpr (Second) moved += scratch.dp[i] * u + scratch.p[i] * of_prediction_moved(c, j, i);
      }
      scratch.dot[j] = dot;
      if constexpr (Second) scratch.moved_dot[j] = moved;
    });
  }

  __device__ C grad_input(int32_t c, int32_t j, int32_t i) const {
    const bool softmax = operands.activation == Activation::softmax;
    if (softmax ? scratch.counted[j] == 0 : !is_counted(j, i)) return 0;
    const C p = scratch.p[i], u = of_prediction(c, j, i);
    const bool plain = operands.activation == Activation::none;
    if constexpr (Second) {
      const C dp = scratch.dp[i], du = of_prediction_moved(c, j, i);
      if (softmax) return dp * (u - scratch.dot[j]) + p * (du - scratch.moved_dot[j]);
      // dp is p (1 - p) times the direction.
      return plain ? du : (1 - 2 * p) * dp * u + p * (1 - p) * du;
    }
    return softmax ? p * (u - scratch.dot[j]) : plain ? u : p * (1 - p) * u;
  }
  __device__ C grad_target(int32_t c, int32_t j, int32_t i) const {
    const Sums<C> g = gradient_of_sums(c);
    if (!is_counted(j, i)) return 0;
    if constexpr (Second) return measure.of_target_moved(g, scratch.dp[i], target_direction(i));
    return measure.of_target(g, scratch.p[i], target(c, j, i));
  }

  __device__ void write_gradients() const {
    if (operands.activation == Activation::softmax && operands.grad_inputs) {
      add_up_channels();
      __syncthreads();
    }
    for_each([&](int32_t c, int32_t j, int32_t i) {
      if (operands.grad_inputs) write(operands.grad_inputs, offset(operands.grad_inputs, c, j), grad_input(c, j, i));
      if (operands.grad_targets) {
        write(operands.grad_targets, offset(operands.grad_targets, c, j), grad_target(c, j, i));
      }
    });
  }
};

// ---- kernels -------------------------------------------------------------------------------------------------------

// The sums, or of the first derivative the gradients; Second: of the second derivative both. `global` is null where the
// scratch is shared memory.
template <class C, bool Summed, bool Second>
__global__ void __launch_bounds__(kTileThreads, kMinBlocks)
    overlap_sums_kernel(Geometry geometry, Operands<C> operands, C* global) {
  HANDGRAD_LAUNCH_BOUNDS(kTileThreads);
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  Block<C, Second> block(geometry, operands, global ? global + int64_t{blockIdx.x} * geometry.scratch : shared);
  for (int64_t item = blockIdx.x; item < geometry.items; item += gridDim.x) {
    const int64_t n = item / geometry.chunks, begin = (item - n * geometry.chunks) * geometry.chunk_positions;
    const int64_t rest = geometry.positions - begin;
    const int64_t end = begin + (rest < geometry.chunk_positions ? rest : geometry.chunk_positions);
    block.begin(n);
    for (int64_t first = begin; first < end; first += geometry.width) {
      block.tile.first = first;
      block.tile.width = end - first < geometry.width ? static_cast<int32_t>(end - first) : geometry.width;
      block.load_tile();
      if (Summed || operands.partial) block.add_sums();
      if constexpr (!Summed || Second) block.write_gradients();
      __syncthreads();
    }
    // Each thread stores, and clears for the next item, the same sums: nobody has to wait.
    if (Summed || operands.partial) block.store_sums(item);
  }
}

// A thread for each sum: those of chunks, added in order.
template <class C>
__global__ void __launch_bounds__(kTileThreads, kMinBlocks)
    sum_of_chunks_kernel(const double* partial, int64_t chunks, int64_t numbers, int64_t count, C* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kTileThreads);
  const int64_t i = int64_t{blockIdx.x} * kTileThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t n = i / numbers;
  const double* from = partial + n * chunks * numbers + (i - n * numbers);
  double total = 0;
  for (int64_t k = 0; k < chunks; ++k) total += load(from + k * numbers);
  store(sums + i, static_cast<C>(total));
}

}  // namespace handgrad::overlap_sums
