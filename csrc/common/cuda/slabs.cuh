// Slabs for kernels that mix channels, on the device: all channels of a few neighbouring positions of one sample.
//
// A block takes a slab into scratch memory: each element is read from global memory once, and what mixes channels reads
// the copy. The scratch is shared memory; where a slab of even one position is too large for that, it is a piece of
// global memory that belongs to the block. A slab has fewer than 2^31 elements either way, so that 32 bits count them.
//
// Threads walk a slab along whichever of channels and positions lies densely in memory, so that a warp reads whole
// sectors in NCHW and in channels_last alike.
//
// Types, in order of appearance: SlabPlan, how the work is cut; Cursor, an operand from a slab's first element on;
// Slab; SlabLaunch, the host's side.
#pragma once

#include "abi/channels.h"
#include "cuda/launch.cuh"
#include "cuda/stored.cuh"

namespace handgrad {

inline constexpr int kSlabThreads = 256;
// More channels than a slab can hold with 32-bit indices.
inline constexpr int64_t kMostSlabChannels = int64_t{1} << 28;

// How the work is cut, and how scratch arrays are laid out.
struct SlabPlan {
  int64_t positions, slabs_per_sample, slabs;
  // Positions of a slab, and channels.
  int32_t width, channels;
  // Channels of zeros on either side of the real ones.
  int32_t padding;
  // Elements of one scratch array, and what separates neighbours in it.
  int32_t pitch, channel_step, position_step;
  bool channels_innermost;
};

// Operands of a type that the kernel is compiled for.
template <class T>
struct InShared {
  using C = Compute<T>;
  using Input = View<const T, 3>;
  using Output = View<T, 3>;
  static Input input(const ChannelTensor& of) { return of.view<T>(); }
  static Output output(const ChannelTensor& of) { return of.mutable_view<T>(); }
  __device__ static C* scratch(const SlabPlan&, int, C*, C* shared) { return shared; }
  // How often loops of a kernel are unrolled.
  static constexpr int kUnroll = 4;
};

template <class Float>
struct InGlobal {
  using C = Float;
  using Input = StoredView<const C, 3>;
  using Output = StoredView<C, 3>;
  static Input input(const ChannelTensor& of) { return stored_view<C>(of); }
  static Output output(const ChannelTensor& of) { return mutable_stored_view<C>(of); }
  __device__ static C* scratch(const SlabPlan& plan, int arrays, C* global, C*) {
    return global + int64_t{blockIdx.x} * arrays * plan.pitch;
  }
  static constexpr int kUnroll = 1;
};

// An operand from the first channel and position of a slab on; and then an element of it.
template <class Pointer>
struct Cursor {
  Pointer element;
  int64_t channel_stride, position_stride;

  __device__ Cursor at(int32_t c, int32_t p) const {
    return {element + (c * channel_stride + p * position_stride), channel_stride, position_stride};
  }
};

template <class Access>
struct Slab {
  using C = typename Access::C;

  const SlabPlan& plan;
  C* scratch;
  int64_t sample, first;
  int32_t width;

  __device__ Slab(const SlabPlan& plan, int64_t index, C* scratch) : plan(plan), scratch(scratch) {
    sample = index / plan.slabs_per_sample;
    first = (index - sample * plan.slabs_per_sample) * plan.width;
    const int64_t rest = plan.positions - first;
    width = rest < plan.width ? static_cast<int32_t>(rest) : plan.width;
  }

  __device__ C* array(int which) const { return scratch + int64_t{which} * plan.pitch; }

  template <class AnyView>
  __device__ auto open(const AnyView& view) const {
    return Cursor<decltype(view.at(sample, 0, first))>{view.at(sample, 0, first), view.strides[1], view.strides[2]};
  }

  // body(index in a scratch array, element of each operand...) for each element, spread over the threads of the
  // block. A thread stays at one position and walks along its channels, so everything moves by constant steps.
  template <class Body, class... Pointer>
  __device__ void for_each(const Body& body, const Cursor<Pointer>&... operands) const {
    const int32_t along = plan.channels_innermost ? threadIdx.x : threadIdx.y;
    const int32_t step = plan.channels_innermost ? blockDim.x : blockDim.y;
    const int32_t across = plan.channels_innermost ? threadIdx.y : threadIdx.x;
    const int32_t across_step = plan.channels_innermost ? blockDim.y : blockDim.x;
    for (int32_t p = across; p < width; p += across_step) walk(p, along, step, body, operands.at(along, p)...);
  }

 private:
  template <class Body, class... Pointer>
  __device__ void walk(int32_t p, int32_t c, int32_t step, const Body& body, Cursor<Pointer>... operands) const {
    int32_t index = (plan.padding + c) * plan.channel_step + p * plan.position_step;
    for (; c < plan.channels; c += step) {
      body(index, operands.element...);
      index += step * plan.channel_step;
      ((operands.element += step * operands.channel_stride), ...);
    }
  }
};

// Zeros around the real channels of every array, once: nothing is written there later. The next barrier orders them.
template <class C>
__device__ void clear_padding(const SlabPlan& plan, int arrays, C* scratch) {
  const int32_t rows = 2 * plan.padding, count = rows * plan.width;
  for (int32_t i = threadIdx.y * blockDim.x + threadIdx.x; i < count; i += kSlabThreads) {
    const int32_t row = i / plan.width, p = i - row * plan.width;
    const int32_t c = row < plan.padding ? row : row + plan.channels;
    for (int which = 0; which < arrays; ++which) {
      scratch[int64_t{which} * plan.pitch + c * plan.channel_step + p * plan.position_step] = 0;
    }
  }
}

// Runs body(slab) for the slabs of this block; no thread begins the next before all have left the last.
template <class Access, class Body>
__device__ void for_each_slab(const SlabPlan& plan, int arrays, typename Access::C* global, typename Access::C* shared,
                              const Body& body) {
  auto* const scratch = Access::scratch(plan, arrays, global, shared);
  clear_padding(plan, arrays, scratch);
  for (int64_t index = blockIdx.x; index < plan.slabs; index += gridDim.x) {
    body(Slab<Access>(plan, index, scratch));
    __syncthreads();
  }
}

// The launch of one kernel for operands of T: its plan, its blocks, and its scratch if that is in global memory.
template <class T>
class SlabLaunch {
 public:
  using C = Compute<T>;

  SlabLaunch(const char* op, const ChannelTensor& input, int64_t padding, int arrays) {
    if (input.tensor.numel() == 0) return;
    HANDGRAD_CHECK(input.channels <= kMostSlabChannels, op,
                   ": input must have at most 2^28 channels on this device; got ", input.channels);
    const bool innermost = input.channels_innermost();
    const int64_t padded = input.channels + 2 * padding;
    // A row of 32 positions is a whole line of memory; 8 float32 are a whole sector, the least worth reading.
    const int64_t row = padded * arrays * static_cast<int64_t>(sizeof(C)), limit = shared_memory_limit();
    int64_t width = innermost ? std::max<int64_t>(1, 8 * kSlabThreads / input.channels) : 32;
    while (width > 1 && (width > input.positions || width * row > kSharedWithoutAsking)) width /= 2;
    if (!innermost && width < 8 && input.positions >= 8 && 8 * row <= limit) width = 8;

    const auto narrow = [](int64_t index) { return static_cast<int32_t>(index); };
    const int64_t slabs_per_sample = (input.positions + width - 1) / width;
    plan_ = {input.positions,
             slabs_per_sample,
             input.batch * slabs_per_sample,
             narrow(width),
             narrow(input.channels),
             narrow(padding),
             narrow(padded * width),
             narrow(innermost ? 1 : width),
             narrow(innermost ? padded : 1),
             innermost};

    int64_t along = kWarpSize;
    while (!innermost && along > width) along /= 2;
    blocks_.threads = dim3(static_cast<unsigned>(along), static_cast<unsigned>(kSlabThreads / along), 1);
    blocks_.count = std::min<int64_t>(plan_.slabs, INT32_MAX);
    if (width * row <= limit) {
      blocks_.shared_bytes = width * row;
    } else {
      blocks_.count = std::min(plan_.slabs, kGlobalScratchBlocks);
      global_memory_ = empty_vector<C>(blocks_.count * arrays * plan_.pitch, input.tensor);
    }
  }

  // Calls body with InShared<T>{} or InGlobal<C>{}: the instance of the kernel that is to be run.
  template <class Body>
  void dispatch(const Body& body) const {
    if (global_memory_) {
      body(InGlobal<C>{});
    } else {
      body(InShared<T>{});
    }
  }

  template <class Kernel, class... Arguments>
  void run(const char* name, const DeviceOf& device, Kernel kernel, const Arguments&... arguments) const {
    C* const memory = global_memory_ ? global_memory_->template mutable_data_ptr<C>() : nullptr;
    launch(name, kernel, device, blocks_, plan_, memory, arguments...);
  }

 private:
  SlabPlan plan_{};
  Blocks blocks_{0, dim3(1, 1, 1), 0};
  std::optional<Tensor> global_memory_;
};

}  // namespace handgrad
