// What device code asks of the engine (src/engine.cpp). Kernels have no need to call these by name, apart from
// check_access, count_load, count_store and poison, which portable.h describes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// Each library of kernels carries its own engine; two in one process know nothing of each other.
#define HANDGRAD_EMULATOR_LOCAL __attribute__((visibility("hidden")))

// Default arguments, so that a call that looks like CUDA's own tells where it stands.
#define HANDGRAD_EMULATOR_WHERE const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()

// In front of functions whose accesses the checked build must not see as the kernel's own plain accesses.
#if defined(__SANITIZE_THREAD__)
#define HANDGRAD_EMULATOR_UNSEEN __attribute__((noinline, no_sanitize("thread")))
#else
#define HANDGRAD_EMULATOR_UNSEEN
#endif

namespace handgrad::emulator {

struct Place {
  const char* file;
  unsigned line;
};

struct Votes {
  unsigned count, threads;
};
HANDGRAD_EMULATOR_LOCAL Votes block_barrier(bool predicate, Place where);

enum class Collective : uint8_t { syncwarp, shuffle, ballot, match, reduce };
// The lanes of `mask` meet. Each gets a table of what all 32 lanes brought; it holds until the lane's next meeting.
HANDGRAD_EMULATOR_LOCAL const uint64_t* warp_meet(Collective kind, const char* function, unsigned mask, uint64_t value,
                                                  Place where);
// The same for a shuffle: the value that lane `source` brought, or poison if the mask leaves that lane out.
HANDGRAD_EMULATOR_LOCAL uint64_t warp_shuffle(const char* function, unsigned mask, uint64_t value, unsigned source,
                                              Place where);
HANDGRAD_EMULATOR_LOCAL unsigned lane();
HANDGRAD_EMULATOR_LOCAL unsigned live_lanes();

HANDGRAD_EMULATOR_LOCAL void atomic_access(const void* address, size_t bytes, bool writes);
HANDGRAD_EMULATOR_LOCAL void fence();
HANDGRAD_EMULATOR_LOCAL long long clock();

// Ends the launch: the message, after the names of kernel, block and thread, is thrown out of launch().
[[noreturn]] HANDGRAD_EMULATOR_LOCAL void fault(const std::string& message);

HANDGRAD_EMULATOR_LOCAL void* dynamic_shared(size_t align);
HANDGRAD_EMULATOR_LOCAL void require_launch_bounds(unsigned max_threads);

// An access by `bytes` at once, as a vectorised load or store is: a fault unless `align` divides the address and, in an
// AddressSanitizer build, unless all of it may be touched.
HANDGRAD_EMULATOR_LOCAL void check_access(const void* address, size_t bytes, size_t align);
HANDGRAD_EMULATOR_LOCAL void count_load(size_t bytes);
HANDGRAD_EMULATOR_LOCAL void count_store(size_t bytes);

// Fills with 0xFF: NaN in every floating type, -1 or the maximum in every integer type.
HANDGRAD_EMULATOR_LOCAL void poison(void* address, size_t bytes);
// The place of the first element of `element_bytes` bytes in which every bit is still poison, or -1.
HANDGRAD_EMULATOR_LOCAL int64_t find_poison(const void* address, size_t bytes, size_t element_bytes);

}  // namespace handgrad::emulator
