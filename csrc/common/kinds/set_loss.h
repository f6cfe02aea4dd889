// Losses of sets of labelled embeddings, from all pairs of a set: everything of their host entries but the formula of
// one anchor. The matrix of pairs is made in chunks of rows, one for each anchor, and never stored.
//
// With P the products of a chunk's vectors with all vectors, a measure m(P) of each pair (math/pair_rows.h) and a row's
// loss f, the derivatives are made in place of a row, G = dL/dP, and taken to the vectors by two products,
//
//   grad_t_i = sum over j of (G_ij + G_ji) t_j + 2 s_i t_i
//
// s_i being the derivative with respect to the squared length of t_i, which distances have: with Q = dL/d(d^2) it is
// the sum over j of Q_ij + Q_ji, and G = -2 Q. Vectors are embeddings brought to length 1 for cosines, and less their
// mean for distances, so that little is lost in differences of products.
//
// An op describes itself by a type:
//
//   struct MyLossOp {
//     static constexpr const char* name = "my_loss";
//     using Numbers = std::tuple<double, bool>;                 // as in the schema
//     using Formula = …;                                        // of math/pair_rows.h; with measure() and is_sparse()
//     static Formula formula(double margin, bool soft);
//   };
//
// Its _cpu.cpp is kinds/set_loss_cpu.h and one line, handgrad::set_loss::implement<MyLossOp,
// handgrad::SetsOnCpu>(library); its _cuda.cu the same with kinds/set_loss.cuh and SetsOnCuda. Returned are, for each
// anchor, its loss and the number of terms that it is a sum of; from these Python makes means.
#pragma once

#include <optional>
#include <tuple>

#include "abi/layout.h"
#include "abi/output_mask.h"
#include "kinds/formula.h"
#include "math/pair_rows.h"
#include "math/row_table.h"

namespace handgrad::set_loss {

// The tensors of a call; what is not there is not read, or not written.
struct SetTensors {
  Tensor embeddings, labels;                      // [B, N, D]; [B, N], int64
  std::optional<Tensor> grad_output, directions;  // [B, N, 2]; as embeddings
  std::optional<Tensor> output, grad_embeddings;  // [B, N, 2], and the same of the double backward; as embeddings

  int64_t sets() const { return embeddings.sizes()[0]; }
  int64_t count() const { return embeddings.sizes()[1]; }
  int64_t width() const { return embeddings.sizes()[2]; }
};

inline SetTensors check_arguments(const char* op, const Tensor& embeddings, const Tensor& labels) {
  check_floating(op, "embeddings", embeddings);
  check_rank(op, "embeddings", embeddings, 3, "(sets, N, D)");
  HANDGRAD_CHECK(labels.scalar_type() == ScalarType::Long && labels.dim() == 2 &&
                     labels.sizes()[0] == embeddings.sizes()[0] && labels.sizes()[1] == embeddings.sizes()[1],
                 op, ": labels must be int64, one for each of the embeddings, here ",
                 shape_text(Sizes(embeddings.sizes().data(), 2)), "; got ", shape_text(labels), " of ",
                 dtype_text(labels.scalar_type()));
  check_device(op, "labels", labels, "embeddings", embeddings);
  const Tensor dense = labels.is_contiguous() ? labels : torch::stable::contiguous(labels);
  return {embeddings, dense, std::nullopt, std::nullopt, std::nullopt, std::nullopt};
}

inline Tensor empty_output(const SetTensors& tensors) {
  const int64_t sizes[3] = {tensors.sets(), tensors.count(), kPairResults};
  const std::vector<int64_t> strides = contiguous_strides(Sizes(sizes, 3));
  const bool wide = tensors.embeddings.scalar_type() == ScalarType::Double;
  return empty_strided(Sizes(sizes, 3), Sizes(strides.data(), 3),
                       wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(), tensors.embeddings);
}

inline void check_grad_output(const char* op, const SetTensors& tensors, const Tensor& grad_output) {
  const bool wide = tensors.embeddings.scalar_type() == ScalarType::Double;
  check_shape(op, "grad_output", grad_output, {tensors.sets(), tensors.count(), kPairResults}, "of the losses");
  HANDGRAD_CHECK(grad_output.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float), op,
                 ": grad_output must be ", wide ? "float64" : "float32", ", as the losses; got ",
                 dtype_text(grad_output.scalar_type()));
  check_device(op, "grad_output", grad_output, "embeddings", tensors.embeddings);
}

// Entry `index` along the first dimension.
inline Tensor of_set(const Tensor& tensor, int64_t index) { return torch::stable::select(tensor, 0, index); }
inline std::optional<Tensor> of_set(const std::optional<Tensor>& tensor, int64_t index) {
  return tensor ? std::optional<Tensor>(of_set(*tensor, index)) : std::nullopt;
}
inline SetTensors of_set(const SetTensors& tensors, int64_t index) {
  return {of_set(tensors.embeddings, index), of_set(tensors.labels, index), of_set(tensors.grad_output, index),
          of_set(tensors.directions, index), of_set(tensors.output, index), of_set(tensors.grad_embeddings, index)};
}

template <class Op, class Device, class OpNumbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  static Tensor forward(const Tensor& embeddings,  // [B, N, D]
                        const Tensor& labels,      // [B, N]
                        Number... numbers) {
    SetTensors tensors = check_arguments(Op::name, embeddings, labels);
    tensors.output = empty_output(tensors);
    Device::run(Op::name, tensors, Op::formula(numbers...));
    return *tensors.output;
  }

  static Tensor backward(const Tensor& grad_output,  // [B, N, 2]
                         const Tensor& embeddings,   // [B, N, D]
                         const Tensor& labels,       // [B, N]
                         Number... numbers, const std::vector<bool>& output_mask) {
    SetTensors tensors = check_arguments(Op::name, embeddings, labels);
    check_grad_output(Op::name, tensors, grad_output);
    const Tensor grad_embeddings = empty_gradient(as_output_mask<1>(Op::name, output_mask)[0], embeddings);
    if (!output_mask[0]) return grad_embeddings;
    tensors.grad_output = grad_output;
    tensors.grad_embeddings = grad_embeddings;
    Device::run(Op::name, tensors, Op::formula(numbers...));
    return grad_embeddings;
  }

  static std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_embeddings,  // [B, N, D]
                                                    const Tensor& grad_output,                          // [B, N, 2]
                                                    const Tensor& embeddings,                           // [B, N, D]
                                                    const Tensor& labels,                               // [B, N]
                                                    Number... numbers, const std::vector<bool>& output_mask) {
    SetTensors tensors = check_arguments(Op::name, embeddings, labels);
    check_grad_output(Op::name, tensors, grad_output);
    if (grad_grad_embeddings) {
      check_like(Op::name, "grad_grad_embeddings", *grad_grad_embeddings, "embeddings", embeddings);
    }
    const std::array<bool, 2> need = as_output_mask<2>(Op::name, output_mask);
    const Tensor grad_grad_output = need[0] ? empty_output(tensors) : empty_placeholder(embeddings);
    const Tensor grad_embeddings = empty_gradient(need[1], embeddings);
    if (!grad_grad_embeddings) {
      if (need[0]) fill_zero(grad_grad_output);
      if (need[1]) fill_zero(grad_embeddings);
    } else if (need[0] || need[1]) {
      tensors.grad_output = grad_output;
      tensors.directions = *grad_grad_embeddings;
      if (need[0]) tensors.output = grad_grad_output;
      if (need[1]) tensors.grad_embeddings = grad_embeddings;
      Device::run(Op::name, tensors, Op::formula(numbers...));
    }
    return {grad_grad_output, grad_embeddings};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::set_loss
