// The contrastive loss on the CPU: pair by pair, whose difference stays in the cache while its gradient is made. Losses
// are added in double over chunks whose bounds depend on the shape alone: the same bits for any number of threads.
#include "contrastive_loss_host.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace handgrad::contrastive_loss {
namespace {

// A sum of products, in lanes that are added up as a tree.
template <class C>
C dot(const C* __restrict a, const C* __restrict b, int64_t count) {
  constexpr int64_t lanes = 32;
  C sums[lanes] = {};
  const int64_t whole = count / lanes * lanes;
  for (int64_t first = 0; first < whole; first += lanes) {
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += a[first + lane] * b[first + lane];
  }
  for (int64_t i = whole; i < count; ++i) sums[i - whole] += a[i] * b[i];
  for (int64_t half = lanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

// One pair at a time.
template <class C>
class PairLine {
 public:
  PairLine(const Views<C>& views, Pass pass)
      : views_(views),
        pass_(pass),
        memory_(static_cast<size_t>((pass == Pass::second ? 3 : 2) * views.width)),
        difference_(memory_.data()),
        other_(difference_ + views.width),
        direction_(pass == Pass::second ? other_ + views.width : nullptr) {}

  PairLine(const PairLine&) = delete;

  // What pair n adds to the loss, or to what its gradient gives along the direction.
  double operator()(int64_t n) {
    subtract(views_.input1, views_.input2, n, difference_);
    const C s = dot(difference_, difference_, views_.width);
    const bool similar = *views_.targets.at(n) != 0;
    if (pass_ == Pass::value) return write(n, views_.formula.value(s, similar));
    const C grad = *views_.grad_output.at(n) * views_.factor, slope = views_.formula.slope(s, similar);
    if (pass_ == Pass::gradient) {
      combine(n, grad * slope, difference_, 0, difference_);
      return 0;
    }
    subtract(views_.direction1, views_.direction2, n, direction_);
    const C product = dot(difference_, direction_, views_.width);
    combine(n, grad * slope, direction_, grad * views_.formula.bend(s, similar) * product, difference_);
    return write(n, slope * product);
  }

 private:
  void subtract(const StoredView<const C, 2>& from, const StoredView<const C, 2>& subtracted, int64_t n, C* to) {
    load_or_zero(from, n, to);
    load_or_zero(subtracted, n, other_);
    C* __restrict const result = to;
    const C* __restrict const other = other_;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < views_.width; ++i) result[i] -= other[i];
  }
  void load_or_zero(const StoredView<const C, 2>& view, int64_t n, C* to) const {
    if (view) {
      load_run(view.at(n, 0), view.strides[1], views_.width, to);
    } else {
      std::fill(to, to + views_.width, C(0));
    }
  }
  double write(int64_t n, C value) const {
    if (views_.losses) *views_.losses.at(n) = value;
    return static_cast<double>(value);
  }
  // a x + b y for the first input, its negative for the second.
  void combine(int64_t n, C a, const C* x, C b, const C* y) {
    for (const bool second : {false, true}) {
      const StoredView<C, 2>& to = second ? views_.grad_input2 : views_.grad_input1;
      if (!to) continue;
      const C sign = second ? C(-1) : C(1);
      C* __restrict const out = other_;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < views_.width; ++i) out[i] = sign * (a * x[i] + b * y[i]);
      store_run(out, views_.width, to.at(n, 0), to.strides[1]);
    }
  }

  const Views<C>& views_;
  Pass pass_;
  ScratchVector<C> memory_;
  C *difference_, *other_, *direction_;
};

struct PairsOnCpu {
  template <class C>
  static void run(Pass pass, const Operands& operands) {
    const Views<C> views(operands);
    const int64_t width = std::max<int64_t>(1, views.width);
    // At most 65,536 partial sums.
    const int64_t chunk = std::max<int64_t>({1, kElementsPerThread / width, (views.pairs + 65535) / 65536});
    const int64_t chunks = (views.pairs + chunk - 1) / chunk;
    std::vector<double> partial(static_cast<size_t>(chunks));
    parallel_for(chunks, chunk * width, [&](int64_t begin, int64_t end) {
      PairLine<C> pair(views, pass);
      for (int64_t k = begin; k < end; ++k) {
        double sum = 0;
        for (int64_t n = k * chunk; n < std::min(views.pairs, (k + 1) * chunk); ++n) sum += pair(n);
        partial[static_cast<size_t>(k)] = sum;
      }
    });
    if (!operands.losses || !operands.reduced()) return;
    double total = 0;
    for (const double sum : partial) total += sum;
    *operands.losses->mutable_data_ptr<C>() = static_cast<C>(total / operands.divisor());
  }
};

}  // namespace
}  // namespace handgrad::contrastive_loss

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  using Of = handgrad::contrastive_loss::Entries<handgrad::contrastive_loss::PairsOnCpu>;
  handgrad::implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, "contrastive_loss");
}
