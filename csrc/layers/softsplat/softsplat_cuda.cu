// softsplat on CUDA devices: the sort of the sources by where they land, and the launches of the kernels
// (softsplat_kernels.cuh) in their order.
#include "abi/registration.h"
#include "cuda/sort.cuh"
#include "softsplat_kernels.cuh"

namespace handgrad::softsplat {
namespace {

// int32 of (rows, columns).
Tensor empty_counts(int64_t rows, int64_t columns, const Tensor& like) {
  const int64_t sizes[2] = {rows, columns}, strides[2] = {columns, 1};
  return empty_strided(Sizes(sizes, 2), Sizes(strides, 2), aoti_torch_dtype_int32(), like);
}

template <class T, bool Twice>
class Launches {
 public:
  using C = Compute<T>;

  Launches(const Inputs& inputs, const Results& results)
      : geometry_(inputs.geometry), results_(results), like_(inputs.input.tensor), device_(like_) {
    operands_.input = inputs.input.view<T>(), operands_.flow = inputs.flow.view<C>();
    if (inputs.metric) operands_.metric = inputs.metric->view<C>();
    if (inputs.grad_output) operands_.grad_output = inputs.grad_output->view<T>();
    if (inputs.v_input) operands_.v_input = inputs.v_input->view<T>();
    if (inputs.v_flow) operands_.v_flow = inputs.v_flow->view<C>();
    if (inputs.v_metric) operands_.v_metric = inputs.v_metric->view<C>();
  }

  void run() {
    const bool derives = results_.wants_input || results_.wants_points();
    if (geometry_.divides() || results_.wants_output) sort_sources();
    if (geometry_.divides()) {
      fields_ = empty_vector<C>((Twice ? 6 : 4) * pixels(), like_);
      operands_.fields = {fields_->mutable_data_ptr<C>(), pixels()};
      launch("softsplat_fields", fields_kernel<T, Twice>, device_, threads(), geometry_, operands_, lists_);
    }
    if (results_.wants_output) launch_output();
    if (derives) launch_derivatives();
  }

 private:
  int64_t pixels() const { return geometry_.batch * geometry_.pixels; }
  Blocks threads() const { return blocks_for(pixels(), kThreads); }

  void sort_sources() {
    const Tensor keys = empty_counts(geometry_.batch, geometry_.pixels, like_);
    launch("softsplat_keys", keys_kernel<T>, device_, threads(), geometry_, operands_,
           keys.mutable_data_ptr<int32_t>());
    sorted_ = sort_decreasing(keys, 1);
    lists_.cells = (int64_t{geometry_.height} + 1) * (int64_t{geometry_.width} + 1);
    starts_ = empty_counts(geometry_.batch, lists_.cells + 1, like_);
    lists_.keys = sorted_->values.mutable_data_ptr<int32_t>();
    lists_.order = sorted_->order.const_data_ptr<int64_t>();
    lists_.starts = starts_->mutable_data_ptr<int32_t>();
    launch("softsplat_starts", starts_kernel, device_, blocks_for(geometry_.batch * (lists_.cells + 1), kThreads),
           geometry_, lists_);
  }

  void launch_output() {
    const int64_t groups = (geometry_.channels + kChannels - 1) / kChannels;
    const ChannelTensor output(results_.output);
    launch("softsplat_output", output_kernel<T, Twice>, device_, blocks_for(pixels() * groups, kThreads), geometry_,
           operands_, lists_, groups, output.channels_innermost(), output.mutable_view<T>());
  }

  void launch_derivatives() {
    View<T, 3> grad_input;
    View<C, 3> grad_flow, grad_metric;
    if (results_.wants_input) grad_input = ChannelTensor(results_.input).mutable_view<T>();
    if (results_.wants_flow) grad_flow = ChannelTensor(results_.flow).mutable_view<C>();
    if (results_.wants_metric) grad_metric = ChannelTensor(results_.metric).mutable_view<C>();
    if (results_.wants_points()) {
      dots_ = empty_vector<C>((operands_.v_input ? 8 : 4) * pixels(), like_);
      operands_.dots = {dots_->mutable_data_ptr<C>(), pixels()};
    }
    launch("softsplat_read", read_kernel<T, Twice>, device_, threads(), geometry_, operands_, grad_input);
    if (!results_.wants_points()) return;
    if (geometry_.divides()) {
      launch("softsplat_grad_totals", grad_totals_kernel<T, Twice>, device_, threads(), geometry_, operands_, lists_);
    }
    launch("softsplat_points", points_kernel<T, Twice>, device_, threads(), geometry_, operands_, grad_flow,
           grad_metric);
  }

  const Geometry& geometry_;
  const Results& results_;
  const Tensor& like_;
  const DeviceOf device_;
  Operands<T> operands_;
  Lists lists_{};
  // What the kernels read and write is kept until all are launched.
  std::optional<Decreasing> sorted_;
  std::optional<Tensor> starts_, fields_, dots_;
};

struct OnCuda {
  template <bool Twice>
  static void run(const Inputs& inputs, const Results& results) {
    dispatch_floating(kOp, inputs.input.tensor.scalar_type(),
                      [&](auto tag) { Launches<typename decltype(tag)::type, Twice>(inputs, results).run(); });
  }
};

}  // namespace
}  // namespace handgrad::softsplat

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::softsplat::implement<handgrad::softsplat::OnCuda>(library);
}
