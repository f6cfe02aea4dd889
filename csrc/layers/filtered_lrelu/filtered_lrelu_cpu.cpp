// A leaky ReLU at a higher rate of samples on the CPU.
//
// Of a strip of output columns one row at a time exists at the high rate: it is made of a ring of rows that cpu/fir.h
// has upsampled along themselves, goes through the activation, and into the ring that the downsampling makes an output
// row of. Each row of the input is read, and each of the high rate made, once for a band of output rows.
#include "cpu/channel_sums.h"
#include "cpu/fir.h"
#include "filtered_lrelu_host.h"

namespace handgrad::filtered_lrelu {
namespace {

// Columns [first, last) of an axis that a strip's bands read.
struct Reach {
  int64_t first, last;

  Reach(const FirAxis& axis, const FirPhases& phases)
      : first(std::clamp<int64_t>(phases.low, 0, axis.in)),
        last(std::clamp<int64_t>(phases.low + phases.lanes * phases.lane_width, first, axis.in)) {}
  int64_t count() const { return last - first; }
};

// A row in scratch memory as FirBand reads and writes it, whichever row it is asked for.
template <class Rows, class C>
Rows scratch_row(C* data, int64_t first, int64_t group) {
  Rows rows;
  rows.data = reinterpret_cast<decltype(rows.data)>(data);
  rows.dtype = kDtype<std::remove_const_t<C>>;
  rows.column = group;
  rows.first = first;
  return rows;
}

// Rows of an image with a bias: in place where there is none.
template <class C>
class BiasedRows {
 public:
  BiasedRows(const Stage& stage, const FirPhases& phases, int64_t group)
      : reach_(stage.planes.columns, phases), group_(group), image_(source_rows(stage.image)) {
    if (stage.image && !stage.b) return;
    row_.resize(static_cast<size_t>(std::max<int64_t>(1, reach_.count() * group)));
    bias_.assign(static_cast<size_t>(stage.planes.channels), C(0));
    if (!stage.b) return;
    const View<const C, 1> b = view<C, 1>(*stage.b);
    for (size_t c = 0; c < bias_.size(); ++c) bias_[c] = *b.at(c);
  }
  SourceRows rows() const {
    return row_.empty() ? image_ : scratch_row<SourceRows>(row_.data(), reach_.first, group_);
  }
  void make(int64_t n, int64_t c, int64_t i) {
    if (row_.empty()) return;
    C* __restrict to = row_.data();
    const int64_t count = reach_.count() * group_;
    if (image_) {
      load_run(image_.dtype, image_.data, image_.at(n, c, i, reach_.first), image_.stride(group_), count, to);
    } else {
      std::fill_n(to, count, C(0));
    }
    const C* __restrict b = bias_.data() + c;
    if (group_ == 1) {
      const C value = *b;
      HANDGRAD_SIMD
      for (int64_t k = 0; k < count; ++k) to[k] += value;
    } else {
      for (int64_t k = 0; k < count; k += group_) {
        HANDGRAD_SIMD
        for (int64_t j = 0; j < group_; ++j) to[k + j] += b[j];
      }
    }
  }

 private:
  Reach reach_;
  int64_t group_;
  SourceRows image_;
  std::vector<C> bias_;
  ScratchVector<C> row_;
};

template <class C>
struct PrepareBiased {
  BiasedRows<C>* rows;
  void operator()(int64_t n, int64_t c, int64_t i) const { rows->make(n, c, i); }
};

// Rows of a stage at the high rate, columns [first, last).
template <class C>
class HighRows {
 public:
  HighRows(const Stage& stage, const FirTaps<C>& taps, const FirCut& cut, const Reach& reach)
      : phases_(stage.planes.columns, reach.first, reach.last),
        source_(stage, phases_, cut.group),
        row_(static_cast<size_t>(std::max<int64_t>(1, reach.count() * cut.group))),
        band_(stage.planes, taps, phases_, cut, source_.rows(),
              scratch_row<TargetRows>(row_.data(), reach.first, cut.group), SourceRows(), PrepareBiased<C>{&source_}) {}
  HighRows(const HighRows&) = delete;

  void start(int64_t n, int64_t c) { band_.start(n, c); }
  C* make(int64_t i) {
    band_.make(i);
    return row_.data();
  }
  const C* data() const { return row_.data(); }

 private:
  FirPhases phases_;
  BiasedRows<C> source_;
  ScratchVector<C> row_;
  FirBand<C, PrepareBiased<C>> band_;
};

template <class C>
struct AllTaps {
  FirTaps<C> x, other, last;

  static FirTaps<C> of(const Stage& stage) {
    return fir_taps(stage.planes, fir_filter<C>(*stage.filter, nullptr, stage.gain));
  }
  explicit AllTaps(const FusedPass& pass) : x(of(pass.x)), last(of(pass.last)) {
    if (pass.other) other = of(*pass.other);
  }
};

// Output columns [begin, end), on one thread.
template <class C>
class Strip {
 public:
  Strip(const FusedPass& pass, const AllTaps<C>& taps, const FirCut& cut, int64_t begin, int64_t end)
      : formula_(pass.activation),
        phases_(pass.last.planes.columns, begin, end),
        reach_(pass.last.planes.columns, phases_),
        count_(reach_.count() * cut.group),
        x_(pass.x, taps.x, cut, reach_),
        band_(pass.last.planes, taps.last, phases_, cut, scratch_row<SourceRows>(x_.data(), reach_.first, cut.group),
              target_rows(pass.target), SourceRows(), Prepare{this}) {
    if (pass.other) other_.emplace(*pass.other, taps.other, cut, reach_);
  }
  Strip(const Strip&) = delete;

  // Rows [first, last) of channel c of image n.
  void run(int64_t n, int64_t c, int64_t first, int64_t last) {
    x_.start(n, c);
    if (other_) other_->start(n, c);
    band_.run(n, c, first, last);
  }

 private:
  struct Prepare {
    Strip* strip;
    void operator()(int64_t, int64_t, int64_t i) const { strip->make(i); }
  };

  // Row i of the high rate.
  void make(int64_t i) {
    if (count_ == 0) return;
    C* __restrict z = x_.make(i);
    if (!other_) {
      HANDGRAD_SIMD
      for (int64_t k = 0; k < count_; ++k) z[k] = formula_.value(z[k]);
      return;
    }
    const C* __restrict g = other_->make(i);
    HANDGRAD_SIMD
    for (int64_t k = 0; k < count_; ++k) z[k] = formula_.pull(z[k], g[k]);
  }

  const Formula<C> formula_;
  FirPhases phases_;
  Reach reach_;
  int64_t count_;
  HighRows<C> x_;
  std::optional<HighRows<C>> other_;
  FirBand<C, Prepare> band_;
};

struct OnCpu {
  template <class C>
  static void run(const FusedPass& pass) {
    const FirPlanes& planes = pass.last.planes;
    const AllTaps<C> taps(pass);
    const bool grouped = planes.channels > 1 && has_groups(pass.x.image) && has_groups(pass.target) &&
                         (!pass.other || has_groups(pass.other->image));
    const FirCut cut(planes, grouped, sizeof(C));
    const int64_t rows = planes.rows.out;
    // A row of the output costs as many of the high rate as lie between two.
    const int64_t cost = cut.width * cut.group * planes.rows.down * planes.columns.down;
    parallel_for(cut.items * rows, cost, [&](int64_t begin, int64_t end) {
      std::optional<Strip<C>> strip;
      int64_t strip_made = -1;
      while (begin < end) {
        const int64_t item = begin / rows, first = begin - item * rows, last = std::min(rows, first + end - begin);
        const int64_t index = item % cut.strips, plane = item / cut.strips;
        if (index != strip_made) {
          strip.emplace(pass, taps, cut, index * cut.width,
                        std::min<int64_t>(planes.columns.out, (index + 1) * cut.width));
          strip_made = index;
        }
        strip->run(plane / cut.groups, plane % cut.groups, first, last);
        begin += last - first;
      }
    });
  }
  template <class C>
  static void add_channels(const Tensor& image, const Tensor& sums) {
    channel_sums<C>(image, sums.mutable_data_ptr<C>());
  }
};

}  // namespace
}  // namespace handgrad::filtered_lrelu

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::filtered_lrelu::implement<handgrad::filtered_lrelu::OnCpu>(library);
}
