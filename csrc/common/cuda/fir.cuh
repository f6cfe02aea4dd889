// Images filtered along both axes of math/fir.h, on CUDA devices.
//
// A block takes a tile of outputs: the inputs that its windows reach are loaded into shared memory once, and filtered
// from there, a separable filter along rows and then along columns. Of images whose channels are innermost a tile has
// some channels beside each other. Windows too large for shared memory are read from where they are.
//
// An op's taps are a type of its own, a parameter of the kernel:
//   taps.is_separable(), taps.of_row(k), taps.of_column(k), taps.of_both(k, l) of elements of its filter.
//
// In order of appearance: FirTiles, how the work is cut; the kernels; their launch; the gradient with respect to taps.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"
#include "math/fir.h"

namespace handgrad {

inline constexpr int kFirColumns = 32, kFirRows = 8;
inline constexpr int kFirThreads = kFirColumns * kFirRows;

struct FirTiles {
  FirPlanes planes;
  // Outputs of a tile, and 2 to the power of what is the number of its channels.
  int32_t height, width, channel_bits;
  // Inputs that the largest of them reaches.
  int32_t source_height, source_width;
  int64_t tiles_y, tiles_x, tiles_c, count;

  FirTiles(const FirPlanes& planes, int32_t tile_height, int32_t tile_width, int32_t bits)
      : planes(planes), channel_bits(bits) {
    tiles_y = cut(planes.rows.out, tile_height, height);
    tiles_x = cut(planes.columns.out, tile_width, width);
    tiles_c = (planes.channels + (int64_t{1} << bits) - 1) >> bits;
    source_height = reach(planes.rows, height, tiles_y);
    source_width = reach(planes.columns, width, tiles_x);
    count = planes.batch * tiles_y * tiles_x * tiles_c;
  }

  // Of the samples in shared memory, and of those that are filtered along rows.
  HANDGRAD_MATH int32_t source_pitch() const { return source_width << channel_bits; }
  HANDGRAD_MATH int32_t pitch() const { return width << channel_bits; }
  HANDGRAD_MATH int64_t source_size() const { return int64_t{source_height} * source_pitch(); }
  HANDGRAD_MATH int64_t between_size() const { return int64_t{source_height} * pitch(); }

 private:
  // All tiles of about the same size.
  static int64_t cut(int64_t out, int32_t most, int32_t& size) {
    const int64_t tiles = (out + most - 1) / most;
    size = static_cast<int32_t>(tiles ? (out + tiles - 1) / tiles : 0);
    return size ? (out + size - 1) / size : 0;
  }
  static int32_t reach(const FirAxis& axis, int32_t size, int64_t tiles) {
    int64_t most = 1;
    for (int64_t k = 0; k < tiles; ++k) {
      int32_t low, high;
      const int64_t begin = k * size;
      axis.range(static_cast<int32_t>(begin), static_cast<int32_t>(std::min<int64_t>(axis.out, begin + size)), low,
                 high);
      most = std::max<int64_t>(most, int64_t{high} - low);
    }
    return static_cast<int32_t>(std::min<int64_t>(most, INT32_MAX / 64));
  }
};

// Where a tile is: its first output, the image and the first channel, and the inputs that it reaches.
struct FirPlace {
  int64_t n;
  int32_t c, y, x, channels, height, width;
  int32_t low_y, high_y, low_x, high_x;

  __device__ FirPlace(const FirTiles& tiles, int64_t tile) {
    // Channels are next to each other: of images that have them innermost, neighbours in time share what is cached.
    int64_t rest = tile / tiles.tiles_c;
    c = static_cast<int32_t>(tile - rest * tiles.tiles_c) << tiles.channel_bits;
    int64_t next = rest / tiles.tiles_x;
    x = static_cast<int32_t>(rest - next * tiles.tiles_x) * tiles.width;
    n = next / tiles.tiles_y;
    y = static_cast<int32_t>(next - n * tiles.tiles_y) * tiles.height;
    const FirPlanes& planes = tiles.planes;
    const int64_t left = planes.channels - c;
    channels = left < (int64_t{1} << tiles.channel_bits) ? static_cast<int32_t>(left) : 1 << tiles.channel_bits;
    height = planes.rows.out - y < tiles.height ? planes.rows.out - y : tiles.height;
    width = planes.columns.out - x < tiles.width ? planes.columns.out - x : tiles.width;
    planes.rows.range(y, y + height, low_y, high_y);
    planes.columns.range(x, x + width, low_x, high_x);
  }
};

// body(row, column and channel in one) for rows of `pitch` numbers, spread over the threads of the block.
template <class Body>
__device__ __forceinline__ void fir_for_each(int32_t rows, int32_t pitch, const Body& body) {
#pragma unroll 1
  for (int32_t row = threadIdx.y; row < rows; row += kFirRows) {
#pragma unroll 1
    for (int32_t k = threadIdx.x; k < pitch; k += kFirColumns) body(row, k);
  }
}

// The sum over the taps of output o, of term(input, tap); inputs beyond the ends are there in shared memory.
template <class C, class Term>
__device__ __forceinline__ C fir_sum(const FirAxis& axis, int32_t o, const Term& term) {
  C total = 0;
  const int32_t images = axis.images(o);
#pragma unroll 1
  for (int32_t k = 0; k < images; ++k) {
    const int32_t image = axis.image(o, k);
    int32_t i = axis.first(image);
#pragma unroll 1
    for (int32_t t = axis.tap(image, i); t < axis.taps; t += axis.up, ++i) total += term(i, t);
  }
  return total;
}

// The inputs of a tile, with what is beyond the ends.
template <class C>
__device__ __forceinline__ void fir_load(const FirTiles& tiles, const FirPlace& place,
                                         const StoredView<const C, 4>& source, C* to) {
  const int32_t mask = (1 << tiles.channel_bits) - 1;
  fir_for_each(place.high_y - place.low_y, (place.high_x - place.low_x) << tiles.channel_bits,
               [&](int32_t row, int32_t k) {
                 const int32_t y = tiles.planes.rows.shown(place.low_y + row);
                 const int32_t x = tiles.planes.columns.shown(place.low_x + (k >> tiles.channel_bits));
                 const int32_t c = k & mask;
                 C value = 0;
                 if (y >= 0 && x >= 0 && c < place.channels) value = read(source.at(place.n, place.c + c, y, x));
                 to[int64_t{row} * tiles.source_pitch() + k] = value;
               });
}

// How many numbers a filter is in shared memory, and that of them: the taps of rows and of columns where it is a
// product of both, all of its taps otherwise.
template <class Taps>
HANDGRAD_MATH int32_t fir_weights(const FirPlanes& planes, const Taps& taps) {
  const int32_t rows = planes.rows.taps, columns = planes.columns.taps;
  return taps.is_separable() ? rows + columns : rows * columns;
}
template <class C, class Taps>
__device__ __forceinline__ void fir_load_weights(const FirPlanes& planes, const Taps& taps, C* weights) {
  const FirAxis &rows = planes.rows, &columns = planes.columns;
  const int32_t thread = static_cast<int32_t>(threadIdx.y * kFirColumns + threadIdx.x);
  const bool separable = taps.is_separable();
  const int32_t count = fir_weights(planes, taps);
#pragma unroll 1
  for (int32_t k = thread; k < count; k += kFirThreads) {
    if (!separable) {
      const int32_t row = k / columns.taps;
      weights[k] = taps.of_both(rows.filter_index(row), columns.filter_index(k - row * columns.taps));
    } else {
      weights[k] =
          k < rows.taps ? taps.of_row(rows.filter_index(k)) : taps.of_column(columns.filter_index(k - rows.taps));
    }
  }
}

template <class C, class Taps>
__global__ void __launch_bounds__(kFirThreads, kMinBlocks)
    fir_kernel(const FirTiles tiles, const Taps taps, StoredView<const C, 4> source, StoredView<C, 4> target,
               StoredView<const C, 4> plus) {
  HANDGRAD_LAUNCH_BOUNDS(kFirThreads);
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const FirAxis &rows = tiles.planes.rows, &columns = tiles.planes.columns;
  const bool separable = taps.is_separable();
  C* const weights = shared;
  C* const samples = weights + fir_weights(tiles.planes, taps);
  C* const between = samples + tiles.source_size();

  fir_load_weights(tiles.planes, taps, weights);
  const FirPlace place(tiles, blockIdx.x);
  fir_load(tiles, place, source, samples);
  __syncthreads();

  const int32_t bits = tiles.channel_bits, mask = (1 << bits) - 1;
  const int32_t source_pitch = tiles.source_pitch(), pitch = tiles.pitch();
  if (separable) {
    const C* const of_columns = weights + rows.taps;
    fir_for_each(place.high_y - place.low_y, place.width << bits, [&](int32_t row, int32_t k) {
      const C* const line = samples + int64_t{row} * source_pitch + (k & mask);
      between[int64_t{row} * pitch + k] = fir_sum<C>(columns, place.x + (k >> bits), [&](int32_t i, int32_t t) {
        return of_columns[t] * line[(i - place.low_x) << bits];
      });
    });
    __syncthreads();
  }
  fir_for_each(place.height, place.width << bits, [&](int32_t row, int32_t k) {
    const int32_t c = k & mask;
    if (c >= place.channels) return;
    const int32_t y = place.y + row, x = place.x + (k >> bits);
    C value;
    if (separable) {
      value = fir_sum<C>(
          rows, y, [&](int32_t i, int32_t t) { return weights[t] * between[int64_t{i - place.low_y} * pitch + k]; });
    } else {
      value = fir_sum<C>(rows, y, [&](int32_t i, int32_t t) {
        const C* const line = samples + int64_t{i - place.low_y} * source_pitch + c;
        const C* const row_weights = weights + t * columns.taps;
        return fir_sum<C>(columns, x,
                          [&](int32_t j, int32_t u) { return row_weights[u] * line[(j - place.low_x) << bits]; });
      });
    }
    if (plus) value += read(plus.at(place.n, place.c + c, y, x));
    write(target.at(place.n, place.c + c, y, x), value);
  });
}

// The same without shared memory, a thread for each output.
template <class C, class Taps>
__global__ void __launch_bounds__(kFirThreads, kMinBlocks)
    fir_plain_kernel(const FirPlanes planes, const Taps taps, int64_t first, int64_t count,
                     StoredView<const C, 4> source, StoredView<C, 4> target, StoredView<const C, 4> plus) {
  HANDGRAD_LAUNCH_BOUNDS(kFirThreads);
  const int64_t index = first + int64_t{blockIdx.x} * kFirThreads + threadIdx.x;
  if (index >= count) return;
  const FirAxis &rows = planes.rows, &columns = planes.columns;
  int64_t rest = index / columns.out;
  const int32_t x = static_cast<int32_t>(index - rest * columns.out);
  int64_t next = rest / rows.out;
  const int32_t y = static_cast<int32_t>(rest - next * rows.out);
  const int64_t n = next / planes.channels, c = next - n * planes.channels;
  const bool separable = taps.is_separable();
  C value = fir_sum<C>(rows, y, [&](int32_t i, int32_t t) {
    const int32_t seen_y = rows.shown(i), row_tap = rows.filter_index(t);
    if (seen_y < 0) return C(0);
    const C sum = fir_sum<C>(columns, x, [&](int32_t j, int32_t u) {
      const int32_t seen_x = columns.shown(j), column_tap = columns.filter_index(u);
      if (seen_x < 0) return C(0);
      return (separable ? taps.of_column(column_tap) : taps.of_both(row_tap, column_tap)) *
             read(source.at(n, c, seen_y, seen_x));
    });
    return separable ? taps.of_row(row_tap) * sum : sum;
  });
  if (plus) value += read(plus.at(n, c, y, x));
  write(target.at(n, c, y, x), value);
}

// ---- launches ------------------------------------------------------------------------------------------------------

// Bits of the number of channels that a tile has: of images with channels innermost, as many as a warp has threads.
inline int32_t fir_channel_bits(const FirPlanes& planes, const Tensor& source, const Tensor& target) {
  const auto innermost = [](const Tensor& tensor) { return tensor.strides()[1] == 1 && tensor.strides()[3] != 1; };
  if (planes.channels < 2 || !innermost(source) || !innermost(target)) return 0;
  int32_t bits = 0;
  while (bits < 5 && (int64_t{1} << bits) < planes.channels) ++bits;
  return bits;
}

// Columns and rows of tiles of one channel, from the largest on; of more, they are smaller.
inline constexpr int32_t kFirTiles[][2] = {{64, 32}, {32, 32}, {32, 16}, {16, 16}, {16, 8}, {8, 8}, {4, 4}};

// The first that leaves room for four blocks, or for one; or none. bytes(tiles) is what a block takes.
template <class Bytes>
std::optional<FirTiles> fir_tiles(const FirPlanes& planes, int32_t bits, const Bytes& bytes) {
  const int64_t limit = shared_memory_limit();
  for (const int64_t room : {limit / 4, limit}) {
    for (const auto& [width, height] : kFirTiles) {
      const FirTiles tiles(planes, std::max(1, height >> (bits / 2)), std::max(1, width >> ((bits + 1) / 2)), bits);
      if (bytes(tiles) <= room) return tiles;
    }
  }
  return std::nullopt;
}

// `source` filtered, and `plus`, which may be `target` itself, if there is one.
template <class C, class Taps>
void run_fir(const char* op, const FirPlanes& planes, const Taps& taps, const Tensor& source, const Tensor& target,
             const Tensor* plus = nullptr) {
  const int64_t count = target.numel();
  if (count == 0) return;
  const DeviceOf device(target);
  const StoredView<const C, 4> from = stored_view<C, 4>(source);
  const StoredView<C, 4> to = mutable_stored_view<C, 4>(target);
  const StoredView<const C, 4> added = plus ? stored_view<C, 4>(*plus) : StoredView<const C, 4>{};
  const FirAxis &rows = planes.rows, &columns = planes.columns;
  const bool separable = taps.is_separable();
  const int64_t weights = separable ? int64_t{rows.taps} + columns.taps : int64_t{rows.taps} * columns.taps;
  const auto bytes = [&](const FirTiles& tiles) {
    return (weights + tiles.source_size() + (separable ? tiles.between_size() : 0)) * static_cast<int64_t>(sizeof(C));
  };
  if (const auto tiles = fir_tiles(planes, fir_channel_bits(planes, source, target), bytes)) {
    HANDGRAD_CHECK(tiles->count <= INT32_MAX, op, ": more tiles than a grid can have");
    launch(op, fir_kernel<C, Taps>, device, {tiles->count, dim3(kFirColumns, kFirRows, 1), bytes(*tiles)}, *tiles, taps,
           from, to, added);
    return;
  }
  constexpr int64_t kMost = (int64_t{1} << 30) * kFirThreads;
  for (int64_t first = 0; first < count; first += kMost) {
    launch(op, fir_plain_kernel<C, Taps>, device, blocks_for(std::min(kMost, count - first), kFirThreads), planes, taps,
           first, count, from, to, added);
  }
}

// ---- the gradient with respect to the taps
// ---------------------------------------------------------------------------

// Blocks that each sum some tiles; their number is no device's, so that sums have one order on all of them.
inline constexpr int64_t kFirSumBlocks = 256;

// sums[block][ty * columns.taps + tx] of h, over the tiles block, block + blocks, …: a warp has some of the taps. Both
// images are read from shared memory if a tile of them fits there.
template <class C>
__global__ void __launch_bounds__(kFirThreads, kMinBlocks)
    fir_tap_sums_kernel(const FirTiles tiles, bool is_shared, StoredView<const C, 4> grad_output,
                        StoredView<const C, 4> source, double* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kFirThreads);
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const FirAxis &rows = tiles.planes.rows, &columns = tiles.planes.columns;
  const int32_t taps = rows.taps * columns.taps, bits = tiles.channel_bits, mask = (1 << bits) - 1;
  C *const samples = shared, *const grads = samples + tiles.source_size();
  double* const own = sums + int64_t{blockIdx.x} * taps;
  const int32_t lane = static_cast<int32_t>(threadIdx.x), warp = static_cast<int32_t>(threadIdx.y);
  if (lane == 0) {
#pragma unroll 1
    for (int32_t k = warp; k < taps; k += kFirRows) store(own + k, 0.0);
  }
#pragma unroll 1
  for (int64_t tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
    const FirPlace place(tiles, tile);
    if (is_shared) {
      fir_load(tiles, place, source, samples);
      fir_for_each(place.height, place.width << bits, [&](int32_t row, int32_t k) {
        const int32_t c = k & mask;
        C value = 0;
        if (c < place.channels)
          value = read(grad_output.at(place.n, place.c + c, place.y + row, place.x + (k >> bits)));
        grads[int64_t{row} * tiles.pitch() + k] = value;
      });
      __syncthreads();
    }
#pragma unroll 1
    for (int32_t k = warp; k < taps; k += kFirRows) {
      const int32_t ty = k / columns.taps, tx = k - ty * columns.taps;
      double total = 0;
#pragma unroll 1
      for (int32_t row = 0; row < place.height; ++row) {
        const int32_t y = (place.y + row) * rows.down - rows.offset + ty, i = y / rows.up;
        if (y < 0 || i * rows.up != y || i >= rows.in) continue;
        C of_row = 0;
#pragma unroll 1
        for (int32_t at = lane; at < place.width << bits; at += kFirColumns) {
          const int32_t c = at & mask, x = (place.x + (at >> bits)) * columns.down - columns.offset + tx;
          const int32_t j = x / columns.up;
          if (x < 0 || j * columns.up != x || j >= columns.in || c >= place.channels) continue;
          if (is_shared) {
            of_row += grads[int64_t{row} * tiles.pitch() + at] *
                      samples[int64_t{i - place.low_y} * tiles.source_pitch() + ((j - place.low_x) << bits) + c];
          } else {
            of_row += read(grad_output.at(place.n, place.c + c, place.y + row, place.x + (at >> bits))) *
                      read(source.at(place.n, place.c + c, i, j));
          }
        }
        total += static_cast<double>(of_row);
      }
      total = warp_sum(total);
      if (lane == 0) store(own + k, load(own + k) + total);
    }
    __syncthreads();
  }
}

// The sum over all blocks of each tap, in their order.
template <int Threads>
__global__ void __launch_bounds__(Threads, kMinBlocks)
    fir_add_sums_kernel(const double* sums, int64_t blocks, int64_t taps, double* total) {
  HANDGRAD_LAUNCH_BOUNDS(Threads);
  const int64_t k = int64_t{blockIdx.x} * Threads + threadIdx.x;
  if (k >= taps) return;
  double sum = 0;
#pragma unroll 1
  for (int64_t block = 0; block < blocks; ++block) sum += load(sums + block * taps + k);
  store(total + k, sum);
}

// sums of h, rows.taps * columns.taps of them, in memory of the device.
template <class C>
Tensor fir_tap_gradient(const char* op, const FirPlanes& planes, const Tensor& grad_output, const Tensor& source) {
  const int64_t taps = int64_t{planes.rows.taps} * planes.columns.taps;
  const int32_t bits = fir_channel_bits(planes, source, grad_output);
  const auto bytes = [](const FirTiles& tiles) {
    return (tiles.source_size() + int64_t{tiles.height} * tiles.pitch()) * static_cast<int64_t>(sizeof(C));
  };
  const std::optional<FirTiles> fitting = fir_tiles(planes, bits, bytes);
  const FirTiles tiles = fitting ? *fitting : FirTiles(planes, 16, 64, bits);
  const int64_t blocks = std::clamp<int64_t>(tiles.count, 1, kFirSumBlocks);
  const Tensor sums = empty_vector<double>((blocks + 1) * taps, source);
  double* const memory = sums.mutable_data_ptr<double>();
  const DeviceOf device(source);
  launch(op, fir_tap_sums_kernel<C>, device, {blocks, dim3(kFirColumns, kFirRows, 1), fitting ? bytes(tiles) : 0},
         tiles, fitting.has_value(), stored_view<C, 4>(grad_output), stored_view<C, 4>(source), memory);
  launch(op, fir_add_sums_kernel<kFirThreads>, device, blocks_for(taps, kFirThreads), memory, blocks, taps,
         memory + blocks * taps);
  return sums;
}

}  // namespace handgrad
