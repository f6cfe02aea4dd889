// Deformable convolution on CUDA devices.
//
// Output positions of all images in a row are cut into chunks (deform_conv2d_chunks.cuh). For a chunk the samples are
// written as a matrix, the columns, (channel, tap) x position (deform_conv2d_kernels.cuh), and the weight is applied by
// torch's matmul (deform_conv2d_matrices.cuh is what lies between tensors and matrices).
//
// The gradient of the input is a scatter. By default it is atomic; if asked for, one thread adds what belongs to one
// channel of an image in the order of positions and taps: slower, and the same to the bit on every run.
//
// In order of appearance: the forward; Tensors and Differentiation, the backward and the double backward; the host
// entries.
#include "abi/registration.h"
#include "cuda/matmul.cuh"
#include "deform_conv2d_kernels.cuh"
#include "deform_conv2d_matrices.cuh"

namespace handgrad::deform_conv2d {
namespace {

// Whether a weight, or its gradient, is its own matrix.
template <class T>
bool is_matrix(const Tensor& weight) {
  return std::is_same_v<T, Compute<T>> && weight.is_contiguous();
}

// The weight in the compute type, [groups, group_out, group_channels * taps].
template <class T>
Tensor widened_weight(const Geometry& geometry, const DeviceOf& device, const Tensor& weight) {
  if (is_matrix<T>(weight)) return weight;
  const int64_t count = geometry.out_channels * geometry.group_channels * geometry.taps;
  const Tensor wide = empty_vector<Compute<T>>(count, weight);
  launch("deform_conv2d_widen_weight", widen_weight_kernel<T>, device, blocks_of(count), geometry, view<T, 4>(weight),
         wide.mutable_data_ptr<Compute<T>>());
  return wide;
}

template <class T>
Sampled<T> sampled(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask) {
  return {view<T, 4>(input), view<T, 4>(offset), view<T, 4>(mask)};
}

template <class T>
void forward(const Geometry& geometry, const Tensor& input, const Tensor& offset, const Tensor& weight,
             const std::optional<Tensor>& bias, const std::optional<Tensor>& mask, const Tensor& output) {
  using C = Compute<T>;
  const DeviceOf device(input);
  const Sampled<T> sampled_tensors = sampled<T>(input, offset, mask);
  const int64_t width = geometry.group_channels * geometry.taps, rows = geometry.channels * geometry.taps;
  const Tensor wide_weight = widened_weight<T>(geometry, device, weight);
  const Tensor weights = device_matrices<C>(wide_weight, geometry.groups, geometry.group_out, width);
  for_each_chunk<C>(geometry, rows + geometry.out_channels, [&](const Chunk& chunk) {
    const Tensor columns = empty_vector<C>(rows * chunk.count, input);
    const Tensor result = empty_vector<C>(geometry.out_channels * chunk.count, input);
    const Sliced sliced(geometry, chunk);
    launch("deform_conv2d_columns", columns_kernel<T>, device, sliced.blocks, geometry, chunk, sliced.channels,
           sampled_tensors, columns.mutable_data_ptr<C>());
    device_matmul(device_matrices<C>(result, geometry.groups, geometry.group_out, chunk.count), weights,
                  device_matrices<C>(columns, geometry.groups, width, chunk.count), false);
    launch("deform_conv2d_store", store_chunk_kernel<T>, device, blocks_of(geometry.out_channels * chunk.count),
           geometry, chunk, result.const_data_ptr<C>(), view<T, 1>(bias), mutable_view<T, 4>(output));
  });
}

// The tensors of a backward or double backward.
struct Tensors {
  const Tensor& grad_output;          // [N, out_channels, out_h, out_w]
  const Tensor& input;                // [N, C, H, W]
  const Tensor& offset;               // [N, 2 * offset_groups * taps, out_h, out_w]
  const Tensor& weight;               // [out_channels, C / groups, kernel_h, kernel_w]
  const std::optional<Tensor>& mask;  // [N, offset_groups * taps, out_h, out_w]
  const Directions& along;
  const Gradients& results;
};

// Backward, and for Twice the double backward: chunk by chunk the gradient of the columns, what is made of the samples,
// and from these the gradients of the weight and of grad_output.
template <class T, bool Twice>
class Differentiation {
 public:
  using C = Compute<T>;

  Differentiation(const Geometry& geometry, const Tensors& tensors, bool in_order)
      : geometry_(geometry),
        tensors_(tensors),
        along_(tensors.along),
        results_(tensors.results),
        in_order_(in_order),
        device_(tensors.input),
        width_(geometry.group_channels * geometry.taps),
        rows_(geometry.channels * geometry.taps),
        sampled_(sampled<T>(tensors.input, tensors.offset, tensors.mask)),
        moves_(along_.moves()),
        needs_moved_columns_(moves_ && (results_.wants_weight || results_.wants_grad_output)),
        needs_columns_(Twice ? along_.weight && results_.wants_grad_output : results_.wants_weight),
        needs_sums_(results_.wants_offset || results_.wants_mask) {}

  void run() {
    prepare();
    const int64_t numbers = rows_ * (Twice ? 4 : 2) + geometry_.out_channels * (Twice ? 2 : 1);
    for_each_chunk<C>(geometry_, numbers, [&](const Chunk& chunk) { take(chunk); });
    finish();
  }

 private:
  // The matrices of a chunk: [channel * tap, position], as far as they are needed; and grad_output, [channel,
  // position].
  struct Matrices {
    Tensor grad_output, columns, moved_columns;
  };

  bool needs_grad_columns() const { return results_.wants_input || needs_sums_; }

  Tensor groups(const Tensor& memory, int64_t rows, int64_t columns, bool transposed = false) const {
    return device_matrices<C>(memory, geometry_.groups, rows, columns, transposed);
  }
  // A matrix of a group's columns, and one of its output channels.
  Tensor as_columns(const Chunk& chunk, const Tensor& memory) const { return groups(memory, width_, chunk.count); }
  Tensor as_output(const Chunk& chunk, const Tensor& memory) const {
    return groups(memory, geometry_.group_out, chunk.count);
  }
  Tensor as_weight(const Tensor& memory) const { return groups(memory, geometry_.group_out, width_); }
  Tensor as_transposed_weight(const Tensor& memory) const { return groups(memory, width_, geometry_.group_out, true); }

  void prepare() {
    weight_ = widened_weight<T>(geometry_, device_, tensors_.weight);
    if (along_.weight) v_weight_ = widened_weight<T>(geometry_, device_, *along_.weight);
    moved_.input = view<T, 4>(along_.input), moved_.offset = view<T, 4>(along_.offset);
    moved_.mask = view<T, 4>(along_.mask);
    if (results_.wants_input) {
      // The scatter adds in the compute type: in the result itself where that is its type.
      if constexpr (std::is_same_v<T, C>) {
        fill_zero(results_.input);
        input_sums_ = mutable_view<C, 4>(results_.input);
      } else {
        const int64_t plane = geometry_.height * geometry_.width;
        wide_input_ = empty_vector<C>(geometry_.batch * geometry_.channels * plane, tensors_.input);
        fill_zero(*wide_input_);
        input_sums_ = {wide_input_->template mutable_data_ptr<C>(),
                       {geometry_.channels * plane, plane, geometry_.width, 1}};
      }
    }
    if (results_.wants_weight) {
      weight_sums_ = is_matrix<T>(results_.weight) ? results_.weight
                                                   : empty_vector<C>(geometry_.out_channels * width_, tensors_.input);
      // The first chunk overwrites; without a single image there is none.
      if (geometry_.batch == 0) fill_zero(*weight_sums_);
    }
    if (results_.wants_bias) {
      bias_sums_ = empty_vector<double>(geometry_.out_channels, tensors_.input);
      fill_zero(*bias_sums_);
    }
  }

  void take(const Chunk& chunk) {
    const auto memory = [&](bool needed) { return empty_vector<C>(needed ? rows_ * chunk.count : 0, tensors_.input); };
    const Matrices matrices{empty_vector<C>(geometry_.out_channels * chunk.count, tensors_.input),
                            memory(needs_columns_), memory(needs_moved_columns_)};
    if (needs_grad_columns() || results_.wants_weight || results_.wants_bias) {
      launch("deform_conv2d_load", load_chunk_kernel<T>, device_, blocks_of(geometry_.out_channels * chunk.count),
             geometry_, chunk, view<T, 4>(tensors_.grad_output), matrices.grad_output.template mutable_data_ptr<C>());
    }
    {
      std::optional<Tensor> grad_columns, h_columns;
      if (needs_grad_columns()) {
        grad_columns = multiplied_by(*weight_, chunk, matrices);
        if (v_weight_) h_columns = multiplied_by(*v_weight_, chunk, matrices);
      }
      differentiate_samples(chunk, matrices, grad_columns, h_columns);
    }
    if (results_.wants_weight) {
      const Tensor& columns = Twice ? matrices.moved_columns : matrices.columns;
      device_matmul(as_weight(*weight_sums_), as_output(chunk, matrices.grad_output),
                    groups(columns, chunk.count, width_, true), chunk.begin > 0);
    }
    if (results_.wants_bias) {
      launch("deform_conv2d_sum_bias", sum_bias_kernel<C>, device_, {geometry_.out_channels, kThreads}, chunk,
             matrices.grad_output.template const_data_ptr<C>(), bias_sums_->template mutable_data_ptr<double>());
    }
    if (results_.wants_grad_output) store_grad_grad_output(chunk, matrices);
  }

  // The gradient that a weight gives to the columns.
  Tensor multiplied_by(const Tensor& weight, const Chunk& chunk, const Matrices& matrices) const {
    const Tensor columns = empty_vector<C>(rows_ * chunk.count, tensors_.input);
    device_matmul(as_columns(chunk, columns), as_transposed_weight(weight), as_output(chunk, matrices.grad_output),
                  false);
    return columns;
  }

  void differentiate_samples(const Chunk& chunk, const Matrices& matrices, const std::optional<Tensor>& grad_columns,
                             const std::optional<Tensor>& h_columns) {
    const Blocks samples = blocks_of(geometry_.offset_groups * geometry_.taps * chunk.count);
    const Sliced sliced(geometry_, chunk);
    const C* const grads = grad_columns ? grad_columns->const_data_ptr<C>() : nullptr;
    C* const columns = needs_columns_ ? matrices.columns.template mutable_data_ptr<C>() : nullptr;
    moved_.h_columns = h_columns ? h_columns->const_data_ptr<C>() : nullptr;
    moved_.columns = needs_moved_columns_ ? matrices.moved_columns.template mutable_data_ptr<C>() : nullptr;
    if (needs_sums_ || needs_moved_columns_) {
      launch("deform_conv2d_differentiate", differentiate_kernel<T, Twice>, device_, samples, geometry_, chunk,
             sampled_, moved_, grads, columns, mutable_view_if<T, 4>(results_.wants_offset, results_.offset),
             mutable_view_if<T, 4>(results_.wants_mask, results_.mask));
    } else if (needs_columns_) {
      launch("deform_conv2d_columns", columns_kernel<T>, device_, sliced.blocks, geometry_, chunk, sliced.channels,
             sampled_, columns);
    }
    if (results_.wants_input && in_order_) {
      const int64_t first = chunk.begin / geometry_.positions;
      const int64_t images = (chunk.begin + chunk.count - 1) / geometry_.positions - first + 1;
      launch("deform_conv2d_scatter_in_order", scatter_in_order_kernel<T, Twice>, device_,
             blocks_of(images * geometry_.channels), geometry_, chunk, sampled_, moved_, grads, input_sums_);
    } else if (results_.wants_input) {
      launch("deform_conv2d_scatter", scatter_kernel<T, Twice>, device_, sliced.blocks, geometry_, chunk,
             sliced.channels, sampled_, moved_, grads, input_sums_);
    }
  }

  void store_grad_grad_output(const Chunk& chunk, const Matrices& matrices) const {
    // grad_output's matrix is no longer needed: its memory is used again.
    const Tensor& memory = matrices.grad_output;
    const Tensor result = as_output(chunk, memory);
    if (moves_) device_matmul(result, as_weight(*weight_), as_columns(chunk, matrices.moved_columns), false);
    if (v_weight_) device_matmul(result, as_weight(*v_weight_), as_columns(chunk, matrices.columns), moves_);
    if (!moves_ && !v_weight_) fill_zero(memory);
    launch("deform_conv2d_store", store_chunk_kernel<T>, device_, blocks_of(geometry_.out_channels * chunk.count),
           geometry_, chunk, memory.const_data_ptr<C>(), view<T, 1>(along_.bias),
           mutable_view<T, 4>(results_.grad_output));
  }

  void finish() const {
    if (wide_input_) {
      launch("deform_conv2d_narrow", narrow_input_kernel<T>, device_,
             blocks_of(geometry_.batch * geometry_.channels * geometry_.height * geometry_.width), geometry_,
             input_sums_, mutable_view<T, 4>(results_.input));
    }
    if (results_.wants_weight && !is_matrix<T>(results_.weight)) {
      launch("deform_conv2d_narrow_weight", narrow_weight_kernel<T>, device_,
             blocks_of(geometry_.out_channels * width_), geometry_, weight_sums_->template const_data_ptr<C>(),
             mutable_view<T, 4>(results_.weight));
    }
    if (results_.wants_bias) {
      launch("deform_conv2d_narrow_bias", narrow_bias_kernel<T>, device_, blocks_of(geometry_.out_channels), geometry_,
             bias_sums_->template const_data_ptr<double>(), results_.bias.template mutable_data_ptr<T>());
    }
  }

  const Geometry& geometry_;
  const Tensors& tensors_;
  const Directions& along_;
  const Gradients& results_;
  const bool in_order_;
  const DeviceOf device_;
  const int64_t width_, rows_;
  const Sampled<T> sampled_;
  Moved<T> moved_{};
  // Whether the samples move, and what is made of them.
  const bool moves_, needs_moved_columns_, needs_columns_, needs_sums_;
  std::optional<Tensor> weight_, v_weight_, wide_input_, weight_sums_, bias_sums_;
  View<C, 4> input_sums_{};
};

template <bool Twice>
void differentiate(const Geometry& geometry, const Tensors& tensors, bool in_order) {
  if (!tensors.results.any()) return;
  dispatch_floating(kOp, tensors.input.scalar_type(), [&](auto tag) {
    Differentiation<typename decltype(tag)::type, Twice>(geometry, tensors, in_order).run();
  });
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor deform_conv2d_cuda(const Tensor& input,                // [N, C, H, W]
                          const Tensor& offset,               // [N, 2 * offset_groups * taps, out_h, out_w]
                          const Tensor& weight,               // [out_channels, C / groups, kernel_h, kernel_w]
                          const std::optional<Tensor>& bias,  // [out_channels]
                          const std::optional<Tensor>& mask,  // [N, offset_groups * taps, out_h, out_w]
                          int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h,
                          int64_t dilation_w) {
  const Geometry geometry = check_arguments(input, offset, weight, bias, mask,
                                            {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  const Tensor output = empty_output(geometry, input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    forward<typename decltype(tag)::type>(geometry, input, offset, weight, bias, mask, output);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward_cuda(
    const Tensor& grad_output,          // [N, out_channels, out_h, out_w]
    const Tensor& input,                // [N, C, H, W]
    const Tensor& offset,               // [N, 2 * offset_groups * taps, out_h, out_w]
    const Tensor& weight,               // [out_channels, C / groups, kernel_h, kernel_w]
    const std::optional<Tensor>& mask,  // [N, offset_groups * taps, out_h, out_w]
    int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h, int64_t dilation_w,
    bool deterministic, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, offset, weight, std::nullopt, mask,
                                            {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  check_grad_output(geometry, grad_output, input);
  const Gradients results = Gradients::backward(geometry, input, offset, weight, mask, output_mask);
  const std::optional<Tensor> none;
  differentiate<false>(geometry, {grad_output, input, offset, weight, mask, {none, none, none, none, none}, results},
                       deterministic);
  return {results.input, results.offset, results.weight, results.bias, results.mask};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_offset,
    const std::optional<Tensor>& grad_grad_weight, const std::optional<Tensor>& grad_grad_bias,
    const std::optional<Tensor>& grad_grad_mask,
    const Tensor& grad_output,          // [N, out_channels, out_h, out_w]
    const Tensor& input,                // [N, C, H, W]
    const Tensor& offset,               // [N, 2 * offset_groups * taps, out_h, out_w]
    const Tensor& weight,               // [out_channels, C / groups, kernel_h, kernel_w]
    const std::optional<Tensor>& mask,  // [N, offset_groups * taps, out_h, out_w]
    int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h, int64_t dilation_w,
    bool deterministic, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, offset, weight, std::nullopt, mask,
                                            {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  check_grad_output(geometry, grad_output, input);
  const Directions along{grad_grad_input, grad_grad_offset, grad_grad_weight, grad_grad_bias, grad_grad_mask};
  check_directions(geometry, along, input, offset, weight, mask);
  Gradients results = Gradients::double_backward(geometry, input, offset, weight, mask, output_mask);
  results.clear_what_stands_still(along);
  differentiate<true>(geometry, {grad_output, input, offset, weight, mask, along, results}, deterministic);
  return {results.grad_output, results.input, results.offset, results.weight, results.mask};
}

}  // namespace
}  // namespace handgrad::deform_conv2d

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::deform_conv2d::deform_conv2d_cuda>(library, "deform_conv2d");
  handgrad::implement<handgrad::deform_conv2d::deform_conv2d_backward_cuda>(library, "_deform_conv2d_backward");
  handgrad::implement<handgrad::deform_conv2d::deform_conv2d_double_backward_cuda>(library,
                                                                                   "_deform_conv2d_double_backward");
}
