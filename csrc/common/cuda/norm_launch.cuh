// The host's side of cuda/norm_rows.cuh: how rows are cut, and the launches.
#pragma once

#include "cuda/norm_rows.cuh"

namespace handgrad {
namespace detail {

// Teams of so many threads, and what they need for that.
template <class C>
void set_team(NormCut& cut, const NormViews<C>& views, int32_t team) {
  cut.team = team;
  cut.rows_of_block = kRowThreads / team;
  cut.steps = static_cast<int32_t>((views.channels + team - 1) / team);
  cut.tiles = (views.rows() + cut.rows_of_block - 1) / cut.rows_of_block;
  const int64_t own = cut.elements() * (cut.arrays * static_cast<int64_t>(sizeof(C)) + cut.sums * int64_t{8});
  cut.bytes = own + kNormChannelArrays * views.channels * static_cast<int64_t>(sizeof(C));
  cut.bytes = (cut.bytes + 15) / 16 * 16;
}

template <class C>
NormCut cut_of(const NormViews<C>& views, RowPass pass) {
  NormCut cut{};
  cut.arrays = static_cast<int32_t>(pass) + 1;
  const bool both = pass == RowPass::gradient;
  cut.sums = views.grad_weight || views.grad_bias ? (both ? 2 : 1) : 0;
  cut.innermost = views.channels_innermost();
  // Rows of a whole line of memory; no fewer than a sector has.
  int32_t team = kRowThreads / kWarpSize, most = kWarpSize;
  if (cut.innermost) {
    team = views.channels >= 8 * kRowThreads ? kRowThreads : 1;
    while (team < kWarpSize && team < views.channels) team *= 2;
    most = team;
  }
  set_team(cut, views, team);
  while (team < most && cut.bytes > kNormScratch) set_team(cut, views, team *= 2);
  return cut;
}

template <RowPass Pass, class C, bool Centred>
void launch_norm(const std::string& op, const NormOperands& operands, double eps) {
  const NormViews<C> views(operands);
  const Tensor& model = operands.input.tensor;
  HANDGRAD_CHECK(views.channels <= kMostSlabChannels, op,
                 ": input must have at most 2^28 channels on this device; got ", views.channels);
  const DeviceOf device(model);
  NormCut cut = cut_of(views, Pass);
  const int64_t limit = shared_memory_limit() - 4 * kRowThreads * static_cast<int64_t>(sizeof(C));
  const bool shared = cut.bytes <= limit;
  int64_t blocks = std::min<int64_t>(cut.tiles, INT32_MAX);
  if (cut.sums > 0 || !shared) blocks = std::min(blocks, kNormBlocks);
  std::optional<Tensor> scratch, partial;
  if (!shared) {
    scratch = empty_vector<double>(blocks * cut.bytes / 8, model);
    cut.global = static_cast<unsigned char*>(scratch->mutable_data_ptr());
  }
  if (cut.sums > 0) {
    partial = empty_vector<double>(blocks * cut.sums * views.channels, model);
    cut.partial = partial->mutable_data_ptr<double>();
  }
  launch(op.c_str(), norm_rows_kernel<C, Centred, Pass>, device,
         {blocks, dim3(kRowThreads, 1, 1), shared ? cut.bytes : 0}, views, cut,
         ChannelNorm<C, Centred>(eps, views.channels));
  if (cut.sums == 0) return;
  const int64_t sums = cut.sums * views.channels;
  launch("norm_sums", norm_sums_kernel<C>, device, {sums, dim3(kSumThreads, 1, 1)}, cut.partial, blocks, sums,
         views.channels, views.grad_weight, views.grad_bias);
}

}  // namespace detail

// What host entries that serve several devices call (kinds/channel_norm.h).
struct NormOnCuda {
  template <class C, bool Centred>
  static void for_each_row(const char* name, RowPass pass, const NormOperands& operands, double eps) {
    const std::string op = name;
    if (pass == RowPass::value) {
      detail::launch_norm<RowPass::value, C, Centred>(op, operands, eps);
    } else if (pass == RowPass::gradient) {
      detail::launch_norm<RowPass::gradient, C, Centred>(op + "_backward", operands, eps);
    } else {
      detail::launch_norm<RowPass::second, C, Centred>(op + "_double_backward", operands, eps);
    }
  }
};

}  // namespace handgrad
