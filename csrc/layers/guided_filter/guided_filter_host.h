// What the host entries of all devices share: the checks of a call, its results, and its passes.
//
// Some images at a time: fit, means of the fits' coefficients, and the output of these. Backward: the same means, for
// what the guidance gets at its own pixel; gradients of the coefficients, summed back from pixels to windows; what each
// window spreads, summed back to pixels; and gradients of that.
//
// In order of appearance: checks; results; passes; entries.
#pragma once

#include <array>

#include "abi/layout.h"
#include "abi/output_mask.h"
#include "guided_filter_compose.h"
#include "guided_filter_spread.h"
#include "kinds/formula.h"

namespace handgrad::guided_filter {

inline constexpr const char* kOp = "guided_filter";
// The most rows and columns of a window, and of an image: kernels count the pixels of a tile in 32 bits.
inline constexpr int64_t kMostTaps = 1023, kMostPixels = int64_t{1} << 30;
// The most channels of a guidance: elimination takes the third power of them for each pixel.
inline constexpr int64_t kMostGuides = 64;
// Channels that are fitted together, and bytes of the passes' own memory, but for a single image that needs more.
inline constexpr int64_t kGroup = 4, kMostBytes = int64_t{64} << 20;

// The call as every entry takes it.
struct Arguments {
  const Tensor& guidance;              // [N, K, H, W]
  const std::optional<Tensor>& input;  // [N, C, H, W]
  const std::optional<Tensor>& eps;    // [N]
  const std::vector<int64_t>& kernel_size;
  double shared_eps;
  int64_t border, subsample;

  const Tensor& filtered() const { return input ? *input : guidance; }
};

// ---- checks ---------------------------------------------------------------------------------------------------------

inline Axis checked_axis(const Arguments& call, size_t axis) {
  const int64_t full = call.guidance.sizes()[2 + axis], taps = call.kernel_size[axis];
  HANDGRAD_CHECK(taps > 0 && taps % 2 == 1 && taps <= kMostTaps, kOp,
                 ": kernel_size must be odd, at least 1 and at most 1023; got ", taps);
  const Axis of = Axis::of(full, taps, call.subsample);
  const Border border = static_cast<Border>(call.border);
  const bool empty = call.guidance.numel() == 0 && call.filtered().numel() == 0;
  HANDGRAD_CHECK(empty || fits(border, of.after(), of.size), kOp, ": guidance must have ",
                 border == kReflect ? "more " : "at least as many ", axis == 0 ? "rows" : "columns",
                 border == kReflect ? " than" : " as", " half the window, ", int64_t{of.after()},
                 call.subsample > 1 ? ", once subsampled," : ",", " for a border that is ",
                 border == kReflect ? "reflect" : "circular", "; got ", of.size);
  return of;
}

template <class C>
Images<C> checked(const Arguments& call) {
  const Sizes sizes = call.guidance.sizes();
  Images<C> images{};
  images.batch = sizes[0], images.guides = sizes[1], images.channels = call.filtered().sizes()[1];
  images.rows = checked_axis(call, 0), images.columns = checked_axis(call, 1);
  images.border = static_cast<Border>(call.border), images.own = !call.input;
  images.eps.shared = call.shared_eps;
  return images;
}

inline void check(const Arguments& call) {
  const Tensor& guidance = call.guidance;
  check_floating(kOp, "guidance", guidance);
  check_rank(kOp, "guidance", guidance, 4, "(batch, channels, height, width)");
  const Sizes sizes = guidance.sizes();
  HANDGRAD_CHECK(sizes[2] <= kMostPixels && sizes[3] <= kMostPixels, kOp,
                 ": guidance must have at most 2^30 rows and columns; got ", shape_text(guidance));
  HANDGRAD_CHECK(sizes[1] <= kMostGuides, kOp, ": guidance must have at most 64 channels; got ", sizes[1]);
  if (call.input) {
    check_rank(kOp, "input", *call.input, 4, "(batch, channels, height, width)");
    check_shape(kOp, "input", *call.input, {sizes[0], call.input->sizes()[1], sizes[2], sizes[3]},
                "(batch, any, height, width) of guidance");
    check_dtype_and_device(kOp, "input", *call.input, "guidance", guidance);
  }
  HANDGRAD_CHECK(call.border >= 0 && call.border <= 3, kOp, ": border must be 0 to 3; got ", call.border);
  HANDGRAD_CHECK(call.subsample >= 1, kOp, ": subsample must be at least 1; got ", call.subsample);
  HANDGRAD_CHECK(call.kernel_size.size() == 2, kOp, ": kernel_size must be two numbers; got ", call.kernel_size.size());
  if (!call.eps) return;
  HANDGRAD_CHECK(call.eps->scalar_type() == ScalarType::Double, kOp, ": eps must be float64; got ",
                 dtype_text(call.eps->scalar_type()));
  check_device(kOp, "eps", *call.eps, "guidance", guidance);
  check_shape(kOp, "eps", *call.eps, {sizes[0]}, "(images,)");
}

// ---- results --------------------------------------------------------------------------------------------------------

// Directions, and what is asked for: with N a Dual, results get the tangents.
struct Operands {
  const Tensor *v_guidance = nullptr, *v_input = nullptr, *v_eps = nullptr;
  const Tensor *grad_output = nullptr, *output = nullptr;  // [N, C, H, W]
  const Tensor *grad_guidance = nullptr, *grad_input = nullptr, *grad_eps = nullptr;
};

struct Results {
  Tensor grad_guidance, grad_input, grad_eps;
  bool wants_guidance, wants_input, wants_eps;

  Results(const Arguments& call, bool guidance, bool input, bool eps)
      : grad_guidance(empty_gradient(guidance, call.guidance)),
        grad_input(call.input ? empty_gradient(input, *call.input) : empty_placeholder(call.guidance)),
        grad_eps(call.eps ? empty_gradient(eps, *call.eps) : empty_placeholder(call.guidance)),
        wants_guidance(guidance),
        wants_input(input && call.input),
        wants_eps(eps && call.eps) {}

  // Of an image without elements, or of a direction that is nowhere.
  void fill() {
    if (wants_guidance) fill_zero(grad_guidance);
    if (wants_input) fill_zero(grad_input);
    if (wants_eps) fill_zero(grad_eps);
    wants_guidance = wants_input = wants_eps = false;
  }
  bool wants_any() const { return wants_guidance || wants_input || wants_eps; }
  void give(Operands& operands) const {
    if (wants_guidance) operands.grad_guidance = &grad_guidance;
    if (wants_input) operands.grad_input = &grad_input;
    if (wants_eps) operands.grad_eps = &grad_eps;
  }
};

// ---- passes ---------------------------------------------------------------------------------------------------------

// Some images of a call, from `first` on.
template <class Device, class N>
struct Round {
  using C = Plain<N>;

  const Arguments& call;
  const Operands& operands;
  Images<C> images;
  int64_t first;

  static StoredView<const C, 4> from(const Tensor* tensor, int64_t first) {
    if (!tensor) return {};
    StoredView<const C, 4> view = stored_view<C, 4>(*tensor);
    view.first += first * view.strides[0];
    return view;
  }
  static StoredView<C, 4> to(const Tensor* tensor, int64_t first) {
    if (!tensor) return {};
    StoredView<C, 4> view = mutable_stored_view<C, 4>(*tensor);
    view.first += first * view.strides[0];
    return view;
  }
  static View<const double, 1> numbers(const Tensor* tensor, int64_t first) {
    if (!tensor) return {};
    View<const double, 1> view = handgrad::view<double, 1>(*tensor);
    view.data += first * view.strides[0];
    return view;
  }

  Round(const Arguments& call, const Operands& operands, const Images<C>& all, int64_t first, int64_t count)
      : call(call), operands(operands), images(all), first(first) {
    images.batch = count;
    images.guidance = from(&call.guidance, first), images.v_guidance = from(operands.v_guidance, first);
    images.input = images.own ? images.guidance : from(&call.filtered(), first);
    images.v_input = images.own ? images.v_guidance : from(operands.v_input, first);
    images.grad_output = from(operands.grad_output, first);
    images.eps.eps = numbers(call.eps ? &*call.eps : nullptr, first);
    images.eps.direction = numbers(operands.v_eps, first);
  }

  int32_t group() const { return static_cast<int32_t>(std::min(images.channels, kGroup)); }
  Tensor memory(int64_t planes) const {
    return empty_vector<C>(kParts<N> * images.batch * planes * images.area(), call.guidance);
  }
  template <class Family>
  void sum(bool back, int64_t planes, const Family& family, const Tensor& to) const {
    MeansPass<C, Family> pass{images.rows,
                              images.columns,
                              images.border,
                              back,
                              kParts<N> * images.batch * planes,
                              family,
                              to.template mutable_data_ptr<C>()};
    Device::template run<C>(pass, call.guidance);
  }
  PlaneFamily<C> planes(const Tensor& of) const {
    return {of.template const_data_ptr<C>(), images.area(), images.columns.size};
  }

  // Means of the coefficients that windows are fitted by.
  Tensor means() const {
    const Tensor coefficients = memory(images.fits()), means = memory(images.fits());
    FitPass<N> fit{images, group(), false, nullptr, coefficients.template mutable_data_ptr<C>(), nullptr};
    Device::template run<C>(fit, call.guidance);
    sum(false, images.fits(), planes(coefficients), means);
    return means;
  }
  void forward() const {
    const Tensor all = means();
    ComposePass<N> pass;
    pass.images = images, pass.means = all.template const_data_ptr<C>(), pass.output = to(operands.output, first);
    Device::template run<C>(pass, call.guidance);
  }

  void backward() const {
    FitPass<N> spread{images, group(), operands.grad_guidance != nullptr, nullptr, nullptr, nullptr};
    if (!operands.grad_guidance && !operands.grad_input) return run_spread(spread);
    const int64_t count = spread.planes();
    const Tensor summed = spread_and_summed(spread);
    const Tensor of_coefficients = operands.grad_guidance ? means() : memory(0);
    ComposeGradientsPass<N> pass;
    pass.images = images, pass.planes = count, pass.groups = spread.groups();
    pass.means = of_coefficients.template const_data_ptr<C>(), pass.spread = summed.template const_data_ptr<C>();
    pass.grad_guidance = to(operands.grad_guidance, first), pass.grad_input = to(operands.grad_input, first);
    Device::template run<C>(pass, call.guidance);
  }
  Tensor spread_and_summed(FitPass<N>& spread) const {
    const int64_t count = spread.planes();
    const Tensor of_windows = memory(count);
    spread.results = of_windows.template mutable_data_ptr<C>();
    run_spread(spread);
    const Tensor summed = memory(count);
    sum(true, count, planes(of_windows), summed);
    return summed;
  }
  void run_spread(FitPass<N>& spread) const {
    const Tensor slopes = memory(images.fits());
    sum(true, images.fits(), ProductFamily<C>{images}, slopes);
    spread.slopes = slopes.template const_data_ptr<C>();
    Device::template cut<C>(spread, call.guidance);
    const int64_t items = operands.grad_eps ? spread.items() : 0;
    const Tensor sums = empty_vector<double>(2 * items, call.guidance);
    spread.sums = operands.grad_eps ? sums.mutable_data_ptr<double>() : nullptr;
    Device::template run<C>(spread, call.guidance);
    if (!operands.grad_eps || images.batch == 0) return;
    View<double, 1> results = mutable_view<double, 1>(*operands.grad_eps);
    results.data += first * results.strides[0];
    Device::sum_items(sums.const_data_ptr<double>() + (kIsDual<N> ? 1 : 0), items / images.batch, images.batch, results,
                      call.guidance);
  }
};

// run(round) for all images, as many at a time as `planes` of each leave room for.
template <class Device, class N, class Run>
void for_rounds(const Arguments& call, const Operands& operands, int64_t planes, const Run& run) {
  using C = Plain<N>;
  const Images<C> images = checked<C>(call);
  const int64_t bytes = kParts<N> * planes * images.area() * static_cast<int64_t>(sizeof(C));
  const int64_t count = std::max<int64_t>(1, kMostBytes / std::max<int64_t>(1, bytes));
  for (int64_t first = 0; first < images.batch; first += count) {
    run(Round<Device, N>(call, operands, images, first, std::min(count, images.batch - first)));
  }
}
// Planes of an image that a round has in memory at most.
inline int64_t planes_forward(const Arguments& call) {
  return 2 * call.filtered().sizes()[1] * (call.guidance.sizes()[1] + 1);
}
inline int64_t planes_backward(const Arguments& call) {
  const int64_t guides = call.guidance.sizes()[1], channels = call.filtered().sizes()[1];
  const int64_t returns = (channels + kGroup - 1) / kGroup * (guides + guides * (guides + 1) / 2);
  return 3 * channels * (guides + 1) + 2 * returns;
}
template <class Device, class N>
void run_forward(const Arguments& call, const Operands& operands) {
  for_rounds<Device, N>(call, operands, planes_forward(call), [](const auto& round) { round.forward(); });
}
template <class Device, class N>
void run_backward(const Arguments& call, const Operands& operands) {
  for_rounds<Device, N>(call, operands, planes_backward(call), [](const auto& round) { round.backward(); });
}

// ---- entries --------------------------------------------------------------------------------------------------------

inline void check_all(const Arguments& call) {
  check(call);
  checked<float>(call);
}

// A device has cut<C>(pass, like), run<C>(pass, like) and sum_items(…).
template <class Device>
Tensor value(const Tensor& guidance, const std::optional<Tensor>& input, const std::optional<Tensor>& eps,
             const std::vector<int64_t>& kernel_size, double shared_eps, int64_t border, int64_t subsample) {
  const Arguments call{guidance, input, eps, kernel_size, shared_eps, border, subsample};
  check_all(call);
  const Tensor output = empty_in_layout_of(call.filtered());
  if (output.numel() == 0) return output;
  Operands operands;
  operands.output = &output;
  dispatch_compute(kOp, guidance.scalar_type(),
                   [&](auto tag) { run_forward<Device, typename decltype(tag)::type>(call, operands); });
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& guidance,
                                            const std::optional<Tensor>& input, const std::optional<Tensor>& eps,
                                            const std::vector<int64_t>& kernel_size, double shared_eps, int64_t border,
                                            int64_t subsample, const std::vector<bool>& output_mask) {
  const Arguments call{guidance, input, eps, kernel_size, shared_eps, border, subsample};
  check_all(call);
  check_like(kOp, "grad_output", grad_output, input ? "input" : "guidance", call.filtered());
  const std::array<bool, 3> mask = as_output_mask<3>(kOp, output_mask);
  Results results(call, mask[0], mask[1], mask[2]);
  if (grad_output.numel() == 0) results.fill();
  if (results.wants_any()) {
    Operands operands;
    operands.grad_output = &grad_output;
    results.give(operands);
    dispatch_compute(kOp, guidance.scalar_type(),
                     [&](auto tag) { run_backward<Device, typename decltype(tag)::type>(call, operands); });
  }
  return {results.grad_guidance, results.grad_input, results.grad_eps};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& grad_grad_guidance, const std::optional<Tensor>& grad_grad_input,
    const std::optional<Tensor>& grad_grad_eps, const Tensor& grad_output, const Tensor& guidance,
    const std::optional<Tensor>& input, const std::optional<Tensor>& eps, const std::vector<int64_t>& kernel_size,
    double shared_eps, int64_t border, int64_t subsample, const std::vector<bool>& output_mask) {
  const Arguments call{guidance, input, eps, kernel_size, shared_eps, border, subsample};
  check_all(call);
  check_like(kOp, "grad_output", grad_output, input ? "input" : "guidance", call.filtered());
  HANDGRAD_CHECK(input || !grad_grad_input, kOp, ": grad_grad_input must be None without input");
  HANDGRAD_CHECK(eps || !grad_grad_eps, kOp, ": grad_grad_eps must be None without eps");
  if (grad_grad_guidance) check_like(kOp, "grad_grad_guidance", *grad_grad_guidance, "guidance", guidance);
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", *input);
  if (grad_grad_eps) check_like(kOp, "grad_grad_eps", *grad_grad_eps, "eps", *eps);
  const std::array<bool, 4> mask = as_output_mask<4>(kOp, output_mask);
  const Tensor grad_grad_output = empty_gradient(mask[0], call.filtered());
  Results results(call, mask[1], mask[2], mask[3]);
  const bool nowhere = grad_output.numel() == 0 || (!grad_grad_guidance && !grad_grad_input && !grad_grad_eps);
  if (nowhere) results.fill();
  if (nowhere && mask[0]) fill_zero(grad_grad_output);
  Operands operands;
  operands.v_guidance = grad_grad_guidance ? &*grad_grad_guidance : nullptr;
  operands.v_input = grad_grad_input ? &*grad_grad_input : nullptr;
  operands.v_eps = grad_grad_eps ? &*grad_grad_eps : nullptr;
  dispatch_compute(kOp, guidance.scalar_type(), [&](auto tag) {
    using N = Dual<typename decltype(tag)::type>;
    if (mask[0] && !nowhere) {
      operands.output = &grad_grad_output;
      run_forward<Device, N>(call, operands);
    }
    operands.grad_output = &grad_output;
    results.give(operands);
    if (results.wants_any()) run_backward<Device, N>(call, operands);
  });
  return {grad_grad_output, results.grad_guidance, results.grad_input, results.grad_eps};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::guided_filter
