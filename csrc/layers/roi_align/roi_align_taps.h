// The taps of all boxes of a call.
#pragma once

#include "cpu/box_taps.h"
#include "roi_align_host.h"

namespace handgrad::roi_align {

template <class C>
using TapsByImage = BoxesByImage<BoxTaps<C>>;

template <class C>
TapsByImage<C> taps_of(const Geometry& geometry, const Tensor& boxes) {  // [K, 5]
  const View<const C, 2> table = view<C, 2>(boxes);
  const int64_t bins = int64_t{geometry.pooled_h} + geometry.pooled_w;
  return TapsByImage<C>(geometry.op, geometry, table, 64 * bins, [&](int64_t k, BoxTaps<C>& taps) {
    const Box<C> box{*table.at(k, 1), *table.at(k, 2), *table.at(k, 3), *table.at(k, 4)};
    taps.build(geometry.axis_h(box), geometry.axis_w(box));
  });
}

}  // namespace handgrad::roi_align
