// Sums over windows, and the pass that takes means of planes, there and back.
//
// In order of appearance: Layout of planes; from parts to windows; MeansPass.
#pragma once

#include "guided_filter_planes.h"

namespace handgrad::guided_filter {

// ---- the sums of windows --------------------------------------------------------------------------------------------

// Which planes there are: means of guides, means of inputs, covariances of guides, and of guides with inputs.
struct Layout {
  int32_t guides = 0, inputs = 0;
  // The input is the guidance: its means and covariances are there already.
  bool own = false;

  HANDGRAD_MATH int32_t means() const { return guides + (own ? 0 : inputs); }
  HANDGRAD_MATH int32_t guide_pairs() const { return guides * (guides + 1) / 2; }
  HANDGRAD_MATH int32_t count() const { return means() + guide_pairs() + guides * inputs; }
  // Planes of scratch: what a channel gives back needs one more than those of an image that guides itself.
  HANDGRAD_MATH int32_t room() const { return count() + (own ? 1 : 0); }
  // Of guides k and l, in any order.
  HANDGRAD_MATH int32_t pair(int32_t k, int32_t l) const {
    return means() + (k < l ? l * (l + 1) / 2 + k : k * (k + 1) / 2 + l);
  }
  HANDGRAD_MATH int32_t pair_with(int32_t c, int32_t k) const { return means() + guide_pairs() + c * guides + k; }
  // What the last pass back takes for the gradient of the guidance.
  HANDGRAD_MATH int32_t returns() const { return guides + guide_pairs(); }
};

// From parts of `size` positions to parts of twice as many, or one more, which `middle` has.
template <class C>
struct Level {
  bool odd;
  int32_t middle, far;  // from the first part, in numbers
  C one, many;

  HANDGRAD_MATH Level(int32_t size, bool odd, int32_t step)
      : odd(odd),
        middle(size * step),
        far((size + (odd ? 1 : 0)) * step),
        one(C(1) / static_cast<C>(2 * size + 1)),
        many(static_cast<C>(size) / static_cast<C>(2 * size + 1)) {}
};

// Functions of their own, or loops over dual numbers are not vectorised.
template <class N>
HANDGRAD_MATH void merge_mean(const Plane<N>& a, const Plane<N>& x, const Plane<N>& b, const Level<Plain<N>>& level,
                              int32_t i, const Plane<N>& to) {
  to.set(i, merged_mean(a.at(i), x.at(i), b.at(i), level.one, level.many));
}
template <class N>
HANDGRAD_MATH void merge_pair(const Plane<N>& a, const Plane<N>& b, const Plane<N>& u, const Plane<N>& v, int32_t far,
                              int32_t i, const Plane<N>& to) {
  to.set(i, merged_covariance(a.at(i), b.at(i), u.at(i + far) - u.at(i), v.at(i + far) - v.at(i)));
}
template <class N>
HANDGRAD_MATH void merge_pair(const Plane<N>& a, const Plane<N>& x, const Plane<N>& b, const Plane<N>& u,
                              const Plane<N>& x_u, const Plane<N>& v, const Plane<N>& x_v, const Level<Plain<N>>& level,
                              int32_t i, const Plane<N>& to) {
  const N of_u = u.at(i), of_v = v.at(i);
  to.set(i, merged_covariance(a.at(i), x.at(i), b.at(i), x_u.at(i) - of_u, x_v.at(i) - of_v, u.at(i + level.far) - of_u,
                              v.at(i + level.far) - of_v, level.one, level.many));
}

// Of all planes of a tile, from `from` to `to`; `middle` are those before the first level of this axis.
template <class Team, class N>
struct Merge {
  const Layout& layout;
  Planes<N> from, middle, to;
  Level<Plain<N>> level;

  HANDGRAD_TEAM void mean(Team& team, int32_t begin, int32_t end, int32_t k) const {
    const Plane<N> a = from[k], x = middle[k] + level.middle, b = from[k] + level.far, result = to[k];
    const Level<Plain<N>> step = level;
    if (step.odd) {
      team.each(begin, end, [=](int32_t i) { merge_mean(a, x, b, step, i, result); });
    } else {
      team.each(begin, end, [=](int32_t i) { result.set(i, merged_mean(a.at(i), b.at(i))); });
    }
  }
  HANDGRAD_TEAM void pair(Team& team, int32_t begin, int32_t end, int32_t k, int32_t u, int32_t v) const {
    const Plane<N> a = from[k], x = middle[k] + level.middle, b = from[k] + level.far, result = to[k];
    const Plane<N> u_a = from[u], v_a = from[v], u_x = middle[u] + level.middle, v_x = middle[v] + level.middle;
    const Level<Plain<N>> step = level;
    if (step.odd) {
      team.each(begin, end, [=](int32_t i) { merge_pair(a, x, b, u_a, u_x, v_a, v_x, step, i, result); });
    } else {
      const int32_t far = step.far;
      team.each(begin, end, [=](int32_t i) { merge_pair(a, b, u_a, v_a, far, i, result); });
    }
  }
  template <bool Pairs>
  HANDGRAD_TEAM void run(Team& team, int32_t count) const {
    const int32_t chunk = team.chunk(count);
    HANDGRAD_ROLLED
    for (int32_t begin = 0; begin < count; begin += chunk) {
      const int32_t end = begin + chunk < count ? begin + chunk : count;
      HANDGRAD_ROLLED
      for (int32_t k = 0; k < layout.means(); ++k) mean(team, begin, end, k);
      if constexpr (Pairs) {
        HANDGRAD_ROLLED
        for (int32_t k = 0; k < layout.guides; ++k) {
          HANDGRAD_ROLLED
          for (int32_t l = 0; l <= k; ++l) pair(team, begin, end, layout.pair(k, l), k, l);
        }
        HANDGRAD_ROLLED
        for (int32_t c = 0; c < (layout.own ? 0 : layout.inputs); ++c) {
          HANDGRAD_ROLLED
          for (int32_t k = 0; k < layout.guides; ++k) {
            pair(team, begin, end, layout.pair_with(c, k), k, layout.guides + c);
          }
        }
      }
    }
    team.sync();
  }
};

// Three times the planes of a tile: of one are the moments, the other two are free.
template <class N>
struct Buffers {
  Planes<N> moments, free, other;
};

// All windows along an axis, whose positions are `step` apart; `count` is left of the numbers.
template <bool Pairs, class Team, class N>
HANDGRAD_TEAM void sum_along(Team& team, const Layout& layout, int32_t taps, int32_t step, int32_t& count,
                             Buffers<N>& buffers) {
  const Planes<N> first = buffers.moments;
  Planes<N> from = first, to = buffers.free, spare = buffers.other;
  int32_t size = 1, bit = 1;
  HANDGRAD_ROLLED
  while (2 * bit <= taps) bit *= 2;
  HANDGRAD_ROLLED
  for (bit /= 2; bit > 0; bit /= 2) {
    const bool odd = taps & bit;
    const Level<Plain<N>> level(size, odd, step);
    count -= level.far;
    Merge<Team, N>{layout, from, first, to, level}.template run<Pairs>(team, count);
    from = to, to = spare, spare = from;
    size = 2 * size + (odd ? 1 : 0);
  }
  if (size > 1) buffers = {from, first, to};
}

// Windows of rows, then of columns. What is between two rows of positions afterwards is nothing.
template <bool Pairs, class Team, class N>
HANDGRAD_TEAM void sum_windows(Team& team, const Layout& layout, const Tile& tile, Buffers<N>& buffers) {
  int32_t count = tile.seen();
  // One loop, which is compiled once.
  HANDGRAD_ROLLED
  for (int axis = 0; axis < 2; ++axis) {
    const int32_t taps = axis == 0 ? tile.rows.taps : tile.columns.taps, step = axis == 0 ? tile.pitch : 1;
    sum_along<Pairs>(team, layout, taps, step, count, buffers);
  }
}

// ---- means ----------------------------------------------------------------------------------------------------------

// Of planes of `family`, which has source(team, plane), to those at `to`; back: from windows to what they see.
template <class C, class Family>
struct MeansPass {
  Axis rows, columns;
  Border border;
  bool back;
  int64_t planes;
  Family family;
  C* to;
  Grid grid = {};

  static constexpr const char* kName = "guided_filter_means";
  static constexpr int64_t kPartsOfNumbers = 1;
  void cut(int32_t height, int32_t width) {
    grid = {Cut::of(rows, height, back, border), Cut::of(columns, width, back, border)};
  }
  HANDGRAD_MATH int64_t items() const { return planes * grid.tiles(); }
  HANDGRAD_MATH int64_t scratch() const { return 3 * grid.plane(); }

  template <class Team>
  HANDGRAD_TEAM void operator()(Team& team, C* scratch, int64_t item) const {
    const Tile tile = grid.tile(item);
    const int64_t size = grid.plane();
    const auto planes_at = [&](int64_t k) { return Planes<C>{{scratch + k * size, 0}, size}; };
    Buffers<C> buffers{planes_at(0), planes_at(1), planes_at(2)};
    const Border around = !back ? border : border == kCircular ? kCircular : kConstant;
    team.load(family.source(team, tile.image),
              Box{tile.rows.first - tile.rows.before, tile.columns.first - tile.columns.before, tile.rows.seen(),
                  tile.columns.seen(), tile.pitch, rows.size, columns.size, around},
              buffers.moments[0].first);
    team.sync();
    sum_windows<false>(team, Layout{1, 0}, tile, buffers);
    C* const means = buffers.moments[0].first;
    if (back && folds(border)) fold(team, tile, means);
    const int64_t row = tile.rows.inside - tile.rows.first, column = tile.columns.inside - tile.columns.first;
    C* const target = to + (tile.image * rows.size + tile.rows.inside) * columns.size + tile.columns.inside;
    team.cells(tile.rows.inside_count, tile.columns.inside_count, [&](int32_t r, int32_t w) {
      team.put(target + r * columns.size + w, means[(row + r) * tile.pitch + column + w]);
    });
  }

 private:
  // What is got behind the border goes to the pixel that is seen there.
  template <class Team>
  HANDGRAD_TEAM void fold(Team& team, const Tile& tile, C* means) const {
    const Span down = tile.rows, right = tile.columns;
    const int32_t pitch = tile.pitch;
    const Border around = border;
    const int64_t height = rows.size, width = columns.size;
    HANDGRAD_ROLLED
    for (int32_t r = 0; r < down.count; ++r) {
      const int64_t y = down.first + r, seen = border_index(around, y, height);
      if (seen == y) continue;
      const C* const from = means + r * pitch;
      C* const target = means + (seen - down.first) * pitch;
      team.each(0, right.count, [=](int32_t i) { target[i] += from[i]; });
    }
    team.sync();
    const int64_t first_row = down.inside - down.first;
    team.cells(down.inside_count, 1, [=](int32_t r, int32_t) {
      C* const row = means + (first_row + r) * pitch;
      HANDGRAD_ROLLED
      for (int32_t i = 0; i < right.count; ++i) {
        const int64_t x = right.first + i, seen = border_index(around, x, width);
        if (seen != x) row[seen - right.first] += row[i];
      }
    });
    team.sync();
  }
};

template <class C>
struct PlaneFamily {
  const C* planes;
  int64_t size, width;

  template <class Team>
  HANDGRAD_TEAM PlaneSource<C> source(Team&, int64_t k) const {
    return {planes + k * size, width};
  }
};

}  // namespace handgrad::guided_filter
