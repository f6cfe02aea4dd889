// What the host entries of the knowledge distillation loss share on all devices. The operands are those of a row loss
// (kinds/row_loss.h), with the teacher's logits where that has probabilities.
#pragma once

#include "kinds/row_loss.h"
#include "knowledge_distillation_loss_math.h"

namespace handgrad::distillation {

inline constexpr const char* kOp = "knowledge_distillation_loss";

inline row_loss::Rows check_arguments(const Tensor& student, const Tensor& teacher, double temperature,
                                      int64_t reduction) {
  check_floating(kOp, "student", student);
  row_loss::check_classes(kOp, "student", student);
  check_like(kOp, "teacher", teacher, "student", student);
  HANDGRAD_CHECK(temperature > 0, kOp, ": temperature must be above 0; got ", temperature);
  return row_loss::rows_of(kOp, student, reduction);
}

template <class Device>
struct Entries {
  static void run(RowPass pass, const RowOperands& operands, double temperature) {
    dispatch_compute(kOp, operands.inputs.tensor.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Device::template for_each_row<C>(kOp, pass, operands, Temperature<C>(temperature));
    });
  }
  static RowOperands operands_of(const Tensor& student, const Tensor& teacher) {
    RowOperands operands(student);
    operands.probabilities = ChannelTensor(teacher);
    return operands;
  }

  static Tensor forward(const Tensor& student,  // [N, C, ...]
                        const Tensor& teacher,  // as student
                        double temperature, int64_t reduction) {
    const row_loss::Rows rows = check_arguments(student, teacher, temperature, reduction);
    const Tensor output = rows.empty_loss();
    RowOperands operands = operands_of(student, teacher);
    rows.set_loss(operands, true, output);
    run(RowPass::value, operands, temperature);
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // as the loss: [N, ...], or one
                                             const Tensor& student,      // [N, C, ...]
                                             const Tensor& teacher,      // as student
                                             double temperature, int64_t reduction,
                                             const std::vector<bool>& output_mask) {
    const row_loss::Rows rows = check_arguments(student, teacher, temperature, reduction);
    rows.check_grad_output(grad_output);
    const std::array<bool, 2> need = as_output_mask<2>(kOp, output_mask);
    const Tensor grad_student = empty_gradient(need[0], student), grad_teacher = empty_gradient(need[1], teacher);
    if (!need[0] && !need[1]) return {grad_student, grad_teacher};
    RowOperands operands = operands_of(student, teacher);
    row_loss::set_grad_output(operands, rows, grad_output);
    row_loss::set_gradients(operands, need[0], grad_student, need[1], grad_teacher);
    run(RowPass::gradient, operands, temperature);
    return {grad_student, grad_teacher};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(
      const std::optional<Tensor>& grad_grad_student,  // as student
      const std::optional<Tensor>& grad_grad_teacher,  // as student
      const Tensor& grad_output,                       // as the loss
      const Tensor& student,                           // [N, C, ...]
      const Tensor& teacher,                           // as student
      double temperature, int64_t reduction, const std::vector<bool>& output_mask) {
    const row_loss::Rows rows = check_arguments(student, teacher, temperature, reduction);
    rows.check_grad_output(grad_output);
    if (grad_grad_student) check_like(kOp, "grad_grad_student", *grad_grad_student, "student", student);
    if (grad_grad_teacher) check_like(kOp, "grad_grad_teacher", *grad_grad_teacher, "teacher", teacher);
    const std::array<bool, 3> need = as_output_mask<3>(kOp, output_mask);
    const Tensor grad_grad_output = need[0] ? rows.empty_loss() : empty_placeholder(student);
    const Tensor grad_student = empty_gradient(need[1], student), grad_teacher = empty_gradient(need[2], teacher);
    if (!need[0] && !need[1] && !need[2]) return {grad_grad_output, grad_student, grad_teacher};
    RowOperands operands = operands_of(student, teacher);
    if (grad_grad_student) operands.direction_inputs = ChannelTensor(*grad_grad_student);
    if (grad_grad_teacher) operands.direction_targets = ChannelTensor(*grad_grad_teacher);
    row_loss::set_grad_output(operands, rows, grad_output);
    rows.set_loss(operands, need[0], grad_grad_output);
    row_loss::set_gradients(operands, need[1], grad_student, need[2], grad_teacher);
    run(RowPass::second, operands, temperature);
    return {grad_grad_output, grad_student, grad_teacher};
  }
};

template <class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, kOp);
}

}  // namespace handgrad::distillation
