// The passes of a formula of two images' moments in a window, tile by tile: value, gradient, second derivatives.
//
// Of a tile, the pixels that its windows reach are loaded once, and filtered axis by axis; nothing that the passes
// compute between the images and their results is ever in memory as a whole. A gradient pass takes the windows that
// hold a pixel of the tile, computes their moments again, and filters the formula's slopes back.
//
// A Team does the work of one tile: a thread of the CPU, or a block of a device. It has
//   load(view, n, c, axes, origin, box, moved, to)    the pixels of a box, less `moved`; 0 where there are none
//   store(from, box, view, n, c, first, sizes)        those of a box that there are
//   for_box(box, body)                                body(s, r, w, index) for each element
//   filter(from, box, axis, result, to)               the windows along one axis, from one box to another
//   weights(), pixel(view, n, c, i)                   of all windows, and a single pixel
//   average<Averages>(u, v, ...)                      if kAveragesPlanes: all averages of planes, in its own way
// and all of a team have finished one of these before any begins the next.
#pragma once

#include "math/window_plan.h"
#include "math/window_tile.h"

namespace handgrad {

template <class Team, class C, class Formula>
struct WindowPasses {
  static constexpr int kAverages = kWindowAverages<Formula>;

  const WindowPlan& plan;
  const WindowOperands<C>& operands;
  const Formula& formula;
  Team& team;
  C *image[4], *work, *temporary[2], *average, *sum[2];
  int64_t n, c;
  int32_t origin[3], pitch;
  C moved[2];

  HANDGRAD_TEAM WindowPasses(const WindowPlan& plan, const WindowOperands<C>& operands, const Formula& formula,
                             Team& team, C* scratch)
      : plan(plan), operands(operands), formula(formula), team(team), pitch(plan.inner.count() + plan.spare) {
    const int32_t spare = plan.spare;
    for (int k = 0; k < plan.images; ++k, scratch += plan.patch.count() + spare) image[k] = scratch;
    work = scratch, scratch += plan.patch.count() + spare;
    for (int k = 0; k < 2; ++k) temporary[k] = scratch, scratch += plan.temporary[k] + spare;
    average = scratch, scratch += plan.averages * pitch;
    for (int k = 0; k < 2; ++k) sum[k] = scratch + k * (plan.tile.count() + spare);
  }

  HANDGRAD_TEAM void move_to(int64_t item) {
    for (int a = 2; a >= 0; --a) {
      const WindowAxis& axis = plan.axes.axis[a];
      const int64_t rest = item / plan.tiles[a];
      origin[a] = static_cast<int32_t>(item - rest * plan.tiles[a]) * plan.tile.extent[a];
      // The first window that holds a pixel.
      if (plan.gradient) origin[a] += axis.padding - axis.taps + 1;
      item = rest;
    }
    n = item / plan.channels, c = item - n * plan.channels;
  }

  // ---- passes: each of one tile -------------------------------------------------------------------------------------

  // The values of windows, or their derivatives along directions, into `work`; those of no window are 0.
  template <bool Along>
  HANDGRAD_TEAM void value() {
    fill_averages<Along>();
    const WindowsOfTile<C, Formula> of = windows();
    C* const results = work;
    team.for_box(plan.inner, [=](int32_t s, int32_t r, int32_t w, int32_t i) {
      C result;
      if constexpr (Along) {
        result = of.template value<Dual<C>>(i).tangent;
      } else {
        result = of.template value<C>(i);
      }
      results[i] = of.is_window(s, r, w) ? result : C(0);
    });
    if (operands.output) team.store(work, plan.inner, operands.output, n, c, origin, of.windows);
  }

  HANDGRAD_TEAM void gradient() {
    fill_averages<false>();
    load_grad_output();
    const WindowsOfTile<C, Formula> of = windows();
    const C* const grad = work;
    team.for_box(plan.inner, [=](int32_t s, int32_t r, int32_t w, int32_t i) {
      C a[5];
      of.slopes(i, a);
      const C g = grad[i];
      const bool there = of.is_window(s, r, w);
      HANDGRAD_UNROLL
      for (int k = 0; k < kAverages; ++k) of.average[k * of.pitch + i] = there ? g * a[k] : C(0);
    });
    for (int k = 2; k < kAverages; ++k) add_to_sums(average + k * pitch, k, image[0], image[1]);
    finish_gradients();
  }

  HANDGRAD_TEAM void second_gradient() {
    fill_averages<true>();
    load_grad_output();
    const WindowsOfTile<C, Formula> of = windows();
    const C* const grad = work;
    team.for_box(plan.inner, [=](int32_t s, int32_t r, int32_t w, int32_t i) {
      Dual<C> a[5];
      of.slopes(i, a);
      const C g = grad[i];
      const bool there = of.is_window(s, r, w);
      HANDGRAD_UNROLL
      for (int k = 0; k < kAverages; ++k) {
        of.average[k * of.pitch + i] = there ? g * a[k].tangent : C(0);
        if (k >= 2) of.average[(kAverages + k) * of.pitch + i] = there ? g * a[k].value : C(0);
      }
    });
    for (int k = 2; k < kAverages; ++k) {
      add_to_sums(average + k * pitch, k, image[0], image[1]);
      add_to_sums(average + (kAverages + k) * pitch, k, image[2], image[3]);
    }
    finish_gradients();
  }

 private:
  // ---- moments ------------------------------------------------------------------------------------------------------

  HANDGRAD_TEAM WindowsOfTile<C, Formula> windows() const {
    const WindowAxis* const axis = plan.axes.axis;
    return {formula,
            average,
            pitch,
            {origin[0], origin[1], origin[2]},
            {axis[0].windows, axis[1].windows, axis[2].windows},
            {moved[0], moved[1]}};
  }

  // A pixel in the middle of the tile, if it is finite.
  HANDGRAD_TEAM C pixel_near(const StoredView<const C, 5>& view) const {
    int32_t at[3];
    for (int a = 0; a < 3; ++a) {
      const int32_t last = plan.axes.axis[a].size - 1;
      const int32_t i = origin[a] - plan.axes.axis[a].padding + plan.patch.extent[a] / 2;
      at[a] = i < 0 ? 0 : i > last ? last : i;
    }
    const C pixel = team.pixel(view, n, c, at);
    return pixel - pixel == 0 ? pixel : C(0);
  }

  HANDGRAD_TEAM void load_images(const StoredView<const C, 5>& x, const StoredView<const C, 5>& y, C moved_x, C moved_y,
                                 C* u, C* v) {
    team.load(x, n, c, plan.axes.axis, origin, plan.patch, moved_x, u);
    team.load(y, n, c, plan.axes.axis, origin, plan.patch, moved_y, v);
    rotate(plan.patch, u, v);
  }

  template <bool Along>
  HANDGRAD_TEAM void fill_averages() {
    const C x = pixel_near(operands.input), y = pixel_near(operands.target);
    moved[0] = Formula::kRotated ? x + y : x;
    moved[1] = Formula::kRotated ? x - y : y;
    load_images(operands.input, operands.target, x, y, image[0], image[1]);
    if constexpr (Along) {
      load_images(operands.grad_grad_input, operands.grad_grad_target, C(0), C(0), image[2], image[3]);
    }
    const C *const u = image[0], *const v = image[1], *const du = image[2], *const dv = image[3];
    C* const to = work;
    int first = 0;
    if constexpr (Team::kAveragesPlanes) {
      if (plan.axes.count == 2) {
        team.template average<kAverages>(u, v, plan.patch, plan.inner, average, pitch);
        first = kAverages;
      }
    }
    for (int k = first; k < plan.averages; ++k) {
      team.for_box(plan.patch, [=](int32_t, int32_t, int32_t, int32_t i) {
        C of_pixel = averaged(k, u[i], v[i]);
        if constexpr (Along) {
          const C along = averaged_along(k - kAverages, u[i], v[i], du[i], dv[i]);
          of_pixel = k < kAverages ? of_pixel : along;
        }
        to[i] = of_pixel;
      });
      filter_windows(average + k * pitch);
    }
  }

  // ---- filters ------------------------------------------------------------------------------------------------------

  // `work`, of the patch, to the windows.
  HANDGRAD_TEAM void filter_windows(C* to) {
    const C* from = work;
    WindowBuffer box = plan.patch;
    for (int a = 2; a >= 3 - plan.axes.count; --a) {
      C* const next = a == 3 - plan.axes.count ? to : temporary[2 - a];
      const WindowBuffer result = box.with(a, plan.inner.extent[a], plan.alignment);
      team.filter(from, box, a, result, next);
      box = result;
      from = next;
    }
  }

  // Slopes of the windows to the pixels that they hold, into `work`. Weights are symmetric, so the filter is its own
  // adjoint but for what is seen in a mirror.
  HANDGRAD_TEAM void filter_back(const C* from) {
    WindowBuffer box = plan.inner;
    for (int a = 3 - plan.axes.count; a < 3; ++a) {
      C* const next = a == 2 ? work : temporary[plan.axes.count == 2 ? 0 : 1 - a];
      const WindowBuffer result = box.with(a, plan.tile.extent[a], plan.alignment);
      team.filter(from, box, a, result, next);
      if (plan.axes.axis[a].mirrors) {
        add_mirrored(from, box, a, false, result, next);
        add_mirrored(from, box, a, true, result, next);
      }
      box = result;
      from = next;
    }
  }

  // What windows see of a pixel in the mirror before the first, or behind the last.
  HANDGRAD_TEAM void add_mirrored(const C* from, const WindowBuffer& box, int a, bool behind,
                                  const WindowBuffer& result, C* to) {
    const WindowAxis& axis = plan.axes.axis[a];
    const int32_t first = origin[a] + axis.taps - 1 - axis.padding, end = first + plan.tile.extent[a];
    const int32_t low = behind ? axis.size - 1 - axis.padding : 1, high = behind ? axis.size - 1 : axis.padding + 1;
    const int32_t begin = low > first ? low : first;
    const int32_t count = (high < end ? high : end) - begin;
    if (count <= 0) return;
    const WindowBuffer some = result.with(a, count, plan.alignment);
    const int32_t step = box.step(a);
    const C* const weights = team.weights();
    team.for_box(some, [&](int32_t s, int32_t r, int32_t w, int32_t) {
      const int32_t at = a == 0 ? s : a == 1 ? r : w, place = axis.mirrored(begin + at, behind);
      const int32_t lowest = place - axis.taps + 1 > 0 ? place - axis.taps + 1 : 0;
      const int32_t highest = place < axis.windows - 1 ? place : axis.windows - 1;
      const C* const line = from + box.index(a == 0 ? 0 : s, a == 1 ? 0 : r, a == 2 ? 0 : w);
      C total = 0;
      for (int32_t o = lowest; o <= highest; ++o) total += weights[place - o] * line[(o - origin[a]) * step];
      const int32_t moved_by = begin - first;
      to[result.index(s + (a == 0 ? moved_by : 0), r + (a == 1 ? moved_by : 0), w + (a == 2 ? moved_by : 0))] += total;
    });
  }

  // ---- gradients ----------------------------------------------------------------------------------------------------

  HANDGRAD_TEAM void load_grad_output() {
    WindowAxis axes[3];
    for (int a = 0; a < 3; ++a) axes[a].size = plan.axes.axis[a].windows;
    team.load(operands.grad_output, n, c, axes, origin, plan.inner, C(0), work);
    C* const grad = work;
    const C scale = operands.scale;
    team.for_box(plan.inner, [=](int32_t, int32_t, int32_t, int32_t i) { grad[i] *= scale; });
    for (int k = 0; k < 2; ++k) {
      C* const total = sum[k];
      team.for_box(plan.tile, [=](int32_t, int32_t, int32_t, int32_t i) { total[i] = 0; });
    }
  }

  // Slopes of average k, of squares or of the product, filtered back and times the pixels of u or v.
  HANDGRAD_TEAM void add_to_sums(const C* slopes, int k, const C* u, const C* v) {
    filter_back(slopes);
    const C* const from = work;
    for (int which = 0; which < 2; ++which) {
      if (k < 4 && k % 2 != which) continue;
      C* const total = sum[which];
      const C* const other = (k == 4) == (which == 1) ? u : v;
      const C factor = k == 4 ? C(1) : C(2);
      const WindowBuffer patch = plan.patch;
      const int32_t s0 = plan.axes.axis[0].taps - 1, r0 = plan.axes.axis[1].taps - 1, w0 = plan.taps - 1;
      team.for_box(plan.tile, [=](int32_t s, int32_t r, int32_t w, int32_t i) {
        total[i] += factor * other[patch.index(s + s0, r + r0, w + w0)] * from[i];
      });
    }
  }

  // From gradients of u and v to those of the images; and the slopes of means, the same for all pixels, which are
  // filtered once for each image that is asked for.
  HANDGRAD_TEAM void finish_gradients() {
    rotate(plan.tile, sum[0], sum[1]);
    rotate(plan.inner, average, average + pitch);
    const StoredView<C, 5> results[2] = {operands.grad_input, operands.grad_target};
    int32_t first[3], sizes[3];
    for (int a = 0; a < 3; ++a) {
      const WindowAxis& axis = plan.axes.axis[a];
      first[a] = origin[a] + axis.taps - 1 - axis.padding;
      sizes[a] = axis.size;
    }
    for (int which = 0; which < 2; ++which) {
      if (!results[which]) continue;
      filter_back(average + which * pitch);
      C *const total = sum[which], *const from = work;
      team.for_box(plan.tile, [=](int32_t, int32_t, int32_t, int32_t i) { total[i] += from[i]; });
      if (operands.coarse[which]) add_share_of_coarse(which, first);
      team.store(total, plan.tile, results[which], n, c, first, sizes);
    }
  }

  // Each pixel is a part of one of an image of half the size; the last of an odd number is of none.
  HANDGRAD_TEAM void add_share_of_coarse(int which, const int32_t* first) {
    WindowAxis axes[3];
    int32_t begin[3], lead[3], halved[3], extent[3];
    for (int a = 0; a < 3; ++a) {
      axes[a].size = operands.coarse_size[a];
      halved[a] = a >= 3 - plan.axes.count ? 1 : 0;
      begin[a] = first[a] >> halved[a];
      lead[a] = first[a] - (begin[a] << halved[a]);
      extent[a] = ((lead[a] + plan.tile.extent[a] - 1) >> halved[a]) + 1;
    }
    const WindowBuffer box = WindowBuffer::of(extent[0], extent[1], extent[2], plan.alignment);
    team.load(operands.coarse[which], n, c, axes, begin, box, C(0), work);
    C *const total = sum[which], *const from = work;
    const C share = operands.share;
    const int32_t s0 = lead[0], r0 = lead[1], w0 = lead[2], slices = halved[0];
    team.for_box(plan.tile, [=](int32_t s, int32_t r, int32_t w, int32_t i) {
      total[i] += share * from[box.index((s + s0) >> slices, (r + r0) >> 1, (w + w0) >> 1)];
    });
  }

  // Sum and difference in place of both, where the formula takes these.
  HANDGRAD_TEAM void rotate(const WindowBuffer& box, C* one, C* other) {
    if constexpr (Formula::kRotated) {
      team.for_box(box, [=](int32_t, int32_t, int32_t, int32_t i) {
        const C x = one[i], y = other[i];
        one[i] = x + y;
        other[i] = x - y;
      });
    }
  }
};

}  // namespace handgrad
