// Matrix NMS of masks on CUDA devices: decay of scores (cuda/score_decay.cuh) by intersections over unions. Masks are
// packed, 32 pixels to a word, in the order in which they are compared; a chunk of 32 words is the work of a warp. The
// warp that has a mask takes four of those before it at a time, and its lanes take the words.
#include "abi/registration.h"
#include "cuda/score_decay.cuh"
#include "mask_matrix_nms_host.h"

namespace handgrad::mask_matrix_nms {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int64_t kPixelsOfChunk = kWarpSize * kWarpSize;
// Words that a lane loads at a time, and masks that it compares with its own.
constexpr int kWords = 4;
constexpr int kMasksAtOnce = 4;

using Words = Vector<uint32_t, kWords>;

// What the packed masks are measured by. Chunks [begin, end) hold all pixels.
template <class C>
struct Measures {
  C* areas;
  uint32_t *begins, *ends;
};

template <class C>
struct MaskOverlaps {
  uint32_t* words;
  int64_t words_of_mask;
  Measures<C> measures;

  __device__ int64_t common_pixels(const Words& own, int64_t mask, int64_t word) const {
    const Words others = load(reinterpret_cast<const Words*>(words + mask * words_of_mask + word));
    int pixels = 0;
#pragma unroll
    for (int k = 0; k < kWords; ++k) pixels += __popc(own.lane[k] & others.lane[k]);
    return pixels;
  }

  template <class Visit>
  __device__ void for_each(int64_t row, int64_t begin, int lane, const Visit& visit) const {
    const C area = load(measures.areas + row);
    const int64_t first = int64_t{load(measures.begins + row)} * kWarpSize + lane * kWords,
                  last = int64_t{load(measures.ends + row)} * kWarpSize;
    for (int64_t i = begin; i < row; i += kMasksAtOnce) {
      uint32_t shared[kMasksAtOnce] = {};
      for (int64_t word = first; word < last; word += kWarpSize * kWords) {
        const Words own = load(reinterpret_cast<const Words*>(words + row * words_of_mask + word));
#pragma unroll
        for (int k = 0; k < kMasksAtOnce; ++k) {
          // Of the last ones some are looked at again: an overlap that counts twice counts as once.
          const int64_t mask = i + k < row ? i + k : row - 1;
          shared[k] += static_cast<uint32_t>(common_pixels(own, mask, word));
        }
      }
#pragma unroll
      for (int k = 0; k < kMasksAtOnce; ++k) {
#pragma unroll
        for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
          shared[k] += __shfl_xor_sync(0xffffffffu, shared[k], distance);
        }
        const int64_t mask = i + k < row ? i + k : row - 1;
        const C other = load(measures.areas + mask);
        if (shared[k] > 0 && is_proper(area) && is_proper(other)) visit(mask, overlap(shared[k], area, other));
      }
    }
  }
};

// A warp packs a chunk; `counts` gets how many pixels there are in it.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    pack_kernel(const uint8_t* masks, int64_t pixels, score_decay::Order order, View<const T, 1> scores,
                score_decay::Limits<Compute<T>> limits, int64_t chunks, uint32_t* words, uint32_t* counts) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int lane = threadIdx.x % kWarpSize;
  const int64_t warp = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (warp >= order.count * chunks) return;
  const int64_t item = order.item(warp / chunks), first = warp % chunks * kPixelsOfChunk;
  const uint8_t* const mask = masks + item * pixels;
  // Of a mask that does not count nothing need be read.
  const int64_t end = limits.counts(widen(load(scores.at(item)))) ? pixels : 0;
  uint32_t own = 0;
#pragma unroll 8
  for (int k = 0; k < kWarpSize; ++k) {
    const int64_t pixel = first + k * kWarpSize + lane;
    const uint32_t bits = __ballot_sync(0xffffffffu, pixel < end && load(mask + pixel) != 0);
    if (lane == k) own = bits;
  }
  store(words + warp * kWarpSize + lane, own);
  uint32_t count = static_cast<uint32_t>(__popc(own));
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    count += __shfl_xor_sync(0xffffffffu, count, distance);
  }
  if (lane == 0) store(counts + warp, count);
}

// A warp measures a mask.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    measure_kernel(const uint32_t* counts, int64_t chunks, score_decay::Order order, View<const C, 1> areas,
                   Measures<C> measures) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int lane = threadIdx.x % kWarpSize;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (row >= order.count) return;
  uint32_t pixels = 0, begin = static_cast<uint32_t>(chunks), end = 0;
  for (int64_t chunk = lane; chunk < chunks; chunk += kWarpSize) {
    const uint32_t count = load(counts + row * chunks + chunk);
    pixels += count;
    if (count == 0) continue;
    begin = smaller(begin, static_cast<uint32_t>(chunk));
    end = static_cast<uint32_t>(chunk) + 1;
  }
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    pixels += __shfl_xor_sync(0xffffffffu, pixels, distance);
    begin = smaller(begin, __shfl_xor_sync(0xffffffffu, begin, distance));
    end = larger(end, __shfl_xor_sync(0xffffffffu, end, distance));
  }
  if (lane != 0) return;
  store(measures.areas + row, areas ? load(areas.at(order.item(row))) : static_cast<C>(pixels));
  store(measures.begins + row, begin);
  store(measures.ends + row, end);
}

// What is in memory while the masks are compared.
template <class C>
struct PackedMasks {
  Tensor words, numbers, areas;
  MaskOverlaps<C> kernel;
};

inline Blocks warps_for(int64_t warps) { return {(warps + kWarps - 1) / kWarps, dim3(kThreads)}; }

template <class T>
PackedMasks<Compute<T>> pack(const DeviceOf& device, const Tensor& masks,  // [K, H, W], contiguous
                             const Tensor& scores,                         // [K]
                             const std::optional<Tensor>& given_areas,     // [K]
                             const score_decay::Order& order, const score_decay::Limits<Compute<T>>& limits) {
  using C = Compute<T>;
  const int64_t pixels = masks.size(1) * masks.size(2), chunks = (pixels + kPixelsOfChunk - 1) / kPixelsOfChunk;
  // Two words of 32 bits in one of 64.
  const Tensor words = empty_indices(order.count * chunks * kWarpSize / 2, scores),
               numbers = empty_indices((order.count * chunks + 1) / 2 + order.count, scores),
               areas = empty_vector<C>(order.count, scores);
  uint32_t* const word = reinterpret_cast<uint32_t*>(words.mutable_data_ptr<int64_t>());
  uint32_t* const begin = reinterpret_cast<uint32_t*>(numbers.mutable_data_ptr<int64_t>());
  uint32_t *const end = begin + order.count, *const counts = end + order.count;
  const Measures<C> measures{areas.template mutable_data_ptr<C>(), begin, end};
  launch("mask_matrix_nms: pack", pack_kernel<T>, device, warps_for(order.count * chunks), bytes_of(masks), pixels,
         order, view<T, 1>(scores), limits, chunks, word, counts);
  launch("mask_matrix_nms: measure", measure_kernel<C>, device, warps_for(order.count), counts, chunks, order,
         view<C, 1>(given_areas), measures);
  return {words, numbers, areas, {word, chunks * kWarpSize, measures}};
}

std::tuple<Tensor, Tensor> mask_matrix_nms_cuda(const Tensor& masks,                 // [K, H, W]
                                                const Tensor& scores,                // [K]
                                                const Tensor& labels,                // [K]
                                                const std::optional<Tensor>& areas,  // [K]
                                                std::optional<double> min_score, std::optional<int64_t> most,
                                                std::optional<int64_t> max_num, double sigma, bool gaussian) {
  check_arguments(masks, scores, labels, areas, most, max_num);
  const score_decay::Counts counts{most.value_or(masks.size(0)), max_num.value_or(masks.size(0))};
  if (masks.size(0) == 0 || counts.most == 0) {
    const int64_t none = 0;
    return {empty_indices(0, scores), empty_contiguous(Sizes(&none, 1), scores)};
  }
  const DeviceOf device(masks);
  const Tensor contiguous = contiguous_masks(masks);
  std::tuple<Tensor, Tensor> result{scores, scores};
  score_decay::with_decay(kOp, scores, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    const score_decay::Limits<Compute<T>> limits(std::nullopt, min_score);
    const auto overlaps = [&](const score_decay::Order& order) {
      return pack<T>(device, contiguous, scores, areas, order, limits);
    };
    result = score_decay::decayed_scores<T>(kOp, device, scores, labels, limits, counts, decay, overlaps);
  });
  return result;
}

}  // namespace
}  // namespace handgrad::mask_matrix_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::mask_matrix_nms::mask_matrix_nms_cuda>(library, "mask_matrix_nms");
}
