// Launches: what the device would refuse, the order of the blocks, and the operating-system threads that run them.
#include "../include/emulator/launch.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "../include/emulator/runtime_api.h"
#include "engine.h"
#include "words.h"

namespace handgrad::emulator {

namespace {

std::mutex& dynamic_limits_mutex() {
  static std::mutex mutex;
  return mutex;
}
std::map<const void*, int>& dynamic_limits() {
  static std::map<const void*, int> limits;
  return limits;
}

void check_limits(const LaunchRequest& r) {
  const auto refuse = [&](const auto&... parts) {
    throw std::runtime_error(
        text("kernel ", r.name, ": ", parts..., "; grid ", triple(r.grid), ", block ", triple(r.block)));
  };
  const uint64_t threads = uint64_t{r.block.x} * r.block.y * r.block.z;
  if (threads == 0) refuse("a block of no threads");
  if (r.grid.x == 0 || r.grid.y == 0 || r.grid.z == 0) refuse("a grid of no blocks");
  if (threads > device::threads_per_block) {
    refuse(threads, " threads per block, and the device allows ", device::threads_per_block);
  }
  if (r.block.x > device::block_x || r.block.y > device::block_y || r.block.z > device::block_z) {
    refuse("the device allows blocks up to (", device::block_x, ", ", device::block_y, ", ", device::block_z, ')');
  }
  if (r.grid.x > device::grid_x || r.grid.y > device::grid_y || r.grid.z > device::grid_z) {
    refuse("the device allows grids up to (", device::grid_x, ", ", device::grid_y, ", ", device::grid_z, ')');
  }
  if (r.bounds.max_threads != 0 && threads > r.bounds.max_threads) {
    refuse(threads, " threads per block, and its __launch_bounds__ promised at most ", r.bounds.max_threads);
  }
  if (r.dynamic_shared_bytes > device::shared_opt_in) {
    refuse(r.dynamic_shared_bytes, " bytes of dynamic shared memory, and the device has ", device::shared_opt_in,
           " per block");
  }
  if (r.dynamic_shared_bytes > device::shared_per_block) {
    const std::lock_guard lock(dynamic_limits_mutex());
    const auto found = dynamic_limits().find(r.kernel);
    const size_t allowed = found == dynamic_limits().end() ? 0 : static_cast<size_t>(found->second);
    if (r.dynamic_shared_bytes > std::max<size_t>(allowed, device::shared_per_block)) {
      refuse(r.dynamic_shared_bytes, " bytes of dynamic shared memory; above ", device::shared_per_block,
             " the kernel must be allowed to by cudaFuncSetAttribute(cudaFuncAttributeMaxDynamicSharedMemorySize)");
    }
  }
}

// Workers are kept between launches: their fibers' stacks are warm.
std::mutex pool_mutex;
std::vector<std::unique_ptr<Worker>>& pool() {
  static std::vector<std::unique_ptr<Worker>> workers;
  return workers;
}

class Lease {
 public:
  Lease() {
    const std::lock_guard lock(pool_mutex);
    if (pool().empty()) {
      worker_ = std::make_unique<Worker>();
    } else {
      worker_ = std::move(pool().back());
      pool().pop_back();
    }
    worker = worker_.get();
  }
  ~Lease() {
    worker->end();
    worker = nullptr;
    const std::lock_guard lock(pool_mutex);
    pool().push_back(std::move(worker_));
  }

 private:
  std::unique_ptr<Worker> worker_;
};

// Blocks in the order of the schedule: i, from the end, or i * step + start modulo their number, which visits each once
// because step and number have no common factor.
struct BlockOrder {
  uint64_t blocks, step = 1, start = 0;

  BlockOrder(uint64_t count, const Schedule& schedule) : blocks(count) {
    if (schedule.order == Schedule::reverse) {
      step = blocks - 1;
      start = blocks - 1;
    } else if (schedule.order == Schedule::random) {
      uint64_t state = schedule.seed ^ 0xb10c0u;
      start = next_random(state) % blocks;
      do {
        step = next_random(state) % blocks + 1;
      } while (std::gcd(step, blocks) != 1);
    }
  }
  uint64_t operator[](uint64_t i) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(i) * step + start) % blocks);
  }
};

}  // namespace

void launch(const LaunchRequest& request) {
  if (worker) worker->fault("a launch from within a kernel, which the emulator does not have");
  check_limits(request);
  const Schedule schedule = current_schedule();
  const uint64_t blocks = uint64_t{request.grid.x} * request.grid.y * request.grid.z;
  const BlockOrder order(blocks, schedule);
  std::atomic<uint64_t> next{0}, faulty{UINT64_MAX};
  std::mutex mutex;
  std::string error;
  Counters total;

  // Schedules are about order, which several operating-system threads would undo; and below some size they do not pay.
  const uint64_t work = blocks * request.block.x * request.block.y * request.block.z;
  uint64_t helpers = schedule.order == Schedule::forward && work >= 16384 ? current_os_threads() - 1 : 0;
#if defined(__SANITIZE_ADDRESS__)
  helpers = 0;  // __shared__ is one static copy
#endif
  helpers = std::min(helpers, blocks - 1);
  const uint64_t run = std::max<uint64_t>(1, blocks / (64 * (helpers + 1)));

  const auto body = [&] {
    const Lease lease;
    Worker& self = *worker;
    try {
      self.begin(request, schedule);
      for (uint64_t from; (from = next.fetch_add(run)) < blocks;) {
        for (uint64_t i = from; i < std::min(blocks, from + run); ++i) {
          if (i > faulty.load(std::memory_order_relaxed)) break;
          try {
            self.run_block(order[i]);
          } catch (const std::exception& thrown) {
            // Of several faults the first block's is reported, whoever found it first.
            const std::lock_guard lock(mutex);
            if (i < faulty) {
              faulty = i;
              error = thrown.what();
            }
            next = blocks;
            break;
          }
        }
      }
    } catch (const std::exception& thrown) {  // no memory, say
      const std::lock_guard lock(mutex);
      if (error.empty()) error = thrown.what();
    }
    const std::lock_guard lock(mutex);
    const uint64_t* from = reinterpret_cast<const uint64_t*>(&self.counters);
    uint64_t* to = reinterpret_cast<uint64_t*>(&total);
    for (size_t c = 0; c < kCounters; ++c) to[c] += from[c];
  };

  std::vector<std::thread> threads;
  for (uint64_t h = 0; h < helpers; ++h) threads.emplace_back(body);
  body();
  for (std::thread& thread : threads) thread.join();
  total.launches = 1;
  add_counters(request.name, total);
  if (!error.empty()) throw std::runtime_error(error);
}

cudaError_t allow_dynamic_shared(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > static_cast<int>(device::shared_opt_in)) return cudaErrorInvalidValue;
  const std::lock_guard lock(dynamic_limits_mutex());
  dynamic_limits()[kernel] = bytes;
  return cudaSuccess;
}

}  // namespace handgrad::emulator
