// Slabs for kernels that mix channels: all channels of a few neighbouring positions of one sample, few enough for the
// cache.
//
// A slab is one flat array in which channel c of position p stands at c * width + p, so "the next channel" is always
// `width` elements on. channels_last memory is the same thing with a width of 1, read without rearranging.
#pragma once

#include "abi/channels.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/stored.h"

namespace handgrad {

// Bytes of one array of a slab: eight of them fit a second-level cache of 256 KiB.
inline constexpr int64_t kSlabBytes = 24 * 1024;
// A slab's arrays may be read by so many elements beyond their end.
inline constexpr int64_t kSlabLanes = 64;

// How a tensor is cut into slabs; with `padding` channels of zeros on either side of the real ones.
struct SlabPlan {
  int64_t channels, positions, padding, width, slabs_per_sample, slabs;

  SlabPlan(const ChannelTensor& input, int64_t padding, int64_t element_bytes)
      : channels(input.channels), positions(input.positions), padding(padding) {
    width = 1;
    if (!input.channels_innermost()) {
      // Whole cache lines of 64 bytes, as many as fit.
      const int64_t line = 64 / element_bytes;
      const int64_t fitting = kSlabBytes / element_bytes / std::max<int64_t>(1, channels) / line * line;
      width = std::max<int64_t>(1, std::min(positions, std::max(line, fitting)));
    }
    slabs_per_sample = (positions + width - 1) / width;
    slabs = input.tensor.numel() == 0 ? 0 : input.batch * slabs_per_sample;
  }
};

// One slab of one thread: which positions it covers, and the buffers they are worked on in.
template <class C>
class Slab {
 public:
  Slab(const SlabPlan& plan, int64_t buffers) : plan_(plan) {
    const int64_t elements = (plan.channels + 2 * plan.padding) * plan.width;
    // Room for the last, partly used group of lanes, then up to whole cache lines.
    pitch_ = (elements + kSlabLanes + 63) / 64 * 64;
    memory_.resize(static_cast<size_t>(pitch_ * buffers));
  }

  void move_to(int64_t index) {
    sample_ = index / plan_.slabs_per_sample;
    first_ = index % plan_.slabs_per_sample * plan_.width;
    width_ = std::min(plan_.width, plan_.positions - first_);
  }

  int64_t width() const { return width_; }
  int64_t count() const { return plan_.channels * width_; }

  C* buffer(int64_t which) { return memory_.data() + which * pitch_; }
  // A buffer with zero channels around the returned first real element.
  C* padded_buffer(int64_t which) {
    C* begin = buffer(which);
    const int64_t pad = plan_.padding * width_;
    std::fill(begin, begin + pad, C(0));
    std::fill(begin + pad + count(), begin + pitch_, C(0));
    return begin + pad;
  }

  void load(const StoredView<const C, 3>& from, C* to) const {
    for_each_run(from, [&](const auto* run, int64_t offset, int64_t count, int64_t stride) {
      load_run(run, stride, count, to + offset);
    });
  }

  void store(const C* from, const StoredView<C, 3>& to) const {
    for_each_run(to, [&](auto* run, int64_t offset, int64_t count, int64_t stride) {
      store_run(from + offset, count, run, stride);
    });
  }

 private:
  // step(first element in memory, its index in the slab, count, stride): a run is a channel, or all of them at once.
  template <class P, class Step>
  void for_each_run(const StoredView<P, 3>& view, const Step& step) const {
    dispatch_storage<C>(view.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      auto* const base = view.first.template as<T>() + sample_ * view.strides[0] + first_ * view.strides[2];
      if (width_ == 1) {
        step(base, int64_t{0}, plan_.channels, view.strides[1]);
      } else {
        for (int64_t c = 0; c < plan_.channels; ++c) {
          step(base + c * view.strides[1], c * width_, width_, view.strides[2]);
        }
      }
    });
  }

  const SlabPlan& plan_;
  int64_t sample_ = 0, first_ = 0, width_ = 0, pitch_ = 0;
  ScratchVector<C> memory_;
};

// work(slab) for every slab of the plan, on all threads; `buffers` is how many arrays a slab needs.
template <class C, class Work>
void for_each_slab(const SlabPlan& plan, int64_t buffers, const Work& work) {
  parallel_for(plan.slabs, plan.channels * plan.width, [&](int64_t begin, int64_t end) {
    Slab<C> slab(plan, buffers);
    for (int64_t index = begin; index < end; ++index) {
      slab.move_to(index);
      work(slab);
    }
  });
}

}  // namespace handgrad
