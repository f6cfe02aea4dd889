// What the host entries of all devices share: the sizes of a call, its checks, its results, and the entries themselves,
// of passes that a device brings.
#pragma once

#include <vector>

#include "abi/channels.h"
#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "kinds/formula.h"
#include "softsplat_math.h"

namespace handgrad::softsplat {

inline constexpr const char* kOp = "softsplat";
// Pixels along an axis: float holds whole numbers up to here.
inline constexpr int64_t kMostAlong = int64_t{1} << 24;

struct Geometry {
  int64_t batch, channels, pixels;  // pixels of an image
  int32_t height, width;
  int32_t mode, normalization;
  double eps;

  HANDGRAD_MATH bool divides() const { return mode != kSum; }
  HANDGRAD_MATH bool has_metric() const { return mode == kLinear || mode == kSoftmax; }
};

// ---- checks ---------------------------------------------------------------------------------------------------------

inline void check_beside_input(const char* name, const Tensor& tensor, const Tensor& input, int64_t channels) {
  const ScalarType computed = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  HANDGRAD_CHECK(tensor.scalar_type() == computed, kOp, ": ", name, " must have the type that input is computed in, ",
                 dtype_text(computed), "; got ", dtype_text(tensor.scalar_type()));
  check_device(kOp, name, tensor, "input", input);
  const Sizes sizes = input.sizes();
  check_shape(kOp, name, tensor, {sizes[0], channels, sizes[2], sizes[3]},
              channels == 2 ? "(batch, 2, height, width)" : "(batch, 1, height, width)");
}

inline Geometry check_arguments(const Tensor& input,                  // [N, C, H, W]
                                const Tensor& flow,                   // [N, 2, H, W]
                                const std::optional<Tensor>& metric,  // [N, 1, H, W]
                                int64_t mode, int64_t normalization, double eps) {
  check_floating(kOp, "input", input);
  check_rank(kOp, "input", input, 4, "(batch, channels, height, width)");
  const Sizes sizes = input.sizes();
  HANDGRAD_CHECK(sizes[2] >= 1 && sizes[3] >= 1, kOp, ": input must have at least one pixel; got ", shape_text(sizes));
  HANDGRAD_CHECK(sizes[2] <= kMostAlong && sizes[3] <= kMostAlong, kOp,
                 ": input must have at most 2^24 pixels along an axis; got ", shape_text(sizes));
  // With a row and a column outside the image.
  HANDGRAD_CHECK(sizes[2] + 1 <= INT32_MAX / (sizes[3] + 1), kOp,
                 ": input must have fewer than 2^31 pixels in an image; got ", shape_text(sizes));
  HANDGRAD_CHECK(mode >= kSum && mode <= kSoftmax, kOp,
                 ": mode must be 0 (sum), 1 (average), 2 (linear) or 3 (softmax); got ", mode);
  HANDGRAD_CHECK(normalization >= kAddEps && normalization <= kClipEps, kOp,
                 ": normalization must be 0 (addeps), 1 (zeroeps) or 2 (clipeps); got ", normalization);
  HANDGRAD_CHECK(eps > 0, kOp, ": eps must be greater than 0; got ", eps);
  check_beside_input("flow", flow, input, 2);
  const bool has_metric = mode == kLinear || mode == kSoftmax;
  HANDGRAD_CHECK(metric.has_value() == has_metric, kOp, ": metric must be ",
                 has_metric ? "a tensor for mode linear and softmax" : "None for mode sum and average");
  if (metric) check_beside_input("metric", *metric, input, 1);
  return {sizes[0],
          sizes[1],
          sizes[2] * sizes[3],
          static_cast<int32_t>(sizes[2]),
          static_cast<int32_t>(sizes[3]),
          static_cast<int32_t>(mode),
          static_cast<int32_t>(normalization),
          eps};
}

// ---- tensors --------------------------------------------------------------------------------------------------------

inline std::optional<ChannelTensor> channels_of(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<ChannelTensor>(*tensor) : std::nullopt;
}

// What a pass reads. Directions, of the double backward, may each be None: zero.
struct Inputs {
  Geometry geometry;
  ChannelTensor input, flow;
  std::optional<ChannelTensor> metric;
  std::optional<ChannelTensor> grad_output = {};  // of the derivatives
  std::optional<ChannelTensor> v_input = {}, v_flow = {}, v_metric = {};
};

// What is to be filled, where it is wanted.
struct Results {
  bool wants_output, wants_input, wants_flow, wants_metric;
  Tensor output, input, flow, metric;  // the last three are gradients

  Results(const Tensor& of_input, const Tensor& of_flow, const std::optional<Tensor>& of_metric,
          std::array<bool, 4> wanted)
      : wants_output(wanted[0]),
        wants_input(wanted[1]),
        wants_flow(wanted[2]),
        wants_metric(wanted[3] && of_metric),
        output(empty_gradient(wants_output, of_input)),
        input(empty_gradient(wants_input, of_input)),
        flow(empty_gradient(wants_flow, of_flow)),
        metric(of_metric ? empty_gradient(wants_metric, *of_metric) : empty_placeholder(of_flow)) {}

  bool wants_points() const { return wants_flow || wants_metric; }

  void clear() const {
    if (wants_output) fill_zero(output);
    if (wants_input) fill_zero(input);
    if (wants_flow) fill_zero(flow);
    if (wants_metric) fill_zero(metric);
  }
};

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has run<Twice>(inputs, results), which fills what is wanted; for Twice with how it changes along the
// directions.
template <class Device, bool Twice>
void run_pass(const Inputs& inputs, const Results& results) {
  const bool stands = Twice && !inputs.v_input && !inputs.v_flow && !inputs.v_metric;
  if (stands || inputs.geometry.batch * inputs.geometry.channels == 0) return results.clear();
  Device::template run<Twice>(inputs, results);
}

template <class Device>
Tensor value(const Tensor& input,                  // [N, C, H, W]
             const Tensor& flow,                   // [N, 2, H, W]
             const std::optional<Tensor>& metric,  // [N, 1, H, W]
             int64_t mode, int64_t normalization, double eps) {
  const Geometry geometry = check_arguments(input, flow, metric, mode, normalization, eps);
  const Inputs inputs{geometry, ChannelTensor(input), ChannelTensor(flow), channels_of(metric)};
  const Results results(input, flow, metric, {true, false, false, false});
  run_pass<Device, false>(inputs, results);
  return results.output;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output,            // [N, C, H, W]
                                            const Tensor& input,                  // [N, C, H, W]
                                            const Tensor& flow,                   // [N, 2, H, W]
                                            const std::optional<Tensor>& metric,  // [N, 1, H, W]
                                            int64_t mode, int64_t normalization, double eps,
                                            const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, flow, metric, mode, normalization, eps);
  check_like(kOp, "grad_output", grad_output, "input", input);
  const std::array<bool, 3> wanted = as_output_mask<3>(kOp, output_mask);
  const Inputs inputs{geometry, ChannelTensor(input), ChannelTensor(flow), channels_of(metric),
                      ChannelTensor(grad_output)};
  const Results results(input, flow, metric, {false, wanted[0], wanted[1], wanted[2]});
  run_pass<Device, false>(inputs, results);
  return {results.input, results.flow, results.metric};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& grad_grad_input,   // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_flow,    // [N, 2, H, W]
    const std::optional<Tensor>& grad_grad_metric,  // [N, 1, H, W]
    const Tensor& grad_output,                      // [N, C, H, W]
    const Tensor& input,                            // [N, C, H, W]
    const Tensor& flow,                             // [N, 2, H, W]
    const std::optional<Tensor>& metric,            // [N, 1, H, W]
    int64_t mode, int64_t normalization, double eps, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, flow, metric, mode, normalization, eps);
  check_like(kOp, "grad_output", grad_output, "input", input);
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
  if (grad_grad_flow) check_like(kOp, "grad_grad_flow", *grad_grad_flow, "flow", flow);
  HANDGRAD_CHECK(metric || !grad_grad_metric, kOp, ": grad_grad_metric must be None where metric is None");
  if (grad_grad_metric) check_like(kOp, "grad_grad_metric", *grad_grad_metric, "metric", *metric);
  const std::array<bool, 4> wanted = as_output_mask<4>(kOp, output_mask);
  const Inputs inputs{geometry,
                      ChannelTensor(input),
                      ChannelTensor(flow),
                      channels_of(metric),
                      ChannelTensor(grad_output),
                      channels_of(grad_grad_input),
                      channels_of(grad_grad_flow),
                      channels_of(grad_grad_metric)};
  const Results results(input, flow, metric, wanted);
  run_pass<Device, true>(inputs, results);
  return {results.output, results.input, results.flow, results.metric};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::softsplat
