// The emulator's settings and counters, for programs outside: a plain C interface, so that a library of kernels needs
// no Python to be built and serves every Python. control.py wraps it.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "engine.h"

namespace handgrad::emulator {

namespace {

// "forward", "reverse" or "random:SEED"
Schedule parse_schedule(const std::string& text) {
  if (text.empty() || text == "forward") return {};
  if (text == "reverse") return {Schedule::reverse, 0};
  const std::string prefix = "random:";
  if (text.starts_with(prefix) && text.size() > prefix.size()) {
    char* end = nullptr;
    const uint64_t seed = std::strtoull(text.c_str() + prefix.size(), &end, 10);
    if (*end == '\0' && text[prefix.size()] != '-') return {Schedule::random, seed};
  }
  throw std::runtime_error("a schedule is forward, reverse or random:SEED; got " + text);
}

std::mutex mutex;

// Read from the environment at first use.
struct Settings {
  Schedule schedule;
  unsigned os_threads = 1;
  Settings() {
    if (const char* text = std::getenv("HANDGRAD_EMULATOR_SCHEDULE")) schedule = parse_schedule(text);
    if (const char* text = std::getenv("HANDGRAD_EMULATOR_OS_THREADS")) os_threads = parse_threads(std::atoi(text));
  }
  // 0 means as many as the machine has processors.
  static unsigned parse_threads(int wanted) {
    if (wanted < 0) throw std::runtime_error("the number of operating-system threads cannot be negative");
    return wanted ? static_cast<unsigned>(wanted) : std::max(1u, std::thread::hardware_concurrency());
  }
};
Settings& settings() {
  static Settings only;
  return only;
}

std::map<std::string, Counters>& table() {
  static std::map<std::string, Counters> counters;
  return counters;
}

// Where the dropped barrier stands, "file:line"; changed between launches only, so that kernels read it without a lock.
std::string& dropped_file() {
  static std::string only;
  return only;
}
unsigned dropped_line = 0;

std::atomic<bool> capturing = false;

thread_local std::string last_message;

template <class Body>
int guarded(const Body& body) {
  try {
    const std::lock_guard lock(mutex);
    body();
    return 0;
  } catch (const std::exception& error) {
    last_message = error.what();
    return 1;
  }
}

}  // namespace

Schedule current_schedule() {
  const std::lock_guard lock(mutex);
  return settings().schedule;
}
unsigned current_os_threads() {
  const std::lock_guard lock(mutex);
  return settings().os_threads;
}
bool is_capturing() { return capturing; }
bool is_dropped(Place barrier) {
  return dropped_line != 0 && barrier.line == dropped_line && std::string(barrier.file).ends_with(dropped_file());
}
void add_counters(const char* kernel, const Counters& counters) {
  const std::lock_guard lock(mutex);
  const uint64_t* from = reinterpret_cast<const uint64_t*>(&counters);
  uint64_t* to = reinterpret_cast<uint64_t*>(&table()[kernel]);
  for (size_t c = 0; c < kCounters; ++c) to[c] += from[c];
}

}  // namespace handgrad::emulator

using namespace handgrad::emulator;

#define HANDGRAD_EMULATOR_CONTROL extern "C" __attribute__((visibility("default")))

// 0, or 1 and the reason is in handgrad_emulator_message().
HANDGRAD_EMULATOR_CONTROL int handgrad_emulator_set_schedule(const char* text) {
  return guarded([&] { settings().schedule = parse_schedule(text); });
}
HANDGRAD_EMULATOR_CONTROL int handgrad_emulator_set_os_threads(int wanted) {
  return guarded([&] { settings().os_threads = Settings::parse_threads(wanted); });
}
// Every kernel passes the barrier at "file:line" as if it were not there, which tests ought to notice; "" for none.
HANDGRAD_EMULATOR_CONTROL int handgrad_emulator_drop_barrier(const char* place) {
  return guarded([&] {
    const std::string text = place;
    const size_t colon = text.rfind(':');
    const int line = colon == std::string::npos ? 0 : std::atoi(text.c_str() + colon + 1);
    if (!text.empty() && line <= 0) throw std::runtime_error("a barrier's place is file:line; got " + text);
    dropped_line = static_cast<unsigned>(line);
    dropped_file() = text.substr(0, text.empty() ? 0 : colon);
  });
}
// Whether streams say that their work is being recorded, as for a CUDA graph.
HANDGRAD_EMULATOR_CONTROL void handgrad_emulator_set_capturing(int whether) { capturing = whether != 0; }
HANDGRAD_EMULATOR_CONTROL const char* handgrad_emulator_message() { return last_message.c_str(); }

HANDGRAD_EMULATOR_CONTROL void handgrad_emulator_reset_counters() {
  const std::lock_guard lock(mutex);
  table().clear();
}
// The names of a kernel's counters, in their order, separated by spaces.
HANDGRAD_EMULATOR_CONTROL const char* handgrad_emulator_counter_names() {
  return "launches blocks threads barriers warp_syncs shuffles atomics bytes_loaded bytes_stored global_bytes_read "
         "global_bytes_written shared_bytes_read shared_bytes_written";
}
// Calls visit(kernel, counters) for every kernel that was launched since the last reset.
HANDGRAD_EMULATOR_CONTROL void handgrad_emulator_counters(void (*visit)(const char* kernel, const uint64_t* counters)) {
  const std::lock_guard lock(mutex);
  for (const auto& [kernel, counters] : table()) visit(kernel.c_str(), reinterpret_cast<const uint64_t*>(&counters));
}
