// The host entries of multi-scale structural similarity, for every device: window scores (kinds/window_score.h) of
// images that are halved from scale to scale.
//
// Halved images are made anew in each pass and kept in none: they cost a small part of what is done with them. The
// gradients of a scale take up those of the next coarser one as they are stored, so that none is added by itself.
#pragma once

#include "kinds/window_score.h"
#include "math/halving.h"
#include "ms_ssim_math.h"

namespace handgrad::ms_ssim {

using window_score::Problem;

inline constexpr const char* kOp = "ms_ssim";
inline constexpr int64_t kMostScales = 24;

inline void check(const Tensor& input, const Tensor& target, const MsSsimNumbers& numbers) {
  HANDGRAD_CHECK(numbers.scales > 0 && numbers.scales <= kMostScales, kOp, ": scales must be from 1 to ", kMostScales,
                 "; got ", numbers.scales);
  const Sizes sizes = input.sizes();
  if (sizes.size() == 4 || sizes.size() == 5) {
    const int64_t least = numbers.window_size << (numbers.scales - 1);
    for (size_t d = 2; d < sizes.size(); ++d) {
      HANDGRAD_CHECK(sizes[d] >= least, kOp, ": input must have at least ", least,
                     " pixels along each axis, so that after ", numbers.scales - 1,
                     " halvings there is room for a window of ", numbers.window_size, "; got ", shape_text(input));
    }
  }
  // All else.
  Problem(kOp, input, target, numbers.window_size, numbers.sigma, 0, true);
}

// An image at every scale, the finest first; none, if there is no image.
template <class Device, class C>
std::vector<Tensor> at_scales(const std::optional<Tensor>& image, int64_t scales) {
  std::vector<Tensor> images;
  if (!image) return images;
  images.push_back(*image);
  for (int64_t scale = 1; scale < scales; ++scale) {
    const Tensor& finer = images.back();
    const Sizes sizes = finer.sizes();
    std::vector<int64_t> half(sizes.begin(), sizes.end());
    Halving halving{sizes[0], sizes[1], {1, 1, 1}, static_cast<int32_t>(sizes.size()) - 2};
    for (size_t d = 2; d < half.size(); ++d) {
      half[d] /= 2;
      halving.extent[5 - half.size() + d - 2] = half[d];
    }
    const Sizes half_sizes(half.data(), half.size());
    const std::vector<int64_t> strides = contiguous_strides(half_sizes);
    const Tensor coarser =
        empty_strided(half_sizes, Sizes(strides.data(), strides.size()),
                      sizeof(C) == sizeof(double) ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(), finer);
    Device::template halve<C>("halving", finer, halving, window_score::read_view<C>(finer),
                              coarser.mutable_data_ptr<C>());
    images.push_back(coarser);
  }
  return images;
}

// All that a pass reads, at every scale.
template <class Device, class C>
struct Scales {
  const MsSsimNumbers& numbers;
  std::vector<Tensor> input, target, direction_input, direction_target;

  Scales(const MsSsimNumbers& numbers, const Tensor& input, const Tensor& target,
         const std::optional<Tensor>& direction_input = std::nullopt,
         const std::optional<Tensor>& direction_target = std::nullopt)
      : numbers(numbers),
        input(at_scales<Device, C>(input, numbers.scales)),
        target(at_scales<Device, C>(target, numbers.scales)),
        direction_input(at_scales<Device, C>(direction_input, numbers.scales)),
        direction_target(at_scales<Device, C>(direction_target, numbers.scales)) {}

  Problem problem(int64_t scale) const {
    const size_t k = static_cast<size_t>(scale);
    return Problem(kOp, input[k], target[k], numbers.window_size, numbers.sigma, 0, true);
  }
  WindowOperands<C> operands(int64_t scale) const {
    const size_t k = static_cast<size_t>(scale);
    WindowOperands<C> operands{};
    operands.input = window_score::read_view<C>(input[k]), operands.target = window_score::read_view<C>(target[k]);
    if (!direction_input.empty()) operands.grad_grad_input = window_score::read_view<C>(direction_input[k]);
    if (!direction_target.empty()) operands.grad_grad_target = window_score::read_view<C>(direction_target[k]);
    return operands;
  }

  // Into `scores`, (N, C, scales).
  template <class Pass>
  void write_scores(const char* pass, const Pass& body, int32_t images, int32_t averages, const Tensor& scores) const {
    for (int64_t scale = 0; scale < numbers.scales; ++scale) {
      const Problem of = problem(scale);
      Device::template run<C>(std::string(kOp) + pass, of.input, of.template plan<Device>(false, images, averages),
                              operands(scale), numbers.template formula<C>(scale), body,
                              {scores.mutable_data_ptr<C>() + scale, numbers.scales, of.scale()});
    }
  }

  // From the coarsest scale to the finest, whose results are `grads`; of those that are wanted.
  template <class Pass>
  void write_gradients(const char* pass, const Pass& body, int32_t images, int32_t averages, const Tensor& grad_output,
                       const std::array<bool, 2>& need, const std::array<Tensor, 2>& grads) const {
    std::array<Tensor, 2> coarse = grads;
    for (int64_t scale = numbers.scales - 1; scale >= 0; --scale) {
      const Problem of = problem(scale);
      WindowOperands<C> operands = this->operands(scale);
      operands.grad_output = {{static_cast<const unsigned char*>(grad_output.const_data_ptr()), kDtype<C>}, {}};
      operands.grad_output.first += scale * grad_output.strides()[2];
      for (size_t d = 0; d < 2; ++d) operands.grad_output.strides[d] = grad_output.strides()[d];
      std::array<Tensor, 2> fine = grads;
      for (size_t k = 0; k < 2; ++k) {
        if (!need[k]) continue;
        if (scale > 0) fine[k] = new_like(input[static_cast<size_t>(scale)]);
        (k == 0 ? operands.grad_input : operands.grad_target) = window_score::write_view<C>(true, fine[k]);
        if (scale < numbers.scales - 1) operands.coarse[k] = window_score::read_view<C>(coarse[k]);
      }
      for (int a = 0; a < 3; ++a) {
        const bool halved = a >= 3 - of.axes.count;
        operands.coarse_size[a] = halved ? of.axes.axis[a].size / 2 : 1;
      }
      operands.share = of.axes.count == 2 ? C(0.25) : C(0.125);
      window_score::write_gradients<Device>(of, pass, operands, numbers.template formula<C>(scale), body, images,
                                            averages);
      coarse = fine;
    }
  }
};

// ---- entries --------------------------------------------------------------------------------------------------------

inline Tensor empty_scores(const Tensor& input, int64_t scales) {
  const int64_t sizes[3] = {input.sizes()[0], input.sizes()[1], scales};
  const int64_t strides[3] = {std::max<int64_t>(1, sizes[1]) * scales, scales, 1};
  return empty_strided(
      Sizes(sizes, 3), Sizes(strides, 3),
      input.scalar_type() == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(), input);
}

inline void check_grad_output(const Tensor& grad_output, const Tensor& input, int64_t scales) {
  const Tensor scores = empty_scores(input, scales);
  check_like(kOp, "grad_output", grad_output, "the scores", scores);
}

inline constexpr int32_t kAverages = kWindowAverages<StructuralSimilarity<float>>;

template <class Device>
Tensor forward(const Tensor& input,   // [N, C, (D,) H, W]
               const Tensor& target,  // that of input
               int64_t window_size, double sigma, int64_t scales, double c1, double c2) {
  const MsSsimNumbers numbers{window_size, sigma, scales, c1, c2};
  check(input, target, numbers);
  const Tensor output = empty_scores(input, scales);
  if (input.numel() == 0) return output;
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Scales<Device, C>(numbers, input, target).write_scores("", window_score::ValuePass{}, 2, kAverages, output);
  });
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [N, C, scales]
                                    const Tensor& input,        // [N, C, (D,) H, W]
                                    const Tensor& target,       // that of input
                                    int64_t window_size, double sigma, int64_t scales, double c1, double c2,
                                    const std::vector<bool>& output_mask) {
  const MsSsimNumbers numbers{window_size, sigma, scales, c1, c2};
  check(input, target, numbers);
  check_grad_output(grad_output, input, scales);
  const std::array<bool, 2> need = as_output_mask<2>(kOp, output_mask);
  const std::array<Tensor, 2> grads{empty_gradient(need[0], input), empty_gradient(need[1], target)};
  if (input.numel() == 0 || (!need[0] && !need[1])) return {grads[0], grads[1]};
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Scales<Device, C>(numbers, input, target)
        .write_gradients("_backward", window_score::GradientPass{}, 2, kAverages, grad_output, need, grads);
  });
  return {grads[0], grads[1]};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,   // as input
                                                   const std::optional<Tensor>& grad_grad_target,  // as input
                                                   const Tensor& grad_output,                      // [N, C, scales]
                                                   const Tensor& input,                            // [N, C, (D,) H, W]
                                                   const Tensor& target,                           // that of input
                                                   int64_t window_size, double sigma, int64_t scales, double c1,
                                                   double c2, const std::vector<bool>& output_mask) {
  const MsSsimNumbers numbers{window_size, sigma, scales, c1, c2};
  check(input, target, numbers);
  check_grad_output(grad_output, input, scales);
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
  if (grad_grad_target) check_like(kOp, "grad_grad_target", *grad_grad_target, "input", input);
  const std::array<bool, 3> mask = as_output_mask<3>(kOp, output_mask);
  const std::array<bool, 2> need{mask[1], mask[2]};
  const Tensor grad_grad_output = mask[0] ? empty_scores(input, scales) : empty_placeholder(grad_output);
  const std::array<Tensor, 2> grads{empty_gradient(need[0], input), empty_gradient(need[1], target)};
  if (input.numel() == 0) return {grad_grad_output, grads[0], grads[1]};
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    const Scales<Device, C> of(numbers, input, target, grad_grad_input, grad_grad_target);
    const char* pass = "_double_backward";
    if (mask[0]) of.write_scores(pass, window_score::TangentPass{}, 4, 2 * kAverages, grad_grad_output);
    if (need[0] || need[1]) {
      of.write_gradients(pass, window_score::SecondGradientPass{}, 4, 2 * kAverages, grad_output, need, grads);
    }
  });
  return {grad_grad_output, grads[0], grads[1]};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&forward<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::ms_ssim
