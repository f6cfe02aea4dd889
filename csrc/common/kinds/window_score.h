// Scores of two images, window by window: a formula of means and (co)variances in each, as a map or averaged over the
// windows of a plane. Everything of their host entries but the formula.
//
// An op describes itself as formula.h says, with one formula for all numbers, which has
//
//   static constexpr bool kRotated;   whether it takes the images' sum and difference, in place of themselves
//   static constexpr bool kCross;     whether it takes their covariance
//   template <class N> N value(const WindowMoments<N>&)                    the score
//   template <class N> WindowMoments<N> slope(const WindowMoments<N>&)     its derivatives with respect to each moment
//
// slope is a template over the type of number: of dual numbers it gives the second derivatives too. The op's _cpu.cpp
// is this header, cpu/windows.h and one line, handgrad::window_score::implement<MyScoreOp,
// handgrad::WindowsOnCpu>(library); its _cuda.cu the same with cuda/windows.cuh and WindowsOnCuda.
//
// Images of half types are read as they are; scores are float32. Nothing is saved between passes: moments cost less to
// compute again than to load.
#pragma once

#include <optional>

#include "abi/layout.h"
#include "abi/output_mask.h"
#include "kinds/formula.h"
#include "math/window_passes.h"

namespace handgrad::window_score {

// ---- checks, and the results to be filled ---------------------------------------------------------------------------

inline constexpr int64_t kMostPixels = int64_t{1} << 28;

// The window as in the schema; the sizes of images and scores.
struct Problem {
  const char* op;
  const Tensor& input;  // [N, C, (D,) H, W]
  double sigma;
  bool reduced;
  WindowAxes axes;

  Problem(const char* op, const Tensor& input, const Tensor& target, int64_t window_size, double sigma, int64_t padding,
          bool reduced)
      : op(op), input(input), sigma(sigma), reduced(reduced) {
    check_floating(op, "input", input);
    const int64_t rank = input.dim();
    HANDGRAD_CHECK(rank == 4 || rank == 5, op, ": input must have shape (N, C, H, W) or (N, C, D, H, W); got ",
                   shape_text(input));
    check_like(op, "target", target, "input", input);
    HANDGRAD_CHECK(window_size > 0 && window_size % 2 == 1 && window_size < (1 << 16), op,
                   ": window_size must be an odd number below 2^16; got ", window_size);
    HANDGRAD_CHECK(padding >= 0 && padding <= 2, op, ": padding must be 0 (valid), 1 (reflect) or 2 (zeros); got ",
                   padding);
    axes.count = static_cast<int32_t>(rank - 2);
    for (int64_t d = 2; d < rank; ++d) {
      axes.axis[5 - rank + d - 2] =
          axis(input.sizes()[static_cast<size_t>(d)], window_size, static_cast<WindowPadding>(padding));
    }
  }

  ScalarType score_dtype() const {
    return input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  std::vector<int64_t> shape() const {
    std::vector<int64_t> shape{input.sizes()[0], input.sizes()[1]};
    for (int a = 3 - axes.count; a < 3 && !reduced; ++a) shape.push_back(axes.axis[a].windows);
    return shape;
  }
  // A map lies as the images do.
  Tensor empty_scores() const {
    const std::vector<int64_t> sizes = shape();
    const Sizes as_sizes(sizes.data(), sizes.size());
    const bool last = !reduced && prefers_channels_last(input);
    const std::vector<int64_t> strides = last ? channels_last_strides(as_sizes) : contiguous_strides(as_sizes);
    return empty_strided(as_sizes, Sizes(strides.data(), strides.size()),
                         score_dtype() == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(),
                         input);
  }
  // What a plane's sum over windows is multiplied by.
  double scale() const { return reduced ? 1.0 / static_cast<double>(axes.windows()) : 1.0; }
  bool empty() const { return input.numel() == 0; }

  void check_grad_output(const Tensor& grad_output) const {
    const std::vector<int64_t> wanted = shape();
    const Sizes sizes = grad_output.sizes();
    HANDGRAD_CHECK(std::equal(sizes.begin(), sizes.end(), wanted.begin(), wanted.end()) &&
                       grad_output.scalar_type() == score_dtype(),
                   op, ": grad_output must be ", shape_text(Sizes(wanted.data(), wanted.size())), " of ",
                   dtype_text(score_dtype()), ", as the scores; got ", shape_text(grad_output), " of ",
                   dtype_text(grad_output.scalar_type()));
    check_device(op, "grad_output", grad_output, "input", input);
  }

  template <class Device>
  WindowPlan plan(bool gradient, int32_t images, int32_t averages) const {
    const size_t size = score_dtype() == ScalarType::Double ? sizeof(double) : sizeof(float);
    return Device::plan(axes, sigma, input.sizes()[0], input.sizes()[1], gradient, images, averages, size);
  }

 private:
  WindowAxis axis(int64_t size, int64_t window_size, WindowPadding border) const {
    const int64_t padding = border == WindowPadding::valid ? 0 : window_size / 2,
                  windows = size + 2 * padding - window_size + 1;
    HANDGRAD_CHECK(size < kMostPixels, op, ": input must have fewer than 2^28 pixels along each axis; got ",
                   shape_text(input));
    HANDGRAD_CHECK(windows > 0, op, ": input must be at least as large as the window, ", window_size,
                   " along each axis; got ", shape_text(input));
    HANDGRAD_CHECK(border != WindowPadding::reflect || size > padding, op,
                   ": input must be larger than half the window, ", padding, " along each axis, to be mirrored; got ",
                   shape_text(input));
    const auto narrow = [](int64_t number) { return static_cast<int32_t>(number); };
    return {narrow(size), narrow(windows), narrow(window_size), narrow(padding), border == WindowPadding::reflect};
  }
};

// An image, or a map of scores, or one score for each plane, as all three axes; none: a view without data.
template <class View>
View over_axes(View view, const Tensor& tensor) {
  const Sizes strides = tensor.strides();
  const size_t rank = strides.size();
  view.strides[0] = strides[0], view.strides[1] = strides[1];
  for (size_t d = 2; d < rank; ++d) view.strides[5 - rank + d] = strides[d];
  return view;
}
template <class C>
StoredView<const C, 5> read_view(const Tensor& tensor) {
  const StoredView<const C, 5> view{{static_cast<const unsigned char*>(tensor.const_data_ptr()), tensor.scalar_type()},
                                    {}};
  return over_axes(view, tensor);
}
template <class C>
StoredView<const C, 5> read_view(const std::optional<Tensor>& tensor) {
  return tensor ? read_view<C>(*tensor) : StoredView<const C, 5>{};
}
template <class C>
StoredView<C, 5> write_view(bool wanted, const Tensor& tensor) {
  if (!wanted) return {};
  return over_axes(StoredView<C, 5>{{static_cast<unsigned char*>(tensor.mutable_data_ptr()), tensor.scalar_type()}, {}},
                   tensor);
}

// ---- host entries ---------------------------------------------------------------------------------------------------

// What a pass does with a tile.
struct ValuePass {
  template <class Passes>
  HANDGRAD_TEAM void operator()(Passes& passes) const {
    passes.template value<false>();
  }
};
struct TangentPass {
  template <class Passes>
  HANDGRAD_TEAM void operator()(Passes& passes) const {
    passes.template value<true>();
  }
};
struct GradientPass {
  template <class Passes>
  HANDGRAD_TEAM void operator()(Passes& passes) const {
    passes.gradient();
  }
};
struct SecondGradientPass {
  template <class Passes>
  HANDGRAD_TEAM void operator()(Passes& passes) const {
    passes.second_gradient();
  }
};

// Scores, a map or one for each plane, by one of the passes above; and gradients.
template <class Device, class C, class Formula, class Pass>
void write_scores(const Problem& problem, const char* pass, const Tensor& scores, WindowOperands<C> operands,
                  const Formula& formula, const Pass& body, int32_t images, int32_t averages) {
  operands.output = write_view<C>(!problem.reduced, scores);
  Device::template run<C>(std::string(problem.op) + pass, problem.input,
                          problem.template plan<Device>(false, images, averages), operands, formula, body,
                          {problem.reduced ? scores.mutable_data_ptr<C>() : nullptr, 1, problem.scale()});
}
template <class Device, class C, class Formula, class Pass>
void write_gradients(const Problem& problem, const char* pass, WindowOperands<C> operands, const Formula& formula,
                     const Pass& body, int32_t images, int32_t averages) {
  operands.scale = static_cast<C>(problem.scale());
  Device::template run<C>(std::string(problem.op) + pass, problem.input,
                          problem.template plan<Device>(true, images, averages), operands, formula, body, {});
}

template <class Op, class Device, class Numbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  static Tensor forward(const Tensor& input,   // [N, C, (D,) H, W]
                        const Tensor& target,  // that of input
                        int64_t window_size, double sigma, int64_t padding, bool reduced, Number... numbers) {
    const Problem problem(Op::name, input, target, window_size, sigma, padding, reduced);
    const Tensor output = problem.empty_scores();
    if (problem.empty()) return output;
    const auto body = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      WindowOperands<C> operands{};
      operands.input = read_view<C>(input), operands.target = read_view<C>(target);
      write_scores<Device>(problem, "", output, operands, formula, ValuePass{}, 2, kWindowAverages<Formula>);
    };
    with_formula<Op>(input.scalar_type(), body, numbers...);
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // as the scores
                                             const Tensor& input,        // [N, C, (D,) H, W]
                                             const Tensor& target,       // that of input
                                             int64_t window_size, double sigma, int64_t padding, bool reduced,
                                             Number... numbers, const std::vector<bool>& output_mask) {
    const Problem problem(Op::name, input, target, window_size, sigma, padding, reduced);
    problem.check_grad_output(grad_output);
    const std::array<bool, 2> need = as_output_mask<2>(Op::name, output_mask);
    const Tensor grad_input = empty_gradient(need[0], input), grad_target = empty_gradient(need[1], target);
    if (problem.empty() || (!need[0] && !need[1])) return {grad_input, grad_target};
    const auto body = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      WindowOperands<C> operands{};
      operands.input = read_view<C>(input), operands.target = read_view<C>(target);
      operands.grad_input = write_view<C>(need[0], grad_input);
      operands.grad_target = write_view<C>(need[1], grad_target);
      operands.grad_output = read_view<C>(grad_output);
      write_gradients<Device>(problem, "_backward", operands, formula, GradientPass{}, 2, kWindowAverages<Formula>);
    };
    with_formula<Op>(input.scalar_type(), body, numbers...);
    return {grad_input, grad_target};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,   // as input
                                                            const std::optional<Tensor>& grad_grad_target,  // as input
                                                            const Tensor& grad_output,  // as the scores
                                                            const Tensor& input,        // [N, C, (D,) H, W]
                                                            const Tensor& target,       // that of input
                                                            int64_t window_size, double sigma, int64_t padding,
                                                            bool reduced, Number... numbers,
                                                            const std::vector<bool>& output_mask) {
    const Problem problem(Op::name, input, target, window_size, sigma, padding, reduced);
    problem.check_grad_output(grad_output);
    if (grad_grad_input) check_like(Op::name, "grad_grad_input", *grad_grad_input, "input", input);
    if (grad_grad_target) check_like(Op::name, "grad_grad_target", *grad_grad_target, "input", input);
    const std::array<bool, 3> need = as_output_mask<3>(Op::name, output_mask);
    const Tensor grad_grad_output = need[0] ? problem.empty_scores() : empty_placeholder(grad_output);
    const Tensor grad_input = empty_gradient(need[1], input), grad_target = empty_gradient(need[2], target);
    if (problem.empty()) return {grad_grad_output, grad_input, grad_target};
    const auto body = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      constexpr int averages = 2 * kWindowAverages<Formula>;
      WindowOperands<C> operands{};
      operands.input = read_view<C>(input), operands.target = read_view<C>(target);
      operands.grad_grad_input = read_view<C>(grad_grad_input);
      operands.grad_grad_target = read_view<C>(grad_grad_target);
      const char* pass = "_double_backward";
      if (need[0]) write_scores<Device>(problem, pass, grad_grad_output, operands, formula, TangentPass{}, 4, averages);
      operands.grad_input = write_view<C>(need[1], grad_input);
      operands.grad_target = write_view<C>(need[2], grad_target);
      if (need[1] || need[2]) {
        operands.grad_output = read_view<C>(grad_output);
        write_gradients<Device>(problem, pass, operands, formula, SecondGradientPass{}, 4, averages);
      }
    };
    with_formula<Op>(input.scalar_type(), body, numbers...);
    return {grad_grad_output, grad_input, grad_target};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::window_score
