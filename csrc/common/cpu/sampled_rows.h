// What a group of channels looks at on the CPU: one run of channels for each position, and for the gradient the same.
//
// In order of appearance: Operands, the tensors of a call; ValueRows, a group of the value; GradRows, of its gradient;
// for_each_point.
#pragma once

#include <cstring>
#include <type_traits>

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/sampled_group.h"
#include "math/stored.h"

namespace handgrad::sampled_groups {

// The tensors of a call; what is None, or not asked for, has no data. v: the directions of the double backward.
template <class C>
struct Operands {
  StoredView<const C, 4> value, v_value;        // [B, S, groups, channels]
  View<const C, 6> coordinates, v_coordinates;  // [B, Q, groups, levels, points, 2]
  View<const C, 5> factors, v_factors;          // [B, Q, groups, levels, points]
  StoredView<const C, 3> grad_output;           // [B, Q, groups * channels]
  StoredView<C, 3> output;                      // [B, Q, groups * channels]; in the double backward, its change
  StoredView<C, 4> grad_value;                  // [B, S, groups, channels]
  View<C, 6> grad_coordinates;                  // [B, Q, groups, levels, points, 2]
  View<C, 5> grad_factors;                      // [B, Q, groups, levels, points]
};

// Whether a group's rows are looked at so often that a copy of them, one beside the other, pays. (Where they lie, the
// rows of one group are so far apart that a cache holds few of them.)
template <class Geometry>
bool pays_to_copy(const Geometry& geometry) {
  return geometry.queries * geometry.samples() * 4 > geometry.positions;
}

// Positions [begin, end): of one level, or of all.
struct Positions {
  int64_t begin, end;

  static Positions of(const Level& level) { return {level.start, level.start + int64_t{level.height} * level.width}; }
  int64_t count() const { return end - begin; }
};

// Where the four corners of a sample are, relative to the row of position `begin`.
struct CornerOffsets {
  int64_t first, right, down;

  template <class C>
  CornerOffsets(const Level& level, int64_t begin, const GroupSample<C>& sample, int64_t stride)
      : first((sample.position(level, 0) - begin) * stride), right(stride), down(level.width * stride) {}

  int64_t operator[](int q) const { return first + q % 2 * right + q / 2 * down; }
};

// Rows, and queries, that are asked for before they are needed: no processor guesses steps as wide as theirs.
inline constexpr int64_t kRowsAhead = 16, kQueriesAhead = 8;

// The cache lines of a short run. What lies beyond a tensor may be asked for: nothing comes of it.
template <class T>
void prefetch_run(const T* run, int64_t count) {
  constexpr int64_t kLine = static_cast<int64_t>(kCacheLine / sizeof(T));
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(run + i);
}

// A run of channels as it lies, if there is a constant number of them, in pieces that are moved in registers: a loop
// would become a call for each run. Returns whether it did.
template <class T, class C, class Channels>
bool copied(const T* from, Channels channels, C* to) {
  if constexpr (std::is_same_v<T, C> && !std::is_same_v<Channels, int64_t>) {
    for (int64_t c = 0; c < channels; c += 8) std::memcpy(to + c, from + c, 8 * sizeof(C));
    return true;
  }
  return false;
}

// Positions of a group of one image for reading: in place or a copy. Channels is how many there are, as a constant if
// it is usual.
template <class C, class Channels>
class ValueRows {
 public:
  template <class Geometry>
  ValueRows(const Geometry& geometry, const StoredView<const C, 4>& value, Channels channels)
      : value_(value),
        channels_(channels),
        in_place_(value.first.is_computed_in() && (value.strides[3] == 1 || channels == 1) && !pays_to_copy(geometry)),
        zeros_(static_cast<size_t>(geometry.channels)) {}

  void move_to(int64_t n, int64_t group, const Positions& positions) {
    if (!value_ || (n == n_ && group == group_ && positions.begin == begin_)) return;
    n_ = n, group_ = group, begin_ = positions.begin;
    if (in_place_) {
      first_ = value_.at(n, begin_, group, 0).in_place();
      stride_ = value_.strides[1];
      return;
    }
    copy_.resize(std::max(copy_.size(), static_cast<size_t>(positions.count() * channels_)));
    first_ = copy_.data();
    stride_ = channels_;
    dispatch_storage<C>(value_.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* row = value_.at(n, begin_, group, 0).template as<T>();
      for (int64_t s = 0; s < positions.count(); ++s) {
        const T* from = row + s * value_.strides[1];
        if (value_.strides[3] == 1) {
          prefetch_run(from + kRowsAhead * value_.strides[1], channels_);
          if (copied(from, channels_, copy_.data() + s * channels_)) continue;
        }
        load_run(from, value_.strides[3], channels_, copy_.data() + s * channels_);
      }
    });
  }

  // The corners of a sample; one outside the level is zeros, and so are all where there is no value.
  void corners(const Level& level, const GroupSample<C>& sample, const C* (&to)[4]) const {
    const CornerOffsets offsets(level, begin_, sample, stride_);
    const unsigned there = value_ ? sample.corners : 0;
    for (int q = 0; q < 4; ++q) to[q] = there >> q & 1 ? first_ + offsets[q] : zeros_.data();
  }

 private:
  const StoredView<const C, 4> value_;
  const Channels channels_;
  const bool in_place_;
  int64_t n_ = -1, group_ = -1, begin_ = -1, stride_ = 0;
  const C* first_ = nullptr;
  ScratchVector<C> zeros_, copy_;
};

// The same of the gradient of the value, added to by one thread in the order of queries.
template <class C, class Channels>
class GradRows {
 public:
  template <class Geometry>
  GradRows(const Geometry& geometry, const StoredView<C, 4>& grad_value, Channels channels)
      : grad_value_(grad_value),
        channels_(channels),
        in_place_(grad_value.first.is_computed_in() && !pays_to_copy(geometry)),
        unread_(static_cast<size_t>(4 * geometry.channels)) {}

  void begin(int64_t n, int64_t group, const Positions& positions) {
    if (!grad_value_) return;
    begin_ = positions.begin;
    if (!in_place_) sums_.resize(std::max(sums_.size(), static_cast<size_t>(positions.count() * channels_)));
    first_ = in_place_ ? grad_value_.at(n, begin_, group, 0).in_place() : sums_.data();
    stride_ = in_place_ ? grad_value_.strides[1] : channels_;
    for (int64_t s = 0; s < positions.count(); ++s) {
      std::fill(first_ + s * stride_, first_ + s * stride_ + channels_, C(0));
    }
  }

  // What is added to a corner outside the level nobody reads.
  void corners(const Level& level, const GroupSample<C>& sample, C* (&to)[4]) {
    const CornerOffsets offsets(level, begin_, sample, stride_);
    const unsigned there = grad_value_ ? sample.corners : 0;
    for (int q = 0; q < 4; ++q) to[q] = there >> q & 1 ? first_ + offsets[q] : unread_.data() + q * channels_;
  }

  void end(int64_t n, int64_t group, const Positions& positions) const {
    if (!grad_value_ || in_place_) return;
    dispatch_storage<C>(grad_value_.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* row = grad_value_.at(n, begin_, group, 0).template as<T>();
      for (int64_t s = 0; s < positions.count(); ++s) {
        T* to = row + s * grad_value_.strides[1];
        if (copied(sums_.data() + s * channels_, channels_, to)) continue;
        store_run(sums_.data() + s * channels_, channels_, to, 1);
      }
    });
  }

 private:
  const StoredView<C, 4> grad_value_;
  const Channels channels_;
  const bool in_place_;
  int64_t begin_ = 0, stride_ = 0;
  C* first_ = nullptr;
  ScratchVector<C> unread_, sums_;
};

// body(p, sample) for the points that one query and group looks at in one level.
template <class C, class Geometry, class Body>
void for_each_point(const Geometry& geometry, const Operands<C>& operands, int64_t n, int64_t query, int64_t group,
                    int64_t l, const Body& body) {
  const auto points = geometry.template points_of<C>(l, query);
  const C* coordinate = operands.coordinates.at(n, query, group, l, 0, 0);
  const C* factor = operands.factors.at(n, query, group, l, 0);
  if (l == 0) {
    prefetch_run(coordinate + kQueriesAhead * operands.coordinates.strides[1], 2 * geometry.samples());
    prefetch_run(factor + kQueriesAhead * operands.factors.strides[1], geometry.samples());
  }
  for (int64_t p = 0; p < geometry.points; ++p) {
    body(p, points.sample(p, coordinate[0], coordinate[operands.coordinates.strides[5]], *factor));
    coordinate += operands.coordinates.strides[4], factor += operands.factors.strides[4];
  }
}

}  // namespace handgrad::sampled_groups
