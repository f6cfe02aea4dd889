// The pass over windows: what each is fitted by; or, of gradients of that, what its pixels give and get.
#pragma once

#include "guided_filter_fit.h"

namespace handgrad::guided_filter {

// Without slopes, the coefficients of all windows: [parts, images, channels, guides + 1, height, width].
//
// With slopes, gradients of those, alpha, and of constants, beta, of each window:
//   rho = M^-1 (alpha - beta mean),  beta' = beta - mean rho            for each channel; pixels get beta' + rho g
//   tau = sum over channels of rho b + a beta',  Q = sum of rho a^T + a rho^T                    for the guidance
// which in each image follow, [groups, returns, height, width]; and for eps, of each item and in two parts, the sum of
// rho a. One pass for both, since most of either is moments.
template <class N>
struct FitPass {
  using C = Plain<N>;

  Images<C> images;
  int32_t group;
  bool wants_guidance;
  const C* slopes;
  C* results;
  double* sums;
  Grid grid = {};

  static constexpr const char* kName = "guided_filter_fit";
  static constexpr int64_t kPartsOfNumbers = kParts<N>;

  void cut(int32_t height, int32_t width) {
    grid = {Cut::of(images.rows, height, false, images.border), Cut::of(images.columns, width, false, images.border)};
  }
  HANDGRAD_MATH Layout layout() const { return {static_cast<int32_t>(images.guides), group, images.own}; }
  HANDGRAD_MATH int64_t groups() const { return (images.channels + group - 1) / group; }
  // Items are tiles of all groups of channels of all images.
  HANDGRAD_MATH int64_t items() const { return images.batch * groups() * grid.tiles(); }
  HANDGRAD_MATH int64_t scratch() const { return 3 * kParts<N> * layout().room() * grid.plane(); }
  // Planes of an image, and from numbers to their tangents.
  HANDGRAD_MATH int64_t planes() const { return images.fits() + (wants_guidance ? groups() * layout().returns() : 0); }
  HANDGRAD_MATH int64_t part() const { return images.batch * planes() * images.area(); }

  template <class Team>
  HANDGRAD_TEAM void operator()(Team& team, C* scratch, int64_t item) const {
    Fit<Team, N> fit(team, images, grid, group, scratch, item);
    fit.make();
    team.sync();
    if (slopes) {
      spread(team, fit, item);
    } else {
      store_fits(team, fit);
    }
  }

 private:
  // Where the planes of channel i of the tile's are.
  template <class Team>
  HANDGRAD_TEAM C* planes_of(const Fit<Team, N>& fit, int64_t i) const {
    return results + (fit.n * planes() + (fit.c + i) * (images.guides + 1)) * images.area();
  }

  template <class Team>
  HANDGRAD_TEAM void store_fits(Team& team, const Fit<Team, N>& fit) const {
    HANDGRAD_ROLLED
    for (int32_t i = 0; i < fit.layout.inputs; ++i) {
      const Plane<N> constant = fit.buffers.free[0];
      fit.make_constant(i, 0, fit.tile.count(), constant);
      team.sync();
      HANDGRAD_ROLLED
      for (int32_t k = 0; k <= fit.layout.guides; ++k) {
        fit.store(k < fit.layout.guides ? fit.fit_of(i)[k] : constant, planes_of(fit, i) + k * images.area(), part());
      }
      team.sync();
    }
  }

  template <class Team>
  HANDGRAD_TEAM void spread(Team& team, const Fit<Team, N>& fit, int64_t item) const {
    const int64_t area = images.area();
    const int32_t guides = fit.layout.guides, returns = wants_guidance ? fit.layout.returns() : 0;
    const Planes<N> gradients = fit.buffers.other;
    const Planes<N> returned{gradients[guides + 1], gradients.size};
    double of_eps = 0, along_eps = 0;
    HANDGRAD_ROLLED
    for (int32_t i = 0; i < fit.layout.inputs; ++i) {
      load_slopes(team, fit, (fit.c + i) * (images.guides + 1), gradients);
      team.sync();
      const int32_t count = fit.tile.count(), chunk = team.chunk(count);
      HANDGRAD_ROLLED
      for (int32_t begin = 0; begin < count; begin += chunk) {
        spread_channel(fit, i, begin, begin + chunk < count ? begin + chunk : count, gradients, returned);
      }
      team.sync();
      HANDGRAD_ROLLED
      for (int32_t k = 0; k <= guides && results; ++k) fit.store(gradients[k], planes_of(fit, i) + k * area, part());
      if (sums) add_sums(team, fit, i, gradients, of_eps, along_eps);
      // The next channel's take the place of these.
      team.sync();
    }
    HANDGRAD_ROLLED
    for (int32_t k = 0; k < returns; ++k) {
      const int64_t plane = fit.n * planes() + images.fits() + fit.c / group * returns + k;
      fit.store(returned[k], results + plane * area, part());
    }
    if (sums && team.leads()) team.put(sums + 2 * item, of_eps), team.put(sums + 2 * item + 1, along_eps);
  }

  template <class Team>
  HANDGRAD_TEAM void load_slopes(Team& team, const Fit<Team, N>& fit, int64_t first, const Planes<N>& to) const {
    const int64_t area = images.area(), behind = images.batch * images.fits() * area;
    const Box box{fit.tile.rows.first, fit.tile.columns.first, fit.tile.rows.count, fit.tile.columns.count,
                  fit.tile.pitch,      images.rows.size,       images.columns.size, kConstant};
    HANDGRAD_ROLLED
    for (int32_t k = 0; k <= fit.layout.guides; ++k) {
      const C* const plane = slopes + (fit.n * images.fits() + first + k) * area;
      HANDGRAD_ROLLED
      for (int64_t of = 0; of < kParts<N>; ++of) {
        team.load(PlaneSource<C>{plane + of * behind, images.columns.size}, box, to[k].first + of * to[k].apart);
      }
    }
  }

  // In place of the gradients of channel i: rho, and beta' at the end.
  template <class Team>
  HANDGRAD_TEAM void spread_channel(const Fit<Team, N>& fit, int32_t i, int32_t begin, int32_t end,
                                    const Planes<N>& gradients, const Planes<N>& returned) const {
    Team& team = fit.team;
    const int32_t guides = fit.layout.guides;
    const Elimination<Team, N> windows = fit.elimination(begin, end);
    const Plane<N> beta = gradients[guides], constant = fit.buffers.free[0];
    const Planes<N> of = fit.fit_of(i);
    HANDGRAD_ROLLED
    for (int32_t k = 0; k < guides; ++k) windows.take_plain(gradients[k], beta, fit.mean(k));
    windows.solve(gradients);
    HANDGRAD_ROLLED
    for (int32_t k = 0; k < guides; ++k) windows.take_plain(beta, gradients[k], fit.mean(k));
    if (!wants_guidance) return;
    fit.make_constant(i, begin, end, constant);
    const bool first = i == 0;
    HANDGRAD_ROLLED
    for (int32_t k = 0; k < guides; ++k) {
      const Plane<N> rho = gradients[k], a = of[k], tau = returned[k];
      team.each(begin, end, [=](int32_t at) {
        const N sum = rho.at(at) * constant.at(at) + a.at(at) * beta.at(at);
        tau.set(at, first ? sum : tau.at(at) + sum);
      });
      HANDGRAD_ROLLED
      for (int32_t l = 0; l <= k; ++l) {
        const Plane<N> rho_l = gradients[l], a_l = of[l], q = returned[guides + k * (k + 1) / 2 + l];
        team.each(begin, end, [=](int32_t at) {
          const N sum = rho.at(at) * a_l.at(at) + a.at(at) * rho_l.at(at);
          q.set(at, first ? sum : q.at(at) + sum);
        });
      }
    }
  }

  template <class Team>
  HANDGRAD_TEAM void add_sums(Team& team, const Fit<Team, N>& fit, int32_t i, const Planes<N>& gradients,
                              double& of_eps, double& along_eps) const {
    const int32_t pitch = fit.tile.pitch;
    HANDGRAD_ROLLED
    for (int32_t k = 0; k < fit.layout.guides; ++k) {
      const Plane<N> rho = gradients[k], a = fit.fit_of(i)[k];
      const auto product = [=](int32_t r, int32_t w) { return rho.at(r * pitch + w) * a.at(r * pitch + w); };
      of_eps -= team.sum(fit.tile.rows.count, fit.tile.columns.count,
                         [=](int32_t r, int32_t w) { return static_cast<double>(value_of(product(r, w))); });
      team.sync();
      if constexpr (kIsDual<N>) {
        along_eps -= team.sum(fit.tile.rows.count, fit.tile.columns.count,
                              [=](int32_t r, int32_t w) { return static_cast<double>(product(r, w).tangent); });
        team.sync();
      }
    }
  }
};

}  // namespace handgrad::guided_filter
