// Rectangles of images pasted one over another, on the CPU: rows of all outputs are split over threads, and cut into
// parts that show the same rectangles (paste_bands.h).
#if defined(__GNUC__) && !defined(__clang__)
// Before everything that is inlined here: GCC 12 heeds the barrier of rounded_product, but no longer where it
// vectorises a loop, and levels would be others then.
#pragma GCC optimize("fp-contract=off")
#endif

#include "paste_derivatives.h"
#include "paste_entries.h"
#include "paste_rows.h"

namespace handgrad::paste {

struct OnCpu {
  static void copy(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Sources& sources,
                   const Tensor& output) {
    const auto as = [&](auto element, const auto& narrowed) {
      using E = decltype(element);
      std::vector<E> bits;
      for (const double fill : fills) {
        const auto value = narrowed(fill);
        static_assert(sizeof(value) == sizeof(E));
        std::memcpy(&bits.emplace_back(), &value, sizeof(E));
      }
      copy_rectangles<E>(frame, tables, bits, sources, output);
    };
    switch (output.scalar_type()) {
      case ScalarType::Byte: return as(uint8_t{}, [](double x) { return static_cast<uint8_t>(x); });
      case ScalarType::Double: return as(uint64_t{}, [](double x) { return x; });
      case ScalarType::BFloat16:
        return as(uint16_t{}, [](double x) { return narrow<BFloat16>(static_cast<float>(x)); });
      case ScalarType::Half: return as(uint16_t{}, [](double x) { return narrow<Half>(static_cast<float>(x)); });
      default: return as(uint32_t{}, [](double x) { return static_cast<float>(x); });
    }
  }
  template <class T>
  static void blend(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Sources& sources,
                    const Tensor& output) {
    Blender<T>(frame, tables, fills, sources, output).run();
  }
  template <class C, class N>
  static void gradients(const Frame& frame, const Tables& tables, const std::vector<double>& fills,
                        const Derivative& call) {
    for (int k = 0; k < kSources; ++k) {
      if (call.wants[static_cast<size_t>(k)]) SourceGradient<C, N>(frame, tables, call, k).run();
    }
    if (call.wants_output) OutputDirection<C>(frame, tables, fills, call).run();
    if (call.wants_opacity) OpacityGradient<C, N>(frame, tables, fills, call).run(call.grad_opacity);
  }
};

}  // namespace handgrad::paste

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::paste::implement<handgrad::paste::OnCpu>(library); }
