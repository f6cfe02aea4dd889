// Some sources at a time, on the CPU: where they land and what they weigh there, found once for all channels, in loops
// over sources.
//
// In order of appearance: Operands, the tensors of a call; FieldArrays, what is known of the targets of an image;
// SourceRun.
#pragma once

#include <algorithm>
#include <type_traits>

#include "math/stored.h"
#include "softsplat_host.h"

namespace handgrad::softsplat {

// Sources that are taken at a time.
inline constexpr int64_t kRun = 64;

// softmax, where all metrics are so near each other that one number may be taken from all of them: exponentials are
// found once for a source, not for each of its targets. (In first derivatives; of second ones it would be code that few
// run.) No sum of weights vanishes then: exp(-32) times the smallest
// bilinear weight, about 2^-48, is far above the smallest number.
inline constexpr int32_t kNearSoftmax = kSoftmax + 1;
inline constexpr double kNear = 32;

template <class C>
struct Operands {
  StoredView<const C, 3> input, v_input, grad_output;  // [N, C, pixels]
  View<const C, 3> flow, v_flow;                       // [N, 2, pixels]
  View<const C, 3> metric, v_metric;                   // [N, 1, pixels]

  explicit Operands(const Inputs& inputs)
      : input(stored_view<C>(inputs.input)),
        flow(inputs.flow.view<C>()),
        v_flow(view_of(inputs.v_flow)),
        metric(view_of(inputs.metric)),
        v_metric(view_of(inputs.v_metric)) {
    if (inputs.v_input) v_input = stored_view<C>(*inputs.v_input);
    if (inputs.grad_output) grad_output = stored_view<C>(*inputs.grad_output);
  }

 private:
  static View<const C, 3> view_of(const std::optional<ChannelTensor>& tensor) {
    return tensor ? tensor->view<C>() : View<const C, 3>{};
  }
};

// ---- targets --------------------------------------------------------------------------------------------------------

// What is known of the targets of an image, a number for each; what is the same for all is one number, and the index is
// masked: loops over sources have no branch then.
template <class C>
struct FieldArrays {
  static constexpr C kNothing = 0, kWhole = 1;

  const C *largest = &kNothing, *scale = &kWhole, *scale_change = &kNothing;
  const C *grad_total = &kNothing, *grad_total_change = &kNothing;
  // All bits of an index, or none.
  int32_t of_largest = 0, of_others = 0;

  // Of a source that has no target, that of the first.
  HANDGRAD_MATH static int32_t clamped(int32_t target) { return target < 0 ? 0 : target; }
  HANDGRAD_MATH C largest_at(int32_t target) const { return largest[clamped(target) & of_largest]; }
  template <bool Twice>
  HANDGRAD_MATH Field<C> at(int32_t target) const {
    const int32_t t = clamped(target) & of_others;
    return {largest_at(target),
            scale[t],
            C(0),
            Twice ? scale_change[t] : C(0),
            grad_total[t],
            Twice ? grad_total_change[t] : C(0)};
  }
};

// ---- sources --------------------------------------------------------------------------------------------------------

template <class C>
struct SourceRun {
  using OfCorners = C[4][kRun];

  int64_t count = 0;
  int32_t target[4][kRun];
  // The first target and the last, in the order of an image's pixels; the first is larger where there is none.
  int32_t first_target = 0, last_target = 0;
  // Corner times importance, and how that moves; divided: what sources are multiplied by on their way.
  OfCorners product, product_change, weight, weight_change;

  void find(const Geometry& geometry, const Operands<C>& operands, int64_t n, int64_t first) {
    count = std::min(kRun, geometry.pixels - first);
    load_run(operands.flow.at(n, 0, first), operands.flow.strides[2], count, x_);
    load_run(operands.flow.at(n, 1, first), operands.flow.strides[2], count, y_);
    load_row(operands.metric, n, 0, first, metric_);
    load_row(operands.v_flow, n, 0, first, v_x_);
    load_row(operands.v_flow, n, 1, first, v_y_);
    load_row(operands.v_metric, n, 0, first, v_metric_);
    const int32_t width = geometry.width;
    int32_t row = static_cast<int32_t>(first / width), column = static_cast<int32_t>(first % width);
    for (int64_t i = 0; i < count; ++i) {
      y_[i] += static_cast<C>(row), x_[i] += static_cast<C>(column);
      if (++column == width) column = 0, ++row;
    }
    land(geometry.height, width);
  }

  void find_targets_range() {
    first_target = INT32_MAX, last_target = -1;
    for (int q = 0; q < 4; ++q) {
      for (int64_t i = 0; i < count; ++i) {
        const int32_t t = target[q][i];
        first_target = t >= 0 && t < first_target ? t : first_target;
        last_target = t > last_target ? t : last_target;
      }
    }
  }

  // The least metric and the largest, which is infinite where one is not finite.
  [[gnu::noinline]] void find_metric_range(C& least, C& most) const {
    C low = metric_[0], high = metric_[0], sum_of_zeros = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : sum_of_zeros)
    for (int64_t i = 0; i < count; ++i) {
      const C metric = metric_[i];
      low = metric < low ? metric : low, high = metric > high ? metric : high, sum_of_zeros += metric - metric;
    }
    least = low, most = sum_of_zeros == 0 ? high : std::numeric_limits<C>::infinity();
  }
  // In place of the weights: the metric at those corners where a source weighs something, `none` at others.
  [[gnu::noinline]] void find_offers(C none) {
    for (int q = 0; q < 4; ++q) {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) {
        weight[q][i] = Corner<C>(q, down_[i], right_[i]).value > 0 ? metric_[i] : none;
      }
    }
  }

  template <bool Twice>
  void find_products(const Geometry& geometry, const FieldArrays<C>& fields) {
    if (!Twice) find_powers(geometry.mode, fields);
    dispatch_mode<Twice>(geometry.mode, fields, [&](auto mode) {
      for (int q = 0; q < 4; ++q) find_corner_products<Twice, mode.value>(q, fields);
    });
  }
  template <bool Twice>
  void find_weights(const Geometry& geometry, const FieldArrays<C>& fields) {
    find_products<Twice>(geometry, fields);
    for (int q = 0; q < 4; ++q) find_corner_weights<Twice>(q, fields);
  }

  // The gradients of the points and of the metric; dots[q][i] as in add_gradient.
  template <bool Twice>
  void find_gradients(const Geometry& geometry, const FieldArrays<C>& fields, const OfCorners& dots,
                      const OfCorners& v_dots, C* grad_x, C* grad_y, C* grad_metric) {
    if (!Twice) find_powers(geometry.mode, fields);
    std::fill_n(grad_x, count, C(0)), std::fill_n(grad_y, count, C(0)), std::fill_n(grad_metric, count, C(0));
    dispatch_mode<Twice>(geometry.mode, fields, [&](auto mode) {
      for (int q = 0; q < 4; ++q) {
        add_corner_gradients<Twice, mode.value>(q, fields, dots[q], v_dots[q], grad_x, grad_y, grad_metric);
      }
    });
  }

 private:
  void load_row(const View<const C, 3>& view, int64_t n, int64_t channel, int64_t first, C* to) {
    if (view) {
      load_run(view.at(n, channel, first), view.strides[2], count, to);
    } else {
      std::fill_n(to, count, C(0));
    }
  }

  // Structures that a loop declares are not kept in registers: what is done with them is apart from it.
  [[gnu::noinline]] void land(int32_t height, int32_t width) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) land_source(i, height, width);
  }
  HANDGRAD_MATH void land_source(int64_t i, int32_t height, int32_t width) {
    const Landing<C> landing(y_[i], x_[i], height, width);
    down_[i] = landing.down, right_[i] = landing.right;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) target[q][i] = landing.target(q, height, width);
  }

  // A constant of the loops over sources, which would else have branches.
  template <bool Twice, class Body>
  static void dispatch_mode(int32_t mode, const FieldArrays<C>& fields, const Body& body) {
    if constexpr (!Twice) {
      if (mode == kSoftmax && !fields.of_largest) return body(std::integral_constant<int32_t, kNearSoftmax>());
    }
    if (mode == kSoftmax) {
      body(std::integral_constant<int32_t, kSoftmax>());
    } else if (mode == kLinear) {
      body(std::integral_constant<int32_t, kLinear>());
    } else {
      body(std::integral_constant<int32_t, kAverage>());
    }
  }

  // Exponentials, where they are not those of a target.
  void find_powers(int32_t mode, const FieldArrays<C>& fields) {
    if (mode == kSoftmax && !fields.of_largest) find_powers_below(*fields.largest);
  }
  [[gnu::noinline]] void find_powers_below(C largest) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) power_[i] = exp(metric_[i] - largest);
  }
  template <int32_t Mode>
  HANDGRAD_MATH Importance<C> importance(int64_t i, C metric, C largest) const {
    if constexpr (Mode == kNearSoftmax) {
      return Importance<C>(power_[i]);
    } else {
      return Importance<C>(Mode, metric, largest);
    }
  }

  template <bool Twice, int32_t Mode>
  [[gnu::noinline]] void find_corner_products(int q, const FieldArrays<C>& any) {
    // In registers.
    const FieldArrays<C> fields = any;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) find_product<Twice, Mode>(q, i, fields);
  }
  template <bool Twice, int32_t Mode>
  HANDGRAD_MATH void find_product(int q, int64_t i, const FieldArrays<C>& fields) {
    const int32_t t = target[q][i];
    const Corner<C> corner(q, down_[i], right_[i]);
    const Importance<C> importance = this->importance<Mode>(i, metric_[i], fields.largest_at(t));
    product[q][i] = t < 0 ? C(0) : corner.value * importance.value;
    if constexpr (Twice) {
      const C change = softsplat::product_change(corner, importance, motion(i));
      product_change[q][i] = t < 0 ? C(0) : change;
    }
  }
  template <bool Twice>
  [[gnu::noinline]] void find_corner_weights(int q, const FieldArrays<C>& any) {
    const FieldArrays<C> fields = any;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) {
      const int32_t t = fields.clamped(target[q][i]) & fields.of_others;
      weight[q][i] = product[q][i] * fields.scale[t];
      if constexpr (Twice) {
        weight_change[q][i] = fields.scale[t] * product_change[q][i] + fields.scale_change[t] * product[q][i];
      }
    }
  }

  template <bool Twice, int32_t Mode>
  [[gnu::noinline]] void add_corner_gradients(int q, const FieldArrays<C>& any, const C* __restrict dots,
                                              const C* __restrict v_dots, C* __restrict grad_x, C* __restrict grad_y,
                                              C* __restrict grad_metric) const {
    const FieldArrays<C> fields = any;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) {
      add_source_gradient<Twice, Mode>(q, i, fields, dots, v_dots, grad_x, grad_y, grad_metric);
    }
  }
  template <bool Twice, int32_t Mode>
  HANDGRAD_MATH void add_source_gradient(int q, int64_t i, const FieldArrays<C>& fields, const C* dots, const C* v_dots,
                                         C* grad_x, C* grad_y, C* grad_metric) const {
    const int32_t t = target[q][i];
    const bool lands = t >= 0;
    // Without a target everything is 0 from here on, of numbers that are not finite too.
    const C dot = lands ? dots[i] : C(0), v_dot = lands ? v_dots[i] : C(0), metric = lands ? metric_[i] : C(0);
    Field<C> field = fields.template at<Twice>(t);
    field.scale = lands ? field.scale : C(0), field.grad_total = lands ? field.grad_total : C(0);
    const Corner<C> corner(q, down_[i], right_[i]);
    const Importance<C> importance = this->importance<Mode>(i, metric, field.largest);
    Motion<C> grad{grad_x[i], grad_y[i], grad_metric[i]};
    if constexpr (Twice) {
      field.scale_change = lands ? field.scale_change : C(0);
      field.grad_total_change = lands ? field.grad_total_change : C(0);
      add_second_gradient(corner, importance, field, dot, v_dot, motion(i), grad);
    } else {
      add_gradient(corner, importance, field, dot, grad);
    }
    grad_x[i] = grad.x, grad_y[i] = grad.y, grad_metric[i] = grad.metric;
  }

  HANDGRAD_MATH Motion<C> motion(int64_t i) const { return {v_x_[i], v_y_[i], v_metric_[i]}; }

  C x_[kRun], y_[kRun], metric_[kRun], down_[kRun], right_[kRun], power_[kRun];
  C v_x_[kRun], v_y_[kRun], v_metric_[kRun];
};

}  // namespace handgrad::softsplat
