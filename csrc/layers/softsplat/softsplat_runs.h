// Some sources at a time, on the CPU: where they land and what they weigh there, found once for all channels, in loops
// over sources.
//
// In order of appearance: Operands, the tensors of a call; FieldArrays, what is known of the targets of an image;
// SourceRun.
#pragma once

#include "math/stored.h"
#include "softsplat_host.h"

namespace handgrad::softsplat {

// Sources that are taken at a time.
inline constexpr int64_t kRun = 64;

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

// A number for each target; what is null is the same for all.
template <class C>
struct FieldArrays {
  C *largest = nullptr, *scale = nullptr, *pull = nullptr, *scale_change = nullptr;
  C *grad_total = nullptr, *grad_total_change = nullptr;

  HANDGRAD_MATH Field<C> at(int32_t t) const {
    return {largest ? largest[t] : C(0),
            scale ? scale[t] : C(1),
            pull ? pull[t] : C(0),
            scale_change ? scale_change[t] : C(0),
            grad_total ? grad_total[t] : C(0),
            grad_total_change ? grad_total_change[t] : C(0)};
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

  C corner_value(int q, int64_t i) const { return Corner<C>(q, down_[i], right_[i]).value; }
  C metric(int64_t i) const { return metric_[i]; }

  template <bool Twice>
  void find_products(const Geometry& geometry, const FieldArrays<C>& fields) {
    for (int q = 0; q < 4; ++q) find_corner_products<Twice>(q, geometry.mode, fields.largest);
  }
  template <bool Twice>
  void find_weights(const Geometry& geometry, const FieldArrays<C>& fields) {
    find_products<Twice>(geometry, fields);
    for (int q = 0; q < 4; ++q) find_corner_weights<Twice>(q, fields);
  }

  // The gradients of the points and of the metric; dots[q][i] as in add_gradient.
  template <bool Twice>
  void find_gradients(const Geometry& geometry, const FieldArrays<C>& fields, const OfCorners& dots,
                      const OfCorners& v_dots, C* grad_x, C* grad_y, C* grad_metric) const {
    std::fill_n(grad_x, count, C(0)), std::fill_n(grad_y, count, C(0)), std::fill_n(grad_metric, count, C(0));
    const int32_t mode = geometry.mode;
    for (int q = 0; q < 4; ++q) {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) {
        add_source_gradient<Twice>(q, i, mode, fields, dots[q][i], Twice ? v_dots[q][i] : C(0), grad_x, grad_y,
                                   grad_metric);
      }
    }
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

  template <bool Twice>
  [[gnu::noinline]] void find_corner_products(int q, int32_t mode, const C* largest) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) find_product<Twice>(q, i, mode, largest);
  }
  template <bool Twice>
  HANDGRAD_MATH void find_product(int q, int64_t i, int32_t mode, const C* largest) {
    const int32_t t = target[q][i];
    const Corner<C> corner(q, down_[i], right_[i]);
    const Importance<C> importance(mode, metric_[i], largest ? largest[t < 0 ? 0 : t] : C(0));
    product[q][i] = t < 0 ? C(0) : corner.value * importance.value;
    if constexpr (Twice) {
      const C change = softsplat::product_change(corner, importance, motion(i));
      product_change[q][i] = t < 0 ? C(0) : change;
    }
  }
  template <bool Twice>
  [[gnu::noinline]] void find_corner_weights(int q, const FieldArrays<C>& any) {
    // In registers.
    const C *const scale = any.scale, *const scale_change = any.scale_change;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) {
      const int32_t t = target[q][i] < 0 ? 0 : target[q][i];
      const C by = scale ? scale[t] : C(1);
      weight[q][i] = product[q][i] * by;
      if constexpr (Twice) {
        const C change = scale_change ? scale_change[t] : C(0);
        weight_change[q][i] = by * product_change[q][i] + change * product[q][i];
      }
    }
  }

  template <bool Twice>
  HANDGRAD_MATH void add_source_gradient(int q, int64_t i, int32_t mode, const FieldArrays<C>& fields, C dot, C v_dot,
                                         C* grad_x, C* grad_y, C* grad_metric) const {
    const int32_t t = target[q][i];
    const Field<C> field = fields.at(t < 0 ? 0 : t);
    const Corner<C> corner(q, down_[i], right_[i]);
    const Importance<C> importance(mode, metric_[i], field.largest);
    Motion<C> grad{0, 0, 0};
    if constexpr (Twice) {
      add_second_gradient(corner, importance, field, dot, v_dot, motion(i), grad);
    } else {
      add_gradient(corner, importance, field, dot, grad);
    }
    grad_x[i] += t < 0 ? C(0) : grad.x;
    grad_y[i] += t < 0 ? C(0) : grad.y;
    grad_metric[i] += t < 0 ? C(0) : grad.metric;
  }

  HANDGRAD_MATH Motion<C> motion(int64_t i) const { return {v_x_[i], v_y_[i], v_metric_[i]}; }

  C x_[kRun], y_[kRun], metric_[kRun], down_[kRun], right_[kRun];
  C v_x_[kRun], v_y_[kRun], v_metric_[kRun];
};

}  // namespace handgrad::softsplat
