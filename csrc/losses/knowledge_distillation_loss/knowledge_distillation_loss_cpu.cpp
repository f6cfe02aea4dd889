// The knowledge distillation loss on the CPU: loops over rows of classes (cpu/row_arrays.h), of which there are two.
//
// What a pass computes of a row, with z = teacher / T, x = student / T, and the gap D_c = (z_c - x_c) less what that is
// at the teacher's largest logit, v and u the directions of the student's and the teacher's gradient:
//
//   grad_student = g T (p - t)          grad_teacher = g T t (D - mean D)          means are the teacher's, but mean_p
//   v along the directions: T (mean_p v - mean v + mean of (u - mean u) D) second grad_student = g (p (v - mean_p v) -
//   t (u - mean u)) second grad_teacher = g t ((u - mean u)(D - mean D + 1) - mean of (u - mean u) D - (v - mean v))
#include "cpu/row_arrays.h"
#include "knowledge_distillation_loss_host.h"

namespace handgrad::knowledge_distillation_loss {
namespace {

// One thread's work. Base has the student's row, and the teacher's logits for its coefficients a.
template <class C>
class DistillationWorker : RowArrays<C, false> {
  using Base = RowArrays<C, false>;
  using Base::plan_, Base::rows_, Base::tile_, Base::x_, Base::e_, Base::v_, Base::a_, Base::u_;

 public:
  DistillationWorker(RowPass pass, const RowViews<C>& rows, const RowPlan& plan, const Temperature<C>& temperature)
      : Base(rows, plan, nullptr),
        pass_(pass),
        temperature_(temperature),
        teacher_(plan),
        memory_(static_cast<size_t>(plan.elements())) {}

  // Returns the sum of the losses, or of what the gradients give along the directions.
  double work(const RowRun& run) {
    this->load(pass_, run);
    // Beyond the classes: coefficients would be 0 there.
    if (plan_.along_classes) std::fill(a_ + plan_.classes, a_ + plan_.elements(), -std::numeric_limits<C>::infinity());
    cool(x_);
    cool(a_);
    double total = 0;
    for (int64_t first = 0; first < run.count; first += kRowLanes) {
      this->template begin_tile<true>(run, first);
      begin_teacher();
      alignas(kCacheLine) C result[kRowLanes] = {};
      if (pass_ == RowPass::value) {
        value(result);
      } else if (pass_ == RowPass::gradient) {
        gradient();
      } else {
        second(result);
      }
      if (pass_ != RowPass::gradient) total += this->store_losses(run, result);
    }
    this->store(run);
    return total;
  }

 private:
  void cool(C* logits) const {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < plan_.elements(); ++i) logits[i] *= temperature_.inverse;
  }

  void begin_teacher() {
    teacher_.first = tile_.first;
    teacher_.rows = tile_.rows;
    teacher_.find_largest(this->at(a_));
    teacher_.template take_exponentials<true>(this->at(a_), e_teacher());
  }
  C* e_teacher() { return this->at(memory_.data()); }

  // body(element, lane) for every class of every row.
  template <class Body>
  void for_each_class(const Body& body) const {
    for (int64_t step = 0, i = 0; step < plan_.steps; ++step, i += plan_.stride()) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) body(i + lane, lane);
    }
  }

  void value(C* losses) {
    const C* __restrict x = this->at(x_), * __restrict e = this->at(e_), * __restrict z = this->at(a_);
    const C* __restrict ez = e_teacher();
    const C factor = temperature_.value * temperature_.value;
    for_each_class([&](int64_t i, int64_t lane) {
      const C gap = (z[i] - teacher_.largest[lane]) - (x[i] - tile_.largest[lane]);
      const C d = gap + (tile_.log_sum[lane] - teacher_.log_sum[lane]);
      losses[lane] += divergence(e[i] * tile_.inverse[lane], ez[i] * teacher_.inverse[lane], d);
    });
    tile_.combine(losses);
    for (int64_t lane = 0; lane < kRowLanes; ++lane) losses[lane] = factor * (losses[lane] + lost(lane));
  }

  // 0; NaN in a row that has no softmax, in one of the two at least.
  C lost(int64_t lane) const { return 0 * (tile_.rest[lane] + teacher_.rest[lane]); }

  // The student's logit at the teacher's peak.
  void find_facing(C* facing) const {
    for (int64_t row = 0; row < tile_.rows; ++row) facing[row] = this->at(x_)[tile_.element(teacher_.peak[row], row)];
    if (plan_.along_classes) std::fill(facing, facing + kRowLanes, C(facing[0]));
  }
  C gap(const C* z, const C* x, const C* facing, int64_t i, int64_t lane) const {
    return (z[i] - teacher_.largest[lane]) - (x[i] - facing[lane]);
  }

  void gradient() {
    alignas(kCacheLine) C grad[kRowLanes];
    this->find_grads(grad);
    for (int64_t lane = 0; lane < kRowLanes; ++lane) grad[lane] = temperature_.value * grad[lane] + lost(lane);
    C* __restrict x = this->at(x_), * __restrict z = this->at(a_), * __restrict p = this->at(e_);
    C* __restrict t = e_teacher();
    // In memory, where no product is fused into the difference below: equals leave nothing.
    for_each_class([&](int64_t i, int64_t lane) {
      p[i] *= tile_.inverse[lane];
      t[i] *= teacher_.inverse[lane];
    });
    if (rows_.grad_targets) {
      alignas(kCacheLine) C facing[kRowLanes] = {}, mean[kRowLanes] = {};
      find_facing(facing);
      for_each_class([&](int64_t i, int64_t lane) { mean[lane] += counted(t[i], gap(z, x, facing, i, lane)); });
      tile_.combine(mean);
      for_each_class(
          [&](int64_t i, int64_t lane) { z[i] = grad[lane] * counted(t[i], gap(z, x, facing, i, lane) - mean[lane]); });
    }
    for_each_class([&](int64_t i, int64_t lane) { x[i] = grad[lane] * (p[i] - t[i]); });
    // Where both are near 1 their difference is that of the others' probabilities.
    for (int64_t row = 0; row < tile_.rows; ++row) {
      if (tile_.peak[row] != teacher_.peak[row]) continue;
      const C left_over = (teacher_.rest[row] - tile_.rest[row]) * teacher_.inverse[row] * tile_.inverse[row];
      x[tile_.element(tile_.peak[row], row)] = grad[row] * left_over;
    }
  }

  void second(C* along) {
    alignas(kCacheLine) C grad[kRowLanes], facing[kRowLanes] = {}, of_v[kRowLanes], of_u[kRowLanes];
    alignas(kCacheLine) C of_student[kRowLanes] = {}, of_gap[kRowLanes] = {}, both[kRowLanes] = {};
    this->find_grads(grad);
    find_facing(facing);
    C* __restrict x = this->at(x_), * __restrict z = this->at(a_);
    const C* __restrict e = this->at(e_), * __restrict ez = e_teacher();
    C* __restrict v = this->at(v_), * __restrict u = this->at(u_);
    teacher_.centre(ez, v, of_v);
    teacher_.centre(ez, u, of_u);
    for_each_class([&](int64_t i, int64_t lane) {
      const C d = counted(ez[i], gap(z, x, facing, i, lane));
      of_student[lane] += e[i] * v[i];
      of_gap[lane] += d;
      both[lane] += d * (u[i] - of_u[lane]);
    });
    for (C* sum : {of_student, of_gap, both}) tile_.combine(sum);
    for (int64_t lane = 0; lane < kRowLanes; ++lane) {
      of_student[lane] *= tile_.inverse[lane];
      of_gap[lane] *= teacher_.inverse[lane];
      both[lane] *= teacher_.inverse[lane];
      along[lane] = temperature_.value * (of_student[lane] - of_v[lane] + both[lane]) + lost(lane);
      grad[lane] += lost(lane);
    }
    for_each_class([&](int64_t i, int64_t lane) {
      const C p = e[i] * tile_.inverse[lane], t = ez[i] * teacher_.inverse[lane], turned = u[i] - of_u[lane];
      const C bent = counted(t, gap(z, x, facing, i, lane) - of_gap[lane]) * turned;
      x[i] = grad[lane] * (p * (v[i] - of_student[lane]) - t * turned);
      z[i] = grad[lane] * (bent + t * (turned - both[lane] - (v[i] - of_v[lane])));
    });
  }

  RowPass pass_;
  Temperature<C> temperature_;
  RowTile<C> teacher_;
  ScratchVector<C> memory_;
};

struct DistillationOnCpu {
  template <class C>
  static void for_each_row(const char*, RowPass pass, const RowOperands& operands, const Temperature<C>& temperature) {
    const RowViews<C> rows(operands);
    const RowPlan plan(rows);
    C* const sum = operands.sum ? operands.sum->template mutable_data_ptr<C>() : nullptr;
    const double total =
        sum_over_runs(plan, sum != nullptr, [&] { return DistillationWorker<C>(pass, rows, plan, temperature); });
    if (sum) *sum = static_cast<C>(total);
  }
};

}  // namespace
}  // namespace handgrad::knowledge_distillation_loss

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::distillation::implement<handgrad::knowledge_distillation_loss::DistillationOnCpu>(library);
}
