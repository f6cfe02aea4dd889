// Tiles of the CPU kernels: all channels of a few neighbouring positions of one sample, as lines of numbers, one line
// for each channel. A tile stays in the cache while it is read, activated, summed and turned into gradients, so that
// memory is read once.
//
// In order of appearance: load_numbers, integers and floating-point numbers alike; Plan, how the work is cut; Tile.
#pragma once

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "overlap_sums_host.h"

namespace handgrad::overlap_sums {

// Bytes of a tile's predictions, and the fewest and the most positions of a tile, in whole vectors.
inline constexpr int64_t kTileBytes = 24 * 1024, kFewestPositions = 64, kMostPositions = 1024;

template <class T, class C>
void convert_run(const T* from, int64_t stride, int64_t count, C* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<C>(from[i * stride]);
}

// A run of targets, which may be integers.
template <class C>
void load_numbers(const Stored<const C>& from, int64_t offset, int64_t stride, int64_t count, C* to) {
  const void* data = from.data;
  switch (from.dtype) {
    case ScalarType::Long: return convert_run(static_cast<const int64_t*>(data) + offset, stride, count, to);
    case ScalarType::Int: return convert_run(static_cast<const int32_t*>(data) + offset, stride, count, to);
    case ScalarType::Short: return convert_run(static_cast<const int16_t*>(data) + offset, stride, count, to);
    case ScalarType::Char: return convert_run(static_cast<const int8_t*>(data) + offset, stride, count, to);
    case ScalarType::Bool:
    case ScalarType::Byte: return convert_run(static_cast<const uint8_t*>(data) + offset, stride, count, to);
    default: load_run(from.dtype, data, offset, stride, count, to);
  }
}

// How samples are cut into tiles, and into chunks of tiles, over each of which a partial sum goes.
struct Plan {
  int64_t width, tiles, tiles_per_chunk, chunks;

  explicit Plan(const Problem& problem, int64_t element_bytes) {
    const int64_t fitting = kTileBytes / element_bytes / std::max<int64_t>(1, problem.channels);
    width = std::clamp(fitting / kFewestPositions * kFewestPositions, kFewestPositions, kMostPositions);
    const bool empty = problem.positions == 0 || problem.channels == 0;
    tiles = empty ? 0 : (problem.positions + width - 1) / width;
    tiles_per_chunk = std::max<int64_t>(1, kElementsPerThread / (width * std::max<int64_t>(1, problem.channels)));
    chunks = (tiles + tiles_per_chunk - 1) / tiles_per_chunk;
  }
};

// What of the derivatives a pass works on; views without data stand for what is not there.
template <class C>
struct Views {
  StoredView<const C, 3> inputs, targets, direction1, direction2;
  StoredView<C, 3> grad_inputs, grad_targets;

  explicit Views(const Tensors& tensors)
      : inputs(stored_view<C>(tensors.inputs)),
        targets(stored_view<C>(tensors.targets)),
        direction1(view_if<C>(tensors.direction1)),
        direction2(view_if<C>(tensors.direction2)),
        grad_inputs(mutable_view_if<C>(tensors.grad_inputs)),
        grad_targets(mutable_view_if<C>(tensors.grad_targets)) {}
};

// The predictions of a channel: under softmax powers, which all channels divide by one number.
template <class C>
struct PredictionLine {
  const C *powers, *scale;

  C operator[](int64_t i) const { return powers[i] * scale[i]; }
};

// One tile: p, predictions, and dp, their derivatives along the direction, are lines of all channels; what is needed of
// a single channel at a time is one line.
template <class C>
class Tile {
 public:
  Tile(const Problem& problem, const Plan& plan, const Views<C>& views, bool second)
      : problem_(problem), plan_(plan), views_(views), ignored_(problem.ignored<C>()) {
    const int64_t lines = problem.channels * (second ? 2 : 1) + kLines;
    memory_.resize(static_cast<size_t>(lines * plan.width));
    p_ = memory_.data() + kLines * plan.width;
    dp_ = second ? p_ + problem.channels * plan.width : nullptr;
    std::fill(line(kScale), line(kScale) + plan.width, C(1));
  }

  Tile(const Tile&) = delete;

  // Tile `index` of sample n, its predictions computed; returns whether all classes are classes.
  bool move_to(int64_t n, int64_t index) {
    n_ = n, first_ = index * plan_.width, count_ = std::min(plan_.width, problem_.positions - first_);
    bool valid = true;
    if (problem_.classes)
      valid = load_classes();
    else if (problem_.activation == Activation::softmax)
      find_counted();
    load_inputs();
    if (problem_.activation == Activation::sigmoid) take_sigmoid();
    if (problem_.activation == Activation::softmax) take_softmax();
    if (dp_) load_moved();
    return valid;
  }

  int64_t count() const { return count_; }
  PredictionLine<C> p(int64_t c) { return {p_ + c * plan_.width, line(kScale)}; }
  const C* dp(int64_t c) const { return dp_ + c * plan_.width; }
  C ignored() const { return ignored_; }
  // For classes the class at each position, -1 where it is ignored; else the targets of channel c, loaded here.
  const C* targets(int64_t c) {
    if (problem_.classes) return line(kTargets);
    load_numbers(views_.targets.first, offset(views_.targets, c), views_.targets.strides[2], count_, line(kTargets));
    return line(kTargets);
  }
  // The directions of the targets of channel c; zeros where there are none.
  const C* target_directions(int64_t c) {
    load_or_zero(views_.direction2, c, line(kDirections));
    return line(kDirections);
  }
  // Under softmax whether any channel is counted at a position: not 0.
  const C* counted() { return problem_.classes ? nullptr : line(kCounted); }
  // Two lines for sums over channels.
  C* dot() { return line(kDot); }
  C* moved_dot() { return line(kMovedDot); }
  // Where the results of channel c go: to their memory, if that is a run of C, or to a line that `store` copies there.
  C* result(const StoredView<C, 3>& view, int64_t c) {
    const Stored<C> to = view.first + offset(view, c);
    return to.is_computed_in() && view.strides[2] == 1 ? to.in_place() : line(kResult);
  }
  void store(const StoredView<C, 3>& view, int64_t c, const C* result) {
    if (result == line(kResult)) store_run(result, count_, view.first + offset(view, c), view.strides[2]);
  }

 private:
  enum Line { kTargets, kDirections, kCounted, kDot, kMovedDot, kResult, kScale, kLines };

  C* line(Line which) { return memory_.data() + which * plan_.width; }
  template <class P>
  int64_t offset(const StoredView<P, 3>& view, int64_t c) const {
    return n_ * view.strides[0] + c * view.strides[1] + first_ * view.strides[2];
  }
  void load_or_zero(const StoredView<const C, 3>& view, int64_t c, C* to) const {
    if (view)
      load_run(view.first + offset(view, c), view.strides[2], count_, to);
    else
      std::fill(to, to + count_, C(0));
  }

  bool load_classes() {
    C* const classes = line(kTargets);
    load_numbers(views_.targets.first, offset(views_.targets, 0), views_.targets.strides[2], count_, classes);
    const C channels = static_cast<C>(problem_.channels);
    int64_t wrong = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const bool is_ignored = classes[i] == ignored_, is_class = classes[i] >= 0 && classes[i] < channels;
      wrong += !is_ignored && !is_class;
      classes[i] = is_ignored ? C(-1) : classes[i];
    }
    return wrong == 0;
  }

  void find_counted() {
    C* const any = line(kCounted);
    std::fill(any, any + count_, C(0));
    for (int64_t c = 0; c < problem_.channels; ++c) {
      const C* t = targets(c);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count_; ++i) any[i] = t[i] != ignored_ ? C(1) : any[i];
    }
  }

  // A tile is copied while it is first looked at: channels lie a power of two apart more often than not, and would
  // drive each other out of the cache until it is looked at again.
  void load_inputs() {
    for (int64_t c = 0; c < problem_.channels; ++c) {
      load_run(views_.inputs.first + offset(views_.inputs, c), views_.inputs.strides[2], count_, p_ + c * plan_.width);
    }
  }

  void take_sigmoid() {
    for (int64_t c = 0; c < problem_.channels; ++c) {
      C* __restrict x = p_ + c * plan_.width;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count_; ++i) x[i] = sigmoid(x[i]);
    }
  }

  // All powers, and what makes predictions of them.
  void take_softmax() {
    C* __restrict const largest = line(kDot);
    C* __restrict const sum = line(kScale);
    std::fill(largest, largest + count_, -std::numeric_limits<C>::infinity());
    std::fill(sum, sum + count_, C(0));
    for (int64_t c = 0; c < problem_.channels; ++c) {
      const C* __restrict x = p_ + c * plan_.width;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count_; ++i) largest[i] = x[i] > largest[i] ? x[i] : largest[i];
    }
    for (int64_t c = 0; c < problem_.channels; ++c) {
      C* __restrict x = p_ + c * plan_.width;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count_; ++i) {
        const C power = exp_decay(largest[i] - x[i]);
        x[i] = power;
        sum[i] += power;
      }
    }
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count_; ++i) sum[i] = 1 / sum[i];
  }

  // dp, from the direction of the inputs.
  void load_moved() {
    for (int64_t c = 0; c < problem_.channels; ++c) load_or_zero(views_.direction1, c, dp_ + c * plan_.width);
    if (problem_.activation == Activation::none) return;
    const bool softmax = problem_.activation == Activation::softmax;
    C* __restrict const along = line(kDot);
    std::fill(along, along + count_, C(0));
    for (int64_t c = 0; c < problem_.channels && softmax; ++c) {
      const PredictionLine<C> p = this->p(c);
      const C* __restrict v = dp_ + c * plan_.width;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count_; ++i) along[i] += p[i] * v[i];
    }
    for (int64_t c = 0; c < problem_.channels; ++c) {
      const PredictionLine<C> p = this->p(c);
      C* __restrict v = dp_ + c * plan_.width;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count_; ++i) v[i] = p[i] * (softmax ? v[i] - along[i] : v[i] * (1 - p[i]));
    }
  }

  const Problem& problem_;
  const Plan& plan_;
  const Views<C>& views_;
  C ignored_, *p_, *dp_;
  int64_t n_ = 0, first_ = 0, count_ = 0;
  ScratchVector<C> memory_;
};

}  // namespace handgrad::overlap_sums
