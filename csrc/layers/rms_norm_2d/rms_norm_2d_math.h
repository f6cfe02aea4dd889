// Root mean square normalisation over channels, as kinds/channel_norm.h takes it: not centred, without a bias. The
// arithmetic is math/channel_norm.h's.
#pragma once

namespace handgrad {

struct RmsNorm2dOp {
  static constexpr const char* name = "rms_norm_2d";
  static constexpr bool centred = false;
  static constexpr bool has_bias = false;
};

}  // namespace handgrad
