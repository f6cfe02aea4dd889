// launch(): kernel<<<grid, block, dynamic_shared>>>(arguments...), on the CPU.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

#include "../vector_types.h"
#include "engine_calls.h"

namespace handgrad::emulator {

// What __launch_bounds__(max_threads, min_blocks) promised of a kernel. 0: nothing was promised. In C++ the attribute
// cannot be read back from the kernel, so the launching code says it again here, or the kernel's first statement does:
// HANDGRAD_LAUNCH_BOUNDS in portable.h.
struct LaunchBounds {
  unsigned max_threads = 0;
  unsigned min_blocks = 0;
};

// A launch without its types: run(arguments) executes one thread.
struct LaunchRequest {
  const char* name;
  const void* kernel;
  dim3 grid, block;
  size_t dynamic_shared_bytes;
  LaunchBounds bounds;
  void (*run)(const void* arguments);
  const void* arguments;
  size_t arguments_bytes;
};
HANDGRAD_EMULATOR_LOCAL void launch(const LaunchRequest& request);

// Runs every thread of every block, and returns when all have. A fault is a std::runtime_error whose message names the
// kernel, the block and the thread; the emulator can be used afterwards.
template <class... Parameters, class... Arguments>
void launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared_bytes, LaunchBounds bounds,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "the kernel takes another number of arguments");
  static_assert((std::is_trivially_copyable_v<std::remove_cv_t<Parameters>> && ...),
                "arguments of a kernel are copied to the device byte by byte");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::remove_cv_t<Parameters>...> arguments;
  };
  // As with <<<>>>, arguments are converted to the kernel's parameters once, and each thread gets its copy.
  const Call call{kernel, {static_cast<Parameters>(std::forward<Arguments>(arguments))...}};
  launch({name, reinterpret_cast<const void*>(kernel), grid, block, dynamic_shared_bytes, bounds,
          [](const void* pointer) {
            const Call& self = *static_cast<const Call*>(pointer);
            std::apply(self.kernel, self.arguments);
          },
          &call, sizeof(call)});
}

}  // namespace handgrad::emulator
