// handgrad from C++: calls an op and its derivative through torch's dispatcher, checks both against what is known in
// closed form, and runs a packaged model. docs/cpp.md tells how to build and call it.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <array>

#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <tuple>

#include "load_handgrad.h"

namespace {

// To be those of the schema, `Tensor inputs, Tensor targets, float alpha, float gamma, int reduction`: torch does not
// compare them. Reductions are 0: none, 1: mean, 2: sum.
using Loss = at::Tensor(const at::Tensor&, const at::Tensor&, double, double, int64_t);
using LossBackward = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&, const at::Tensor&, double,
                                                        double, int64_t, std::array<bool, 2>);

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// handgrad registers derivatives from Python. In C++ an autograd function puts the op and its private backward
// together.
struct SigmoidFocalLoss : torch::autograd::Function<SigmoidFocalLoss> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& inputs, const at::Tensor& targets,
                            double alpha, double gamma) {
    ctx->save_for_backward({inputs, targets});
    ctx->saved_data["alpha"] = alpha;
    ctx->saved_data["gamma"] = gamma;
    at::AutoDispatchBelowAutograd below;
    static const auto op = find<Loss>("handgrad::sigmoid_focal_loss");
    return op.call(inputs, targets, alpha, gamma, 1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    at::AutoDispatchBelowAutograd below;
    static const auto op = find<LossBackward>("handgrad::_sigmoid_focal_loss_backward");
    const auto [grad_inputs, grad_targets] =
        op.call(grad_outputs[0], saved[0], saved[1], ctx->saved_data["alpha"].toDouble(),
                ctx->saved_data["gamma"].toDouble(), 1, {true, false});
    return {grad_inputs, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

void compare(const char* what, double value, double expected) {
  std::printf("%s: %.12f, in closed form %.12f\n", what, value, expected);
  if (!(std::abs(value - expected) < 1e-12)) throw std::runtime_error(std::string(what) + " is wrong");
}

void call_an_op() {
  // A logit of 0 is a probability of 1/2: with alpha = 1/4 and gamma = 2 the loss is 1/4 (1/2)^2 ln 2.
  const double ln2 = std::log(2.0);
  const at::Tensor targets = at::ones({3}, at::kDouble);
  at::Tensor logits = at::full({3}, 0.0, at::kDouble);
  compare("focal loss", find<Loss>("handgrad::sigmoid_focal_loss").call(logits, targets, 0.25, 2.0, 1).item<double>(),
          ln2 / 16);

  logits.requires_grad_();
  SigmoidFocalLoss::apply(logits, targets, 0.25, 2.0).backward();
  // That of one element, over the three of the mean.
  compare("derivative", logits.grad()[0].item<double>(), -(1 + 2 * ln2) / 32 / 3);
}

void run_a_package(const std::string& path) {
  if (!std::filesystem::exists(path)) throw std::runtime_error("there is no package " + path);
  c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader model(path);
  // The batch is open: the package was made from an example of two images.
  const at::Tensor images = at::linspace(0, 1, 3 * 3 * 8 * 8).reshape({3, 3, 8, 8});
  const at::Tensor scores = model.run({images})[0];
  for (int64_t image = 0; image < scores.size(0); ++image) {
    std::printf("image %d:", static_cast<int>(image));
    for (int64_t label = 0; label < scores.size(1); ++label) std::printf(" %.6f", scores[image][label].item<float>());
    std::printf("\n");
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 3) {
    std::fprintf(stderr, "usage: %s FOLDER_OF_HANDGRAD'S_LIBRARIES [MODEL.pt2]\n", arguments[0]);
    return 2;
  }
  try {
    for (const auto& library : handgrad::load(arguments[1])) std::printf("loaded %s\n", library.c_str());
    call_an_op();
    if (count == 3) run_a_package(arguments[2]);
  } catch (const c10::Error& error) {
    // A sentence; what() has the call stack too.
    std::fprintf(stderr, "%s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
