// What device code calls.
#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "../include/emulator/language.h"
#include "words.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace handgrad::emulator {

namespace {

Worker& running(const char* function) {
  if (!worker || !worker->in_kernel()) {
    throw std::runtime_error(text(function, " was called outside of a kernel"));
  }
  return *worker;
}

}  // namespace

Votes block_barrier(bool predicate, Place where) {
  Worker& self = running("__syncthreads");
  return is_dropped(where) ? Votes{predicate, 1} : self.block_barrier(predicate, where);
}

const uint64_t* warp_meet(Collective kind, const char* function, unsigned mask, uint64_t value, Place where) {
  Worker& self = running(function);
  self.warp_meet(kind, function, mask, value, kWarp, where);
  return kind == Collective::syncwarp ? nullptr : self.lane_table();
}

uint64_t warp_shuffle(const char* function, unsigned mask, uint64_t value, unsigned source, Place where) {
  Worker& self = running(function);
  self.warp_meet(Collective::shuffle, function, mask, value, source, where);
  return self.taken();
}

unsigned lane() { return running("a warp function").thread_index() % kWarp; }
unsigned live_lanes() { return running("__activemask").live_lanes(); }

void fault(const std::string& message) {
  if (worker && worker->in_kernel()) worker->fault(message);
  throw std::runtime_error(message);
}

void fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (worker) worker->fenced = true;
}

long long clock() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

void* dynamic_shared(size_t align) {
  Worker& self = running("HANDGRAD_DYNAMIC_SHARED");
  if (align > 1024) self.fault("dynamic shared memory is aligned to 1024 bytes at most");
  return self.dynamic_shared;
}

void require_launch_bounds(unsigned max_threads) {
  Worker& self = running("HANDGRAD_LAUNCH_BOUNDS");
  if (self.count > max_threads) {
    self.fault(text(self.count, " threads per block, and its __launch_bounds__ promised at most ", max_threads));
  }
}

void check_access(const void* address, size_t bytes, size_t align) {
  if ((reinterpret_cast<uintptr_t>(address) & (align - 1)) != 0) {
    fault(text("an access of ", bytes, " bytes to an address that is not a multiple of ", align, " (it is ",
               reinterpret_cast<uintptr_t>(address) % align, " past one)"));
  }
#if defined(__SANITIZE_ADDRESS__)
  if (const void* bad = __asan_region_is_poisoned(const_cast<void*>(address), bytes)) {
    fault(text("an access of ", bytes, " bytes that is out of bounds from byte ",
               static_cast<const char*>(bad) - static_cast<const char*>(address), " on"));
  }
#endif
}

void atomic_access(const void* address, size_t bytes, bool writes) {
  if (!worker) return;
  ++worker->counters.atomics;
  checks_atomic(address, bytes, writes);
}

void count_load(size_t bytes) {
  if (worker) worker->counters.bytes_loaded += bytes;
}
void count_store(size_t bytes) {
  if (worker) worker->counters.bytes_stored += bytes;
}

void poison(void* address, size_t bytes) { std::memset(address, 0xff, bytes); }

int64_t find_poison(const void* address, size_t bytes, size_t element_bytes) {
  const unsigned char* memory = static_cast<const unsigned char*>(address);
  for (size_t at = 0; at + element_bytes <= bytes; at += element_bytes) {
    if (std::all_of(memory + at, memory + at + element_bytes, [](unsigned char byte) { return byte == 0xff; })) {
      return static_cast<int64_t>(at / element_bytes);
    }
  }
  return -1;
}

}  // namespace handgrad::emulator
