// A thread's share of a row of classes: what cuda/rows.cuh's kernels are written with.
#pragma once

#include "cpu/row_operands.h"
#include "cuda/row_teams.cuh"
#include "cuda/slabs.cuh"

namespace handgrad {

// How the work is cut, and where sums of blocks go (null: nothing is summed).
struct RowCut {
  int64_t rows;
  int32_t team, steps;
  bool kept;  // rows are kept in shared memory
  double* partial;
  // What row_matrix.cuh needs of each row, two numbers; null: nothing.
  void* marks = nullptr;
};

// A thread's share of a row.
template <class C, bool Hard>
class RowShare {
 public:
  const RowViews<C>& rows;
  RowTeam<C> team;
  RowPeak<C> peak;
  // The class that is the target, -1 if none is, and its logit; whether the row is looked at.
  int32_t target = -1;
  C x_target = 0, weight_target = 1;
  bool counts = true, is_lost = false;

  __device__ RowShare(const RowViews<C>& rows, const RowCut& cut, RowMeeting<C>& meeting, C* memory, int64_t row)
      : rows(rows),
        team{cut.team, static_cast<int32_t>(threadIdx.x) % cut.team, meeting},
        memory_(memory + threadIdx.x),
        marks_(static_cast<C*>(cut.marks)),
        row_(row),
        is_there_(row < cut.rows),
        kept_(cut.kept) {
    classes_ = is_there_ ? static_cast<int32_t>(rows.classes) : 0;
    steps_ = cut.steps;
    const int64_t here = is_there_ ? row : 0;
    sample = cut.rows < INT32_MAX ? static_cast<uint32_t>(here) / static_cast<uint32_t>(rows.positions)
                                  : here / rows.positions;
    position = here - sample * rows.positions;
  }

  int64_t sample, position;

  __device__ bool is_there() const { return is_there_; }
  __device__ bool is_first() const { return is_there_ && team.lane == 0; }

  // One number of a row, read by one thread of each warp.
  template <class T>
  __device__ T load_shared(const T* from) const {
    if (team.size == 1) return is_there_ ? load(from) : T(0);
    const int first = static_cast<int>(threadIdx.x % kWarpSize) / team.size * team.size;
    const T value = is_there_ && (team.lane % kWarpSize == 0) ? load(from) : T(0);
    return __shfl_sync(0xffffffffu, value, team.is_block() ? 0 : first);
  }

  __device__ void load_target() {
    if (!rows.indices) return;
    const int64_t index = load_shared(rows.indices.at(sample, position));
    const bool valid = index >= 0 && index < rows.classes;
    counts = index != rows.ignore_index;
    is_lost = counts && !valid;
    target = counts && valid ? static_cast<int32_t>(index) : -1;
    if (Hard && rows.weight) weight_target = load_shared(rows.weight.at(target < 0 ? 0 : target));
  }
  // All of a warp must be here.
  __device__ C grad_output() const {
    return of_row(rows.grad_output ? load_shared(rows.grad_output.at(sample, position)) : C(0));
  }

  // Reads the logits, keeps them, and finds the peak.
  __device__ void read_logits(bool keep) {
    read_row(rows.inputs, keep ? memory_ : nullptr, peak, [this](int32_t c, C x) {
      if (c == target) x_target = x;
      return x;
    });
  }

  // body(c, x, e) for the classes of this thread.
  template <class Body>
  __device__ void for_each_class(const Body& body) const {
    const auto first = rows.inputs.at(sample, team.lane, position);
    const int64_t step = team.size * rows.inputs.strides[1];
    int32_t k = 0;
#pragma unroll 1
    for (int32_t c = team.lane; c < classes_; c += team.size, ++k) {
      const C x = kept_ ? memory_[k * kRowThreads] : read(first + k * step);
      body(c, k, peak.largest - x, exp_decay(peak.largest - x));
    }
  }

  // The direction of the logits, of which the peak's own is taken away: from memory, and then from where it is kept.
  __device__ C read_direction(int32_t c, C of_peak) const {
    return rows.direction_inputs ? read(rows.direction_inputs.at(sample, c, position)) - of_peak : C(0);
  }
  __device__ C direction(int32_t c, int32_t k, C of_peak) const {
    return kept_ ? memory_[(steps_ + k) * kRowThreads] : read_direction(c, of_peak);
  }
  __device__ C direction_of_peak() const {
    C at_peak[1] = {0};
    if (rows.direction_inputs && peak.index >= 0 && peak.index % team.size == team.lane && is_there_) {
      at_peak[0] = read(rows.direction_inputs.at(sample, peak.index, position));
    }
    team.sum(at_peak);
    return at_peak[0];
  }
  __device__ void keep_direction(int32_t k, C value) const {
    if (kept_) memory_[(steps_ + k) * kRowThreads] = value;
  }

  // The weight of a class, its coefficient a_c, and the direction of its target as that adds to a_c.
  __device__ C weight(int32_t c) const { return rows.weight ? load_constant(rows.weight.at(c)) : C(1); }
  __device__ C coefficient(int32_t c, C weight) const {
    if (rows.matrix) return target < 0 ? C(0) : load_constant(rows.matrix.at(target, c));
    const C probability = rows.indices ? (c == target ? C(1) : C(0)) : read(rows.probabilities.at(sample, c, position));
    return weight * (rows.spread + rows.kept * probability);
  }
  __device__ C read_direction_of_target(int32_t c, C weight) const {
    if (rows.direction_matrix) return target < 0 ? C(0) : load_constant(rows.direction_matrix.at(target, c));
    if (!rows.direction_targets) return C(0);
    return weight * rows.kept * read(rows.direction_targets.at(sample, c, position));
  }

  __device__ void store_marks(C highest, C shift) const {
    if (!marks_ || !is_first()) return;
    store(marks_ + 2 * row_, highest);
    store(marks_ + 2 * row_ + 1, shift);
  }

  // What a row that does not count has instead.
  __device__ C of_row(C value) const { return is_lost ? std::numeric_limits<C>::quiet_NaN() : counts ? value : C(0); }
  __device__ void store_grad_inputs(int32_t c, C value) const {
    if (rows.grad_inputs) write(rows.grad_inputs.at(sample, c, position), counts ? value : C(0));
  }
  __device__ void store_grad_targets(int32_t c, C value) const {
    if (rows.grad_targets) write(rows.grad_targets.at(sample, c, position), value);
  }

 protected:
  // Reads a row of `view`, keeps what body(c, x) makes of its numbers in an array, null for none, and finds their peak.
  template <class Body>
  __device__ void read_row(const StoredView<const C, 3>& view, C* array, RowPeak<C>& highest, const Body& body) {
    const auto first = view.at(sample, team.lane, position);
    dispatch_storage<C>(first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* from = first.template as<T>();
      const int64_t step = team.size * view.strides[1];
      C* to = array;
#pragma unroll 4
      for (int32_t c = team.lane; c < classes_; c += team.size, from += step, to += kRowThreads) {
        const C x = body(c, widen(load(from)));
        if (array && kept_) *to = x;
        highest.add(x, c);
      }
    });
    team.merge(highest);
    // Not finite: all of the row is NaN.
    highest.rest += highest.largest - highest.largest;
  }

  C* memory_;
  C* marks_;
  int64_t row_;
  bool is_there_, kept_;
  int32_t classes_, steps_;
};

}  // namespace handgrad
