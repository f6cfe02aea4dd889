// Losses of the sums of a sample and class: of prediction * target, of predictions, and of targets. Everything of their
// host entries but the formula.
//
// The sums, a row of three for each class, come from an op of their own, which reads inputs and targets once; what is
// left here is a formula on a few numbers, computed in double. An op describes itself as formula.h says, with one
// formula, made from the numbers as they stand in the schema; it has
//
//   bool skip_absent;                               whether a class without a target counts as no loss
//   static constexpr bool kTogether;                one loss for each class (false), or one for all of them (true)
//   template <class N> value(const State<N>&)       the loss
//   template <class N> slope(const State<N>&, const ClassSums<N>&)   its derivatives with respect to a row of sums
//
// State is the row itself; where classes stand together it is what template <class N> gather(rows, classes) has made of
// all rows, rows(k) being one of them. slope is a template over the type of number: of dual numbers it gives the second
// derivatives too.
//
// The op's _cpu.cpp is this header and one line, handgrad::overlap_loss::implement<MyLossOp,
// handgrad::overlap_loss::OnCpu>(library); its _cuda.cu is kinds/overlap_loss.cuh and the same with OnCuda.
#pragma once

#include <optional>
#include <string>

#include "abi/check.h"
#include "abi/output_mask.h"
#include "abi/reduction.h"
#include "kinds/formula.h"
#include "math/class_sums.h"

namespace handgrad::overlap_loss {

inline constexpr int64_t kSums = 3;

// A contiguous array of float or double; none: nothing is read or written.
struct Numbers {
  void* data = nullptr;
  bool wide = false;

  Numbers() = default;
  explicit Numbers(const Tensor& tensor)
      : data(const_cast<void*>(tensor.const_data_ptr())), wide(tensor.scalar_type() == ScalarType::Double) {}
  HANDGRAD_MATH double operator[](int64_t i) const {
    return wide ? static_cast<const double*>(data)[i] : static_cast<double>(static_cast<const float*>(data)[i]);
  }
  HANDGRAD_MATH void set(int64_t i, double value) const {
    if (wide) {
      static_cast<double*>(data)[i] = value;
    } else {
      static_cast<float*>(data)[i] = static_cast<float>(value);
    }
  }
};

template <class N>
struct Rows {
  Numbers sums, directions;
  int64_t first;

  HANDGRAD_MATH ClassSums<N> operator()(int64_t k) const {
    const int64_t i = kSums * (first + k);
    return {number(i), number(i + 1), number(i + 2)};
  }

 private:
  HANDGRAD_MATH N number(int64_t i) const {
    if constexpr (std::is_same_v<N, double>) {
      return sums[i];
    } else {
      return {sums[i], directions.data ? directions[i] : 0.0};
    }
  }
};

template <class Formula, class N>
HANDGRAD_MATH bool is_absent(const Formula& formula, const Rows<N>& rows, int64_t classes) {
  bool absent = formula.skip_absent;
  for (int64_t k = 0; k < classes; ++k) absent = absent && value_of(rows(k).targets) == 0;
  return absent;
}

template <class Formula, class N>
HANDGRAD_MATH auto state_of(const Formula& formula, const Rows<N>& rows, [[maybe_unused]] int64_t classes) {
  if constexpr (Formula::kTogether) {
    return formula.template gather<N>(rows, classes);
  } else {
    return rows(0);
  }
}

// ---- one loss, with all of its derivatives; returns what is summed
// ---------------------------------------------------

template <class Formula>
struct Value {
  Formula formula;
  int64_t classes;
  Numbers sums, losses;

  HANDGRAD_MATH double operator()(int64_t unit) const {
    const Rows<double> rows{sums, {}, unit * classes};
    const double loss = is_absent(formula, rows, classes) ? 0 : formula.value(state_of(formula, rows, classes));
    if (losses.data) losses.set(unit, loss);
    return loss;
  }
};

template <class Formula>
struct Gradient {
  Formula formula;
  int64_t classes;
  Numbers sums, grad_output, grad_sums;
  double factor;  // of a grad_output that all share
  bool shared;

  HANDGRAD_MATH double operator()(int64_t unit) const {
    const Rows<double> rows{sums, {}, unit * classes};
    const bool absent = is_absent(formula, rows, classes);
    const auto state = state_of(formula, rows, classes);
    const double g = shared ? factor * grad_output[0] : grad_output[unit];
    for (int64_t k = 0; k < classes; ++k) {
      const ClassSums<double> slope = formula.slope(state, rows(k));
      const int64_t i = kSums * (unit * classes + k);
      grad_sums.set(i, absent ? 0 : g * slope.overlap);
      grad_sums.set(i + 1, absent ? 0 : g * slope.predictions);
      grad_sums.set(i + 2, absent ? 0 : g * slope.targets);
    }
    return 0;
  }
};

// The gradient along a direction, and the Hessian times it: the gradient of dual numbers, whose tangents are the
// direction.
template <class Formula>
struct SecondGradient {
  Formula formula;
  int64_t classes;
  Numbers sums, directions, grad_output, losses, grad_sums;
  double factor;
  bool shared;

  HANDGRAD_MATH double operator()(int64_t unit) const {
    using N = Dual<double>;
    const Rows<N> rows{sums, directions, unit * classes};
    const bool absent = is_absent(formula, rows, classes);
    const auto state = state_of(formula, rows, classes);
    const double g = shared ? factor * grad_output[0] : grad_output[unit];
    double along = 0;
    for (int64_t k = 0; k < classes; ++k) {
      const ClassSums<N> row = rows(k), slope = formula.slope(state, row);
      if (!absent) {
        along += slope.overlap.value * row.overlap.tangent + slope.predictions.value * row.predictions.tangent +
                 slope.targets.value * row.targets.tangent;
      }
      const int64_t i = kSums * (unit * classes + k);
      if (grad_sums.data) {
        grad_sums.set(i, absent ? 0 : g * slope.overlap.tangent);
        grad_sums.set(i + 1, absent ? 0 : g * slope.predictions.tangent);
        grad_sums.set(i + 2, absent ? 0 : g * slope.targets.tangent);
      }
    }
    if (losses.data) losses.set(unit, along);
    return along;
  }
};

// ---- checks, and the results to be filled
// ----------------------------------------------------------------------------

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// What an op's results are like.
struct Results {
  const char* op;
  Reduction reduction;
  Tensor sums;                 // [..., 3], contiguous
  std::vector<int64_t> units;  // the shape of the losses
  int64_t classes = 1, count = 1;

  Results(const char* op, const Tensor& given, bool together, int64_t reduction_code)
      : op(op), reduction(as_reduction(op, reduction_code)), sums(given) {
    const int64_t rank = given.dim(), least = together ? 2 : 1;
    HANDGRAD_CHECK(rank >= least && given.sizes()[static_cast<size_t>(rank - 1)] == kSums, op,
                   ": sums must have shape ", together ? "(..., C, 3)" : "(..., 3)", "; got ", shape_text(given));
    HANDGRAD_CHECK(given.scalar_type() == ScalarType::Float || given.scalar_type() == ScalarType::Double, op,
                   ": sums must be float32 or float64; got ", dtype_text(given.scalar_type()));
    units.assign(given.sizes().begin(), given.sizes().end() - least);
    if (together) classes = given.sizes()[static_cast<size_t>(rank - 2)];
    for (const int64_t size : units) count *= size;
    sums = dense(given);
  }

  Sizes shape() const { return Sizes(units.data(), units.size()); }
  // The mean of no losses is 0.
  double divisor() const {
    return reduction == Reduction::mean ? static_cast<double>(std::max<int64_t>(1, count)) : 1.0;
  }
  bool reduced() const { return reduction != Reduction::none; }
  Tensor empty_loss() const { return reduced() ? empty_scalar(sums) : empty_contiguous(shape(), sums); }
  Numbers losses(bool wanted, const Tensor& output) const { return wanted && !reduced() ? Numbers(output) : Numbers(); }
  // Runs body on every loss; `output`, if the losses are reduced and wanted, gets their sum.
  template <class Device, class Body>
  void run(const char* pass, const Body& body, bool wanted, const Tensor& output) const {
    const bool summed = wanted && reduced();
    Device::for_each(std::string(op) + pass, sums, count, body, summed ? Numbers(output) : Numbers(), divisor());
  }

  Tensor check_grad_output(const Tensor& grad_output) const {
    const Sizes sizes = grad_output.sizes();
    const bool fits =
        reduced() ? grad_output.numel() == 1 : std::equal(sizes.begin(), sizes.end(), units.begin(), units.end());
    HANDGRAD_CHECK(fits, op, ": grad_output must have the shape of the loss, ",
                   shape_text(reduced() ? Sizes() : shape()), "; got ", shape_text(grad_output));
    check_dtype_and_device(op, "grad_output", grad_output, "sums", sums);
    return dense(grad_output);
  }
};

// ---- host entries
// ----------------------------------------------------------------------------------------------------

template <class Op, class Device, class OpNumbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  using Formula = typename Op::Formula;

  static Tensor forward(const Tensor& sums,  // [..., 3]
                        Number... numbers, int64_t reduction) {
    const Results results(Op::name, sums, Formula::kTogether, reduction);
    const Tensor output = results.empty_loss();
    const Value<Formula> body{Formula{numbers...}, results.classes, Numbers(results.sums),
                              results.losses(true, output)};
    results.template run<Device>("", body, true, output);
    return output;
  }

  static Tensor backward(const Tensor& grad_output,  // as the loss
                         const Tensor& sums,         // [..., 3]
                         Number... numbers, int64_t reduction, const std::vector<bool>& output_mask) {
    const Results results(Op::name, sums, Formula::kTogether, reduction);
    const Tensor dense_grad = results.check_grad_output(grad_output);
    if (!as_output_mask<1>(Op::name, output_mask)[0]) return empty_placeholder(sums);
    const Tensor grad_sums = empty_contiguous(sums.sizes(), sums);
    const Gradient<Formula> body{Formula{numbers...}, results.classes,       Numbers(results.sums), Numbers(dense_grad),
                                 Numbers(grad_sums),  1 / results.divisor(), results.reduced()};
    results.template run<Device>("_backward", body, false, grad_sums);
    return grad_sums;
  }

  static std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_sums,  // [..., 3]
                                                    const Tensor& grad_output,                    // as the loss
                                                    const Tensor& sums,                           // [..., 3]
                                                    Number... numbers, int64_t reduction,
                                                    const std::vector<bool>& output_mask) {
    const Results results(Op::name, sums, Formula::kTogether, reduction);
    const Tensor dense_grad = results.check_grad_output(grad_output);
    if (grad_grad_sums) check_like(Op::name, "grad_grad_sums", *grad_grad_sums, "sums", sums);
    const std::array<bool, 2> need = as_output_mask<2>(Op::name, output_mask);
    const Tensor direction = grad_grad_sums ? dense(*grad_grad_sums) : sums;
    const Tensor grad_grad_output = need[0] ? results.empty_loss() : empty_placeholder(sums);
    const Tensor grad_sums = need[1] ? empty_contiguous(sums.sizes(), sums) : empty_placeholder(sums);
    if (!need[0] && !need[1]) return {grad_grad_output, grad_sums};
    const SecondGradient<Formula> body{Formula{numbers...},
                                       results.classes,
                                       Numbers(results.sums),
                                       grad_grad_sums ? Numbers(direction) : Numbers(),
                                       Numbers(dense_grad),
                                       results.losses(need[0], grad_grad_output),
                                       need[1] ? Numbers(grad_sums) : Numbers(),
                                       1 / results.divisor(),
                                       results.reduced()};
    results.template run<Device>("_double_backward", body, need[0], grad_grad_output);
    return {grad_grad_output, grad_sums};
  }
};

struct OnCpu {
  // body(i) for each of `count` losses; `total`, if there is one, gets the sum of what it returns, over `divisor`.
  template <class Body>
  static void for_each(const std::string&, const Tensor&, int64_t count, const Body& body, const Numbers& total,
                       double divisor) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += body(i);
    if (total.data) total.set(0, sum / divisor);
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::overlap_loss
