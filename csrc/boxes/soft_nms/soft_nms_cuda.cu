// Soft non-maximum suppression on CUDA devices. Each choice depends on the one before, so one block of threads makes
// all of them: among all boxes if its registers hold them, else among the best, which all blocks select.
//
// A launch makes some choices and leaves the rest to the next: one that takes seconds would be ended on a device that
// also shows a picture. The host waits for one number, how many were chosen, because the results have that size.
#include "abi/registration.h"
#include "cuda/item.cuh"
#include "soft_nms_kernels.cuh"
#include "soft_nms_rounds.cuh"

namespace handgrad::soft_nms {
namespace {

// Boxes that a thread holds: few, and as many as there are registers for. Those of doubles take twice as many.
constexpr int kFew = kSelected / kThreads, kMany = 32;
template <class C>
constexpr int64_t kBoxesOfBlock = kThreads * (sizeof(C) == 4 ? kMany : kFew);
// A few milliseconds.
constexpr int64_t kChoicesOfLaunch = 4096;

// All choices by one block.
template <int PerThread, class C, class Rule>
void choose_of_all(const DeviceOf& device, const State<C>& state, const Rule& decay, C min_score) {
  const Selection<C> all{state.boxes, state.scores, nullptr, static_cast<int>(state.count), nullptr, 0};
  for (int64_t first = 0; first < state.count; first += kChoicesOfLaunch) {
    launch("soft_nms: choose", choose_kernel<C, Rule, PerThread>, device, {1, kThreads}, state, all, decay, min_score,
           std::min(first + kChoicesOfLaunch, state.count));
  }
}

template <class C, class Rule>
void choose_in_rounds(const DeviceOf& device, const State<C>& state, const SelectionMemory<C>& memory, int64_t blocks,
                      const Rule& decay, C min_score) {
  const int bounds = static_cast<int>(blocks);
  const Selection<C> set{memory.boxes, memory.scores, memory.indices, bounds * memory.of_block, memory.bounds, bounds};
  for (int64_t due = 0; due < state.count;) {
    due = std::min(due + kChoicesOfRound, state.count);
    launch("soft_nms: select", select_kernel<C, Rule>, device, {blocks, kThreads}, state, memory, decay, min_score);
    launch("soft_nms: choose", choose_kernel<C, Rule, kFew>, device, {1, kThreads}, state, set, decay, min_score,
           state.count);
    launch("soft_nms: sweep", sweep_kernel<C, Rule>, device, {1, kSweepThreads}, state, decay, min_score, due);
  }
}

template <class T, class Rule>
std::tuple<Tensor, Tensor> soft_nms_of(const DeviceOf& device, const Tensor& boxes,  // [K, 4]
                                       const Tensor& scores,                         // [K]
                                       const Rule& decay, Compute<T> min_score) {
  using C = Compute<T>;
  const int64_t count = boxes.size(0);
  const bool in_rounds = count > kBoxesOfBlock<C>;
  const int64_t selected = in_rounds ? kSelected : 0;
  // Corners first: they are read as vectors.
  const Tensor values = empty_vector<C>(6 * count + 5 * selected + kSelectBlocks, boxes);
  const Tensor words = empty_indices(3 + count + selected, boxes);
  C* const value = values.template mutable_data_ptr<C>();
  int64_t* const word = words.mutable_data_ptr<int64_t>();
  C* const score = value + 4 * (count + selected);
  const State<C> state{reinterpret_cast<Corners<C>*>(value), score, word + 3, score + count + selected,
                       reinterpret_cast<Progress*>(word),    count};
  launch("soft_nms: prepare", prepare_kernel<T>, device, blocks_for(count, kThreads), view<T, 2>(boxes),
         view<T, 1>(scores), min_score, state);
  if (in_rounds) {
    const int64_t blocks = std::min<int64_t>(kSelectBlocks, (count + kLeastShare - 1) / kLeastShare);
    const SelectionMemory<C> memory{state.boxes + count, score + count, word + 3 + count, state.final_scores + count,
                                    static_cast<int>(kSelected / blocks)};
    choose_in_rounds(device, state, memory, blocks, decay, min_score);
  } else if (count <= kFew * kThreads) {
    choose_of_all<kFew>(device, state, decay, min_score);
  } else if constexpr (sizeof(C) == 4) {
    choose_of_all<kMany>(device, state, decay, min_score);
  }
  const int64_t chosen = item(words);
  const Tensor indices_out = empty_indices(chosen, boxes), scores_out = empty_scores(chosen, boxes);
  launch("soft_nms: copy", copy_kernel<T>, device, blocks_for(chosen, kThreads), state.indices, state.final_scores,
         chosen, indices_out.mutable_data_ptr<int64_t>(), scores_out.mutable_data_ptr<T>());
  return {indices_out, scores_out};
}

std::tuple<Tensor, Tensor> soft_nms_cuda(const Tensor& boxes,   // [K, 4]
                                         const Tensor& scores,  // [K]
                                         double iou_threshold, double sigma, double min_score, bool gaussian) {
  check_arguments(boxes, scores);
  if (boxes.size(0) == 0) return {empty_indices(0, boxes), empty_scores(0, boxes)};
  const DeviceOf device(boxes);
  check_not_captured(kOp, device);
  std::tuple<Tensor, Tensor> results{boxes, scores};
  with_decay(boxes, iou_threshold, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    results = soft_nms_of<T>(device, boxes, scores, decay, static_cast<Compute<T>>(min_score));
  });
  return results;
}

}  // namespace
}  // namespace handgrad::soft_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::soft_nms::soft_nms_cuda>(library, "soft_nms");
}
