// The pass that takes gradients of each window's fit back to what its pixels give and get.
#pragma once

#include "guided_filter_fit.h"

namespace handgrad::guided_filter {

// Of each window, from gradients of its coefficients, alpha, and of its constant, beta:
//   rho = M^-1 (alpha - beta mean),  beta' = beta - mean rho            for each channel; pixels get beta' + rho g
//   tau = sum over channels of rho b + a beta',  Q = sum of rho a^T + a rho^T                    for the guidance
// [parts, images, channels, guides + 1, …] is followed, in each image, by [groups, returns, …]; and for eps, of each
// tile and in two parts, the sum of rho a.
template <class N>
struct SpreadPass : FitBase<N> {
  using C = Plain<N>;
  using FitBase<N>::images;
  const C* slopes;  // [parts, images, channels, guides + 1, height, width]
  C* spread;
  double* sums;
  bool wants_guidance;

  static constexpr const char* kName = "guided_filter_spread";

  // Planes of an image.
  HANDGRAD_MATH int64_t planes() const {
    const Layout layout{static_cast<int32_t>(images.guides), this->group, images.own};
    return images.fits() + (wants_guidance ? this->groups() * layout.returns() : 0);
  }

  template <class Team>
  HANDGRAD_TEAM void operator()(Team& team, C* scratch, int64_t item) const {
    Fit<Team, N> fit(team, images, this->grid, this->group, scratch, item);
    fit.make();
    team.sync();
    const int64_t area = images.area(), part = images.batch * planes() * area;
    C* const of_image = spread + fit.n * planes() * area;
    const int32_t guides = fit.layout.guides, returns = fit.layout.returns();
    const Planes<N> gradients = fit.buffers.other;
    const Planes<N> returned{gradients[guides + 1], gradients.size};
    double of_eps = 0, along_eps = 0;
    HANDGRAD_ROLLED
    for (int32_t i = 0; i < fit.layout.inputs; ++i) {
      const int64_t first = (fit.c + i) * (images.guides + 1);
      load_slopes(team, fit, first, gradients);
      team.sync();
      const int32_t count = fit.tile.count(), chunk = team.chunk(count);
      HANDGRAD_ROLLED
      for (int32_t begin = 0; begin < count; begin += chunk) {
        spread_channel(fit, i, begin, begin + chunk < count ? begin + chunk : count, gradients, returned);
      }
      team.sync();
      HANDGRAD_ROLLED
      for (int32_t k = 0; k <= guides && spread; ++k) fit.store(gradients[k], of_image + (first + k) * area, part);
      if (sums) add_sums(team, fit, i, gradients, of_eps, along_eps);
      // The next channel's take the place of these.
      team.sync();
    }
    if (wants_guidance) {
      C* const to = of_image + (images.fits() + fit.c / this->group * returns) * area;
      HANDGRAD_ROLLED
      for (int32_t k = 0; k < returns; ++k) fit.store(returned[k], to + k * area, part);
    }
    if (sums && team.leads()) team.put(sums + 2 * item, of_eps), team.put(sums + 2 * item + 1, along_eps);
  }

 private:
  template <class Team>
  HANDGRAD_TEAM void load_slopes(Team& team, const Fit<Team, N>& fit, int64_t first, const Planes<N>& to) const {
    const int64_t area = images.area(), part = images.batch * images.fits() * area;
    const Box box{fit.tile.rows.first, fit.tile.columns.first, fit.tile.rows.count,     fit.tile.columns.count,
                  fit.tile.pitch,      images.rows.size,       images.columns.size, kConstant};
    HANDGRAD_ROLLED
    for (int32_t k = 0; k <= fit.layout.guides; ++k) {
      const C* const plane = slopes + (fit.n * images.fits() + first + k) * area;
      team.load(PlaneSource<C>{plane, images.columns.size}, box, to[k].first);
      if constexpr (kIsDual<N>) {
        team.load(PlaneSource<C>{plane + part, images.columns.size}, box, to[k].first + to[k].apart);
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
      of_eps -= team.sum(fit.tile.rows.count, fit.tile.columns.count, [=](int32_t r, int32_t w) {
        return static_cast<double>(value_of(product(r, w)));
      });
      team.sync();
      if constexpr (kIsDual<N>) {
        along_eps -= team.sum(fit.tile.rows.count, fit.tile.columns.count, [=](int32_t r, int32_t w) {
          return static_cast<double>(product(r, w).tangent);
        });
        team.sync();
      }
    }
  }
};

}  // namespace handgrad::guided_filter
