// softsplat on the CPU.
//
// What lands on a target is added by one thread, in the order of sources: a thread has a band of rows of targets, and
// goes through those runs of sources that reach it. So every sum has one order, whatever the number of threads and
// bands. What a source reads of its targets, in the derivatives, is a gather, run by run.
//
// In order of appearance: Bands; Passes, over some images at a time, in the order in which they run; the device.
#include "abi/registration.h"
#include "softsplat_planes.h"

namespace handgrad::softsplat {
namespace {

// Pixels that images which are taken together have, and bytes of a band: what the scratch memory may be.
constexpr int64_t kPixelsTogether = int64_t{1} << 18, kBandBytes = int64_t{1} << 19;
// Rows of a band, at least: runs that reach two of them are found twice.
constexpr int64_t kFewestRows = 8;

// ---- bands ----------------------------------------------------------------------------------------------------------

struct Bands {
  int64_t rows, count;  // of an image

  // As many as threads find work in, which changes no bit of a result.
  Bands(const Geometry& geometry, int64_t images, int64_t bytes_of_pixel) {
    const int64_t height = geometry.height, wanted = 2 * static_cast<int64_t>(torch::stable::get_num_threads());
    const int64_t in_cache = kBandBytes / std::max<int64_t>(1, bytes_of_pixel * geometry.width);
    const int64_t shared = height * images / wanted;
    rows = std::clamp(std::min(in_cache, shared), std::min(kFewestRows, height), height);
    count = (height + rows - 1) / rows;
  }
};

// ---- passes ---------------------------------------------------------------------------------------------------------

template <class C, bool Twice, bool Planar>
class Passes {
 public:
  using OfCorners = typename SourceRun<C>::OfCorners;
  static constexpr int64_t kCorners = 4 * kRun;

  Passes(const Inputs& inputs, const Results& results, int64_t first_image, int64_t images)
      : geometry_(inputs.geometry),
        operands_(inputs),
        results_(results),
        first_image_(first_image),
        images_(images),
        runs_((geometry_.pixels + kRun - 1) / kRun) {}

  void run() {
    find_reach();
    if (geometry_.divides()) find_fields();
    if (results_.wants_output) splat();
    if (!results_.wants_input && !results_.wants_points()) return;
    read_targets();
    if (!results_.wants_points()) return;
    if (geometry_.divides()) find_grad_totals();
    find_points();
  }

 private:
  int64_t group() const { return group_of<Planar>(geometry_.channels); }
  int64_t work_of_run() const { return kRun * (16 + 4 * geometry_.channels); }

  // What has been found by now.
  FieldArrays<C> fields(int64_t n) {
    FieldArrays<C> arrays;
    const auto put = [&](ScratchVector<C>& memory, const C*& array, int32_t& bits) {
      if (!memory.empty()) array = of_image(memory, n), bits = -1;
    };
    if (is_near(n)) {
      arrays.largest = &near_[static_cast<size_t>(n)];
    } else {
      put(largest_, arrays.largest, arrays.of_largest);
    }
    put(scale_, arrays.scale, arrays.of_others);
    put(scale_change_, arrays.scale_change, arrays.of_others), put(grad_total_, arrays.grad_total, arrays.of_others);
    put(grad_total_change_, arrays.grad_total_change, arrays.of_others);
    return arrays;
  }
  C* of_image(ScratchVector<C>& memory, int64_t n) { return memory.data() + n * geometry_.pixels; }
  void allocate(ScratchVector<C>& memory) { memory.resize(static_cast<size_t>(images_ * geometry_.pixels)); }

  // body(run, image, index of the run among those of all images) for all runs.
  template <class Body>
  void for_runs(const Body& body) {
    parallel_for(images_ * runs_, work_of_run(), [&](int64_t begin, int64_t end) {
      auto worker = body();
      SourceRun<C> run;
      for (int64_t index = begin; index < end; ++index) {
        const int64_t n = index / runs_, first = index % runs_ * kRun;
        run.find(geometry_, operands_, first_image_ + n, first);
        worker(run, n, first);
      }
    });
  }
  // body() is made once for each thread, and called with (image, begin, end) for all bands.
  template <class Body>
  void for_bands(int64_t bytes_of_pixel, const Body& body) {
    const Bands bands(geometry_, images_, bytes_of_pixel);
    const int64_t work = work_of_run() * runs_ / bands.count;
    parallel_for(images_ * bands.count, work, [&](int64_t begin, int64_t end) {
      auto worker = body();
      for (int64_t index = begin; index < end; ++index) {
        const int64_t row = index % bands.count * bands.rows,
                      last = std::min<int64_t>(row + bands.rows, geometry_.height);
        worker(index / bands.count, static_cast<int32_t>(row * geometry_.width),
               static_cast<int32_t>(last * geometry_.width));
      }
    });
  }
  // visit(run, first source) for the runs that reach targets [begin, end), in order.
  template <class Visit>
  void for_runs_of(int64_t n, int32_t begin, int32_t end, SourceRun<C>& run, const Visit& visit) {
    for (int64_t r = 0; r < runs_; ++r) {
      const auto index = static_cast<size_t>(n * runs_ + r);
      if (first_targets_[index] >= end || last_targets_[index] < begin) continue;
      run.find(geometry_, operands_, first_image_ + n, r * kRun);
      visit(r * kRun);
    }
  }

  // Which targets each run reaches, and whether all metrics of an image are near each other.
  void find_reach() {
    first_targets_.resize(static_cast<size_t>(images_ * runs_)), last_targets_.resize(first_targets_.size());
    ScratchVector<C> least(first_targets_.size()), most(first_targets_.size());
    for_runs([&] {
      return [&](SourceRun<C>& run, int64_t n, int64_t first) {
        run.find_targets_range();
        const auto index = static_cast<size_t>(n * runs_ + first / kRun);
        first_targets_[index] = run.first_target, last_targets_[index] = run.last_target;
        run.find_metric_range(least[index], most[index]);
      };
    });
    // Image by image: what others hold changes no bit.
    near_.assign(static_cast<size_t>(images_), std::numeric_limits<C>::infinity());
    for (int64_t n = 0; !Twice && n < images_; ++n) {
      const int64_t begin = n * runs_, end = begin + runs_;
      const C largest = *std::max_element(most.data() + begin, most.data() + end);
      if (largest - *std::min_element(least.data() + begin, least.data() + end) <= C(kNear))
        near_[static_cast<size_t>(n)] = largest;
    }
  }
  bool is_near(int64_t n) const { return near_[static_cast<size_t>(n)] < std::numeric_limits<C>::infinity(); }

  // ---- what targets are divided by ----

  void find_fields() {
    if (geometry_.mode == kSoftmax && std::isinf(*std::max_element(near_.begin(), near_.end()))) allocate(largest_);
    allocate(scale_), allocate(pull_);
    if (Twice) allocate(scale_change_);
    for_bands(4 * sizeof(C), [&] {
      return [&, run = SourceRun<C>(), totals = ScratchVector<C>(), changes = ScratchVector<C>()](
                 int64_t n, int32_t begin, int32_t end) mutable {
        if (geometry_.mode == kSoftmax && !is_near(n)) find_largest(n, begin, end, run, of_image(largest_, n));
        const FieldArrays<C> known = fields(n);
        totals.assign(static_cast<size_t>(end - begin), C(0));
        changes.assign(Twice ? totals.size() : 0, C(0));
        for_runs_of(n, begin, end, run, [&](int64_t) {
          run.template find_products<Twice>(geometry_, known);
          add_scalars(run, run.product, begin, end, totals.data());
          if (Twice) add_scalars(run, run.product_change, begin, end, changes.data());
        });
        find_divisors(n, begin, end, totals.data(), changes.data());
      };
    });
  }

  void find_divisors(int64_t n, int32_t begin, int32_t end, const C* totals, const C* changes) {
    C *const scale = of_image(scale_, n) + begin, *const pull = of_image(pull_, n) + begin;
    const FieldArrays<C> known = fields(n);
    if (geometry_.mode == kSoftmax) {
      divide_by<true>(geometry_, known, begin, end, totals, scale, pull);
    } else {
      divide_by<false>(geometry_, known, begin, end, totals, scale, pull);
    }
    if constexpr (Twice) {
      C* const moves = of_image(scale_change_, n) + begin;
      HANDGRAD_SIMD
      for (int32_t t = 0; t < end - begin; ++t) moves[t] = scale_change(scale[t], pull[t], changes[t]);
    }
  }
  template <bool IsSoftmax>
  [[gnu::noinline]] static void divide_by(const Geometry& geometry, const FieldArrays<C>& any, int32_t begin,
                                          int32_t end, const C* __restrict totals, C* __restrict scale,
                                          C* __restrict pull) {
    const FieldArrays<C> known = any;
    const int32_t normalization = geometry.normalization, mode = IsSoftmax ? int32_t{kSoftmax} : geometry.mode;
    const C eps = static_cast<C>(geometry.eps);
    HANDGRAD_SIMD
    for (int32_t t = 0; t < end - begin; ++t) {
      const Divisor<C> divisor(mode, normalization, eps, totals[t], known.largest_at(begin + t));
      scale[t] = divisor.scale, pull[t] = divisor.pull;
    }
  }

  void find_largest(int64_t n, int32_t begin, int32_t end, SourceRun<C>& run, C* largest) {
    constexpr C kNone = -std::numeric_limits<C>::infinity();
    std::fill(largest + begin, largest + end, kNone);
    for_runs_of(n, begin, end, run, [&](int64_t) {
      run.find_offers(kNone);
      raise(run, begin, end, largest);
    });
    HANDGRAD_SIMD
    for (int32_t t = begin; t < end; ++t) largest[t] = largest[t] > kNone ? largest[t] : C(0);
  }
  // Without a branch on what is larger, which no processor would guess. A metric that is NaN is none.
  [[gnu::noinline]] static void raise(const SourceRun<C>& run, int32_t begin, int32_t end, C* largest) {
    for (int64_t i = 0; i < run.count; ++i) {
      for (int q = 0; q < 4; ++q) {
        const int32_t t = run.target[q][i];
        if (t < begin || t >= end) continue;
        const C offer = run.weight[q][i], so_far = largest[t];
        largest[t] = offer > so_far ? offer : so_far;
      }
    }
  }

  [[gnu::noinline]] static void add_scalars(const SourceRun<C>& run, const OfCorners& values, int32_t begin,
                                            int32_t end, C* sums) {
    for (int64_t i = 0; i < run.count; ++i) {
      for (int q = 0; q < 4; ++q) {
        const int32_t t = run.target[q][i];
        if (t >= begin && t < end) sums[t - begin] += values[q][i];
      }
    }
  }

  // ---- the output ----

  void splat() {
    const StoredView<C, 3> output = mutable_stored_view<C>(ChannelTensor(results_.output));
    const int64_t group = Band<Planar, C>(geometry_.channels).group();
    for_bands(group * static_cast<int64_t>(sizeof(C)), [&] {
      return [&, run = SourceRun<C>(), band = Band<Planar, C>(geometry_.channels)](int64_t n, int32_t begin,
                                                                                   int32_t end) mutable {
        band.clear(begin, end);
        for_runs_of(n, begin, end, run, [&](int64_t first) {
          run.template find_weights<Twice>(geometry_, fields(n));
          const auto add = [&](const StoredView<const C, 3>& image, const OfCorners& weight) {
            band.load(image, first_image_ + n, first, run.count);
            band.add(run, weight);
          };
          if (!Twice || operands_.v_flow || operands_.v_metric) {
            add(operands_.input, Twice ? run.weight_change : run.weight);
          }
          if (Twice && operands_.v_input) add(operands_.v_input, run.weight);
        });
        band.store(output, first_image_ + n);
      };
    });
  }

  // ---- what sources read of the output's gradient ----

  void read_targets() {
    const Targets<Planar, C> targets(geometry_, operands_.grad_output, first_image_, images_);
    StoredView<C, 3> grad_input;
    if (results_.wants_input) grad_input = mutable_stored_view<C>(ChannelTensor(results_.input));
    if (results_.wants_points()) dots_.resize(static_cast<size_t>(images_ * runs_ * kCorners));
    if (Twice && operands_.v_input) v_dots_.resize(dots_.size());
    OfCorners none;
    for_runs([&] {
      return [&, turned = Turned<C>(), features = ScratchVector<C>(static_cast<size_t>(kRun * group())),
              columns = ScratchVector<C>(static_cast<size_t>(kRun * group()))](SourceRun<C>& run, int64_t n,
                                                                               int64_t first) mutable {
        run.template find_weights<Twice>(geometry_, fields(n));
        const OfCorners& weight = Twice ? run.weight_change : run.weight;
        const auto load = [&](const StoredView<const C, 3>& image) {
          load_group<Planar>(image, first_image_ + n, geometry_.channels, first, run.count, turned, features.data(),
                             kRun);
        };
        if (!results_.wants_points()) {
          targets.template read<true, false>(run, n, weight, features.data(), columns.data(), none);
        } else {
          load(operands_.input);
          OfCorners& dots = dots_of(dots_, n, first);
          if (results_.wants_input) {
            targets.template read<true, true>(run, n, weight, features.data(), columns.data(), dots);
          } else {
            targets.template read<false, true>(run, n, weight, features.data(), columns.data(), dots);
          }
        }
        if (results_.wants_input) {
          store_group<Planar>(columns.data(), kRun, geometry_.channels, grad_input, first_image_ + n, first, run.count,
                              turned);
        }
        if (v_dots_.empty()) return;
        load(operands_.v_input);
        targets.template read<false, true>(run, n, weight, features.data(), columns.data(), dots_of(v_dots_, n, first));
      };
    });
  }

  // Of the run that begins with source `first`.
  static OfCorners& dots_at(ScratchVector<C>& memory, int64_t run) {
    return *reinterpret_cast<OfCorners*>(memory.data() + run * kCorners);
  }
  OfCorners& dots_of(ScratchVector<C>& memory, int64_t n, int64_t first) {
    return dots_at(memory, n * runs_ + first / kRun);
  }

  // ---- what the sum of weights has for a gradient ----

  void find_grad_totals() {
    allocate(grad_total_);
    if (Twice) allocate(grad_total_change_);
    for_bands(4 * sizeof(C), [&] {
      return [&, run = SourceRun<C>(), sums = ScratchVector<C>(), changes = ScratchVector<C>()](
                 int64_t n, int32_t begin, int32_t end) mutable {
        const FieldArrays<C> known = fields(n);
        sums.assign(static_cast<size_t>(end - begin), C(0));
        changes.assign(Twice ? sums.size() : 0, C(0));
        for_runs_of(n, begin, end, run, [&](int64_t first) {
          run.template find_products<Twice>(geometry_, known);
          multiply_dots(run, dots_of(dots_, n, first), v_dots_.empty() ? nullptr : &dots_of(v_dots_, n, first));
          add_scalars(run, run.weight, begin, end, sums.data());
          if (Twice) add_scalars(run, run.weight_change, begin, end, changes.data());
        });
        const C *const pull = of_image(pull_, n), *const total_moves = changes.data();
        C *const total = of_image(grad_total_, n), *const change = of_image(grad_total_change_, n);
        for (int32_t t = begin; t < end; ++t) {
          const C scale = known.scale[t], sum = sums[static_cast<size_t>(t - begin)];
          total[t] = grad_total(scale, pull[t], sum);
          if (Twice) {
            change[t] = grad_total_change(scale, pull[t], known.scale_change[t], sum, total_moves[t - begin]);
          }
        }
      };
    });
  }

  // In place of the weights: products times dots, and how these move.
  [[gnu::noinline]] static void multiply_dots(SourceRun<C>& run, const OfCorners& dots, const OfCorners* v_dots) {
    for (int q = 0; q < 4; ++q) {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < run.count; ++i) {
        run.weight[q][i] = run.product[q][i] * dots[q][i];
        if constexpr (Twice) {
          const C v_dot = v_dots ? (*v_dots)[q][i] : C(0);
          run.weight_change[q][i] = run.product_change[q][i] * dots[q][i] + run.product[q][i] * v_dot;
        }
      }
    }
  }

  // ---- the gradients of points and metric ----

  void find_points() {
    View<C, 3> grad_flow, grad_metric;
    if (results_.wants_flow) grad_flow = ChannelTensor(results_.flow).mutable_view<C>();
    if (results_.wants_metric) grad_metric = ChannelTensor(results_.metric).mutable_view<C>();
    ScratchVector<C> still(kCorners, C(0));
    for_runs([&] {
      return [&](SourceRun<C>& run, int64_t n, int64_t first) {
        C x[kRun], y[kRun], metric[kRun];
        const OfCorners& v_dots = v_dots_.empty() ? dots_at(still, 0) : dots_of(v_dots_, n, first);
        run.template find_gradients<Twice>(geometry_, fields(n), dots_of(dots_, n, first), v_dots, x, y, metric);
        const int64_t image = first_image_ + n;
        if (grad_flow) {
          store_run(x, run.count, grad_flow.at(image, 0, first), grad_flow.strides[2]);
          store_run(y, run.count, grad_flow.at(image, 1, first), grad_flow.strides[2]);
        }
        if (grad_metric) store_run(metric, run.count, grad_metric.at(image, 0, first), grad_metric.strides[2]);
      };
    });
  }

  const Geometry& geometry_;
  const Operands<C> operands_;
  const Results& results_;
  int64_t first_image_, images_, runs_;
  ScratchVector<int32_t> first_targets_, last_targets_;
  // Of each image the largest metric, if all of its metrics are near that; infinite otherwise.
  ScratchVector<C> near_;
  ScratchVector<C> largest_, scale_, pull_, scale_change_, grad_total_, grad_total_change_;
  ScratchVector<C> dots_, v_dots_;
};

// ---- the device -----------------------------------------------------------------------------------------------------

struct OnCpu {
  template <bool Twice>
  static void run(const Inputs& inputs, const Results& results) {
    const Geometry& geometry = inputs.geometry;
    const int64_t together = std::clamp<int64_t>(kPixelsTogether / geometry.pixels, 1, geometry.batch);
    dispatch_compute(kOp, inputs.input.tensor.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const auto run = [&](auto planar) {
        for (int64_t n = 0; n < geometry.batch; n += together) {
          Passes<C, Twice, decltype(planar)::value>(inputs, results, n, std::min(together, geometry.batch - n)).run();
        }
      };
      // Half of the machine code for images in double would be for few channels.
      if constexpr (std::is_same_v<C, float>) {
        if (geometry.channels < kPlanar) return run(std::true_type());
      }
      run(std::false_type());
    });
  }
};

}  // namespace
}  // namespace handgrad::softsplat

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::softsplat::implement<handgrad::softsplat::OnCpu>(library);
}
