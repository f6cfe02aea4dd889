// A leaky ReLU at a higher rate of samples on the CPU.
//
// Of a strip of output columns one row at a time exists at the high rate: it is made of a ring of rows that cpu/fir.h
// has upsampled along themselves, goes through the activation, and into the ring that the downsampling makes an output
// row of. Each row of the input is read, and each of the high rate made, once for a band of output rows.
#include "abi/view.h"
#include "cpu/fir.h"
#include "filtered_lrelu_host.h"

namespace handgrad::filtered_lrelu {
namespace {

// Columns [first, last) of an axis that outputs [begin, end) of it are made of.
struct Reach {
  int64_t first, last;

  Reach(const FirAxis& axis, int64_t begin, int64_t end) {
    const FirPhases phases(axis, begin, end);
    first = std::clamp<int64_t>(phases.low, 0, axis.in);
    last = std::clamp<int64_t>(phases.low + phases.lanes * phases.lane_width, first, axis.in);
  }
  int64_t count() const { return last - first; }
};

// The same planes where inputs, or outputs, are counted from the first of a reach on.
FirPlanes with_inputs(FirPlanes planes, const Reach& reach) {
  FirAxis& axis = planes.columns;
  axis.offset += static_cast<int32_t>(reach.first) * axis.up;
  axis.in = static_cast<int32_t>(reach.count());
  return planes;
}
FirPlanes with_outputs(FirPlanes planes, const Reach& reach) {
  FirAxis& axis = planes.columns;
  axis.offset -= static_cast<int32_t>(reach.first) * axis.down;
  axis.out = static_cast<int32_t>(reach.count());
  return planes;
}

// A row in scratch memory as FirBand reads and writes it, whichever row it is asked for.
template <class Rows, class C>
Rows scratch_row(C* data, int64_t group) {
  Rows rows;
  rows.data = reinterpret_cast<decltype(rows.data)>(data);
  rows.dtype = kDtype<std::remove_const_t<C>>;
  rows.column = group;
  return rows;
}

// Rows of an image with a bias, of columns that are reached: in place where there is none.
template <class C>
class BiasedRows {
 public:
  BiasedRows(const Stage& stage, const Reach& reach, int64_t group)
      : count_(reach.count() * group), group_(group), image_(source_rows(stage.image)) {
    if (image_) image_.data += reach.first * image_.column * element_size(image_.dtype);
    if (stage.image && !stage.b) return;
    row_.resize(static_cast<size_t>(std::max<int64_t>(1, count_)));
    bias_.assign(static_cast<size_t>(stage.planes.channels), C(0));
    if (!stage.b) return;
    const View<const C, 1> b = view<C, 1>(*stage.b);
    for (size_t c = 0; c < bias_.size(); ++c) bias_[c] = *b.at(c);
  }
  SourceRows rows() const { return row_.empty() ? image_ : scratch_row<SourceRows>(row_.data(), group_); }
  void make(int64_t n, int64_t c, int64_t i) {
    if (row_.empty()) return;
    C* __restrict to = row_.data();
    if (image_) {
      load_run(image_.dtype, image_.data, image_.at(n, c, i, 0), image_.stride(group_), count_, to);
    } else {
      std::fill_n(to, count_, C(0));
    }
    const C* __restrict b = bias_.data() + c;
    if (group_ == 1) {
      const C value = *b;
      HANDGRAD_SIMD
      for (int64_t k = 0; k < count_; ++k) to[k] += value;
    } else {
      for (int64_t k = 0; k < count_; k += group_) {
        HANDGRAD_SIMD
        for (int64_t j = 0; j < group_; ++j) to[k + j] += b[j];
      }
    }
  }

 private:
  int64_t count_, group_;
  SourceRows image_;
  std::vector<C> bias_;
  ScratchVector<C> row_;
};

template <class C>
struct PrepareBiased {
  BiasedRows<C>* rows;
  void operator()(int64_t n, int64_t c, int64_t i) const { rows->make(n, c, i); }
};

// Rows of a stage at the high rate, of columns that are reached.
template <class C>
class HighRows {
 public:
  HighRows(const Stage& stage, const FirTaps<C>& taps, const FirCut& cut, const Reach& high)
      : outputs_(with_outputs(stage.planes, high)),
        reach_(outputs_.columns, 0, high.count()),
        planes_(with_inputs(outputs_, reach_)),
        phases_(planes_.columns, 0, high.count()),
        source_(stage, reach_, cut.group),
        row_(static_cast<size_t>(std::max<int64_t>(1, high.count() * cut.group))),
        band_(planes_, taps, phases_, cut, source_.rows(), scratch_row<TargetRows>(row_.data(), cut.group),
              SourceRows(), PrepareBiased<C>{&source_}) {}
  HighRows(const HighRows&) = delete;

  void start(int64_t n, int64_t c) { band_.start(n, c); }
  C* make(int64_t i) {
    band_.make(i);
    return row_.data();
  }
  const C* data() const { return row_.data(); }

 private:
  FirPlanes outputs_;
  Reach reach_;
  FirPlanes planes_;
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
        reach_(pass.last.planes.columns, begin, end),
        planes_(with_inputs(pass.last.planes, reach_)),
        phases_(planes_.columns, begin, end),
        group_(cut.group),
        count_(reach_.count() * cut.group),
        x_(pass.x, taps.x, cut, reach_),
        band_(planes_, taps.last, phases_, cut, scratch_row<SourceRows>(x_.data(), cut.group), target_rows(pass.target),
              SourceRows(), Prepare{this}) {
    if (pass.other) other_.emplace(*pass.other, taps.other, cut, reach_);
  }
  Strip(const Strip&) = delete;

  // Rows [first, last) of channel c of image n; each row's sums of channels to where its own are.
  void run(int64_t n, int64_t c, int64_t first, int64_t last, double* sums) {
    x_.start(n, c);
    if (other_) other_->start(n, c);
    band_.start(n, c);
    for (int64_t y = first; y < last; ++y) {
      const C* const row = band_.make(y);
      if (sums) add(row, sums + (y - first) * group_);
    }
  }

 private:
  struct Prepare {
    Strip* strip;
    void operator()(int64_t, int64_t, int64_t i) const { strip->make(i); }
  };

  void add(const C* row, double* to) const {
    constexpr int64_t kRun = 512;
    const int64_t width = phases_.end - phases_.begin;
    for (int64_t x = 0; group_ == 1 && x < width; x += kRun) {
      C sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t k = x; k < std::min(width, x + kRun); ++k) sum += row[k];
      *to += static_cast<double>(sum);
    }
    for (int64_t x = 0; group_ > 1 && x < width; ++x) {
      const C* __restrict pixel = row + x * group_;
      HANDGRAD_SIMD
      for (int64_t c = 0; c < group_; ++c) to[c] += static_cast<double>(pixel[c]);
    }
  }

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
  Reach reach_;
  FirPlanes planes_;
  FirPhases phases_;
  int64_t group_, count_;
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
    std::vector<double> sums(static_cast<size_t>(pass.sums ? cut.items * rows * cut.group : 0), 0.0);
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
        strip->run(plane / cut.groups, plane % cut.groups, first, last,
                   pass.sums ? sums.data() + begin * cut.group : nullptr);
        begin += last - first;
      }
    });
    if (pass.sums) add_rows(cut, rows, planes.channels, sums.data(), pass.sums->mutable_data_ptr<C>());
  }

 private:
  // In the order of rows, whoever has made them.
  template <class C>
  static void add_rows(const FirCut& cut, int64_t rows, int64_t channels, const double* from, C* to) {
    std::vector<double> total(static_cast<size_t>(channels), 0.0);
    for (int64_t item = 0; item < cut.items; ++item) {
      double* const own = total.data() + item / cut.strips % cut.groups;
      for (int64_t k = 0; k < rows; ++k) {
        for (int64_t c = 0; c < cut.group; ++c) own[c] += *from++;
      }
    }
    for (int64_t c = 0; c < channels; ++c) to[c] = static_cast<C>(total[static_cast<size_t>(c)]);
  }
};

}  // namespace
}  // namespace handgrad::filtered_lrelu

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::filtered_lrelu::implement<handgrad::filtered_lrelu::OnCpu>(library);
}
