// A normalisation of each channel by sums over its positions on the CPU: how the work is cut, and the work on a group,
// the channels of a sample that are normalised together.
//
// A group is gone through twice, for its sums and for its results, and thrice where what is rectified depends on sums:
// one group at a time, so that it comes from the cache where it fits there, and the second time from its end on, which
// was read last. Sums are taken in C over a few thousand elements, those of pieces in double and in their order: pieces
// depend on the shape alone, and so no sum on the number of threads.
#pragma once

#include <vector>

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/spatial_loops.h"
#include "cpu/spatial_operands.h"

namespace handgrad {

// Positions of a channel that are summed in C; and rows of channels that are, before they are added in double.
inline constexpr int64_t kSpatialSpan = 2048, kSpatialFlush = 64;
// Elements of a piece of rows at least.
inline constexpr int64_t kSpatialPiece = 16384;
// Of fewer channels than this most lanes of a vector are empty; then positions are, wherever they lie.
inline constexpr int64_t kFewestChannelsOfRow = 8;
// Bytes of a group that a thread's own cache holds. Of larger ones all threads work on one.
inline constexpr int64_t kSpatialCache = 1 << 20;

struct SpatialCut {
  bool rows;
  // Channels of a group, positions of a piece, pieces of a channel or of all of them, and elements of a run.
  int64_t channels, groups_per_sample, groups, span, spans, run;

  template <class C>
  SpatialCut(const SpatialViews<C>& views, bool together)
      : rows(views.channels_innermost() && views.channels >= kFewestChannelsOfRow) {
    channels = together ? views.group : rows ? views.channels : 1;
    groups_per_sample = views.channels / channels;
    groups = views.batch * groups_per_sample;
    const int64_t whole = std::max(int64_t{2} * kSpatialFlush, kSpatialPiece / channels);
    span = std::min(views.positions, rows ? whole : kSpatialSpan);
    spans = (views.positions + span - 1) / span;
    run = rows ? channels : span;
  }
  int64_t pieces() const { return rows ? spans : channels * spans; }
};

// Scratch of a thread, for what is not read and written where it lies.
template <class C>
class SpatialScratch {
 public:
  SpatialScratch(const SpatialViews<C>& views, const SpatialCut& cut)
      : views_(views), stride_(cut.rows ? 1 : 2), room_((cut.run + 63) / 64 * 64), memory_(size_t(5 * room_)) {}

  // So many elements from channel c of a position on: along channels, or along positions.
  SpatialRun<C> open(int64_t sample, int64_t c, int64_t position, int64_t count) {
    sample_ = sample, c_ = c, position_ = position;
    return {
        source(views_.input, 0, count), source(views_.grad_output, 1, count), source(views_.direction_input, 2, count),
        target(views_.output, 3),       target(views_.grad_input, 4),         count};
  }
  void store(const SpatialRun<C>& run) const {
    store(run.output, views_.output, run.count);
    store(run.grad_input, views_.grad_input, run.count);
  }

 private:
  C* scratch(int64_t which) { return memory_.data() + which * room_; }
  template <class P>
  bool is_in_place(const StoredView<P, 3>& view) const {
    return view.first.is_computed_in() && view.strides[stride_] == 1;
  }
  // Zeros where there is no tensor: that scratch is never written.
  const C* source(const StoredView<const C, 3>& view, int64_t which, int64_t count) {
    if (!view) return scratch(which);
    const Stored<const C> first = view.at(sample_, c_, position_);
    if (is_in_place(view)) return first.in_place();
    load_run(first, view.strides[stride_], count, scratch(which));
    return scratch(which);
  }
  C* target(const StoredView<C, 3>& view, int64_t which) {
    return view && is_in_place(view) ? view.at(sample_, c_, position_).in_place() : scratch(which);
  }
  void store(const C* from, const StoredView<C, 3>& view, int64_t count) const {
    if (view && !is_in_place(view)) store_run(from, count, view.at(sample_, c_, position_), view.strides[stride_]);
  }

  const SpatialViews<C>& views_;
  int64_t stride_, room_, sample_ = 0, c_ = 0, position_ = 0;
  ScratchVector<C> memory_;
};

template <class C, class Norm, bool Rectified, RowPass Pass>
class SpatialGroup {
  using Plane = SpatialPlane<C, Rectified, Pass>;
  using Row = SpatialRow<C, Rectified, Pass>;

 public:
  SpatialGroup(const SpatialViews<C>& views, const Norm& norm, const SpatialCut& cut, double* grads)
      : views_(views),
        norm_(norm),
        cut_(cut),
        grads_(grads),
        width_(cut.rows ? cut.channels : 1),
        partial_(size_t(cut.pieces() * width_ * kSpatialSums)),
        sums_(size_t(cut.channels * kSpatialSums)),
        factors_(size_t(cut.channels * kSpatialFactors)),
        scratch_(views, cut) {}

  void work(int64_t group) {
    sample_ = group / cut_.groups_per_sample;
    first_ = group % cut_.groups_per_sample * cut_.channels;
    std::fill(sums_.begin(), sums_.end(), 0.0);
    if constexpr (Rectified && Pass != RowPass::value) {
      sum<true, false>();
      find_factors(false);
      sum<false, true>();
    } else {
      sum<true, true>();
    }
    find_factors(true);
    if (!views_.output && !views_.grad_input) return;
    for_each_piece<true>([&](SpatialScratch<C>& scratch, int64_t piece) { write(scratch, piece); });
  }

 private:
  template <bool Backwards, class Body>
  void for_each_piece(const Body& body) {
    const int64_t elements = cut_.span * width_, pieces = cut_.pieces();
    const auto walk = [&](SpatialScratch<C>& scratch, int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) body(scratch, Backwards ? end - 1 - (k - begin) : k);
    };
    // One thread needs no scratch but the group's own, which a small group would take longer to make than to use.
    if (pieces * elements <= kElementsPerThread) return walk(scratch_, 0, pieces);
    parallel_for(pieces, elements, [&](int64_t begin, int64_t end) {
      SpatialScratch<C> scratch(views_, cut_);
      walk(scratch, begin, end);
    });
  }

  template <bool Squares, bool Others>
  void sum() {
    std::fill(partial_.begin(), partial_.end(), 0.0);
    const int64_t pieces = cut_.pieces();
    for_each_piece<false>([&](SpatialScratch<C>& scratch, int64_t piece) {
      double* const to = partial_.data() + piece * width_ * kSpatialSums;
      sum_piece<Squares, Others>(scratch, piece, to);
      if constexpr (Squares) again_in_double(scratch, piece, to);
    });
    // Of a plane the piece says which channel it is of; of rows each has all channels.
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const double* const from = partial_.data() + piece * width_ * kSpatialSums;
      double* const to = sums_.data() + (cut_.rows ? 0 : piece / cut_.spans * kSpatialSums);
      for (int64_t c = 0; c < width_; ++c) {
        for (int k = 0; k < kSpatialSums; ++k) to[c * kSpatialSums + k] += from[k * width_ + c];
      }
    }
  }

  template <bool Squares, bool Others>
  void sum_piece(SpatialScratch<C>& scratch, int64_t piece, double* to) const {
    if (!cut_.rows) {
      C own[kSpatialFactors];
      Plane::template sum<Squares, Others>(open_plane(scratch, piece, own), own, to);
      return;
    }
    ScratchVector<C> lanes(size_t(width_ * kSpatialSums));
    const auto [begin, end] = rows_of(piece);
    for (int64_t position = begin; position < end; ++position) {
      Row::template sum<Squares, Others>(scratch.open(sample_, first_, position, width_), factors_.data(),
                                         lanes.data());
      if ((position - begin) % kSpatialFlush != kSpatialFlush - 1 && position + 1 != end) continue;
      for (size_t k = 0; k < lanes.size(); ++k) to[k] += static_cast<double>(lanes[k]);
      std::fill(lanes.begin(), lanes.end(), C(0));
    }
  }

  // Squares beyond float are within double.
  void again_in_double(SpatialScratch<C>& scratch, int64_t piece, double* to) const {
    if constexpr (std::is_same_v<C, float>) {
      bool finite = true;
      for (int64_t c = 0; c < width_; ++c) finite = finite && to[c] <= double(std::numeric_limits<C>::max());
      if (finite) return;
      std::fill(to, to + width_, 0.0);
      C own[kSpatialFactors];
      const auto [begin, end] = cut_.rows ? rows_of(piece) : std::array<int64_t, 2>{0, 1};
      for (int64_t position = begin; position < end; ++position) {
        const SpatialRun<C> run =
            cut_.rows ? scratch.open(sample_, first_, position, width_) : open_plane(scratch, piece, own);
        for (int64_t i = 0; i < run.count; ++i) to[i % width_] += double(run.x[i]) * double(run.x[i]);
      }
    }
  }

  void write(SpatialScratch<C>& scratch, int64_t piece) const {
    if (!cut_.rows) {
      C own[kSpatialFactors];
      const SpatialRun<C> run = open_plane(scratch, piece, own);
      Plane::write(run, own);
      scratch.store(run);
      return;
    }
    const auto [begin, end] = rows_of(piece);
    for (int64_t position = end; position-- > begin;) {
      const SpatialRun<C> run = scratch.open(sample_, first_, position, width_);
      Row::write(run, factors_.data());
      scratch.store(run);
    }
  }

  std::array<int64_t, 2> rows_of(int64_t piece) const {
    return {piece * cut_.span, std::min(views_.positions, (piece + 1) * cut_.span)};
  }
  // A piece of a channel, and that channel's factors.
  SpatialRun<C> open_plane(SpatialScratch<C>& scratch, int64_t piece, C* own) const {
    const int64_t c = piece / cut_.spans, begin = piece % cut_.spans * cut_.span;
    for (int k = 0; k < kSpatialFactors; ++k) own[k] = factors_[size_t(k * cut_.channels + c)];
    return scratch.open(sample_, first_ + c, begin, std::min(cut_.span, views_.positions - begin));
  }

  // From the sums that there are; and once all are there, the gradients of the parameters.
  void find_factors(bool all) {
    double totals[Norm::kTotals] = {};
    for (int64_t c = 0; c < cut_.channels; ++c) norm_.add(state(c), totals);
    for (int64_t c = 0; c < cut_.channels; ++c) {
      const SpatialState own = state(c);
      const SpatialFactors made = norm_.factors(own, totals);
      views_.set_factors(first_ + c, made, factors_.data() + c, cut_.channels);
      if (!all || !grads_) continue;
      views_.set_grads(own, made, grads_ + (sample_ * views_.channels + first_ + c) * kSpatialParameters);
    }
  }
  SpatialState state(int64_t c) const {
    return views_.state(first_ + c, sums_.data() + c * kSpatialSums, Pass == RowPass::second);
  }

  const SpatialViews<C>& views_;
  const Norm& norm_;
  const SpatialCut& cut_;
  double* const grads_;  // [N, C, parameter], or null
  const int64_t width_;
  int64_t sample_ = 0, first_ = 0;
  std::vector<double> partial_, sums_;
  ScratchVector<C> factors_;
  SpatialScratch<C> scratch_;
};

// What host entries that serve several devices call (kinds/spatial_norm.h).
struct SpatialOnCpu {
  template <class C, class Norm, bool Rectified, RowPass Pass>
  static void normalise(const char*, const SpatialOperands& operands, double eps) {
    const SpatialViews<C> views(operands);
    const Norm norm(eps, views.group, views.positions);
    const SpatialCut cut(views, Norm::kTotals > 1);
    const size_t rows = size_t(views.batch * views.channels);
    std::vector<double> grads(views.has_grads() ? rows * kSpatialParameters : 0);
    const int64_t elements = cut.channels * views.positions;
    const auto work = [&](int64_t begin, int64_t end) {
      SpatialGroup<C, Norm, Rectified, Pass> group(views, norm, cut, grads.empty() ? nullptr : grads.data());
      for (int64_t index = begin; index < end; ++index) group.work(index);
    };
    const bool large = elements * static_cast<int64_t>(sizeof(C)) > kSpatialCache;
    if (large || cut.groups < static_cast<int64_t>(torch::stable::get_num_threads())) {
      work(0, cut.groups);
    } else {
      parallel_for(cut.groups, elements, work);
    }
    for (size_t k = 0; k < kSpatialParameters; ++k) {
      for (int64_t c = 0; views.grads[k] && c < views.channels; ++c) {
        double total = 0;
        for (int64_t n = 0; n < views.batch; ++n) {
          total += grads[size_t(n * views.channels + c) * kSpatialParameters + k];
        }
        views.grads[k][c] = static_cast<C>(total);
      }
    }
  }
};

}  // namespace handgrad
