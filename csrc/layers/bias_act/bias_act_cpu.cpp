// An activation behind a bias on the CPU.
//
// A sample is a run of memory: of channels, each with its positions, or of positions, each with its channels, whichever
// lie inside. Runs of some hundred elements are computed at a time, in place where memory is what is computed in; the
// bias of a run is laid beside it, so that one loop for each formula serves both orders. Sums of channels are taken in
// double, piece by piece: pieces depend on the shape alone, and so no sum on the number of threads.
#include "bias_act_host.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace handgrad::bias_act {
namespace {

// Elements of a run, of a piece at least, and rows of channels that a piece has at least if their sums are asked for.
constexpr int64_t kRun = 512, kPiece = 16384, kRowsOfPiece = 128;

// ---- loops ----------------------------------------------------------------------------------------------------------

template <class C>
struct Run {
  const C *x, *b, *u, *grad_output;
  C *first, *second;
  int64_t count;
};

template <class C>
using Loop = void (*)(const Numbers& numbers, const Run<C>& run);

template <class C, class F, Pass kPass>
void loop(const Numbers& numbers, const Run<C>& run) {
  const F formula(numbers);
  const C* __restrict x = run.x;
  const C* __restrict b = run.b;
  [[maybe_unused]] const C* __restrict u = run.u;
  [[maybe_unused]] const C* __restrict g = run.grad_output;
  C* __restrict first = run.first;
  [[maybe_unused]] C* __restrict second = run.second;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < run.count; ++i) {
    const C z = x[i] + b[i];
    if constexpr (kPass == Pass::value) {
      first[i] = formula.value(z);
    } else {
      const C along = u[i];
      first[i] = formula.pull(z, along);
      if constexpr (kPass == Pass::second) second[i] = formula.turn(z, g[i], along);
    }
  }
}

template <class C>
Loop<C> loop_of(int64_t act, Pass pass) {
  return with_formula<C>(act, [&](auto tag) -> Loop<C> {
    using F = typename decltype(tag)::type;
    if (pass == Pass::value) return &loop<C, F, Pass::value>;
    return pass == Pass::pull ? &loop<C, F, Pass::pull> : &loop<C, F, Pass::second>;
  });
}

// ---- how the work is cut --------------------------------------------------------------------------------------------

// Elements of a sample in the order of its memory: index = outer * inner size + inner.
struct Cut {
  bool rows;                // channels are inside
  int64_t inner, size;      // how many are inside; elements of a sample
  int64_t piece, pieces;    // elements of a piece, and how many a sample has
  int64_t channels, count;  // of a piece at most, for its sums; pieces of all samples

  template <class C>
  explicit Cut(const Views<C>& views) : rows(views.channels_innermost()) {
    inner = rows ? views.channels : views.positions;
    size = views.channels * views.positions;
    piece = rows && views.sums ? std::max(kPiece, kRowsOfPiece * inner) : kPiece;
    pieces = (size + piece - 1) / piece;
    channels = rows ? views.channels : std::min(views.channels, piece / inner + 2);
    count = views.batch * pieces;
  }
  // Of planes: the first channel of a piece.
  int64_t first_channel(int64_t index) const { return rows ? 0 : index % pieces * piece / inner; }
};

// The work of one thread.
template <class C>
class Worker {
 public:
  Worker(const Views<C>& views, const Cut& cut, const Numbers& numbers, Loop<C> loop, bool is_second)
      : views_(views),
        cut_(cut),
        numbers_(numbers),
        loop_(loop),
        is_second_(is_second),
        outer_(cut.rows ? 2 : 1),
        inner_(cut.rows ? 1 : 2),
        memory_(size_t{kBuffers * kRun}) {
    std::fill_n(buffer(kBias), kRun, C(-0.0));  // x - 0 is x, of both signs of 0
    std::fill_n(buffer(kZeros), kRun, C(0));
  }

  // The elements of a piece; their sums are added to sums[channel - the piece's first].
  void work(int64_t piece, double* sums) {
    sample_ = piece / cut_.pieces;
    const int64_t begin = piece % cut_.pieces * cut_.piece, end = std::min(cut_.size, begin + cut_.piece);
    first_channel_ = cut_.first_channel(piece);
    for (begin_ = begin; begin_ < end; begin_ += kRun) {
      count_ = std::min(kRun, end - begin_);
      run(sums);
    }
  }

 private:
  enum Buffer { kX, kBias, kDirection, kGradOutput, kFirst, kSecond, kOfChannels, kZeros, kBuffers };
  C* buffer(Buffer which) { return memory_.data() + which * kRun; }

  void run(double* sums) {
    if (views_.b) load_of_channels(views_.b, buffer(kBias));
    const C* const g = views_.grad_output ? source(views_.grad_output, kGradOutput) : buffer(kZeros);
    const Run<C> run{source(views_.x, kX),           buffer(kBias), direction(), g, target(views_.first, kFirst),
                     target(views_.second, kSecond), count_};
    loop_(numbers_, run);
    if (views_.first) finish(views_.first, run.first);
    if (views_.second) finish(views_.second, run.second);
    if (sums) add(is_second_ ? run.second : run.first, sums);
  }

  const C* direction() {
    if (!views_.w) return views_.g ? source(views_.g, kDirection) : buffer(kZeros);
    C* const to = buffer(kOfChannels);
    load_of_channels(views_.w, to);
    if (!views_.g) return to;
    const C* const from = source(views_.g, kDirection);
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count_; ++i) to[i] += from[i];
    return to;
  }

  // body(outer, inner, how many, which of the run) for stretches of the run with one outer index.
  template <class Body>
  void for_each_stretch(const Body& body) const {
    int64_t outer = begin_ / cut_.inner, inner = begin_ - outer * cut_.inner;
    for (int64_t done = 0; done < count_; ++outer, inner = 0) {
      const int64_t length = std::min(count_ - done, cut_.inner - inner);
      body(outer, inner, length, done);
      done += length;
    }
  }

  void load_of_channels(const View<const C, 1>& from, C* to) const {
    for_each_stretch([&](int64_t outer, int64_t inner, int64_t length, int64_t done) {
      if (cut_.rows) {
        load_run(from.at(inner), from.strides[0], length, to + done);
      } else {
        std::fill_n(to + done, length, *from.at(outer));
      }
    });
  }

  // What follows an outer index in memory is the next one.
  template <class P>
  bool is_run(const StoredView<P, 3>& view) const {
    return view.strides[outer_] == cut_.inner * view.strides[inner_];
  }
  template <class P>
  bool is_in_place(const StoredView<P, 3>& view) const {
    return view.first.is_computed_in() && view.strides[inner_] == 1 && is_run(view);
  }
  template <class P>
  Stored<P> at(const StoredView<P, 3>& view, int64_t outer, int64_t inner) const {
    return view.first + (sample_ * view.strides[0] + outer * view.strides[outer_] + inner * view.strides[inner_]);
  }

  const C* source(const StoredView<const C, 3>& view, Buffer which) {
    const int64_t outer = begin_ / cut_.inner, inner = begin_ - outer * cut_.inner, stride = view.strides[inner_];
    if (is_in_place(view)) return at(view, outer, inner).in_place();
    C* const to = buffer(which);
    if (is_run(view)) {
      load_run(at(view, outer, inner), stride, count_, to);
    } else {
      for_each_stretch([&](int64_t outer, int64_t inner, int64_t length, int64_t done) {
        load_run(at(view, outer, inner), stride, length, to + done);
      });
    }
    return to;
  }
  C* target(const StoredView<C, 3>& view, Buffer which) {
    if (!view || !is_in_place(view)) return buffer(which);
    return at(view, begin_ / cut_.inner, begin_ % cut_.inner).in_place();
  }
  void finish(const StoredView<C, 3>& view, const C* from) const {
    if (is_in_place(view)) return;
    for_each_stretch([&](int64_t outer, int64_t inner, int64_t length, int64_t done) {
      store_run(from + done, length, at(view, outer, inner), view.strides[inner_]);
    });
  }

  void add(const C* from, double* sums) const {
    for_each_stretch([&](int64_t outer, int64_t inner, int64_t length, int64_t done) {
      const C* __restrict own = from + done;
      if (cut_.rows) {
        double* __restrict to = sums + inner;
        HANDGRAD_SIMD
        for (int64_t i = 0; i < length; ++i) to[i] += static_cast<double>(own[i]);
      } else {
        C sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < length; ++i) sum += own[i];
        sums[outer - first_channel_] += static_cast<double>(sum);
      }
    });
  }

  const Views<C>& views_;
  const Cut& cut_;
  const Numbers& numbers_;
  const Loop<C> loop_;
  const bool is_second_;
  const int outer_, inner_;
  int64_t sample_ = 0, begin_ = 0, count_ = 0, first_channel_ = 0;
  ScratchVector<C> memory_;
};

struct OnCpu {
  template <class C>
  static void run(Pass pass, const Operands& operands) {
    const Views<C> views(operands);
    const Cut cut(views);
    const Loop<C> loop = loop_of<C>(operands.numbers.act, pass);
    std::vector<double> sums(size_t(views.sums ? cut.count * cut.channels : 0));
    parallel_for(cut.count, std::min(cut.piece, cut.size), [&](int64_t begin, int64_t end) {
      Worker<C> worker(views, cut, operands.numbers, loop, pass == Pass::second);
      for (int64_t piece = begin; piece < end; ++piece) {
        worker.work(piece, views.sums ? sums.data() + piece * cut.channels : nullptr);
      }
    });
    if (views.sums) add_pieces(views, cut, sums);
  }

 private:
  template <class C>
  static void add_pieces(const Views<C>& views, const Cut& cut, const std::vector<double>& sums) {
    std::vector<double> total(size_t(views.channels), 0.0);
    for (int64_t piece = 0; piece < cut.count; ++piece) {
      const int64_t first = cut.first_channel(piece), last = std::min(views.channels, first + cut.channels);
      for (int64_t c = first; c < last; ++c) total[size_t(c)] += sums[size_t(piece * cut.channels + c - first)];
    }
    for (int64_t c = 0; c < views.channels; ++c) views.sums[c] = static_cast<C>(total[size_t(c)]);
  }
};

}  // namespace
}  // namespace handgrad::bias_act

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::bias_act::implement<handgrad::bias_act::OnCpu>(library); }
