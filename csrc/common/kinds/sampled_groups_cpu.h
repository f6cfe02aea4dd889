// Groups of channels that look at points of their own, on the CPU.
//
// A group's channels are innermost: each corner of a sample is one run of memory, and the work on it is vectorised
// across channels. Four numbers weigh the corners, whatever the channels.
//
// Backward, one group of one image is one thread's: it adds to its own part of the gradient of the value, in the order
// of queries, levels and points, with no memory beside the results in float32 and float64.
//
// In order of appearance: the forward; Differentiation, the backward; TwiceDifferentiation, the double backward;
// SampledGroupsOnCpu.
#pragma once

#include "cpu/bilinear.h"
#include "cpu/sampled_rows.h"
#include "kinds/sampled_groups.h"

namespace handgrad {
namespace sampled_groups {

// Queries that a thread takes at a time, of one group of one image.
inline constexpr int64_t kQueries = 256;

// Calls body with the number of channels, as a constant if it is a usual one.
template <int64_t... Usual, class Body>
void dispatch_channels(std::integer_sequence<int64_t, Usual...>, int64_t channels, const Body& body) {
  const bool found = ((channels == Usual && (body(std::integral_constant<int64_t, Usual>()), true)) || ...);
  if (!found) body(channels);
}
template <class Geometry, class Body>
void dispatch_channels(const Geometry& geometry, const Body& body) {
  dispatch_channels(typename Geometry::UsualChannels(), geometry.channels, body);
}

template <class Geometry>
int64_t work_of_a_query(const Geometry& geometry) {
  return 4 * geometry.samples() * std::max<int64_t>(1, geometry.channels);
}

template <class C, class Geometry>
void forward(const Geometry& geometry, const Operands<C>& operands) {
  const int64_t chunks = (geometry.queries + kQueries - 1) / kQueries;
  const int64_t work = work_of_a_query(geometry) * std::min(kQueries, geometry.queries);
  parallel_for(geometry.batch * geometry.groups * chunks, work, [&](int64_t begin, int64_t end) {
    ScratchVector<C> sums(static_cast<size_t>(std::min(kQueries, geometry.queries) * geometry.channels));
    dispatch_channels(geometry, [&](auto channels) {
      ValueRows<C, decltype(channels)> rows(geometry, operands.value, channels);
      for (int64_t index = begin; index < end; ++index) {
        const int64_t first = index % chunks * kQueries, count = std::min(geometry.queries - first, kQueries);
        const int64_t group = index / chunks % geometry.groups, n = index / chunks / geometry.groups;
        rows.move_to(n, group, {0, geometry.positions});
        std::fill(sums.begin(), sums.end(), C(0));
        for (int64_t l = 0; l < geometry.level_count; ++l) {
          for (int64_t q = 0; q < count; ++q) {
            for_each_point(geometry, operands, n, first + q, group, l, [&](int64_t, const GroupSample<C>& sample) {
              const C* corners[4];
              rows.corners(geometry.levels[l], sample, corners);
              const C weights[4] = {sample.weight(0), sample.weight(1), sample.weight(2), sample.weight(3)};
              add_sample_channels(channels, corners, weights, sums.data() + q * channels);
            });
          }
        }
        for (int64_t q = 0; q < count; ++q) {
          store_run(sums.data() + q * channels, channels, operands.output.at(n, first + q, group * channels), 1);
        }
      }
    });
  });
}

// For every level of every group of every image: pass.begin, pass.query for each query with the gradient of its output,
// pass.end. make_pass() gives a thread its own. One level after the other, since most of them fit a cache.
template <class C, class Geometry, class MakePass>
void for_each_group(const Geometry& geometry, const Operands<C>& operands, const MakePass& make_pass) {
  const int64_t work = work_of_a_query(geometry) * std::max<int64_t>(1, geometry.queries);
  parallel_for(geometry.batch * geometry.groups, work, [&](int64_t begin, int64_t end) {
    ScratchVector<C> grad(static_cast<size_t>(geometry.channels));
    auto pass = make_pass();
    for (int64_t index = begin; index < end; ++index) {
      const int64_t group = index % geometry.groups, n = index / geometry.groups;
      for (int64_t l = 0; l < geometry.level_count; ++l) {
        pass.begin(n, group, l);
        for (int64_t query = 0; query < geometry.queries; ++query) {
          load_run(operands.grad_output.at(n, query, group * geometry.channels), operands.grad_output.strides[2],
                   geometry.channels, grad.data());
          pass.query(n, query, group, l, grad.data());
        }
        pass.end(n, group, l);
      }
    }
  });
}

template <class C, bool Scatter, bool Sums, class Geometry, class Channels>
class Differentiation {
 public:
  Differentiation(const Geometry& geometry, const Operands<C>& operands, Channels channels)
      : geometry_(geometry),
        operands_(operands),
        channels_(channels),
        rows_(geometry, operands.value, channels),
        grad_rows_(geometry, operands.grad_value, channels) {}

  void begin(int64_t n, int64_t group, int64_t l) {
    const Positions positions = Positions::of(geometry_.levels[l]);
    if constexpr (Sums) rows_.move_to(n, group, positions);
    if constexpr (Scatter) grad_rows_.begin(n, group, positions);
  }

  void query(int64_t n, int64_t query, int64_t group, int64_t l, const C* grad) {
    // The results are contiguous.
    const View<C, 6>& of_coordinates = operands_.grad_coordinates;
    const View<C, 5>& of_factors = operands_.grad_factors;
    C* const coordinates = of_coordinates ? of_coordinates.at(n, query, group, l, 0, 0) : nullptr;
    C* const factors = of_factors ? of_factors.at(n, query, group, l, 0) : nullptr;
    for_each_point(geometry_, operands_, n, query, group, l, [&](int64_t p, const GroupSample<C>& sample) {
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
      if (coordinates) {
        coordinates[2 * p] = sample.grad_point_x(sums), coordinates[2 * p + 1] = sample.grad_point_y(sums);
      }
      if (factors) factors[p] = sample.grad_of_factor(sums);
    });
  }

  void end([[maybe_unused]] int64_t n, [[maybe_unused]] int64_t group, [[maybe_unused]] int64_t l) {
    if constexpr (Scatter) grad_rows_.end(n, group, Positions::of(geometry_.levels[l]));
  }

 private:
  const Geometry& geometry_;
  const Operands<C>& operands_;
  const Channels channels_;
  ValueRows<C, Channels> rows_;
  GradRows<C, Channels> grad_rows_;
};

template <bool Scatter, bool Sums, class C, class Geometry>
void differentiate(const Geometry& geometry, const Operands<C>& operands) {
  dispatch_channels(geometry, [&](auto channels) {
    for_each_group(geometry, operands, [&] {
      return Differentiation<C, Scatter, Sums, Geometry, decltype(channels)>(geometry, operands, channels);
    });
  });
}

// All results of the double backward; what is not asked for is not stored.
template <class C, class Geometry>
class TwiceDifferentiation {
 public:
  TwiceDifferentiation(const Geometry& geometry, const Operands<C>& operands)
      : geometry_(geometry),
        operands_(operands),
        rows_(geometry, operands.value, geometry.channels),
        v_rows_(geometry, operands.v_value, geometry.channels),
        grad_rows_(geometry, operands.grad_value, geometry.channels),
        change_(static_cast<size_t>(geometry.queries * geometry.channels)) {}

  void begin(int64_t n, int64_t group, int64_t l) {
    const Positions positions = Positions::of(geometry_.levels[l]);
    rows_.move_to(n, group, positions);
    v_rows_.move_to(n, group, positions);
    grad_rows_.begin(n, group, positions);
    if (l == 0) std::fill(change_.begin(), change_.end(), C(0));
  }

  void query(int64_t n, int64_t query, int64_t group, int64_t l, const C* grad) {
    for_each_point(geometry_, operands_, n, query, group, l, [&](int64_t p, const GroupSample<C>& sample) {
      const GroupMotion<C> v = motion(n, query, group, l, p);
      C of_value[4], of_v[4];
      take(l, sample, v, change_.data() + query * geometry_.channels, grad, of_value, of_v);
      if (operands_.grad_coordinates) {
        C* const location = operands_.grad_coordinates.at(n, query, group, l, p, 0);
        location[0] = sample.second_grad_point_x(v, of_value, of_v);
        location[1] = sample.second_grad_point_y(v, of_value, of_v);
      }
      if (operands_.grad_factors) {
        *operands_.grad_factors.at(n, query, group, l, p) = sample.second_grad_of_factor(v, of_value, of_v);
      }
    });
  }

  void end(int64_t n, int64_t group, int64_t l) {
    grad_rows_.end(n, group, Positions::of(geometry_.levels[l]));
    if (l + 1 < geometry_.level_count) return;
    for (int64_t query = 0; operands_.output && query < geometry_.queries; ++query) {
      store_run(change_.data() + query * geometry_.channels, geometry_.channels,
                operands_.output.at(n, query, group * geometry_.channels), 1);
    }
  }

 private:
  GroupMotion<C> motion(int64_t n, int64_t query, int64_t group, int64_t l, int64_t p) const {
    GroupMotion<C> v{0, 0, 0};
    if (operands_.v_coordinates) {
      v.x = *operands_.v_coordinates.at(n, query, group, l, p, 0),
      v.y = *operands_.v_coordinates.at(n, query, group, l, p, 1);
    }
    if (operands_.v_factors) v.factor = *operands_.v_factors.at(n, query, group, l, p);
    return v;
  }

  // One sample, all channels of the group.
  void take(int64_t l, const GroupSample<C>& sample, const GroupMotion<C>& v, C* __restrict change, const C* grad,
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

template <class C>
Operands<C> operands_of(const SampledTensors& tensors) {
  Operands<C> operands;
  operands.value = tensors.value.template stored_view<C>();
  operands.v_value = tensors.v_value.template stored_view<C>();
  operands.coordinates = tensors.coordinates.template view<C>();
  operands.v_coordinates = tensors.v_coordinates.template view<C>();
  operands.factors = tensors.factors.template view<C>();
  operands.v_factors = tensors.v_factors.template view<C>();
  operands.grad_output = tensors.grad_output.template stored_view<C>();
  operands.output = tensors.output.template mutable_stored_view<C>();
  operands.grad_value = tensors.grad_value.template mutable_stored_view<C>();
  operands.grad_coordinates = tensors.grad_coordinates.template mutable_view<C>();
  operands.grad_factors = tensors.grad_factors.template mutable_view<C>();
  return operands;
}

}  // namespace sampled_groups

struct SampledGroupsOnCpu {
  template <class Geometry>
  static void forward(const Geometry& geometry, const sampled_groups::SampledTensors& tensors) {
    if (tensors.output.tensor->numel() == 0) return;
    run(geometry, tensors, [&](const auto& operands) { sampled_groups::forward(geometry, operands); });
  }

  template <class Geometry>
  static void backward(const Geometry& geometry, const sampled_groups::SampledTensors& tensors) {
    run(geometry, tensors, [&](const auto& operands) {
      using namespace sampled_groups;
      if (!tensors.wants_sums()) {
        differentiate<true, false>(geometry, operands);
      } else if (tensors.grad_value) {
        differentiate<true, true>(geometry, operands);
      } else {
        differentiate<false, true>(geometry, operands);
      }
    });
  }

  template <class Geometry>
  static void double_backward(const Geometry& geometry, const sampled_groups::SampledTensors& tensors) {
    run(geometry, tensors, [&]<class C>(const sampled_groups::Operands<C>& operands) {
      using namespace sampled_groups;
      for_each_group(geometry, operands, [&] { return TwiceDifferentiation<C, Geometry>(geometry, operands); });
    });
  }

 private:
  template <class Geometry, class Body>
  static void run(const Geometry& geometry, const sampled_groups::SampledTensors& tensors, const Body& body) {
    if (tensors.grad_value && !geometry.covers_all) fill_zero(*tensors.grad_value.tensor);
    dispatch_compute(geometry.op, tensors.value.tensor->scalar_type(),
                     [&](auto tag) { body(sampled_groups::operands_of<typename decltype(tag)::type>(tensors)); });
  }
};

}  // namespace handgrad
