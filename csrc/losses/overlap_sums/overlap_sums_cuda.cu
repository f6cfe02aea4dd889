// The sums that overlap losses are made of, on CUDA devices: launches, and how the work is cut.
#include "abi/registration.h"
#include "kinds/formula.h"
#include "overlap_sums_kernels.cuh"

namespace handgrad::overlap_sums {
namespace {

// Tiles in a chunk: partial sums are then a hundredth of the bytes that are summed.
constexpr int64_t kTilesPerChunk = 4;
constexpr int64_t kWidest = 256, kNarrowest = 8;

// The launch of one kernel: its geometry, its blocks, and its scratch if that is in global memory.
template <class C, bool Second>
class TileLaunch {
 public:
  TileLaunch(const Problem& problem, const Tensors& tensors) {
    if (problem.batch == 0 || problem.channels == 0 || problem.positions == 0) return;
    const auto bytes = [&](int64_t width) {
      return Scratch<C, Second>::numbers(problem, width + 1) * static_cast<int64_t>(sizeof(C));
    };
    int64_t width = kWidest;
    while (width > kNarrowest && (width / 2 >= problem.positions || bytes(width) > kSharedWithoutAsking)) width /= 2;
    const int64_t chunk = width * kTilesPerChunk, chunks = (problem.positions + chunk - 1) / chunk;
    // Doubles begin each scratch.
    const int64_t scratch = (Scratch<C, Second>::numbers(problem, width + 1) + 1) / 2 * 2;
    geometry_ = {problem.positions,
                 chunks,
                 chunk,
                 chunks * problem.batch,
                 static_cast<int32_t>(width),
                 static_cast<int32_t>(width + 1),
                 static_cast<int32_t>(problem.channels),
                 scratch,
                 tensors.inputs.channels_innermost()};
    blocks_ = {std::min<int64_t>(geometry_.items, INT32_MAX), dim3(kTileThreads, 1, 1), 0};
    if (bytes(width) <= shared_memory_limit()) {
      blocks_.shared_bytes = bytes(width);
    } else {
      blocks_.count = std::min(geometry_.items, kGlobalScratchBlocks);
      global_ = empty_vector<C>(blocks_.count * scratch, tensors.inputs.tensor);
    }
  }

  // Where the partial sums go.
  Tensor partial(const Problem& problem, const Tensor& like) const {
    return empty_vector<double>(geometry_.items * problem.channels * kSums, like);
  }

  template <bool Summed>
  void run(const char* name, const DeviceOf& device, const Operands<C>& operands) const {
    launch(name, overlap_sums_kernel<C, Summed, Second>, device, blocks_, geometry_, operands,
           global_ ? global_->template mutable_data_ptr<C>() : static_cast<C*>(nullptr));
  }

  // Adds up the chunks.
  void finish(const DeviceOf& device, const Problem& problem, const Tensor& partial, const Tensor& sums) const {
    const int64_t numbers = problem.channels * kSums, count = problem.batch * numbers;
    launch("overlap_sums_of_chunks", sum_of_chunks_kernel<C>, device, blocks_for(count, kTileThreads),
           partial.const_data_ptr<double>(), geometry_.chunks, numbers, count, sums.mutable_data_ptr<C>());
  }

 private:
  Geometry geometry_{};
  Blocks blocks_{0, dim3(1, 1, 1), 0};
  std::optional<Tensor> global_;
};

template <class C>
Operands<C> operands_of(const Problem& problem, const Tensors& tensors) {
  return {stored_view<C>(tensors.inputs),
          stored_view<C>(tensors.targets),
          view_if<C>(tensors.direction1),
          view_if<C>(tensors.direction2),
          mutable_view_if<C>(tensors.grad_inputs),
          mutable_view_if<C>(tensors.grad_targets),
          nullptr,
          nullptr,
          problem.ignored<C>(),
          problem.activation,
          problem.squared,
          problem.classes};
}

struct TilesOnCuda {
  static void sums(const Problem& problem, const Tensors& tensors, const Tensor& result) {
    dispatch_compute(kOp, tensors.inputs.tensor.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const DeviceOf device(tensors.inputs.tensor);
      const TileLaunch<C, false> tiles(problem, tensors);
      const Tensor partial = tiles.partial(problem, tensors.inputs.tensor);
      Operands<C> operands = operands_of<C>(problem, tensors);
      operands.partial = partial.mutable_data_ptr<double>();
      tiles.template run<true>("overlap_sums", device, operands);
      tiles.finish(device, problem, partial, result);
    });
  }

  static void gradients(const Problem& problem, const Tensors& tensors, const Tensor& grad_output) {
    dispatch_compute(kOp, tensors.inputs.tensor.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Operands<C> operands = operands_of<C>(problem, tensors);
      operands.grad_sums = grad_output.const_data_ptr<C>();
      TileLaunch<C, false>(problem, tensors)
          .template run<false>("overlap_sums_backward", DeviceOf(tensors.inputs.tensor), operands);
    });
  }

  static void second(const Problem& problem, const Tensors& tensors, const Tensor& grad_output, const Tensor* sums) {
    dispatch_compute(kOp, tensors.inputs.tensor.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const DeviceOf device(tensors.inputs.tensor);
      const TileLaunch<C, true> tiles(problem, tensors);
      Operands<C> operands = operands_of<C>(problem, tensors);
      operands.grad_sums = grad_output.const_data_ptr<C>();
      std::optional<Tensor> partial;
      if (sums) {
        partial = tiles.partial(problem, tensors.inputs.tensor);
        operands.partial = partial->mutable_data_ptr<double>();
      }
      tiles.template run<false>("overlap_sums_double_backward", device, operands);
      if (sums) tiles.finish(device, problem, *partial, *sums);
    });
  }
};

}  // namespace
}  // namespace handgrad::overlap_sums

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  using Of = handgrad::overlap_sums::Entries<handgrad::overlap_sums::TilesOnCuda>;
  handgrad::implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, "overlap_sums");
}
