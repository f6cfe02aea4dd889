// The host entries of margin softmax loss on all devices: checks, results, and what a device is asked to do.
#pragma once

#include <optional>

#include "abi/layout.h"
#include "abi/output_mask.h"
#include "margin_softmax_loss_math.h"
#include "math/row_table.h"

namespace handgrad::margin_softmax_loss {

inline constexpr const char* kOp = "margin_softmax_loss";

// What a call is of.
struct Problem {
  const Tensor& embeddings;  // [N, D]
  const Tensor& weight;      // [C, K, D]
  const Tensor& targets;     // [N], int64
  int64_t rows, classes, centres, width;
  Margin margin;
  int64_t ignore_index;

  Problem(const Tensor& embeddings, const Tensor& weight, const Tensor& targets, const Margin& margin,
          int64_t ignore_index)
      : embeddings(embeddings), weight(weight), targets(targets), margin(margin), ignore_index(ignore_index) {
    check_floating(kOp, "embeddings", embeddings);
    check_rank(kOp, "embeddings", embeddings, 2, "(N, D)");
    check_rank(kOp, "weight", weight, 3, "(C, K, D)");
    rows = embeddings.sizes()[0], width = embeddings.sizes()[1];
    classes = weight.sizes()[0], centres = weight.sizes()[1];
    HANDGRAD_CHECK(weight.sizes()[2] == width && classes >= 1 && centres >= 1, kOp,
                   ": weight must have the shape (C, D), or (C, K, D), with at least one class and D as embeddings, ",
                   width, "; got ", shape_text(weight));
    check_dtype_and_device(kOp, "weight", weight, "embeddings", embeddings);
    HANDGRAD_CHECK(targets.scalar_type() == ScalarType::Long && targets.dim() == 1 && targets.sizes()[0] == rows, kOp,
                   ": targets must be class numbers, int64 of shape (", rows,
                   ",), one for each of the embeddings; got ", shape_text(targets), " of ",
                   dtype_text(targets.scalar_type()));
    check_device(kOp, "targets", targets, "embeddings", embeddings);
  }
  ScalarType dtype() const { return embeddings.scalar_type(); }
  Tensor empty_losses() const {
    return dtype() == ScalarType::Double ? empty_vector<double>(rows, embeddings)
                                         : empty_vector<float>(rows, embeddings);
  }
  void check_losses(const char* argument, const Tensor& tensor) const {
    const ScalarType wanted = dtype() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    HANDGRAD_CHECK(tensor.dim() == 1 && tensor.sizes()[0] == rows && tensor.scalar_type() == wanted, kOp, ": ",
                   argument, " must be ", dtype_text(wanted), " of shape (", rows,
                   ",), as the losses of embeddings; got ", shape_text(tensor), " of ",
                   dtype_text(tensor.scalar_type()));
    check_device(kOp, argument, tensor, "embeddings", embeddings);
  }
};

// The tensors of a backward or double backward; what is not there is not read, what is not wanted not written.
struct Derivatives {
  std::optional<Tensor> losses, grad_output;
  std::optional<Tensor> direction_embeddings, direction_weight;
  std::optional<Tensor> grad_grad_output, grad_embeddings, grad_weight;

  bool moves() const { return direction_embeddings || direction_weight; }
  bool has_gradients() const { return grad_embeddings || grad_weight; }
};

inline std::optional<Tensor> if_wanted(bool wanted, const Tensor& tensor) {
  return wanted ? std::optional<Tensor>(tensor) : std::nullopt;
}

template <class Device>
struct Entries {
  static Tensor forward(const Tensor& embeddings,  // [N, D]
                        const Tensor& weight,      // [C, K, D]
                        const Tensor& targets,     // [N], int64
                        const std::optional<Tensor>& /*losses*/, double scale, double m1, double m2, double m3,
                        int64_t ignore_index) {
    const Problem problem(embeddings, weight, targets, {scale, m1, m2, m3}, ignore_index);
    const Tensor losses = problem.empty_losses();
    Device::forward(problem, losses);
    return losses;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,            // [N]
                                             const Tensor& embeddings,             // [N, D]
                                             const Tensor& weight,                 // [C, K, D]
                                             const Tensor& targets,                // [N], int64
                                             const std::optional<Tensor>& losses,  // [N]
                                             double scale, double m1, double m2, double m3, int64_t ignore_index,
                                             const std::vector<bool>& output_mask) {
    const Problem problem(embeddings, weight, targets, {scale, m1, m2, m3}, ignore_index);
    problem.check_losses("grad_output", grad_output);
    if (losses) problem.check_losses("losses", *losses);
    const std::array<bool, 2> need = as_output_mask<2>(kOp, output_mask);
    const Tensor grad_embeddings = empty_gradient(need[0], embeddings), grad_weight = empty_gradient(need[1], weight);
    Derivatives tensors;
    tensors.losses = losses ? *losses : computed_losses(problem);
    tensors.grad_output = grad_output;
    tensors.grad_embeddings = if_wanted(need[0], grad_embeddings);
    tensors.grad_weight = if_wanted(need[1], grad_weight);
    if (need[0] || need[1]) Device::backward(problem, tensors);
    return {grad_embeddings, grad_weight};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(
      const std::optional<Tensor>& grad_grad_embeddings,  // as embeddings
      const std::optional<Tensor>& grad_grad_weight,      // as weight
      const Tensor& grad_output,                          // [N]
      const Tensor& embeddings,                           // [N, D]
      const Tensor& weight,                               // [C, K, D]
      const Tensor& targets,                              // [N], int64
      const std::optional<Tensor>& losses,                // [N]
      double scale, double m1, double m2, double m3, int64_t ignore_index, const std::vector<bool>& output_mask) {
    const Problem problem(embeddings, weight, targets, {scale, m1, m2, m3}, ignore_index);
    problem.check_losses("grad_output", grad_output);
    if (losses) problem.check_losses("losses", *losses);
    if (grad_grad_embeddings) check_like(kOp, "grad_grad_embeddings", *grad_grad_embeddings, "embeddings", embeddings);
    if (grad_grad_weight) check_like(kOp, "grad_grad_weight", *grad_grad_weight, "weight", weight);
    const std::array<bool, 3> need = as_output_mask<3>(kOp, output_mask);
    const Tensor grad_grad_output = need[0] ? problem.empty_losses() : empty_placeholder(embeddings);
    const Tensor grad_embeddings = empty_gradient(need[1], embeddings), grad_weight = empty_gradient(need[2], weight);
    Derivatives tensors;
    tensors.losses = losses;
    tensors.grad_output = grad_output;
    tensors.direction_embeddings = grad_grad_embeddings;
    tensors.direction_weight = grad_grad_weight;
    tensors.grad_grad_output = if_wanted(need[0], grad_grad_output);
    tensors.grad_embeddings = if_wanted(need[1], grad_embeddings);
    tensors.grad_weight = if_wanted(need[2], grad_weight);
    if (!tensors.moves()) {
      // Nothing moves.
      for (const auto* result : {&tensors.grad_grad_output, &tensors.grad_embeddings, &tensors.grad_weight}) {
        if (*result) fill_zero(**result);
      }
    } else if (need[0] || need[1] || need[2]) {
      Device::double_backward(problem, tensors);
    }
    return {grad_grad_output, grad_embeddings, grad_weight};
  }

 private:
  static Tensor computed_losses(const Problem& problem) {
    const Tensor losses = problem.empty_losses();
    Device::forward(problem, losses);
    return losses;
  }
};

}  // namespace handgrad::margin_softmax_loss
