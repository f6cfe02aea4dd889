// The engine's inside, for the files of src/ alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../include/emulator/launch.h"
#include "fiber.h"

#if defined(__SANITIZE_THREAD__)
#error "compile the emulator's own sources without -fsanitize=thread: it is for kernels, and calls back into them"
#endif

namespace handgrad::emulator {

inline constexpr unsigned kWarp = 32;

// An H100, as far as a launch can tell.
namespace device {
inline constexpr unsigned multiprocessors = 132;
inline constexpr unsigned threads_per_block = 1024, block_x = 1024, block_y = 1024, block_z = 64;
inline constexpr unsigned grid_x = 2147483647, grid_y = 65535, grid_z = 65535;
inline constexpr unsigned threads_per_multiprocessor = 2048, blocks_per_multiprocessor = 32;
inline constexpr unsigned shared_per_block = 48 * 1024, shared_opt_in = 227 * 1024,
                          shared_per_multiprocessor = 228 * 1024;
}  // namespace device

// In the order in which control.cpp hands them out.
struct Counters {
  uint64_t launches = 0, blocks = 0, threads = 0, barriers = 0, warp_syncs = 0, shuffles = 0, atomics = 0;
  uint64_t bytes_loaded = 0, bytes_stored = 0;               // as the kernel's accessors said
  uint64_t global_bytes_read = 0, global_bytes_written = 0;  // as the checked build saw
  uint64_t shared_bytes_read = 0, shared_bytes_written = 0;
};
inline constexpr size_t kCounters = sizeof(Counters) / sizeof(uint64_t);

enum class Status : uint8_t { fresh, ready, running, at_barrier, in_warp, returned };

struct Thread {
  Fiber* fiber = nullptr;
  Status status = Status::fresh;
  // While it waits: where, and in a warp for whom.
  Collective kind = Collective::syncwarp;
  const char* function = "";
  Place where{};
  unsigned mask = 0, source = 0;
  uint64_t brought = 0, taken = 0;
};

struct Schedule {
  enum Order : uint8_t { forward, reverse, random } order = forward;
  uint64_t seed = 0;
};

// One operating-system thread's part of a launch: it runs one block at a time, each thread of it on a fiber.
//
// A fiber that finishes a thread starts the next one itself, so a kernel whose threads never wait runs on a single
// fiber, without a switch. Only a thread that waits keeps its fiber.
class Worker {
 public:
  Worker();
  ~Worker();

  void begin(const LaunchRequest& request, const Schedule& schedule);
  void run_block(uint64_t block);
  void end();

  bool in_kernel() const { return current_ != nullptr; }
  unsigned thread_index() const { return static_cast<unsigned>(current_ - threads_.data()); }
  std::string name_of(unsigned thread) const;
  std::string place_text() const;

  Votes block_barrier(bool predicate, Place where);
  void warp_meet(Collective kind, const char* function, unsigned mask, uint64_t brought, unsigned source, Place where);
  const uint64_t* lane_table() const { return tables_.data() + size_t{thread_index()} * kWarp; }
  uint64_t taken() const { return current_->taken; }
  unsigned live_lanes() const;
  [[noreturn]] void fault(const std::string& message);

  // What the checks read.
  Counters counters;
  uint32_t phase = 0;        // grows at every barrier and every block, never twice the same
  uint32_t block_phase = 0;  // the first phase of this block
  uint64_t block_number = 0;
  uint32_t launch_phase = 0;
  bool fenced = false;  // a thread of this launch has called __threadfence
  Place last_barrier{};
  const LaunchRequest* request = nullptr;
  unsigned count = 0;  // threads per block
  // Of a buffer that is larger than any launch may ask for, with room on both sides: what lies there is out of bounds.
  unsigned char* dynamic_shared = nullptr;
  static constexpr size_t kDynamicMargin = 64 * 1024;
  struct Shadow;  // of the checks, which alone know it
  std::shared_ptr<Shadow> shadow;
  bool on_fiber_stack(const void* address) const { return current_->fiber->holds(address); }

 private:
  static void fiber_main();
  Thread* pick();
  void make_ready(unsigned thread);
  void enter(Thread& thread);
  void wait();
  void run_current();
  void permute();
  void try_release(unsigned warp, unsigned mask);
  Fiber* take_fiber();
  void abandon();
  [[noreturn]] void report_stuck();

  std::vector<Thread> threads_;
  std::vector<uint3> coordinates_;
  uint3 coordinates_of_ = {0, 0, 0};
  // Threads stand in `order_`, and the first one in it that can run does.
  std::vector<uint16_t> order_, position_;
  uint64_t ready_[16] = {};
  // Per warp: the lanes that wait in a meeting, and those that will come to none (returned, or never there).
  unsigned meeting_[32] = {}, gone_[32] = {};
  unsigned first_ready_word_ = 16;
  Thread* current_ = nullptr;
  unsigned arrived_ = 0, votes_ = 0, returned_ = 0;
  bool diverged_ = false;
  Votes last_votes_{};
  Place barrier_place_{};
  std::vector<uint64_t> tables_;
  Fiber scheduler_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> free_;
  std::string fault_;
  Schedule schedule_;
  uint64_t random_ = 0;
  std::unique_ptr<unsigned char[]> dynamic_;
};

// The worker whose block this operating-system thread is running, or null.
HANDGRAD_EMULATOR_LOCAL extern constinit thread_local Worker* worker;
inline Worker* active_worker() { return worker; }

// A small generator of known behaviour (splitmix64): a seed must mean the same order on every machine.
inline uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// checks.cpp: what the checked build does when a launch begins, when __syncwarp orders memory, and at an atomic.
void checks_begin(Worker& worker);
void checks_syncwarp(Worker& worker, unsigned warp, unsigned mask);
void checks_atomic(const void* address, size_t bytes, bool writes);

// control.cpp
Schedule current_schedule();
// Whether this barrier is to be passed as if it were not there: a planted fault.
bool is_dropped(Place barrier);
// Whether streams are to say so.
bool is_capturing();
unsigned current_os_threads();
void add_counters(const char* kernel, const Counters& counters);

}  // namespace handgrad::emulator
