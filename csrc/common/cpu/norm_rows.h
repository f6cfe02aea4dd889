// A normalisation over channels on the CPU: the work of a thread on rows, in tiles or one by one (cpu/norm_loops.h),
// and how it is cut.
//
// Nothing is kept from pass to pass: the moments cost less to take again, from the cache, than to load. Gradients of
// the weight and of the bias are summed in C over a few blocks of rows, those in double, and chunks of blocks in their
// order: the bounds of a chunk depend on the shape alone, and so no sum on the number of threads.
#pragma once

#include <vector>

#include "cpu/norm_loops.h"
#include "cpu/norm_operands.h"

namespace handgrad {

// Sums of channels are taken in at most so many parts; of each, so many blocks at once in C.
inline constexpr int64_t kNormChunks = 64, kNormFlush = 16;
// Of fewer channels than this most lanes of a vector are empty; then rows are worked on side by side.
inline constexpr int64_t kFewestChannelsAlong = 8;

// What both ways of working share: the tensors of channels, and the sums.
template <class C, bool Centred>
class NormWorker {
 public:
  NormWorker(const NormViews<C>& views, const RowPlan& plan, int64_t lanes)
      : views_(views), plan_(plan), lanes_(lanes) {
    weight_ = of_channels(views.weight, C(1));
    bias_ = of_channels(views.bias, C(0));
    direction_weight_ = of_channels(views.direction_weight, C(0));
    direction_bias_ = of_channels(views.direction_bias, C(0));
    if (!views.grad_weight && !views.grad_bias) return;
    for (auto* sums : {&sums_weight_, &sums_bias_}) sums->assign(static_cast<size_t>(plan.classes * lanes), C(0));
  }

  // Adds what has been summed to `weight` and `bias`, [C] each, and begins anew.
  void flush(double* weight, double* bias) {
    add(sums_weight_, weight);
    add(sums_bias_, bias);
  }

 protected:
  C* sums_weight() { return sums_weight_.empty() ? nullptr : sums_weight_.data(); }
  C* sums_bias() { return sums_bias_.empty() ? nullptr : sums_bias_.data(); }

  const NormViews<C>& views_;
  const RowPlan& plan_;
  ScratchVector<C> memory_, weight_, bias_, direction_weight_, direction_bias_;

 private:
  ScratchVector<C> of_channels(const View<const C, 1>& view, C otherwise) const {
    ScratchVector<C> values(static_cast<size_t>(plan_.classes), otherwise);
    for (int64_t c = 0; view && c < plan_.classes; ++c) values[static_cast<size_t>(c)] = *view.at(c);
    return values;
  }

  void add(ScratchVector<C>& sums, double* totals) const {
    for (int64_t c = 0; c < plan_.classes; ++c) {
      const C* lanes = sums.data() + c * lanes_;
      totals[c] += static_cast<double>(lanes_ == 1 ? *lanes : folded(lanes, [](C a, C b) { return a + b; }));
    }
    std::fill(sums.begin(), sums.end(), C(0));
  }

  int64_t lanes_;
  ScratchVector<C> sums_weight_, sums_bias_;
};

// Rows side by side: lanes are positions.
template <class C, bool Centred>
class NormTiles : public NormWorker<C, Centred> {
  using Base = NormWorker<C, Centred>;
  using Base::views_, Base::plan_, Base::memory_, Base::weight_, Base::bias_, Base::direction_weight_,
      Base::direction_bias_;

 public:
  NormTiles(const NormViews<C>& views, const RowPlan& plan, const ChannelNorm<C, Centred>& norm, RowPass pass)
      : Base(views, plan, kRowLanes),
        tile_{norm, plan.classes, plan.stride()},
        ones_(static_cast<size_t>(plan.classes), C(1)) {
    const int64_t arrays = static_cast<int64_t>(pass) + 1, room = (plan.elements() + 63) / 64 * 64;
    memory_.resize(static_cast<size_t>(arrays * room));
    C** const pointers[] = {&x_, &g_, &v_};
    for (int64_t k = 0; k < arrays; ++k) *pointers[k] = memory_.data() + k * room;
  }

  void work(RowPass pass, const RowRun& run) {
    load_rows(plan_, views_.input, run, C(0), x_);
    if (pass != RowPass::value) load_rows(plan_, views_.grad_output, run, C(0), g_);
    if (pass == RowPass::second) load_direction(run);
    for (int64_t first = 0; first < run.count; first += kRowLanes) {
      // Of the next block what is read, of this one what will be written.
      fetch_tile<false>(plan_, views_.input, run.sample, run.first + run.count + first);
      if (pass != RowPass::value) {
        fetch_tile<false>(plan_, views_.grad_output, run.sample, run.first + run.count + first);
        fetch_tile<true>(plan_, views_.grad_input, run.sample, run.first + first);
      }
      if (pass == RowPass::value) fetch_tile<true>(plan_, views_.output, run.sample, run.first + first);
      TileMoments<C> row;
      tile_.find_moments(x_ + first, std::min(kRowLanes, run.count - first), row);
      if (pass == RowPass::value) {
        tile_.value(x_ + first, row, weight_.data(), bias_.data());
      } else if (pass == RowPass::gradient) {
        gradient(first, row);
      } else {
        second(first, row);
      }
    }
    if (pass == RowPass::value) store_rows(plan_, x_, run, views_.output);
    if (pass == RowPass::second && views_.output) store_rows(plan_, v_, run, views_.output);
    if (pass != RowPass::value && views_.grad_input) store_rows(plan_, g_, run, views_.grad_input);
  }

 private:
  void load_direction(const RowRun& run) {
    if (views_.direction_input) {
      load_rows(plan_, views_.direction_input, run, C(0), v_);
    } else {
      std::fill(v_, v_ + plan_.elements(), C(0));
    }
  }

  void gradient(int64_t first, const TileMoments<C>& row) {
    if (this->sums_weight()) {
      tile_.add_to_channels(x_ + first, g_ + first, row, this->sums_weight(), this->sums_bias());
    }
    if (!views_.grad_input) return;
    alignas(kCacheLine) C means[kRowLanes], means_z[kRowLanes];
    tile_.weigh(g_ + first, weight_.data());
    tile_.find_means(x_ + first, g_ + first, row, ones_.data(), means, means_z);
    tile_.gradient(x_ + first, g_ + first, row, means, means_z);
  }

  void second(int64_t first, const TileMoments<C>& row) {
    TileMeans<C> means;
    const C *weight = weight_.data(), *direction = direction_weight_.data();
    tile_.find_second_means(x_ + first, g_ + first, v_ + first, row, ones_.data(), weight, direction, means);
    if (this->sums_weight()) {
      tile_.add_second_to_channels(x_ + first, g_ + first, v_ + first, row, means, this->sums_weight());
    }
    tile_.second(x_ + first, g_ + first, v_ + first, row, means, weight, direction, direction_bias_.data());
  }

  const NormTile<C, Centred> tile_;
  const ScratchVector<C> ones_;
  C *x_ = nullptr, *g_ = nullptr, *v_ = nullptr;
};

// Row after row: lanes are channels. What is of C is read and written where it lies.
template <class C, bool Centred>
class NormRows : public NormWorker<C, Centred> {
  using Base = NormWorker<C, Centred>;
  using Base::views_, Base::plan_, Base::memory_, Base::weight_, Base::bias_, Base::direction_weight_,
      Base::direction_bias_;

 public:
  NormRows(const NormViews<C>& views, const RowPlan& plan, const ChannelNorm<C, Centred>& norm, RowPass)
      : Base(views, plan, 1), row_{norm, plan.classes}, room_((plan.classes + 63) / 64 * 64) {
    memory_.resize(static_cast<size_t>(5 * room_));
  }

  void work(RowPass pass, const RowRun& run) {
    for (int64_t position = run.first; position < run.first + run.count; ++position) {
      const C* const x = source(views_.input, run.sample, position, 0);
      C* const to = target(views_.output, run.sample, position, 3);
      C* const grad = target(views_.grad_input, run.sample, position, 4);
      if (pass == RowPass::value) {
        row_.value(x, weight_.data(), bias_.data(), to);
      } else {
        const C* const g = source(views_.grad_output, run.sample, position, 1);
        if (pass == RowPass::gradient) {
          row_.gradient(x, g, weight_.data(), this->sums_weight(), this->sums_bias(), grad);
        } else {
          const C* const v = source(views_.direction_input, run.sample, position, 2);
          row_.second(x, g, v, weight_.data(), direction_weight_.data(), direction_bias_.data(), this->sums_weight(),
                      to, grad);
        }
      }
      store(to, views_.output, run.sample, position);
      store(grad, views_.grad_input, run.sample, position);
    }
  }

 private:
  C* scratch(int64_t which) { return memory_.data() + which * room_; }
  template <class P>
  static bool is_in_place(const StoredView<P, 3>& view) {
    return view.first.is_computed_in() && view.strides[1] == 1;
  }
  // A row to read; zeros where there is no tensor.
  const C* source(const StoredView<const C, 3>& view, int64_t sample, int64_t position, int64_t which) {
    if (!view) return scratch(which);
    const Stored<const C> row = view.at(sample, 0, position);
    if (is_in_place(view)) return row.in_place();
    load_run(row, view.strides[1], plan_.classes, scratch(which));
    return scratch(which);
  }
  // Memory for a row to be written; none where there is no tensor.
  C* target(const StoredView<C, 3>& view, int64_t sample, int64_t position, int64_t which) {
    if (!view) return nullptr;
    return is_in_place(view) ? view.at(sample, 0, position).in_place() : scratch(which);
  }
  void store(const C* from, const StoredView<C, 3>& view, int64_t sample, int64_t position) {
    if (from && !is_in_place(view)) store_run(from, plan_.classes, view.at(sample, 0, position), view.strides[1]);
  }

  const NormRow<C, Centred> row_;
  int64_t room_;
};

namespace detail {

template <class Worker, class C, bool Centred>
void run_norm(RowPass pass, const NormViews<C>& views, const RowPlan& plan, const ChannelNorm<C, Centred>& norm) {
  const int64_t chunks = std::min(plan.blocks, kNormChunks), channels = views.channels;
  const bool sums = views.grad_weight || views.grad_bias;
  std::vector<double> partial(static_cast<size_t>(sums ? 2 * chunks * channels : 0));
  parallel_for(chunks, views.rows() * channels / chunks, [&](int64_t begin, int64_t end) {
    Worker worker(views, plan, norm, pass);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first_block = plan.blocks * chunk / chunks, last_block = plan.blocks * (chunk + 1) / chunks;
      double* const totals = partial.data() + (sums ? 2 * chunk * channels : 0);
      for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t sample = block / plan.blocks_per_sample, first = block % plan.blocks_per_sample * plan.width;
        worker.work(pass, {sample, first, std::min(plan.width, plan.positions - first), chunk});
        const bool full = (block - first_block) % kNormFlush == kNormFlush - 1;
        if (sums && (full || block + 1 == last_block)) worker.flush(totals, totals + channels);
      }
    }
  });
  C* const results[] = {views.grad_weight, views.grad_bias};
  for (int64_t which = 0; which < 2; ++which) {
    for (int64_t c = 0; results[which] && c < channels; ++c) {
      double total = 0;
      for (int64_t k = 0; k < chunks; ++k) total += partial[static_cast<size_t>((2 * k + which) * channels + c)];
      results[which][c] = static_cast<C>(total);
    }
  }
}

}  // namespace detail

// What host entries that serve several devices call (kinds/channel_norm.h).
struct NormOnCpu {
  template <class C, bool Centred>
  static void for_each_row(const char*, RowPass pass, const NormOperands& operands, double eps) {
    const NormViews<C> views(operands);
    const ChannelNorm<C, Centred> norm(eps, views.channels);
    const bool along = views.channels_innermost() && views.channels >= kFewestChannelsAlong;
    const RowPlan plan(views.batch, views.channels, views.positions, along, static_cast<int64_t>(sizeof(C)));
    if (along) {
      detail::run_norm<NormRows<C, Centred>>(pass, views, plan, norm);
    } else {
      detail::run_norm<NormTiles<C, Centred>>(pass, views, plan, norm);
    }
  }
};

}  // namespace handgrad
