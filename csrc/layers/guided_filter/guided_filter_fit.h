// The fits of the input by the guidance in the windows of a tile.
//
// In order of appearance: Images; elimination; Fit.
#pragma once

#include "abi/view.h"
#include "guided_filter_windows.h"

namespace handgrad::guided_filter {

// ---- images ---------------------------------------------------------------------------------------------------------

// The eps of each image, or of all; and a direction.
struct EpsTable {
  View<const double, 1> eps, direction;  // [N]
  double shared = 0;

  template <class N>
  HANDGRAD_MATH N of(int64_t n) const {
    using C = Plain<N>;
    const C value = static_cast<C>(eps ? *eps.at(n) : shared);
    if constexpr (kIsDual<N>) {
      return {value, static_cast<C>(direction ? *direction.at(n) : 0.0)};
    } else {
      return value;
    }
  }
};

// What passes read, and its geometry. An image that guides itself is the input too.
template <class C>
struct Images {
  Axis rows, columns;
  int64_t batch, channels, guides;
  Border border;
  bool own;
  StoredView<const C, 4> guidance, input, v_guidance, v_input, grad_output;
  EpsTable eps;

  // Numbers of a plane, planes of an image: c's coefficients of the guides, and its constant, are together.
  HANDGRAD_MATH int64_t area() const { return rows.size * columns.size; }
  HANDGRAD_MATH int64_t fits() const { return channels * (guides + 1); }

  // What is taken from all pixels of a channel, so that sums of large numbers do not lose what they differ by. Beyond a
  // border of zeros there are other pixels, which are not moved.
  template <class Team>
  HANDGRAD_TEAM C shift(Team& team, const StoredView<const C, 4>& view, int64_t n, int64_t c) const {
    if (border == kConstant) return 0;
    const C pixel = team.pixel(view.at(n, c, rows.full / 2, columns.full / 2));
    return pixel - pixel == 0 ? pixel : C(0);
  }
  // A channel of the pixels that are left, or of all, and of its direction.
  template <class Team>
  HANDGRAD_TEAM ImageSource<C> source(Team& team, bool of_input, int64_t n, int64_t c, bool whole) const {
    const StoredView<const C, 4> view = of_input ? input : guidance;
    return {view, n, c, whole ? rows.whole() : rows, whole ? columns.whole() : columns, shift(team, view, n, c)};
  }
  template <class N, class Team>
  HANDGRAD_TEAM void load(Team& team, bool of_input, int64_t n, int64_t c, bool whole, const Box& box,
                          const Plane<N>& to) const {
    ImageSource<C> from = source(team, of_input, n, c, whole);
    team.load(from, box, to.first);
    if constexpr (kIsDual<N>) {
      from.view = of_input ? v_input : v_guidance, from.shift = 0;
      team.load(from, box, to.first + to.apart);
    }
  }
};

// ---- elimination ----------------------------------------------------------------------------------------------------

// M = V D V^T in place of the lower half of covariances: V D below the diagonal, and on it 1 / D. Of the windows
// [begin, end).
template <class Team, class N>
struct Elimination {
  Team& team;
  Layout layout;
  Planes<N> planes;
  // For the diagonal before anything is taken from it.
  Plane<N> diagonal;
  N eps;
  int32_t begin, end;

  HANDGRAD_TEAM void factor() const {
    HANDGRAD_ROLLED
    for (int32_t j = 0; j < layout.guides; ++j) {
      const Plane<N> pivot = planes[layout.pair(j, j)], whole = diagonal;
      const N added = eps;
      // Elements of the row of j need those before them.
      HANDGRAD_ROLLED
      for (int32_t l = 0; l < j; ++l) {
        HANDGRAD_ROLLED
        for (int32_t q = 0; q < l; ++q) take(layout.pair(j, l), layout.pair(j, q), layout.pair(l, q), q);
      }
      team.each(begin, end, [=](int32_t i) {
        const N sum = pivot.at(i) + added;
        whole.set(i, sum), pivot.set(i, sum);
      });
      HANDGRAD_ROLLED
      for (int32_t q = 0; q < j; ++q) take(layout.pair(j, j), layout.pair(j, q), layout.pair(j, q), q);
      team.each(begin, end, [=](int32_t i) { pivot.set(i, inverse_pivot(pivot.at(i), whole.at(i))); });
    }
  }
  // M a = r, for the planes at `of`, where a takes the place of r.
  HANDGRAD_TEAM void solve(const Planes<N>& of) const {
    HANDGRAD_ROLLED
    for (int32_t j = 0; j < layout.guides; ++j) {
      HANDGRAD_ROLLED
      for (int32_t q = 0; q < j; ++q) {
        const Plane<N> to = of[j], known = of[q], v = planes[layout.pair(j, q)], inverse = planes[layout.pair(q, q)];
        team.each(begin, end, [=](int32_t i) { to.set(i, to.at(i) - v.at(i) * (inverse.at(i) * known.at(i))); });
      }
    }
    HANDGRAD_ROLLED
    for (int32_t j = layout.guides - 1; j >= 0; --j) {
      const Plane<N> to = of[j], inverse = planes[layout.pair(j, j)];
      HANDGRAD_ROLLED
      for (int32_t q = j + 1; q < layout.guides; ++q) take_plain(to, planes[layout.pair(q, j)], of[q]);
      team.each(begin, end, [=](int32_t i) { to.set(i, to.at(i) * inverse.at(i)); });
    }
  }
  // to -= u v
  HANDGRAD_TEAM void take_plain(const Plane<N>& to, const Plane<N>& u, const Plane<N>& v) const {
    team.each(begin, end, [=](int32_t i) { to.set(i, to.at(i) - u.at(i) * v.at(i)); });
  }

 private:
  HANDGRAD_TEAM void take(int32_t from, int32_t one, int32_t other, int32_t q) const {
    const Plane<N> to = planes[from], u = planes[one], v = planes[other], inverse = planes[layout.pair(q, q)];
    team.each(begin, end, [=](int32_t i) { to.set(i, to.at(i) - u.at(i) * (inverse.at(i) * v.at(i))); });
  }
};

// ---- the fit of a tile ----------------------------------------------------------------------------------------------

// Of an image's channels [c, c + layout.inputs).
template <class Team, class N>
struct Fit {
  using C = Plain<N>;

  Team& team;
  const Images<C>& images;
  Tile tile;
  Layout layout;
  int64_t n, c;
  Buffers<N> buffers;

  HANDGRAD_TEAM Fit(Team& team, const Images<C>& images, const Grid& grid, int32_t group, C* scratch, int64_t item)
      : team(team), images(images), tile(grid.tile(item)) {
    const int64_t groups = groups_of(images, group);
    n = tile.image / groups, c = (tile.image - n * groups) * group;
    const int64_t left = images.channels - c;
    layout = layout_of(images, left < group ? static_cast<int32_t>(left) : group);
    const int64_t size = grid.plane(), apart = 3 * size * layout_of(images, group).room();
    const auto planes = [&](int64_t k) { return Planes<N>{{scratch + k * size * layout.room(), apart}, size}; };
    buffers = {planes(0), planes(1), planes(2)};
  }
  HANDGRAD_MATH static int64_t groups_of(const Images<C>& images, int32_t group) {
    return (images.channels + group - 1) / group;
  }
  HANDGRAD_MATH static Layout layout_of(const Images<C>& images, int32_t group) {
    return {static_cast<int32_t>(images.guides), group, images.own};
  }

  // The planes of the tile's windows: means of guides; of a channel its mean, and what it is fitted by.
  HANDGRAD_MATH Plane<N> mean(int32_t k) const { return buffers.moments[k]; }
  HANDGRAD_MATH Plane<N> mean_of(int32_t i) const {
    return buffers.moments[images.own ? static_cast<int32_t>(c) + i : layout.guides + i];
  }
  HANDGRAD_MATH Planes<N> fit_of(int32_t i) const {
    return {buffers.moments[layout.pair_with(i, 0)], buffers.moments.size};
  }
  HANDGRAD_MATH int64_t first_pixel() const { return tile.rows.first * images.columns.size + tile.columns.first; }
  HANDGRAD_TEAM Elimination<Team, N> elimination(int32_t begin, int32_t end) const {
    return {team, layout, buffers.moments, buffers.free[0], images.eps.template of<N>(n), begin, end};
  }

  HANDGRAD_TEAM void load() const {
    const Box box{tile.rows.first - tile.rows.before,
                  tile.columns.first - tile.columns.before,
                  tile.rows.seen(),
                  tile.columns.seen(),
                  tile.pitch,
                  images.rows.size,
                  images.columns.size,
                  images.border};
    HANDGRAD_ROLLED
    for (int32_t k = 0; k < layout.means(); ++k) {
      const bool of_input = k >= layout.guides;
      const int64_t channel = of_input ? c + k - layout.guides : k;
      images.template load<N>(team, of_input, n, channel, false, box, buffers.moments[k]);
    }
    // A pixel has no covariances.
    HANDGRAD_ROLLED
    for (int32_t k = layout.means(); k < layout.count(); ++k) {
      const Plane<N> plane = buffers.moments[k];
      team.each(0, tile.seen(), [=](int32_t i) { plane.set(i, N(0)); });
    }
    team.sync();
  }

  // Moments of all windows; then the factors of covariances in their place, and in that of covariances with the input
  // what it is fitted by.
  HANDGRAD_TEAM void make() {
    load();
    sum_windows<true>(team, layout, tile, buffers);
    const int32_t count = tile.count(), chunk = team.chunk(count);
    HANDGRAD_ROLLED
    for (int32_t begin = 0; begin < count; begin += chunk) {
      const int32_t end = begin + chunk < count ? begin + chunk : count;
      const Elimination<Team, N> windows = elimination(begin, end);
      HANDGRAD_ROLLED
      for (int32_t i = 0; i < layout.inputs && images.own; ++i) {
        HANDGRAD_ROLLED
        for (int32_t k = 0; k < layout.guides; ++k) {
          const Plane<N> to = fit_of(i)[k], from = buffers.moments[layout.pair(static_cast<int32_t>(c) + i, k)];
          team.each(begin, end, [=](int32_t at) { to.set(at, from.at(at)); });
        }
      }
      windows.factor();
      HANDGRAD_ROLLED
      for (int32_t i = 0; i < layout.inputs; ++i) windows.solve(fit_of(i));
    }
  }
  // The constant of channel i: its mean less that of what fits it.
  HANDGRAD_TEAM void make_constant(int32_t i, int32_t begin, int32_t end, const Plane<N>& to) const {
    const Plane<N> from = mean_of(i);
    team.each(begin, end, [=](int32_t at) { to.set(at, from.at(at)); });
    const Elimination<Team, N> windows = elimination(begin, end);
    HANDGRAD_ROLLED
    for (int32_t k = 0; k < layout.guides; ++k) windows.take_plain(to, fit_of(i)[k], mean(k));
  }
  // The windows of a plane to memory, tangents `part` numbers behind.
  HANDGRAD_TEAM void store(const Plane<N>& from, C* to, int64_t part) const {
    C* const first = to + first_pixel();
    const int64_t width = images.columns.size;
    const int32_t pitch = tile.pitch;
    team.cells(tile.rows.count, tile.columns.count, [=, this](int32_t r, int32_t w) {
      const int64_t at = r * width + w;
      const int32_t i = r * pitch + w;
      team.put(first + at, from.first[i]);
      if constexpr (kIsDual<N>) team.put(first + part + at, from.first[i + from.apart]);
    });
  }
};

}  // namespace handgrad::guided_filter
