// Both derivatives on the CPU, in one pass over rows: a row of grad_output is masked, and kept until those below and
// above it are; of these three the gradient of the image is made.
#pragma once

#include "adjust_sharpness_rows.h"

namespace handgrad::adjust_sharpness {

// ---- loops ----------------------------------------------------------------------------------------------------------

// `whole`: of an image that stays as it is.
template <class C>
[[gnu::noinline]] void mask_gradients(const C* __restrict x, const C* __restrict less, const C* __restrict grad, C rest,
                                      bool whole, int64_t count, C* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = whole || is_inside(x[i] + rest * less[i]) ? grad[i] : C(0);
}

// to = own + weight * to
template <class C>
[[gnu::noinline]] void add_weighed(const C* __restrict own, C weight, int64_t count, C* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = own[i] + weight * to[i];
}

// ---- passes ---------------------------------------------------------------------------------------------------------

// The rows of one plane, on one thread.
template <class C>
class Differentiator {
 public:
  Differentiator(const Geometry& geometry, const FactorTable& table, const Derivative& call, const Cut& cut,
                 double* sums)
      : geometry_(geometry),
        table_(table),
        call_(call),
        cut_(cut),
        sums_(sums),
        image_(source_rows(call.image), cut),
        grads_(source_rows(call.grad_output), cut),
        directions_(source_rows(call.direction), cut),
        outputs_(target_rows(call.grad_grad_output), cut),
        images_(target_rows(call.grad_image), cut),
        pitch_(cut.length + 2 * cut.group),
        less_(static_cast<size_t>(cut.length)),
        direction_less_(static_cast<size_t>(cut.length)),
        inner_(static_cast<size_t>((kRows + 1) * pitch_)),
        zeros_(static_cast<size_t>(cut.length)) {}

  void operator()(int64_t n, int64_t c, int64_t first, int64_t last, int64_t index) {
    n_ = n, c_ = c, index_ = index;
    rest_ = static_cast<C>(table_.rest(n)), along_ = static_cast<C>(table_.along(n));
    image_.move_to(n, c), grads_.move_to(n, c), directions_.move_to(n, c);
    int64_t made = images_ ? std::max<int64_t>(0, first - 1) : first;
    for (int64_t y = first; y < last; ++y) {
      for (const int64_t upto = images_ ? std::min(geometry_.height - 1, y + 1) : y; made <= upto; ++made) {
        mask(made);
        if (made >= first && made < last) use(made);
      }
      if (images_) make_gradient(y);
    }
  }

 private:
  static constexpr int64_t kRows = 3;

  // g of a row, with zeros for the border and beyond it.
  C* inner(int64_t y) { return inner_.data() + y % kRows * pitch_ + cut_.group; }
  const C* inner_or_zeros(int64_t y) {
    return y >= 0 && y < geometry_.height ? inner(y) : inner_.data() + kRows * pitch_ + cut_.group;
  }

  void mask(int64_t y) {
    subtract_means(geometry_, cut_, image_, y, less_.data());
    if (!images_ && !sums_) return;
    C* const to = inner(y);
    // Zeros at both ends, or everywhere.
    const int64_t border = geometry_.is_border_row(y) ? cut_.length : cut_.group, count = cut_.length - 2 * border;
    std::fill_n(to, border, C(0));
    std::fill_n(to + cut_.length - border, border, C(0));
    if (count <= 0) return;
    mask_gradients(image_.row(y) + border, less_.data() + border, grads_.row(y) + border, rest_, false, count,
                   to + border);
  }

  // What is made of a row by itself, once it is masked.
  void use(int64_t y) {
    if (call_.direction) subtract_means(geometry_, cut_, directions_, y, direction_less_.data());
    const C* const less = call_.is_second ? direction_less_.data() : less_.data();
    if (sums_) sums_[index_ + y] = -sum_of_products(inner(y), less, cut_.length);
    if (outputs_) outputs_.make(n_, c_, y, [&](C* to) { make_tangent(y, to); });
  }

  // The blend's change along both directions, where it is inside.
  void make_tangent(int64_t y, C* to) {
    C* const moved = direction_less_.data();
    if (call_.direction) {
      add_weighed(directions_.row(y), rest_, cut_.length, moved);
    } else {
      std::fill_n(moved, cut_.length, C(0));
    }
    std::copy(less_.data(), less_.data() + cut_.length, to);
    add_weighed(moved, -along_, cut_.length, to);
    std::copy(to, to + cut_.length, moved);
    const C* const x = image_.row(y);
    for_each_part(geometry_, cut_, y, rest_, [&](int64_t from, int64_t count, C rest) {
      mask_gradients(x + from, less_.data() + from, moved + from, rest, geometry_.is_small(), count, to + from);
    });
  }

  void make_gradient(int64_t y) {
    images_.make(n_, c_, y, [&](C* to) {
      subtract_means<C>({inner_or_zeros(y - 1), inner(y), inner_or_zeros(y + 1)}, cut_.group, 0, cut_.length, to);
      // In the second derivative the gradient of the image has no part of the pixel's own.
      add_weighed(call_.is_second ? zeros_.data() : inner(y), call_.is_second ? -along_ : rest_, cut_.length, to);
      if (call_.is_second) return;
      const int64_t border = geometry_.is_border_row(y) ? cut_.length : cut_.group, end = cut_.length - border;
      add_border(y, 0, border, to);
      if (end > 0) add_border(y, end, border, to);
    });
  }

  // The gradient of the border, which inner() is without.
  void add_border(int64_t y, int64_t from, int64_t count, C* to) {
    const C *const x = image_.row(y), *const grad = grads_.row(y);
    for (int64_t i = from; i < from + count; ++i) to[i] += geometry_.is_small() || is_inside(x[i]) ? grad[i] : C(0);
  }

  const Geometry& geometry_;
  const FactorTable& table_;
  const Derivative& call_;
  const Cut& cut_;
  double* sums_;
  NearRows<C> image_, grads_, directions_;
  ResultRows<C> outputs_, images_;
  int64_t pitch_;
  ScratchVector<C> less_, direction_less_, inner_, zeros_;
  int64_t n_ = 0, c_ = 0, index_ = 0;
  C rest_ = 0, along_ = 0;
};

// All rows, and the sums of each image in the order of its rows.
template <class C>
void differentiate(const Geometry& geometry, const FactorTable& table, const Derivative& call) {
  const Cut cut(geometry, {call.image, call.grad_output, call.direction, call.grad_grad_output, call.grad_image});
  std::vector<double> sums(static_cast<size_t>(call.sums ? cut.rows : 0));
  for_each_band(geometry, cut,
                [&] { return Differentiator<C>(geometry, table, call, cut, call.sums ? sums.data() : nullptr); });
  if (!call.sums) return;
  const View<double, 1> results = mutable_view<double, 1>(*call.sums);
  const int64_t rows = cut.groups * geometry.height;
  for (int64_t n = 0; n < geometry.batch; ++n) {
    double total = 0;
    for (int64_t row = 0; row < rows; ++row) total += sums[static_cast<size_t>(n * rows + row)];
    *results.at(n) = total;
  }
}

}  // namespace handgrad::adjust_sharpness
