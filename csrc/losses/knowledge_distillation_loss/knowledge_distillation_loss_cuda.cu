// The knowledge distillation loss on CUDA devices: the passes of a row (cuda/rows.cuh) that is read twice, once of the
// student and once of the teacher. What they compute is as on the CPU, at the top of its file.
#include "cuda/rows.cuh"
#include "knowledge_distillation_loss_host.h"

namespace handgrad::knowledge_distillation_loss {
namespace {

// A thread's share of both rows.
template <class C>
class DistillationShare : public RowShare<C, false> {
  using Base = RowShare<C, false>;
  using Base::memory_, Base::kept_, Base::classes_, Base::steps_;

 public:
  using Base::rows, Base::team, Base::peak, Base::sample, Base::position;
  RowPeak<C> peak_of_teacher;

  using Base::Base;

  // Reads the logits over the temperature, and finds both peaks.
  __device__ void read_both(C inverse) {
    const auto cooled = [inverse](int32_t, C x) { return x * inverse; };
    this->read_row(rows.inputs, memory_, peak, cooled);
    this->read_row(rows.probabilities, memory_ + teachers(), peak_of_teacher, cooled);
  }

  // body(c, x, z) for the classes of this thread: the student's and the teacher's logit over the temperature.
  template <class Body>
  __device__ void for_each_class(C inverse, const Body& body) const {
    int32_t k = 0;
#pragma unroll 1
    for (int32_t c = team.lane; c < classes_; c += team.size, ++k) {
      const C x = kept_ ? memory_[k * kRowThreads] : read(rows.inputs.at(sample, c, position)) * inverse;
      const C z =
          kept_ ? memory_[teachers() + k * kRowThreads] : read(rows.probabilities.at(sample, c, position)) * inverse;
      body(c, x, z);
    }
  }

  __device__ C read_of(const StoredView<const C, 3>& view, int32_t c) const {
    return view ? read(view.at(sample, c, position)) : C(0);
  }
  // Whether this thread has the class of the teacher's peak.
  __device__ bool has_peak_of_teacher() const {
    const int32_t c = peak_of_teacher.index;
    return this->is_there() && c >= 0 && c % team.size == team.lane;
  }

 private:
  __device__ int32_t teachers() const { return steps_ * kRowThreads; }
};

template <class C>
struct DistillationPasses {
  using Formula = Temperature<C>;
  using Share = DistillationShare<C>;
  static constexpr int64_t arrays(RowPass) { return 2; }

  Share& share;
  const Formula& temperature;

  __device__ C value() const {
    share.read_both(temperature.inverse);
    const SoftmaxRow<C> student(share.peak.rest), teacher(share.peak_of_teacher.rest);
    C loss[1] = {0};
    share.for_each_class(temperature.inverse, [&](int32_t, C x, C z) {
      const C below = share.peak.largest - x, below_z = share.peak_of_teacher.largest - z;
      loss[0] += divergence(exp_decay(below) * student.inverse, exp_decay(below_z) * teacher.inverse,
                            (below - below_z) + (student.log_sum - teacher.log_sum));
    });
    share.team.sum(loss);
    return temperature.value * temperature.value * (loss[0] + lost());
  }

  __device__ void gradient() const {
    C grad = temperature.value * share.grad_output();
    share.read_both(temperature.inverse);
    grad += lost();
    const SoftmaxRow<C> student(share.peak.rest), teacher(share.peak_of_teacher.rest);
    C facing[1] = {0}, mean[1] = {0};
    if (share.rows.grad_targets) {
      find_facing(facing, nullptr);
      share.for_each_class(temperature.inverse, [&](int32_t, C x, C z) {
        mean[0] += counted(exp_decay(share.peak_of_teacher.largest - z), gap(x, z, facing[0]));
      });
      share.team.sum(mean);
      mean[0] *= teacher.inverse;
    }
    // Where both are near 1 their difference is that of the others' probabilities.
    const int32_t of_both = share.peak.index == share.peak_of_teacher.index ? share.peak.index : -1;
    const C at_both = (teacher.rest - student.rest) * teacher.inverse * student.inverse;
    share.for_each_class(temperature.inverse, [&](int32_t c, C x, C z) {
      // Each rounded by itself, so that equals leave nothing.
      const C p = rounded_product(exp_decay(share.peak.largest - x), student.inverse);
      const C t = rounded_product(exp_decay(share.peak_of_teacher.largest - z), teacher.inverse);
      share.store_grad_inputs(c, grad * (c == of_both ? at_both : p - t));
      if (share.rows.grad_targets) share.store_grad_targets(c, grad * counted(t, gap(x, z, facing[0]) - mean[0]));
    });
  }

  __device__ C second() const {
    C grad = share.grad_output();
    share.read_both(temperature.inverse);
    grad += lost();
    const SoftmaxRow<C> student(share.peak.rest), teacher(share.peak_of_teacher.rest);
    const RowViews<C>& rows = share.rows;
    C facing[1] = {0}, at_peak[2] = {0, 0};
    find_facing(facing, at_peak);
    // Means of the directions and of the gap, all less what they are at the teacher's peak: of v by both, of u, of D,
    // of u D.
    C sums[5] = {0, 0, 0, 0, 0};
    share.for_each_class(temperature.inverse, [&](int32_t c, C x, C z) {
      const C e = exp_decay(share.peak.largest - x), ez = exp_decay(share.peak_of_teacher.largest - z);
      const C v = share.read_of(rows.direction_inputs, c) - at_peak[0];
      const C u = share.read_of(rows.direction_targets, c) - at_peak[1], d = counted(ez, gap(x, z, facing[0]));
      sums[0] += e * v;
      sums[1] += ez * v;
      sums[2] += ez * u;
      sums[3] += d;
      sums[4] += d * u;
    });
    share.team.sum(sums);
    const C v_of_student = sums[0] * student.inverse, v_mean = sums[1] * teacher.inverse;
    const C u_mean = sums[2] * teacher.inverse, gap_mean = sums[3] * teacher.inverse;
    const C both = sums[4] * teacher.inverse - u_mean * gap_mean;
    if (rows.grad_inputs || rows.grad_targets) {
      share.for_each_class(temperature.inverse, [&](int32_t c, C x, C z) {
        const C p = exp_decay(share.peak.largest - x) * student.inverse;
        const C t = exp_decay(share.peak_of_teacher.largest - z) * teacher.inverse;
        const C v = share.read_of(rows.direction_inputs, c) - at_peak[0];
        const C turned = share.read_of(rows.direction_targets, c) - at_peak[1] - u_mean;
        share.store_grad_inputs(c, grad * (p * (v - v_of_student) - t * turned));
        share.store_grad_targets(
            c, grad * (counted(t, gap(x, z, facing[0]) - gap_mean) * turned + t * (turned - both - (v - v_mean))));
      });
    }
    return temperature.value * (v_of_student - v_mean + both) + lost();
  }

 private:
  // 0; NaN in a row that has no softmax, in one of the two at least.
  __device__ C lost() const { return 0 * (share.peak.rest + share.peak_of_teacher.rest); }

  __device__ C gap(C x, C z, C facing) const { return (z - share.peak_of_teacher.largest) - (x - facing); }

  // The student's logit at the teacher's peak, and the directions there, if they are wanted.
  __device__ void find_facing(C (&facing)[1], C* directions) const {
    const int32_t c = share.peak_of_teacher.index;
    C found[3] = {0, 0, 0};
    if (share.has_peak_of_teacher()) {
      found[0] = share.read_of(share.rows.inputs, c) * temperature.inverse;
      if (directions) {
        found[1] = share.read_of(share.rows.direction_inputs, c);
        found[2] = share.read_of(share.rows.direction_targets, c);
      }
    }
    share.team.sum(found);
    facing[0] = found[0];
    if (directions) directions[0] = found[1], directions[1] = found[2];
  }
};

struct DistillationOnCuda {
  template <class C>
  static void for_each_row(const char* op, RowPass pass, const RowOperands& operands,
                           const Temperature<C>& temperature) {
    launch_row_pass<C, DistillationPasses<C>>(op, pass, operands, temperature);
  }
};

}  // namespace
}  // namespace handgrad::knowledge_distillation_loss

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::distillation::implement<handgrad::knowledge_distillation_loss::DistillationOnCuda>(library);
}
