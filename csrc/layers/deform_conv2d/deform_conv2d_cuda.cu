// Deformable convolution on CUDA devices.
//
// Output positions of all images in a row are cut into chunks. For a chunk the samples are written as a matrix, the
// columns, (channel, tap) x position, and the weight is applied by torch's matmul; the chunk is as long as a fixed
// amount of memory allows. A thread samples all channels of one offset group at one tap and position, neighbouring
// threads neighbouring positions: so what it sums over channels, the gradients of offset and mask, needs no other
// thread and has one order.
//
// The gradient of the input is a scatter. By default it is atomic; if asked for, one thread adds what belongs to one
// channel of an image in the order of positions and taps: slower, and the same to the bit on every run.
#include <algorithm>

#include "abi/registration.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "deform_conv2d_host.h"

#if defined(HANDGRAD_EMULATED)
#include "cpu/matmul.h"
#else
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#endif

namespace handgrad {
namespace {

using namespace deform_conv2d;

constexpr int kThreads = 256;
// Bytes of all matrices of a chunk together.
constexpr int64_t kChunkBytes = int64_t{64} << 20;

// Positions [begin, begin + count) of all images in a row.
struct Chunk {
  int64_t begin, count;
};

// out = a b, or out += a b, for each group: three-dimensional views of memory of type C on the device.
inline void matmul_groups(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
#if defined(HANDGRAD_EMULATED)
  // The CPU's matmul stands in for the device's. Inside a parallel region it takes one thread, so that its result does
  // not depend on how many there are; a batched one would take more even there.
  torch::stable::parallel_for(0, 2, 1, [&](int64_t begin, int64_t) {
    for (int64_t group = 0; begin == 0 && group < out.size(0); ++group) {
      cpu_matmul(torch::stable::select(out, 0, group), torch::stable::select(a, 0, group),
                 torch::stable::select(b, 0, group), accumulate);
    }
  });
#else
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cuda_baddbmm_out(out.get(), out.get(), a.get(), b.get(), accumulate ? 1.0 : 0.0, 1.0));
#endif
}

// `groups` matrices of memory of an empty_vector, one behind the other.
template <class C>
Tensor matrices(const Tensor& memory, int64_t groups, int64_t rows, int64_t columns, bool transposed) {
  int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(memory.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(memory.get(), &device_index));
  const int64_t sizes[3] = {groups, rows, columns};
  const int64_t strides[3] = {rows * columns, transposed ? 1 : columns, transposed ? rows : 1};
  const int32_t dtype = sizeof(C) == sizeof(double) ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(memory.mutable_data_ptr(), 3, sizes, strides, 0,
                                                                   dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

// ---- kernels
// ---------------------------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    widen_weight_kernel(Geometry at, Field<const T> from, Compute<T>* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= at.out_channels * at.group_channels * at.taps) return;
  const int64_t t = i % at.taps, c = i / at.taps % at.group_channels, o = i / at.taps / at.group_channels;
  store(to + i, widen(load(from.at(o, c, t / at.kernel_w, t % at.kernel_w))));
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    narrow_weight_kernel(Geometry at, const Compute<T>* from, Field<T> to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= at.out_channels * at.group_channels * at.taps) return;
  const int64_t t = i % at.taps, c = i / at.taps % at.group_channels, o = i / at.taps / at.group_channels;
  store(to.at(o, c, t / at.kernel_w, t % at.kernel_w), narrow<T>(load(from + i)));
}

// A chunk of the output's gradient as a matrix, channel x position.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    load_chunk_kernel(Geometry at, Chunk chunk, Field<const T> from, Compute<T>* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= at.out_channels * chunk.count) return;
  const int64_t o = i / chunk.count, position = chunk.begin + i % chunk.count, p = position % at.positions;
  store(to + i, widen(load(from.at(position / at.positions, o, p / at.out_w, p % at.out_w))));
}

// And back, with the bias added.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    store_chunk_kernel(Geometry at, Chunk chunk, const Compute<T>* from, const T* bias, int64_t bias_stride,
                       Field<T> to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= at.out_channels * chunk.count) return;
  const int64_t o = i / chunk.count, position = chunk.begin + i % chunk.count, p = position % at.positions;
  const Compute<T> value = load(from + i) + (bias ? widen(load(bias + o * bias_stride)) : Compute<T>(0));
  store(to.at(position / at.positions, o, p / at.out_w, p % at.out_w), narrow<T>(value));
}

template <class T>
struct Sampled {
  Field<const T> input, offset, mask;
  bool has_mask;
};

// One offset group, tap and position of a chunk: where it looks.
template <class T>
struct Look {
  using C = Compute<T>;
  int64_t image, group, tap, in_chunk, out_y, out_x;
  C mask;
  BilinearSample<C> sample;

  __device__ Look(const Geometry& at, const Chunk& chunk, const Sampled<T>& on, int64_t i)
      : Look(at, on, i % chunk.count, (chunk.begin + i % chunk.count) / at.positions,
             (chunk.begin + i % chunk.count) % at.positions, i / chunk.count % at.taps, i / chunk.count / at.taps) {}

  __device__ Look(const Geometry& at, const Sampled<T>& on, int64_t in_chunk, int64_t image, int64_t p, int64_t tap,
                  int64_t group)
      : image(image),
        group(group),
        tap(tap),
        in_chunk(in_chunk),
        out_y(p / at.out_w),
        out_x(p % at.out_w),
        mask(on.has_mask ? widen(load(on.mask.at(image, group * at.taps + tap, out_y, out_x))) : C(1)),
        sample(static_cast<C>(at.base_y(tap, out_y)) +
                   widen(load(on.offset.at(image, 2 * (group * at.taps + tap), out_y, out_x))),
               static_cast<C>(at.base_x(tap, out_x)) +
                   widen(load(on.offset.at(image, 2 * (group * at.taps + tap) + 1, out_y, out_x))),
               at.height, at.width) {}

  template <class U>
  __device__ C corner(const Field<const U>& of, int64_t c, int q) const {
    return sample.has(q) ? widen(load(of.at(image, c, sample.row + q / 2, sample.column + q % 2))) : C(0);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    columns_kernel(Geometry at, Chunk chunk, Sampled<T> on, Compute<T>* columns) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= at.offset_groups * at.taps * chunk.count) return;
  const Look<T> look(at, chunk, on, i);
  const int64_t first = look.group * at.offset_channels;
  for (int64_t c = first; c < first + at.offset_channels; ++c) {
    C value = 0;
    for (int q = 0; q < 4; ++q) value += look.sample.weight(q, look.mask) * look.corner(on.input, c, q);
    store(columns + (c * at.taps + look.tap) * chunk.count + look.in_chunk, value);
  }
}

// What the double backward has beside: the directions, of which those that are None have no data, and the gradient h of
// the columns with respect to grad_grad_weight.
template <class T>
struct Moved {
  Field<const T> input, offset, mask;
  const Compute<T>* h_columns;
  Compute<T>* columns;

  using C = Compute<T>;
  // How one sample's offset and mask move.
  __device__ void load_at(const Look<T>& look, int64_t plane, C& vy, C& vx, C& vm) const {
    if (offset.data) {
      vy = widen(load(offset.at(look.image, 2 * plane, look.out_y, look.out_x)));
      vx = widen(load(offset.at(look.image, 2 * plane + 1, look.out_y, look.out_x)));
    }
    if (mask.data) vm = widen(load(mask.at(look.image, plane, look.out_y, look.out_x)));
  }
  __device__ C h_at(int64_t place) const { return h_columns ? load(h_columns + place) : C(0); }
};

// The columns once more, and the gradients of offset and mask; for Second the changed columns too. What is not asked
// for is null. In double that takes more registers than two blocks leave each other.
template <class T, bool Second>
__global__ void __launch_bounds__(kThreads, Second ? 1 : kMinBlocks)
    differentiate_kernel(Geometry at, Chunk chunk, Sampled<T> on, Moved<T> moved, const Compute<T>* grad_columns,
                         Compute<T>* columns, Field<T> grad_offset, Field<T> grad_mask) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= at.offset_groups * at.taps * chunk.count) return;
  const Look<T> look(at, chunk, on, i);
  const int64_t plane = look.group * at.taps + look.tap;
  C vy = 0, vx = 0, vm = 0;
  if constexpr (Second) moved.load_at(look, plane, vy, vx, vm);
  C of_input[4] = {}, of_moved[4] = {}, of_weight[4] = {};
  const int64_t first = look.group * at.offset_channels;
  for (int64_t c = first; c < first + at.offset_channels; ++c) {
    const int64_t place = (c * at.taps + look.tap) * chunk.count + look.in_chunk;
    const C g = grad_columns ? load(grad_columns + place) : C(0), h = Second ? moved.h_at(place) : C(0);
    C value = 0, change = 0;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const C x = look.corner(on.input, c, q), weight = look.sample.weight(q, look.mask);
      value += weight * x;
      of_input[q] += g * x;
      if constexpr (Second) {
        const C v = moved.input.data ? look.corner(moved.input, c, q) : C(0);
        change += look.sample.moved_weight(q, look.mask, vy, vx, vm) * x + weight * v;
        of_moved[q] += g * v;
        of_weight[q] += h * x;
      }
    }
    if (columns) store(columns + place, value);
    if (Second && moved.columns) store(moved.columns + place, change);
  }
  C grad_y, grad_x, grad_m;
  if constexpr (Second) {
    grad_y = look.sample.grad_y_twice(look.mask, vx, vm, of_input, of_moved, of_weight);
    grad_x = look.sample.grad_x_twice(look.mask, vy, vm, of_input, of_moved, of_weight);
    grad_m = look.sample.grad_mask_twice(vy, vx, of_input, of_moved, of_weight);
  } else {
    grad_y = look.sample.grad_y(look.mask, of_input);
    grad_x = look.sample.grad_x(look.mask, of_input);
    grad_m = look.sample.grad_mask(of_input);
  }
  if (grad_offset.data) {
    store(grad_offset.at(look.image, 2 * plane, look.out_y, look.out_x), narrow<T>(grad_y));
    store(grad_offset.at(look.image, 2 * plane + 1, look.out_y, look.out_x), narrow<T>(grad_x));
  }
  if (grad_mask.data) store(grad_mask.at(look.image, plane, look.out_y, look.out_x), narrow<T>(grad_m));
}

// What one sample adds to channel c of its corners; add(element, value).
template <class T, bool Second, class Add>
__device__ void scatter(const Geometry& at, const Chunk& chunk, const Moved<T>& moved, const Look<T>& look,
                        const Compute<T>* grad_columns, int64_t c, const Field<Compute<T>>& grad_input,
                        const Add& add) {
  using C = Compute<T>;
  const int64_t place = (c * at.taps + look.tap) * chunk.count + look.in_chunk;
  const C g = load(grad_columns + place), h = Second ? moved.h_at(place) : C(0);
  C vy = 0, vx = 0, vm = 0;
  if constexpr (Second) moved.load_at(look, look.group * at.taps + look.tap, vy, vx, vm);
  for (int q = 0; q < 4; ++q) {
    if (!look.sample.has(q)) continue;
    C value = look.sample.weight(q, look.mask) * (Second ? h : g);
    if constexpr (Second) value += look.sample.moved_weight(q, look.mask, vy, vx, vm) * g;
    add(grad_input.at(look.image, c, look.sample.row + q / 2, look.sample.column + q % 2), value);
  }
}

template <class T, bool Second>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    scatter_kernel(Geometry at, Chunk chunk, Sampled<T> on, Moved<T> moved, const Compute<T>* grad_columns,
                   Field<Compute<T>> grad_input) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= at.offset_groups * at.taps * chunk.count) return;
  const Look<T> look(at, chunk, on, i);
  const int64_t first = look.group * at.offset_channels;
  for (int64_t c = first; c < first + at.offset_channels; ++c) {
    scatter<T, Second>(at, chunk, moved, look, grad_columns, c, grad_input,
                       [](C* element, C value) { atomicAdd(element, value); });
  }
}

// A thread for each channel of each image that the chunk touches: an order of its own for every sum.
template <class T, bool Second>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    scatter_in_order_kernel(Geometry at, Chunk chunk, Sampled<T> on, Moved<T> moved, const Compute<T>* grad_columns,
                            Field<Compute<T>> grad_input) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t image = chunk.begin / at.positions + i / at.channels, c = i % at.channels;
  const int64_t first = image * at.positions, last = first + at.positions, end = chunk.begin + chunk.count;
  for (int64_t position = first > chunk.begin ? first : chunk.begin; position < (last < end ? last : end); ++position) {
    for (int64_t t = 0; t < at.taps; ++t) {
      const Look<T> look(at, on, position - chunk.begin, image, position - first, t, c / at.offset_channels);
      scatter<T, Second>(at, chunk, moved, look, grad_columns, c, grad_input,
                         [](C* element, C value) { store(element, load(element) + value); });
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    narrow_input_kernel(Geometry at, Field<Compute<T>> from, Field<T> to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= at.batch * at.channels * at.height * at.width) return;
  const int64_t x = i % at.width, y = i / at.width % at.height, plane = i / at.width / at.height;
  const int64_t n = plane / at.channels, c = plane % at.channels;
  store(to.at(n, c, y, x), narrow<T>(load(from.at(n, c, y, x))));
}

// The bias' gradient over a chunk, one thread for each channel, positions in order.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sum_bias_kernel(Geometry at, Chunk chunk, const C* grads, C* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t o = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (o >= at.out_channels) return;
  C sum = 0;
  for (int64_t i = 0; i < chunk.count; ++i) sum += load(grads + o * chunk.count + i);
  store(sums + o, load(sums + o) + sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks) narrow_bias_kernel(Geometry at, const Compute<T>* sums, T* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t o = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (o < at.out_channels) store(to + o, narrow<T>(load(sums + o)));
}

// ---- host entries
// ----------------------------------------------------------------------------------------------------

Blocks blocks_for(int64_t threads) { return {(threads + kThreads - 1) / kThreads, dim3(kThreads, 1, 1), 0}; }

// body(chunk) for chunks that need `rows` numbers for each position.
template <class C, class Body>
void for_each_chunk(const Geometry& at, int64_t rows, const Body& body) {
  const int64_t positions = at.batch * at.positions, bytes = rows * static_cast<int64_t>(sizeof(C));
  const int64_t most = std::max<int64_t>(1024, kChunkBytes / bytes);
  for (int64_t begin = 0; begin < positions; begin += most) body(Chunk{begin, std::min(most, positions - begin)});
}

template <class T>
Tensor widened_weight(const Geometry& at, const DeviceOf& device, const Tensor& weight) {
  const int64_t count = at.out_channels * at.group_channels * at.taps;
  const Tensor to = empty_vector<Compute<T>>(count, weight);
  launch("widen_weight", widen_weight_kernel<T>, device, blocks_for(count), at, field<T>(weight),
         to.mutable_data_ptr<Compute<T>>());
  return to;
}

Tensor deform_conv2d_cuda(const Tensor& input, const Tensor& offset, const Tensor& weight,
                          const std::optional<Tensor>& bias, const std::optional<Tensor>& mask, int64_t stride_h,
                          int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h,
                          int64_t dilation_w) {
  const Geometry at = check_arguments(input, offset, weight, bias, mask,
                                      {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  const Tensor output = empty_output(at, input);
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Sampled<T> on{field<T>(input), field<T>(offset), field<T>(mask ? *mask : offset), mask.has_value()};
    const int64_t width = at.group_channels * at.taps;
    const Tensor w = widened_weight<T>(at, device, weight);
    const Tensor w_matrices = matrices<C>(w, at.groups, at.group_out, width, false);
    for_each_chunk<C>(at, at.channels * at.taps + at.out_channels, [&](const Chunk& chunk) {
      const Tensor columns = empty_vector<C>(at.channels * at.taps * chunk.count, input);
      const Tensor result = empty_vector<C>(at.out_channels * chunk.count, input);
      launch("deform_conv2d_columns", columns_kernel<T>, device, blocks_for(at.offset_groups * at.taps * chunk.count),
             at, chunk, on, columns.mutable_data_ptr<C>());
      matmul_groups(matrices<C>(result, at.groups, at.group_out, chunk.count, false), w_matrices,
                    matrices<C>(columns, at.groups, width, chunk.count, false), false);
      launch("deform_conv2d_store", store_chunk_kernel<T>, device, blocks_for(at.out_channels * chunk.count), at, chunk,
             result.const_data_ptr<C>(), bias ? bias->const_data_ptr<T>() : nullptr, bias ? bias->strides()[0] : 0,
             mutable_field<T>(output));
    });
  });
  return output;
}

// The tensors of a backward or double backward.
struct Tensors {
  const Tensor &grad_output, &input, &offset, &weight;
  const std::optional<Tensor>& mask;
  const Directions& along;
  const Gradients& to;
};

// Backward, and for Second the double backward: chunk by chunk, the gradient of the columns, what is made of the
// samples, and from these the gradients of the weight and of grad_output.
template <class T, bool Second>
class Differentiation {
 public:
  using C = Compute<T>;

  Differentiation(const Geometry& at, const Tensors& on, bool in_order)
      : at_(at),
        on_(on),
        in_order_(in_order),
        device_(on.input),
        width_(at.group_channels * at.taps),
        rows_(at.channels * at.taps),
        sampled_{field<T>(on.input), field<T>(on.offset), on.mask ? field<T>(*on.mask) : Field<const T>{},
                 on.mask.has_value()},
        moves_(on.along.moves()),
        moved_columns_(moves_ && (on.to.wants_weight || on.to.wants_grad_output)),
        columns_(Second ? on.along.weight && on.to.wants_grad_output : on.to.wants_weight),
        scatter_(on.to.wants_input),
        sums_(on.to.wants_offset || on.to.wants_mask) {}

  void run() {
    prepare();
    const int64_t numbers = rows_ * (Second ? 4 : 2) + at_.out_channels * (Second ? 2 : 1);
    for_each_chunk<C>(at_, numbers, [&](const Chunk& chunk) { take(chunk); });
    finish();
  }

 private:
  bool needs_grad_columns() const { return scatter_ || sums_; }

  Tensor groups(const Tensor& memory, int64_t rows, int64_t columns, bool transposed = false) const {
    return matrices<C>(memory, at_.groups, rows, columns, transposed);
  }

  void prepare() {
    weight_ = widened_weight<T>(at_, device_, on_.weight);
    if (on_.along.weight) v_weight_ = widened_weight<T>(at_, device_, *on_.along.weight);
    if (on_.along.input) moved_.input = field<T>(*on_.along.input);
    if (on_.along.offset) moved_.offset = field<T>(*on_.along.offset);
    if (on_.along.mask) moved_.mask = field<T>(*on_.along.mask);
    if (scatter_) {
      // The scatter adds in the compute type: in the result itself where that is its type.
      if constexpr (std::is_same_v<T, C>) {
        fill_zero(on_.to.input);
        input_sums_ = mutable_field<C>(on_.to.input);
      } else {
        const int64_t plane = at_.height * at_.width;
        wide_input_ = empty_vector<C>(at_.batch * at_.channels * plane, on_.input);
        fill_zero(*wide_input_);
        input_sums_ = {wide_input_->template mutable_data_ptr<C>(), {at_.channels * plane, plane, at_.width, 1}};
      }
    }
    if (on_.to.wants_weight) {
      weight_sums_ = empty_vector<C>(at_.out_channels * width_, on_.input);
      // The first chunk overwrites; without a single image there is none.
      if (at_.batch == 0) fill_zero(*weight_sums_);
    }
    if (on_.to.wants_bias) {
      bias_sums_ = empty_vector<C>(at_.out_channels, on_.input);
      fill_zero(*bias_sums_);
    }
  }

  void take(const Chunk& chunk) {
    const Tensor g = empty_vector<C>(at_.out_channels * chunk.count, on_.input);
    const Tensor g_matrices = groups(g, at_.group_out, chunk.count);
    if (needs_grad_columns() || on_.to.wants_weight || on_.to.wants_bias) {
      launch("deform_conv2d_load", load_chunk_kernel<T>, device_, blocks_for(at_.out_channels * chunk.count), at_,
             chunk, field<T>(on_.grad_output), g.mutable_data_ptr<C>());
    }
    const auto memory = [&](bool needed) { return empty_vector<C>(needed ? rows_ * chunk.count : 0, on_.input); };
    const Tensor columns = memory(columns_), moved_columns = memory(moved_columns_);
    differentiate_samples(chunk, g_matrices, columns, moved_columns);
    if (on_.to.wants_weight) {
      matmul_groups(groups(*weight_sums_, at_.group_out, width_), g_matrices,
                    groups(Second ? moved_columns : columns, chunk.count, width_, true), chunk.begin > 0);
    }
    if (on_.to.wants_bias) {
      launch("deform_conv2d_sum_bias", sum_bias_kernel<C>, device_, blocks_for(at_.out_channels), at_, chunk,
             g.const_data_ptr<C>(), bias_sums_->template mutable_data_ptr<C>());
    }
    // grad_output's matrix is no longer needed: its memory is reused.
    if (on_.to.wants_grad_output) store_grad_grad_output(chunk, g, columns, moved_columns);
  }

  // The gradient of the columns, and all that is made of the samples.
  void differentiate_samples(const Chunk& chunk, const Tensor& g_matrices, const Tensor& columns,
                             const Tensor& moved_columns) {
    const Blocks samples = blocks_for(at_.offset_groups * at_.taps * chunk.count);
    const C* grads = nullptr;
    std::optional<Tensor> grad_columns, h_columns;
    if (needs_grad_columns()) {
      grad_columns = empty_vector<C>(rows_ * chunk.count, on_.input);
      matmul_groups(groups(*grad_columns, width_, chunk.count), groups(*weight_, width_, at_.group_out, true),
                    g_matrices, false);
      grads = grad_columns->template const_data_ptr<C>();
      if (v_weight_) {
        h_columns = empty_vector<C>(rows_ * chunk.count, on_.input);
        matmul_groups(groups(*h_columns, width_, chunk.count), groups(*v_weight_, width_, at_.group_out, true),
                      g_matrices, false);
        moved_.h_columns = h_columns->template const_data_ptr<C>();
      }
    }
    C* const to_columns = columns_ ? columns.mutable_data_ptr<C>() : nullptr;
    moved_.columns = moved_columns_ ? moved_columns.mutable_data_ptr<C>() : nullptr;
    if (sums_ || moved_columns_) {
      launch("deform_conv2d_differentiate", differentiate_kernel<T, Second>, device_, samples, at_, chunk, sampled_,
             moved_, grads, to_columns, on_.to.wants_offset ? mutable_field<T>(on_.to.offset) : Field<T>{},
             on_.to.wants_mask ? mutable_field<T>(on_.to.mask) : Field<T>{});
    } else if (columns_) {
      launch("deform_conv2d_columns", columns_kernel<T>, device_, samples, at_, chunk, sampled_, to_columns);
    }
    if (scatter_ && in_order_) {
      const int64_t images = (chunk.begin + chunk.count - 1) / at_.positions - chunk.begin / at_.positions + 1;
      launch("deform_conv2d_scatter_in_order", scatter_in_order_kernel<T, Second>, device_,
             blocks_for(images * at_.channels), at_, chunk, sampled_, moved_, grads, input_sums_);
    } else if (scatter_) {
      launch("deform_conv2d_scatter", scatter_kernel<T, Second>, device_, samples, at_, chunk, sampled_, moved_, grads,
             input_sums_);
    }
  }

  void store_grad_grad_output(const Chunk& chunk, const Tensor& memory, const Tensor& columns,
                              const Tensor& moved_columns) const {
    const Tensor result = groups(memory, at_.group_out, chunk.count);
    if (moves_) {
      matmul_groups(result, groups(*weight_, at_.group_out, width_), groups(moved_columns, width_, chunk.count), false);
    }
    if (v_weight_) {
      matmul_groups(result, groups(*v_weight_, at_.group_out, width_), groups(columns, width_, chunk.count), moves_);
    }
    if (!moves_ && !v_weight_) fill_zero(memory);
    const std::optional<Tensor>& bias = on_.along.bias;
    launch("deform_conv2d_store", store_chunk_kernel<T>, device_, blocks_for(at_.out_channels * chunk.count), at_,
           chunk, memory.const_data_ptr<C>(), bias ? bias->const_data_ptr<T>() : nullptr, bias ? bias->strides()[0] : 0,
           mutable_field<T>(on_.to.grad_output));
  }

  void finish() const {
    if (wide_input_) {
      launch("deform_conv2d_narrow", narrow_input_kernel<T>, device_,
             blocks_for(at_.batch * at_.channels * at_.height * at_.width), at_, input_sums_,
             mutable_field<T>(on_.to.input));
    }
    if (on_.to.wants_weight) {
      launch("deform_conv2d_narrow_weight", narrow_weight_kernel<T>, device_, blocks_for(at_.out_channels * width_),
             at_, weight_sums_->template const_data_ptr<C>(), mutable_field<T>(on_.to.weight));
    }
    if (on_.to.wants_bias) {
      launch("deform_conv2d_narrow_bias", narrow_bias_kernel<T>, device_, blocks_for(at_.out_channels), at_,
             bias_sums_->template const_data_ptr<C>(), on_.to.bias.mutable_data_ptr<T>());
    }
  }

  const Geometry& at_;
  const Tensors& on_;
  const bool in_order_;
  const DeviceOf device_;
  const int64_t width_, rows_;
  const Sampled<T> sampled_;
  Moved<T> moved_{};
  // Whether the samples move, and what is made of them.
  const bool moves_, moved_columns_, columns_, scatter_, sums_;
  std::optional<Tensor> weight_, v_weight_, wide_input_, weight_sums_, bias_sums_;
  Field<C> input_sums_{};
};

template <bool Second>
void differentiate(const Geometry& at, const Tensors& on, bool in_order) {
  if (!on.to.any()) return;
  dispatch_floating(kOp, on.input.scalar_type(),
                    [&](auto tag) { Differentiation<typename decltype(tag)::type, Second>(at, on, in_order).run(); });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward_cuda(
    const Tensor& grad_output, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w,
    int64_t dilation_h, int64_t dilation_w, bool deterministic, const std::vector<bool>& output_mask) {
  const Geometry at = check_arguments(input, offset, weight, std::nullopt, mask,
                                      {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  check_grad_output(at, grad_output, input);
  const Gradients to = Gradients::backward(at, input, offset, weight, mask, output_mask);
  const std::optional<Tensor> none;
  differentiate<false>(at, {grad_output, input, offset, weight, mask, {none, none, none, none, none}, to},
                       deterministic);
  return {to.input, to.offset, to.weight, to.bias, to.mask};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_offset,
    const std::optional<Tensor>& grad_grad_weight, const std::optional<Tensor>& grad_grad_bias,
    const std::optional<Tensor>& grad_grad_mask, const Tensor& grad_output, const Tensor& input, const Tensor& offset,
    const Tensor& weight, const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h,
    int64_t padding_w, int64_t dilation_h, int64_t dilation_w, bool deterministic,
    const std::vector<bool>& output_mask) {
  const Geometry at = check_arguments(input, offset, weight, std::nullopt, mask,
                                      {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  check_grad_output(at, grad_output, input);
  const Directions along{grad_grad_input, grad_grad_offset, grad_grad_weight, grad_grad_bias, grad_grad_mask};
  check_directions(at, along, input, offset, weight, mask);
  Gradients to = Gradients::double_backward(at, input, offset, weight, mask, output_mask);
  to.clear_what_stands_still(along);
  differentiate<true>(at, {grad_output, input, offset, weight, mask, along, to}, deterministic);
  return {to.grad_output, to.input, to.offset, to.weight, to.mask};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::deform_conv2d_cuda>(library, "deform_conv2d");
  handgrad::implement<handgrad::deform_conv2d_backward_cuda>(library, "_deform_conv2d_backward");
  handgrad::implement<handgrad::deform_conv2d_double_backward_cuda>(library, "_deform_conv2d_double_backward");
}
