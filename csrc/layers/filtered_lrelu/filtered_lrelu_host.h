// What the host entries of all devices share: checks, axes, results, and the entries themselves, of one pass that a
// device brings.
//
// With U the upsampling, D the downsampling and s the slopes at U (x + b), all derivatives are of one shape, two images
// at the high rate whose product is brought to a lower one:
//
//   backward          U^T (s * D^T g)
//   double backward   D (s * U (v + w)), v and w being directions of x and b
#pragma once

#include <array>
#include <vector>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "filtered_lrelu_math.h"
#include "kinds/formula.h"
#include "math/fir_filter.h"

namespace handgrad::filtered_lrelu {

inline constexpr const char* kOp = "filtered_lrelu";

struct Numbers {
  int64_t up, down;
  std::vector<int64_t> padding;
  ActivationNumbers activation;
  bool flip_filter;
};

// An image with a bias that is brought to another rate. Either may be missing, and is then zeros.
struct Stage {
  FirPlanes planes;
  const Tensor* filter;
  double gain;
  const Tensor* image;
  const Tensor* b;
};

// target = what `last` makes of the samples at the high rate: of values of `x`, or of slopes there times `other`.
struct FusedPass {
  ActivationNumbers activation;
  Stage x;
  const Stage* other;
  Stage last;
  const Tensor* target;
  const Tensor* sums = nullptr;  // [C], of the target before it is rounded; null: nobody asks for them
};

// ---- checks ---------------------------------------------------------------------------------------------------------

inline ScalarType computed(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_parameter(const char* argument, const Tensor& tensor, const Tensor& x) {
  HANDGRAD_CHECK(tensor.scalar_type() == computed(x), kOp, ": ", argument, " must be ", dtype_text(computed(x)),
                 " beside an x of ", dtype_text(x.scalar_type()), "; got ", dtype_text(tensor.scalar_type()));
  check_device(kOp, argument, tensor, "x", x);
}

inline void check_filter(const char* argument, const Tensor& filter, const Tensor& x) {
  HANDGRAD_CHECK(filter.dim() == 1 || filter.dim() == 2, kOp, ": ", argument,
                 " must have 2 dimensions (rows, columns), or one; got ", shape_text(filter));
  for (const int64_t taps : filter.sizes()) {
    HANDGRAD_CHECK(taps >= 1 && taps <= kMostFirTaps, kOp, ": ", argument, " must have 1 to ", kMostFirTaps,
                   " taps along each axis; got ", taps);
  }
  check_parameter(argument, filter, x);
}

inline void check_of_channels(const char* argument, const std::optional<Tensor>& tensor, const Tensor& x) {
  if (!tensor) return;
  check_shape(kOp, argument, *tensor, {x.sizes()[1]}, "(channels,)");
  check_parameter(argument, *tensor, x);
}

// The op with its arguments checked: both rates, along rows (of y) and columns (of x).
class Checked {
 public:
  Checked(const Tensor& x,   // [N, C, H, W]
          const Tensor& fu,  // [rows, columns] or [taps]
          const Tensor& fd,  // [rows, columns] or [taps]
          const std::optional<Tensor>& b, const Numbers& numbers)
      : x_(x), fu_(fu), fd_(fd), b_(b), numbers_(numbers) {
    check_floating(kOp, "x", x);
    check_rank(kOp, "x", x, 4, "(batch, channels, height, width)");
    check_filter("fu", fu, x);
    check_filter("fd", fd, x);
    check_of_channels("b", b, x);
    HANDGRAD_CHECK(numbers.padding.size() == 4, kOp, ": padding must be four numbers; got ", numbers.padding.size());
    for (const int64_t side : numbers.padding) {
      HANDGRAD_CHECK(side > -kMostFirSamples && side < kMostFirSamples, kOp,
                     ": padding must be between -2^30 and 2^30; got ", side);
    }
    for (const int64_t rate : {numbers.up, numbers.down}) {
      HANDGRAD_CHECK(rate >= 1 && rate < kMostFirSamples, kOp,
                     ": up and down must be at least 1 and less than 2^30; got ", rate);
    }
    const Sizes sizes = x.sizes();
    raise_ = lower_ = {sizes[0], sizes[1], {}, {}};
    set_axis(0, sizes[2], numbers.padding.data() + 2, "rows", raise_.rows, lower_.rows);
    set_axis(1, sizes[3], numbers.padding.data(), "columns", raise_.columns, lower_.columns);
  }

  std::array<int64_t, 4> output_sizes() const {
    return {lower_.batch, lower_.channels, lower_.rows.out, lower_.columns.out};
  }
  Tensor empty_output() const {
    const std::array<int64_t, 4> sizes = output_sizes();
    return empty_in_layout_of(x_, Sizes(sizes.data(), 4));
  }
  void check_grad_output(const Tensor& grad_output) const {
    const std::array<int64_t, 4> sizes = output_sizes();
    check_shape(kOp, "grad_output", grad_output, {sizes[0], sizes[1], sizes[2], sizes[3]}, "of the output");
    check_dtype_and_device(kOp, "grad_output", grad_output, "x", x_);
  }

  FusedPass value(const Tensor& output) const {
    return {numbers_.activation, raising(&x_, pointer(b_)), nullptr, lowering(nullptr), &output};
  }
  // Stages of `other`: the gradient of the output comes back by the transposed matrices.
  Stage returning(const Tensor& grad_output) const { return {transposed(lower_), &fd_, 1, &grad_output, nullptr}; }
  FusedPass gradient(const Stage& returning, const Tensor& grad_x) const {
    const Stage last{transposed(raise_), &fu_, gain(), nullptr, nullptr};
    return {numbers_.activation, raising(&x_, pointer(b_)), &returning, last, &grad_x};
  }
  Stage moving(const std::optional<Tensor>& of_x, const std::optional<Tensor>& of_b) const {
    return raising(pointer(of_x), pointer(of_b));
  }
  FusedPass second(const Stage& moving, const Tensor& grad_grad_output) const {
    return {numbers_.activation, raising(&x_, pointer(b_)), &moving, lowering(nullptr), &grad_grad_output};
  }

 private:
  static const Tensor* pointer(const std::optional<Tensor>& tensor) { return tensor ? &*tensor : nullptr; }
  // What keeps the size of samples among so many zeros.
  double gain() const { return static_cast<double>(numbers_.up) * static_cast<double>(numbers_.up); }
  Stage raising(const Tensor* image, const Tensor* b) const { return {raise_, &fu_, gain(), image, b}; }
  Stage lowering(const Tensor* image) const { return {lower_, &fd_, 1, image, nullptr}; }

  void set_axis(int which, int64_t size, const int64_t* padding, const char* name, FirAxis& raise,
                FirAxis& lower) const {
    const int64_t first = fu_.sizes()[which == 0 ? 0 : fu_.dim() - 1];
    const int64_t second = fd_.sizes()[which == 0 ? 0 : fd_.dim() - 1];
    HANDGRAD_CHECK(size < kMostFirSamples && size * numbers_.up < kMostFirSamples &&
                       size * numbers_.up + padding[0] + padding[1] < kMostFirSamples,
                   kOp, ": x must have less than 2^30 ", name, " after up and padding; got ", shape_text(x_));
    const int64_t padded = size * numbers_.up + padding[0] + padding[1], fewest = first + second - 1;
    HANDGRAD_CHECK(padded >= fewest, kOp, ": x must have at least as many ", name,
                   " after up and padding as fu and fd have taps together, less one, ", fewest, "; got ", padded,
                   " of an x of ", shape_text(x_));
    const int64_t high = padded - first + 1;
    raise = fir_axis(size, high, numbers_.up, 1, first, padding[0], !numbers_.flip_filter);
    lower = fir_axis(high, (high - second) / numbers_.down + 1, 1, numbers_.down, second, 0, !numbers_.flip_filter);
  }

  const Tensor &x_, &fu_, &fd_;
  const std::optional<Tensor>& b_;
  const Numbers& numbers_;
  FirPlanes raise_, lower_;
};

// ---- entries --------------------------------------------------------------------------------------------------------

// A gradient of [C].
inline Tensor empty_of_channels(bool wanted, const Tensor& x) {
  const int64_t count = wanted ? x.sizes()[1] : 0;
  return computed(x) == ScalarType::Double ? empty_vector<double>(count, x) : empty_vector<float>(count, x);
}

// A device has run<C>(FusedPass).
template <class Device>
void run(const FusedPass& pass) {
  if (pass.target->numel() == 0) return;
  dispatch_compute(kOp, pass.target->scalar_type(),
                   [&](auto tag) { Device::template run<typename decltype(tag)::type>(pass); });
}

template <class Device>
Tensor value(const Tensor& x,                 // [N, C, H, W]
             const Tensor& fu,                // [rows, columns] or [taps]
             const Tensor& fd,                // [rows, columns] or [taps]
             const std::optional<Tensor>& b,  // [C]
             int64_t up, int64_t down, const std::vector<int64_t>& padding, double gain, double slope, double clamp,
             bool flip_filter) {
  const Numbers numbers{up, down, padding, {slope, gain, clamp}, flip_filter};
  const Checked checked(x, fu, fd, b, numbers);
  const Tensor output = checked.empty_output();
  run<Device>(checked.value(output));
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,       // [N, C, H', W']
                                    const Tensor& x,                 // [N, C, H, W]
                                    const Tensor& fu,                // [rows, columns] or [taps]
                                    const Tensor& fd,                // [rows, columns] or [taps]
                                    const std::optional<Tensor>& b,  // [C]
                                    int64_t up, int64_t down, const std::vector<int64_t>& padding, double gain,
                                    double slope, double clamp, bool flip_filter,
                                    const std::vector<bool>& output_mask) {
  const Numbers numbers{up, down, padding, {slope, gain, clamp}, flip_filter};
  const Checked checked(x, fu, fd, b, numbers);
  checked.check_grad_output(grad_output);
  std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  wanted[1] = wanted[1] && b;
  const Tensor grad_b = empty_of_channels(wanted[1], x);
  if (!wanted[0] && !wanted[1]) return {empty_placeholder(x), grad_b};
  const Tensor grad_x = empty_gradient(true, x);
  const Stage returning = checked.returning(grad_output);
  FusedPass pass = checked.gradient(returning, grad_x);
  if (wanted[1]) pass.sums = &grad_b;
  if (wanted[1] && x.numel() == 0) fill_zero(grad_b);
  run<Device>(pass);
  return {wanted[0] ? grad_x : empty_placeholder(x), grad_b};
}

template <class Device>
std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_x,  // [N, C, H, W]
                                           const std::optional<Tensor>& grad_grad_b,  // [C]
                                           const Tensor& grad_output,                 // [N, C, H', W']
                                           const Tensor& x,                           // [N, C, H, W]
                                           const Tensor& fu,                          // [rows, columns] or [taps]
                                           const Tensor& fd,                          // [rows, columns] or [taps]
                                           const std::optional<Tensor>& b,            // [C]
                                           int64_t up, int64_t down, const std::vector<int64_t>& padding, double gain,
                                           double slope, double clamp, bool flip_filter,
                                           const std::vector<bool>& output_mask) {
  const Numbers numbers{up, down, padding, {slope, gain, clamp}, flip_filter};
  const Checked checked(x, fu, fd, b, numbers);
  checked.check_grad_output(grad_output);
  if (grad_grad_x) check_like(kOp, "grad_grad_x", *grad_grad_x, "x", x);
  check_of_channels("grad_grad_b", grad_grad_b, x);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  const Tensor grad_x = empty_gradient(wanted[1], x);
  fill_zero(grad_x);
  if (!wanted[0]) return {empty_placeholder(grad_output), grad_x};
  const Tensor grad_grad_output = checked.empty_output();
  if (grad_grad_x || grad_grad_b) {
    const Stage moving = checked.moving(grad_grad_x, grad_grad_b);
    run<Device>(checked.second(moving, grad_grad_output));
  } else {
    fill_zero(grad_grad_output);
  }
  return {grad_grad_output, grad_x};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::filtered_lrelu
