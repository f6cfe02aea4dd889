// Multi-scale deformable attention on the CPU.
//
// A head's channels are innermost: each corner of a sample is one run of memory, and the work on it is vectorised
// across channels. Four numbers weigh the corners, whatever the channels.
//
// Backward, one head of one image is one thread's: it adds to its own part of the gradient of the value, in the order
// of queries, levels and points, with no memory beside the results in float32 and float64.
//
// In order of appearance: the forward; Differentiation, the backward; TwiceDifferentiation, the double backward; the
// host entries.
#include "abi/registration.h"
#include "cpu/bilinear.h"
#include "multi_scale_deformable_attention_rows.h"

namespace handgrad::multi_scale_deformable_attention {
namespace {

// Queries that a thread takes at a time, of one head of one image.
constexpr int64_t kQueries = 256;
// Channels of a head that has loops of its own.
constexpr int64_t kUsualChannels = 32;

// Calls body with the number of channels, as a constant if it is the usual one.
template <class Body>
void dispatch_channels(const Geometry& geometry, const Body& body) {
  if (geometry.channels == kUsualChannels) {
    body(std::integral_constant<int64_t, kUsualChannels>());
  } else {
    body(geometry.channels);
  }
}

int64_t work_of_a_query(const Geometry& geometry) {
  return 4 * geometry.samples() * std::max<int64_t>(1, geometry.channels);
}

template <class C>
void forward(const Geometry& geometry, const Operands<C>& operands) {
  const int64_t chunks = (geometry.queries + kQueries - 1) / kQueries;
  const int64_t work = work_of_a_query(geometry) * std::min(kQueries, geometry.queries);
  parallel_for(geometry.batch * geometry.heads * chunks, work, [&](int64_t begin, int64_t end) {
    ScratchVector<C> sums(static_cast<size_t>(std::min(kQueries, geometry.queries) * geometry.channels));
    dispatch_channels(geometry, [&](auto channels) {
      ValueRows<C, decltype(channels)> rows(geometry, operands.value, channels);
      for (int64_t index = begin; index < end; ++index) {
        const int64_t first = index % chunks * kQueries, count = std::min(geometry.queries - first, kQueries);
        const int64_t head = index / chunks % geometry.heads, n = index / chunks / geometry.heads;
        rows.move_to(n, head, {0, geometry.positions});
        std::fill(sums.begin(), sums.end(), C(0));
        for (int64_t l = 0; l < geometry.level_count; ++l) {
          for (int64_t q = 0; q < count; ++q) {
            for_each_point(geometry, operands, n, first + q, head, l, [&](int64_t, const AttendedSample<C>& sample) {
              const C* corners[4];
              rows.corners(geometry.levels[l], sample, corners);
              const C weights[4] = {sample.weight(0), sample.weight(1), sample.weight(2), sample.weight(3)};
              add_sample_channels(channels, corners, weights, sums.data() + q * channels);
            });
          }
        }
        for (int64_t q = 0; q < count; ++q) {
          store_run(sums.data() + q * channels, channels, operands.output.at(n, first + q, head * channels), 1);
        }
      }
    });
  });
}

// For every level of every head of every image: pass.begin, pass.query for each query with the gradient of its output,
// pass.end. make_pass() gives a thread its own. One level after the other, since most of them fit a cache.
template <class C, class MakePass>
void for_each_head(const Geometry& geometry, const Operands<C>& operands, const MakePass& make_pass) {
  const int64_t work = work_of_a_query(geometry) * std::max<int64_t>(1, geometry.queries);
  parallel_for(geometry.batch * geometry.heads, work, [&](int64_t begin, int64_t end) {
    ScratchVector<C> grad(static_cast<size_t>(geometry.channels));
    auto pass = make_pass();
    for (int64_t index = begin; index < end; ++index) {
      const int64_t head = index % geometry.heads, n = index / geometry.heads;
      for (int64_t l = 0; l < geometry.level_count; ++l) {
        pass.begin(n, head, l);
        for (int64_t query = 0; query < geometry.queries; ++query) {
          load_run(operands.grad_output.at(n, query, head * geometry.channels), operands.grad_output.strides[2],
                   geometry.channels, grad.data());
          pass.query(n, query, head, l, grad.data());
        }
        pass.end(n, head, l);
      }
    }
  });
}

template <class C, bool Scatter, bool Sums, class Channels>
class Differentiation {
 public:
  Differentiation(const Geometry& geometry, const Operands<C>& operands, Channels channels)
      : geometry_(geometry),
        operands_(operands),
        channels_(channels),
        rows_(geometry, operands.value, channels),
        grad_rows_(geometry, operands.grad_value, channels) {}

  void begin(int64_t n, int64_t head, int64_t l) {
    const Positions positions = Positions::of(geometry_.levels[l]);
    if constexpr (Sums) rows_.move_to(n, head, positions);
    if constexpr (Scatter) grad_rows_.begin(n, head, positions);
  }

  void query(int64_t n, int64_t query, int64_t head, int64_t l, const C* grad) {
    // The results are contiguous.
    const View<C, 6>& of_locations = operands_.grad_locations;
    const View<C, 5>& of_weights = operands_.grad_weights;
    C* const locations = of_locations ? of_locations.at(n, query, head, l, 0, 0) : nullptr;
    C* const attention = of_weights ? of_weights.at(n, query, head, l, 0) : nullptr;
    for_each_point(geometry_, operands_, n, query, head, l, [&](int64_t p, const AttendedSample<C>& sample) {
      const C* corners[4] = {};
      C* grad_corners[4] = {};
      C sums[4];
      if constexpr (Sums) rows_.corners(geometry_.levels[l], sample, corners);
      if constexpr (Scatter) grad_rows_.corners(geometry_.levels[l], sample, grad_corners);
      const C weights[4] = {sample.weight(0), sample.weight(1), sample.weight(2), sample.weight(3)};
      if constexpr (std::is_same_v<Channels, int64_t>) {
        differentiate_channels<false, Scatter, Sums>(channels_, corners, weights, grad, static_cast<C*>(nullptr),
                                                     grad_corners, sums);
      } else {
        differentiate_channels<Channels::value, Scatter, Sums>(corners, weights, grad, grad_corners, sums);
      }
      if constexpr (!Sums) return;
      if (locations) {
        locations[2 * p] = sample.grad_location_x(sums), locations[2 * p + 1] = sample.grad_location_y(sums);
      }
      if (attention) attention[p] = sample.grad_attention(sums);
    });
  }

  void end([[maybe_unused]] int64_t n, [[maybe_unused]] int64_t head, [[maybe_unused]] int64_t l) {
    if constexpr (Scatter) grad_rows_.end(n, head, Positions::of(geometry_.levels[l]));
  }

 private:
  const Geometry& geometry_;
  const Operands<C>& operands_;
  const Channels channels_;
  ValueRows<C, Channels> rows_;
  GradRows<C, Channels> grad_rows_;
};

template <bool Scatter, bool Sums, class C>
void differentiate(const Geometry& geometry, const Operands<C>& operands) {
  dispatch_channels(geometry, [&](auto channels) {
    for_each_head(geometry, operands,
                  [&] { return Differentiation<C, Scatter, Sums, decltype(channels)>(geometry, operands, channels); });
  });
}

// All results of the double backward; what is not asked for is not stored.
template <class C>
class TwiceDifferentiation {
 public:
  TwiceDifferentiation(const Geometry& geometry, const Operands<C>& operands)
      : geometry_(geometry),
        operands_(operands),
        rows_(geometry, operands.value, geometry.channels),
        v_rows_(geometry, operands.v_value, geometry.channels),
        grad_rows_(geometry, operands.grad_value, geometry.channels),
        change_(static_cast<size_t>(geometry.queries * geometry.channels)) {}

  void begin(int64_t n, int64_t head, int64_t l) {
    const Positions positions = Positions::of(geometry_.levels[l]);
    rows_.move_to(n, head, positions);
    v_rows_.move_to(n, head, positions);
    grad_rows_.begin(n, head, positions);
    if (l == 0) std::fill(change_.begin(), change_.end(), C(0));
  }

  void query(int64_t n, int64_t query, int64_t head, int64_t l, const C* grad) {
    for_each_point(geometry_, operands_, n, query, head, l, [&](int64_t p, const AttendedSample<C>& sample) {
      const AttendedMotion<C> v = motion(n, query, head, l, p);
      C of_value[4], of_v[4];
      take(l, sample, v, change_.data() + query * geometry_.channels, grad, of_value, of_v);
      if (operands_.grad_locations) {
        C* const location = operands_.grad_locations.at(n, query, head, l, p, 0);
        location[0] = sample.second_grad_location_x(v, of_value, of_v);
        location[1] = sample.second_grad_location_y(v, of_value, of_v);
      }
      if (operands_.grad_weights) {
        *operands_.grad_weights.at(n, query, head, l, p) = sample.second_grad_attention(v, of_value, of_v);
      }
    });
  }

  void end(int64_t n, int64_t head, int64_t l) {
    grad_rows_.end(n, head, Positions::of(geometry_.levels[l]));
    if (l + 1 < geometry_.level_count) return;
    for (int64_t query = 0; operands_.output && query < geometry_.queries; ++query) {
      store_run(change_.data() + query * geometry_.channels, geometry_.channels,
                operands_.output.at(n, query, head * geometry_.channels), 1);
    }
  }

 private:
  AttendedMotion<C> motion(int64_t n, int64_t query, int64_t head, int64_t l, int64_t p) const {
    AttendedMotion<C> v{0, 0, 0};
    if (operands_.v_locations) {
      v.x = *operands_.v_locations.at(n, query, head, l, p, 0),
      v.y = *operands_.v_locations.at(n, query, head, l, p, 1);
    }
    if (operands_.v_weights) v.weight = *operands_.v_weights.at(n, query, head, l, p);
    return v;
  }

  // One sample, all channels of the head.
  void take(int64_t l, const AttendedSample<C>& sample, const AttendedMotion<C>& v, C* __restrict change, const C* grad,
            C (&of_value)[4], C (&of_v)[4]) {
    const C *corners[4], *v_corners[4];
    C* grad_corners[4];
    rows_.corners(geometry_.levels[l], sample, corners);
    v_rows_.corners(geometry_.levels[l], sample, v_corners);
    grad_rows_.corners(geometry_.levels[l], sample, grad_corners);
    for (int q = 0; q < 4; ++q) {
      const C *x = corners[q], *v_x = v_corners[q];
      C* __restrict grad_x = grad_corners[q];
      const C a = sample.weight(q), b = sample.weight_change(q, v);
      C sum = 0, v_sum = 0;
#pragma omp simd reduction(+ : sum, v_sum)
      for (int64_t c = 0; c < geometry_.channels; ++c) {
        change[c] += b * x[c] + a * v_x[c];
        grad_x[c] += b * grad[c];
        sum += grad[c] * x[c];
        v_sum += grad[c] * v_x[c];
      }
      of_value[q] = sum, of_v[q] = v_sum;
    }
  }

  const Geometry& geometry_;
  const Operands<C>& operands_;
  ValueRows<C, int64_t> rows_, v_rows_;
  GradRows<C, int64_t> grad_rows_;
  ScratchVector<C> change_;
};

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class C>
Operands<C> operands_of(const Tensor& value, const Tensor& sampling_locations, const Tensor& attention_weights) {
  Operands<C> operands;
  operands.value = stored_view<C, 4>(value);
  operands.locations = view<C, 6>(sampling_locations);
  operands.weights = view<C, 5>(attention_weights);
  return operands;
}

template <class C>
void set_results(const Geometry& geometry, Operands<C>& operands, const Backward& results) {
  if (results.wants_value && !geometry.covers_all) fill_zero(results.grad_value);
  operands.grad_value = mutable_stored_view_if<C, 4>(results.wants_value, results.grad_value);
  operands.grad_locations = mutable_view_if<C, 6>(results.wants_locations, results.grad_locations);
  operands.grad_weights = mutable_view_if<C, 5>(results.wants_weights, results.grad_weights);
}

Tensor multi_scale_deformable_attention_cpu(const Tensor& value,               // [B, S, heads, channels]
                                            const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
                                            const Tensor& attention_weights,   // [B, Q, heads, levels, points]
                                            const std::vector<int64_t>& spatial_shapes,
                                            const std::vector<int64_t>& level_start_index) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  const Tensor output = empty_output(geometry, value);
  if (output.numel() == 0) return output;
  dispatch_compute(kOp, value.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands = operands_of<C>(value, sampling_locations, attention_weights);
    operands.output = mutable_stored_view<C, 3>(output);
    forward<C>(geometry, operands);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> multi_scale_deformable_attention_backward_cpu(
    const Tensor& grad_output,         // [B, Q, heads * channels]
    const Tensor& value,               // [B, S, heads, channels]
    const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
    const Tensor& attention_weights,   // [B, Q, heads, levels, points]
    const std::vector<int64_t>& spatial_shapes, const std::vector<int64_t>& level_start_index,
    const std::vector<bool>& output_mask) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  check_grad_output(geometry, grad_output, value);
  const Backward results(value, sampling_locations, attention_weights, as_output_mask<3>(kOp, output_mask));
  if (!results.is_done()) {
    dispatch_compute(kOp, value.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Operands<C> operands = operands_of<C>(value, sampling_locations, attention_weights);
      operands.grad_output = stored_view<C, 3>(grad_output);
      set_results(geometry, operands, results);
      if (!results.wants_sums()) {
        differentiate<true, false>(geometry, operands);
      } else if (results.wants_value) {
        differentiate<true, true>(geometry, operands);
      } else {
        differentiate<false, true>(geometry, operands);
      }
    });
  }
  return {results.grad_value, results.grad_locations, results.grad_weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> multi_scale_deformable_attention_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_value, const std::optional<Tensor>& grad_grad_sampling_locations,
    const std::optional<Tensor>& grad_grad_attention_weights,
    const Tensor& grad_output,         // [B, Q, heads * channels]
    const Tensor& value,               // [B, S, heads, channels]
    const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
    const Tensor& attention_weights,   // [B, Q, heads, levels, points]
    const std::vector<int64_t>& spatial_shapes, const std::vector<int64_t>& level_start_index,
    const std::vector<bool>& output_mask) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  check_grad_output(geometry, grad_output, value);
  const Directions along{grad_grad_value, grad_grad_sampling_locations, grad_grad_attention_weights};
  along.check(value, sampling_locations, attention_weights);
  const DoubleBackward results(geometry, along, value, sampling_locations, attention_weights,
                               as_output_mask<4>(kOp, output_mask));
  if (!results.is_done()) {
    dispatch_compute(kOp, value.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Operands<C> operands = operands_of<C>(value, sampling_locations, attention_weights);
      operands.grad_output = stored_view<C, 3>(grad_output);
      operands.v_value = stored_view<C, 4>(grad_grad_value);
      operands.v_locations = view<C, 6>(grad_grad_sampling_locations);
      operands.v_weights = view<C, 5>(grad_grad_attention_weights);
      operands.output = mutable_stored_view_if<C, 3>(results.wants_grad_output, results.grad_grad_output);
      set_results(geometry, operands, results);
      for_each_head(geometry, operands, [&] { return TwiceDifferentiation<C>(geometry, operands); });
    });
  }
  return {results.grad_grad_output, results.grad_value, results.grad_locations, results.grad_weights};
}

}  // namespace
}  // namespace handgrad::multi_scale_deformable_attention

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::multi_scale_deformable_attention::multi_scale_deformable_attention_cpu>(
      library, "multi_scale_deformable_attention");
  handgrad::implement<handgrad::multi_scale_deformable_attention::multi_scale_deformable_attention_backward_cpu>(
      library, "_multi_scale_deformable_attention_backward");
  handgrad::implement<handgrad::multi_scale_deformable_attention::multi_scale_deformable_attention_double_backward_cpu>(
      library, "_multi_scale_deformable_attention_double_backward");
}
