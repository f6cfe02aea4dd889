// The colour operations of one pixel: on levels of uint8, as torchvision rounds them; on floating-point numbers; and
// their derivatives. Derivation: docs/transforms/adjust_colors.md.
//
// Levels are whole numbers in float. Each step that torch rounds by itself is rounded by itself here, and a sum that it
// makes by a fused multiplication and addition is fused here, so that levels are the same on every processor.
//
// In order of appearance: a step of a chain; levels; numbers; hue of either; derivatives, of plain numbers and of dual
// ones, which make second derivatives of them.
#pragma once

#include <cstdint>

#include "math/dual.h"
#include "math/fused.h"

namespace handgrad::adjust_colors {

// As the schema counts them.
enum class Operation : int32_t { none = 0, brightness = 1, contrast = 2, saturation = 3, hue = 4, grayscale = 5 };

// What red, green and blue are of a gray.
inline constexpr double kRed = 0.2989, kGreen = 0.587, kBlue = 0.114;

// An operation with its numbers; `mean`, which only contrast has, is of the gray of what the steps before it make.
template <class N>
struct Step {
  Operation operation;
  N factor, rest, mean;  // rest: 1 - factor, of which torch rounds the difference of doubles

  Step() = default;
  HANDGRAD_MATH Step(Operation operation, N factor, N rest, N mean)
      : operation(operation), factor(factor), rest(rest), mean(mean) {}
  // Of pixels of one channel, which have no colour.
  HANDGRAD_MATH bool is_idle(int64_t channels) const {
    return operation == Operation::none || (channels == 1 && static_cast<int32_t>(operation) >= 3);
  }
};

// ---- levels ---------------------------------------------------------------------------------------------------------

// Cut to 0 to 255, and to a whole number, towards 0. NaN, of factors near the end of float, is 0.
HANDGRAD_MATH float level_of(float x) {
  const float low = x > 0 ? x : 0.0f, cut = low < 255 ? low : 255.0f;
  return static_cast<float>(static_cast<int32_t>(cut));
}
HANDGRAD_MATH float gray_level(float red, float green, float blue) {
  const float sum = rounded_product(red, static_cast<float>(kRed));
  const float more = fused(green, static_cast<float>(kGreen), sum);
  return static_cast<float>(static_cast<int32_t>(fused(blue, static_cast<float>(kBlue), more)));
}
HANDGRAD_MATH float brighter_level(float x, float factor) { return level_of(rounded_product(x, factor)); }
HANDGRAD_MATH float blended_level(float x, float with, const Step<float>& step) {
  return level_of(fused(with, step.rest, rounded_product(x, step.factor)));
}

// torch sums the gray of all pixels in float, in so many lanes, which are added to each other in the end, and to what
// is left of the last few pixels first. The sum of a lane is a whole number that float holds, of less than half a
// million pixels; of the total that is so below 65,794, and beyond it rounding depends on the order: on one thread, on
// this one.
inline constexpr int kLanes = 8;
// Sums of that many lanes, and that of the pixels beyond the last that fill all of them.
inline constexpr int kLaneSums = kLanes + 1;

HANDGRAD_MATH float mean_of_lanes(const double (&sums)[kLaneSums], int64_t pixels) {
  float total = static_cast<float>(sums[kLanes]);
  for (int lane = 0; lane < kLanes; ++lane) total += static_cast<float>(sums[lane]);
  return total / static_cast<float>(pixels);
}

// ---- numbers --------------------------------------------------------------------------------------------------------

// Cut to 0 to 1. NaN stays.
template <class N>
HANDGRAD_MATH N unit_of(N x) {
  return select(value_of(x) < 0, N(0), select(value_of(x) > 1, N(1), x));
}
// Where its slope is 1: the ends are inside, as torch has it.
template <class N>
HANDGRAD_MATH bool is_inside(N x) {
  return value_of(x) >= 0 && value_of(x) <= 1;
}
template <class N>
HANDGRAD_MATH N gray(N red, N green, N blue) {
  using C = Plain<N>;
  return red * static_cast<C>(kRed) + green * static_cast<C>(kGreen) + blue * static_cast<C>(kBlue);
}
// Before it is cut.
template <class N>
HANDGRAD_MATH N blended(N x, N with, const Step<N>& step) {
  return x * step.factor + with * step.rest;
}

// ---- hue ------------------------------------------------------------------------------------------------------------

HANDGRAD_MATH float floor_of(float x) { return floorf(x); }
HANDGRAD_MATH double floor_of(double x) { return ::floor(x); }

// From red, green and blue to hue, saturation and value, around the circle, and back: every step as torchvision rounds
// it. A gray stays as it is. Of levels it does so by itself, and none of the parts leaves 0 to 1.
template <bool kLevels, class C>
HANDGRAD_MATH void turn_hue(C& red, C& green, C& blue, C factor) {
  const C r = red, g = green, b = blue;
  const C larger = r > g ? r : g, smaller = r < g ? r : g;
  const C v = larger > b ? larger : b, least = smaller < b ? smaller : b;
  const C range = v - least;
  const bool is_gray = range == 0;
  const C divisor = is_gray ? C(1) : range;
  const C saturation = range / (is_gray ? C(1) : v);
  // How far each is from the largest: of that itself nothing, of the least all, and only one is to be divided.
  const C upper = larger < b ? larger : b, middle = (v - (smaller > upper ? smaller : upper)) / divisor;
  const C from_red = v == r ? C(0) : r == least ? C(1) : middle;
  const C from_green = v == g ? C(0) : g == least ? C(1) : middle;
  const C from_blue = v == b ? C(0) : b == least ? C(1) : middle;
  const C of_red = from_blue - from_green, of_green = (from_red + 2) - from_blue, of_blue = (from_green + 4) - from_red;
  const C sixths = v == r ? of_red : v == g ? of_green : of_blue;
  const C turned = rounded_product(sixths, static_cast<C>(1.0 / 6)) + 1;
  const C moved = (turned - floor_of(turned)) + factor;
  const C hue = rounded_product(moved - floor_of(moved), C(6)), floor = floor_of(hue), part = hue - floor;
  const C sector = floor >= 6 ? C(0) : floor;
  const C product = rounded_product(saturation, part), unsaturated = 1 - saturation;
  C p = unsaturated * v, q = (1 - product) * v, t = (product + unsaturated) * v;
  if constexpr (!kLevels) p = unit_of(p), q = unit_of(q), t = unit_of(t);
  const bool is_0 = sector < 1, is_1 = sector < 2, is_2 = sector < 3, is_3 = sector < 4, is_4 = sector < 5;
  const C turned_red = is_0 ? v : is_1 ? q : is_3 ? p : is_4 ? t : v;
  const C turned_green = is_0 ? t : is_2 ? v : is_3 ? q : p;
  const C turned_blue = is_1 ? p : is_2 ? t : is_4 ? v : q;
  const bool stays = !kLevels && is_gray;
  red = stays ? r : turned_red, green = stays ? g : turned_green, blue = stays ? b : turned_blue;
}

// The same of numbers: one that is NaN makes all three NaN.
template <class C>
HANDGRAD_MATH void turn_number_hue(C& red, C& green, C& blue, C factor) {
  const bool is_there = red == red && green == green && blue == blue;
  const C lost = red + green + blue;
  turn_hue<false>(red, green, blue, factor);
  red = is_there ? red : lost, green = is_there ? green : lost, blue = is_there ? blue : lost;
}

HANDGRAD_MATH void turn_level_hue(float& red, float& green, float& blue, float factor) {
  const float unit = static_cast<float>(1.0 / 255), back = static_cast<float>(255 + 1.0 - 1e-3);
  red = rounded_product(red, unit), green = rounded_product(green, unit), blue = rounded_product(blue, unit);
  turn_hue<true>(red, green, blue, factor);
  red = static_cast<float>(static_cast<int32_t>(red * back));
  green = static_cast<float>(static_cast<int32_t>(green * back));
  blue = static_cast<float>(static_cast<int32_t>(blue * back));
}

// Hue as what it does to the largest and the least channel: the value stays, p is the least, and q and t lie between,
// where the turn has brought them. One channel is the largest and one the least: the first, where several are.
template <class N>
struct Turn {
  using C = Plain<N>;
  bool red_largest, green_largest, red_least, green_least, is_gray;
  N largest, least, range, turn, part, q, t;
  C sector;

  HANDGRAD_MATH Turn(N red, N green, N blue, N factor) {
    const C r = value_of(red), g = value_of(green), b = value_of(blue);
    red_largest = r >= g && r >= b, green_largest = !red_largest && g >= b;
    red_least = r <= g && r <= b, green_least = !red_least && g <= b;
    largest = select(red_largest, red, select(green_largest, green, blue));
    least = select(red_least, red, select(green_least, green, blue));
    range = largest - least;
    is_gray = value_of(range) == 0;
    const N next = select(red_largest, green, select(green_largest, blue, red));
    const N after = select(red_largest, blue, select(green_largest, red, green));
    turn = (next - after) / select(is_gray, N(1), range);
    const C base = red_largest ? C(0) : green_largest ? C(2) : C(4);
    const N hue = turn + base + factor * C(6);
    const N within = hue - 6 * floor_of(value_of(hue) / 6);
    // Between two sixths of the circle the one of the pixels among whom the first of equal channels is the largest, or
    // the least: with that, a turn of nothing has a slope of one there too.
    const C floor = floor_of(value_of(within));
    const bool is_below = (r == g || g == b) && value_of(within) == floor;
    const C sixth = is_below ? floor - 1 : floor;
    part = within - sixth;
    sector = sixth >= 6 ? C(0) : sixth < 0 ? C(5) : sixth;
    q = largest - range * part, t = least + range * part;
  }

  HANDGRAD_MATH bool is(int32_t a) const { return sector == static_cast<C>(a); }
  HANDGRAD_MATH bool is(int32_t a, int32_t b) const { return is(a) || is(b); }

  HANDGRAD_MATH void apply(N& red, N& green, N& blue) const {
    const N v = largest, p = unit_of(least), to_q = unit_of(q), to_t = unit_of(t);
    red = select(is_gray, red, select(is(0, 5), v, select(is(1), to_q, select(is(4), to_t, p))));
    green = select(is_gray, green, select(is(1, 2), v, select(is(3), to_q, select(is(0), to_t, p))));
    blue = select(is_gray, blue, select(is(3, 4), v, select(is(5), to_q, select(is(2), to_t, p))));
  }

  // From the gradients of what has become to those of what was, in place; and that of the factor.
  HANDGRAD_MATH N pull_back(N& red, N& green, N& blue) const {
    const N zero(0);
    const N to_v = select(is(0, 5), red, select(is(1, 2), green, blue));
    const N to_p = select(is_inside(least), select(is(2, 3), red, select(is(4, 5), green, blue)), zero);
    const N to_q = select(is_inside(q), select(is(1), red, select(is(3), green, select(is(5), blue, zero))), zero);
    const N to_t = select(is_inside(t), select(is(4), red, select(is(0), green, select(is(2), blue, zero))), zero);
    const N between = to_t - to_q, to_range = between * (part - turn);
    const N to_largest = to_v + to_q + to_range, to_least = to_p + to_t - to_range;
    const N of_red = select(red_largest, to_largest, select(green_largest, -between, between));
    const N of_green = select(red_largest, between, select(green_largest, to_largest, -between));
    const N of_blue = select(red_largest, -between, select(green_largest, between, to_largest));
    red = select(is_gray, red, of_red + select(red_least, to_least, zero));
    green = select(is_gray, green, of_green + select(green_least, to_least, zero));
    blue = select(is_gray, blue, of_blue + select(red_least || green_least, zero, to_least));
    return select(is_gray, zero, range * between * static_cast<C>(6));
  }
};

// ---- derivatives ----------------------------------------------------------------------------------------------------

// What one pixel contributes to the gradients of a step's factor, and of its mean.
template <class N>
struct Contribution {
  N factor, mean;
};

// The gradient of x in a blend, `grad` becoming it, and what the pixel gives to the other numbers.
template <class N>
HANDGRAD_MATH void pull_back_blend(N x, N with, const Step<N>& step, N& grad, N& to_factor, N& to_with) {
  const N kept = select(is_inside(blended(x, with, step)), grad, N(0));
  to_factor = to_factor + kept * (x - with);
  to_with = to_with + kept * step.rest;
  grad = kept * step.factor;
}

template <class N>
HANDGRAD_MATH void pull_back_brightness(N x, const Step<N>& step, N& grad, N& to_factor) {
  const N kept = select(is_inside(x * step.factor), grad, N(0));
  to_factor = to_factor + kept * x;
  grad = kept * step.factor;
}

// A gradient of a gray, given to the three channels.
template <class N>
HANDGRAD_MATH void give_to_channels(N of_gray, N& red, N& green, N& blue) {
  using C = Plain<N>;
  red = red + of_gray * static_cast<C>(kRed);
  green = green + of_gray * static_cast<C>(kGreen);
  blue = blue + of_gray * static_cast<C>(kBlue);
}

}  // namespace handgrad::adjust_colors
