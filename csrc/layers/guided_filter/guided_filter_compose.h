// The passes over the pixels of the image: outputs of the means of coefficients, and gradients of what windows have
// spread.
#pragma once

#include "guided_filter_fit.h"

namespace handgrad::guided_filter {

// What both passes know. Items are tiles of images; a plane of scratch is one of a tile's pixels.
template <class N, int Count>
struct ComposeBase {
  using C = Plain<N>;

  Images<C> images;
  Grid grid = {};

  void cut(int32_t height, int32_t width) {
    grid = {Cut::of(images.rows.whole(), height, false, images.border),
            Cut::of(images.columns.whole(), width, false, images.border)};
  }
  HANDGRAD_MATH int64_t items() const { return images.batch * grid.tiles(); }
  HANDGRAD_MATH int64_t scratch() const { return Count * kParts<N> * grid.plane(); }

 protected:
  HANDGRAD_MATH Plane<N> plane(C* scratch, int k) const { return {scratch + k * grid.plane(), Count * grid.plane()}; }
  HANDGRAD_MATH Box box(const Tile& tile) const {
    return {tile.rows.first, tile.columns.first, tile.rows.count,     tile.columns.count,
            tile.pitch,      images.rows.full,   images.columns.full, kConstant};
  }
  // A plane of the windows, and its tangents, at the pixels of a tile: enlarged, or where pixels are left.
  template <template <class> class Source, class Team>
  HANDGRAD_TEAM void load(Team& team, const Tile& tile, const C* from, int64_t part, const Plane<N>& to) const {
    team.load(Source<C>{from, images.rows, images.columns}, box(tile), to.first);
    if constexpr (kIsDual<N>) {
      team.load(Source<C>{from + part, images.rows, images.columns}, box(tile), to.first + to.apart);
    }
  }
  // A result, or its tangent.
  template <class Team>
  HANDGRAD_TEAM void store(Team& team, const Tile& tile, const Plane<N>& from, C shift, const StoredView<C, 4>& to,
                           int64_t c) const {
    team.store(from.first + (kIsDual<N> ? from.apart : 0), box(tile), kIsDual<N> ? C(0) : shift, to, tile.image, c);
  }
};

// a += b c
template <class Team, class N>
HANDGRAD_TEAM void add_product(Team& team, const Tile& tile, const Plane<N>& a, const Plane<N>& b, const Plane<N>& c) {
  team.each(0, tile.seen(), [=](int32_t i) { a.set(i, a.at(i) + b.at(i) * c.at(i)); });
}

template <class N>
struct ComposePass : ComposeBase<N, 3> {
  using C = Plain<N>;
  using ComposeBase<N, 3>::images;
  const C* means;  // [parts, images, channels, guides + 1, height, width]
  StoredView<C, 4> output;

  static constexpr const char* kName = "guided_filter_compose";
  static constexpr int64_t kPartsOfNumbers = kParts<N>;

  template <class Team>
  HANDGRAD_TEAM void operator()(Team& team, C* scratch, int64_t item) const {
    const Tile tile = this->grid.tile(item);
    const Plane<N> total = this->plane(scratch, 0), mean = this->plane(scratch, 1), guide = this->plane(scratch, 2);
    const int64_t area = images.area(), part = images.batch * images.fits() * area, n = tile.image;
    HANDGRAD_ROLLED
    for (int64_t c = 0; c < images.channels; ++c) {
      const C* const of_channel = means + (n * images.channels + c) * (images.guides + 1) * area;
      this->template load<EnlargedSource>(team, tile, of_channel + images.guides * area, part, total);
      HANDGRAD_ROLLED
      for (int64_t k = 0; k < images.guides; ++k) {
        this->template load<EnlargedSource>(team, tile, of_channel + k * area, part, mean);
        images.template load<N>(team, false, n, k, true, this->box(tile), guide);
        add_product(team, tile, total, mean, guide);
      }
      this->store(team, tile, total, images.shift(team, images.input, n, c), output, c);
    }
  }
};

// Of planes that are summed over windows already.
template <class N>
struct ComposeGradientsPass : ComposeBase<N, 3> {
  using C = Plain<N>;
  using ComposeBase<N, 3>::images;
  const C* means;   // [parts, images, channels, guides + 1, height, width]: of the coefficients
  const C* spread;  // [parts, images, planes, height, width]
  int64_t planes, groups;
  StoredView<C, 4> grad_guidance, grad_input;

  static constexpr const char* kName = "guided_filter_gradients";
  static constexpr int64_t kPartsOfNumbers = kParts<N>;

  template <class Team>
  HANDGRAD_TEAM void operator()(Team& team, C* scratch, int64_t item) const {
    const Tile tile = this->grid.tile(item);
    const Plane<N> total = this->plane(scratch, 0), one = this->plane(scratch, 1), other = this->plane(scratch, 2);
    HANDGRAD_ROLLED
    for (int64_t c = 0; c < images.channels && grad_input; ++c) {
      clear(team, tile, total);
      add_input(team, tile, c, total, one, other);
      this->store(team, tile, total, C(0), grad_input, c);
    }
    HANDGRAD_ROLLED
    for (int64_t k = 0; k < images.guides && grad_guidance; ++k) {
      clear(team, tile, total);
      if (images.own) add_input(team, tile, k, total, one, other);
      add_guidance(team, tile, k, total, one, other);
      HANDGRAD_ROLLED
      for (int64_t l = 0; l < images.guides; ++l) {
        sum_groups(team, tile, images.guides + (k < l ? l * (l + 1) / 2 + k : k * (k + 1) / 2 + l), one, other);
        images.template load<N>(team, false, tile.image, l, true, this->box(tile), other);
        take_product(team, tile, total, one, other);
      }
      sum_groups(team, tile, k, one, other);
      take(team, tile, total, one);
      this->store(team, tile, total, C(0), grad_guidance, k);
    }
  }

 private:
  HANDGRAD_MATH int64_t part() const { return images.batch * planes * images.area(); }
  HANDGRAD_MATH const C* spread_of(int64_t n, int64_t k) const { return spread + (n * planes + k) * images.area(); }

  template <class Team>
  HANDGRAD_TEAM void clear(Team& team, const Tile& tile, const Plane<N>& total) const {
    team.each(0, tile.seen(), [=](int32_t i) { total.set(i, N(0)); });
  }
  template <class Team>
  HANDGRAD_TEAM void take(Team& team, const Tile& tile, const Plane<N>& total, const Plane<N>& one) const {
    team.each(0, tile.seen(), [=](int32_t i) { total.set(i, total.at(i) - one.at(i)); });
  }
  template <class Team>
  HANDGRAD_TEAM void take_product(Team& team, const Tile& tile, const Plane<N>& total, const Plane<N>& one,
                                  const Plane<N>& other) const {
    team.each(0, tile.seen(), [=](int32_t i) { total.set(i, total.at(i) - one.at(i) * other.at(i)); });
  }

  // beta' + sum over guides of rho g
  template <class Team>
  HANDGRAD_TEAM void add_input(Team& team, const Tile& tile, int64_t c, const Plane<N>& total, const Plane<N>& one,
                               const Plane<N>& other) const {
    const int64_t n = tile.image, first = c * (images.guides + 1);
    this->template load<LeftSource>(team, tile, spread_of(n, first + images.guides), part(), one);
    team.each(0, tile.seen(), [=](int32_t i) { total.set(i, total.at(i) + one.at(i)); });
    HANDGRAD_ROLLED
    for (int64_t k = 0; k < images.guides; ++k) {
      this->template load<LeftSource>(team, tile, spread_of(n, first + k), part(), one);
      images.template load<N>(team, false, n, k, true, this->box(tile), other);
      add_product(team, tile, total, one, other);
    }
  }
  // Sum over channels of the mean coefficient times the gradient, and of rho times the input.
  template <class Team>
  HANDGRAD_TEAM void add_guidance(Team& team, const Tile& tile, int64_t k, const Plane<N>& total, const Plane<N>& one,
                                  const Plane<N>& other) const {
    const int64_t n = tile.image, area = images.area();
    HANDGRAD_ROLLED
    for (int64_t c = 0; c < images.channels; ++c) {
      const int64_t at = c * (images.guides + 1) + k;
      this->template load<EnlargedSource>(team, tile, means + (n * images.fits() + at) * area,
                                          images.batch * images.fits() * area, one);
      team.load(ImageSource<C>{images.grad_output, n, c, images.rows.whole(), images.columns.whole(), C(0)},
                this->box(tile), other.first);
      const C* const grad = other.first;
      team.each(0, tile.seen(), [=](int32_t i) { total.set(i, total.at(i) + one.at(i) * grad[i]); });
      this->template load<LeftSource>(team, tile, spread_of(n, at), part(), one);
      images.template load<N>(team, true, n, c, true, this->box(tile), other);
      add_product(team, tile, total, one, other);
    }
  }
  // What the groups of channels return, plane k.
  template <class Team>
  HANDGRAD_TEAM void sum_groups(Team& team, const Tile& tile, int64_t k, const Plane<N>& to,
                                const Plane<N>& one) const {
    const int64_t returns = images.guides + images.guides * (images.guides + 1) / 2;
    HANDGRAD_ROLLED
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t at = images.fits() + group * returns + k;
      this->template load<LeftSource>(team, tile, spread_of(tile.image, at), part(), group == 0 ? to : one);
      if (group > 0) team.each(0, tile.seen(), [=](int32_t i) { to.set(i, to.at(i) + one.at(i)); });
    }
  }
};

// Of gradients of the output: those of a window's coefficients before windows are summed back. Planes as those of fits;
// the second part, along directions, has no constants.
template <class C>
struct ProductFamily {
  Images<C> images;

  template <class Team>
  HANDGRAD_TEAM ProductSource<C> source(Team& team, int64_t plane) const {
    const int64_t k = plane % (images.guides + 1), channel = plane / (images.guides + 1);
    const int64_t image = channel / images.channels, c = channel - image * images.channels;
    const bool along = image >= images.batch;
    const int64_t n = along ? image - images.batch : image;
    const Axis rows = images.rows.whole(), columns = images.columns.whole();
    ImageSource<C> factor{images.v_guidance, n, k, rows, columns, C(0)};
    const bool is_constant = k == images.guides;
    if (!along && !is_constant) factor = images.source(team, false, n, k, true);
    // Of no image: zeros.
    const StoredView<const C, 4> none{};
    return {{along && is_constant ? none : images.grad_output, n, c, rows, columns, C(0)},
            factor,
            images.rows,
            images.columns,
            !is_constant};
  }
};

}  // namespace handgrad::guided_filter
