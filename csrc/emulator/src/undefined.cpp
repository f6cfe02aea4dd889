// What the compiler calls in the checked build under -fsanitize=bounds, alignment and signed-integer-overflow: the
// error messages name kernel, block and thread.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine.h"
#include "words.h"

#define HOOK extern "C" __attribute__((visibility("hidden")))

namespace {

struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct TypeDescriptor {
  uint16_t kind, info;  // kind 0: an integer; info: twice the logarithm of its bits, plus whether it is signed
  char name[1];
};
struct TypeMismatch {
  SourceLocation where;
  const TypeDescriptor* type;
  unsigned char log_alignment, check_kind;
};
struct OutOfBounds {
  SourceLocation where;
  const TypeDescriptor *array, *index;
};
struct Overflow {
  SourceLocation where;
  const TypeDescriptor* type;
};

std::string value_text(const TypeDescriptor& type, uintptr_t value) {
  const unsigned bits = 1u << (type.info >> 1);
  if (type.kind != 0 || bits > 64) return "a value";
  return type.info & 1 ? std::to_string(static_cast<int64_t>(value << (64 - bits)) >> (64 - bits))
                       : std::to_string(value);
}

[[noreturn]] void undefined(const SourceLocation& where, const std::string& message) {
  const std::string text = message + ", " + (where.file ? handgrad::emulator::file_name(where.file) : "?") + ':' +
                           std::to_string(where.line);
  handgrad::emulator::Worker* worker = handgrad::emulator::active_worker();
  if (worker && worker->in_kernel()) worker->fault(text);
  // Host code: no exception may pass a call of which the compiler believes that it throws none.
  std::fprintf(stderr, "undefined behaviour in host code: %s\n", text.c_str());
  std::abort();
}

void overflow(const Overflow* data, uintptr_t a, const char* operation, uintptr_t b) {
  undefined(data->where, "integer overflow: " + value_text(*data->type, a) + operation + value_text(*data->type, b) +
                             " does not fit " + data->type->name);
}

}  // namespace

#define HANDLER(name, parameters, ...)                        \
  HOOK void __ubsan_handle_##name parameters { __VA_ARGS__; } \
  HOOK void __ubsan_handle_##name##_abort parameters { __VA_ARGS__; }

HANDLER(add_overflow, (Overflow * d, uintptr_t a, uintptr_t b), overflow(d, a, " + ", b))
HANDLER(sub_overflow, (Overflow * d, uintptr_t a, uintptr_t b), overflow(d, a, " - ", b))
HANDLER(mul_overflow, (Overflow * d, uintptr_t a, uintptr_t b), overflow(d, a, " * ", b))
HANDLER(negate_overflow, (Overflow * d, uintptr_t a),
        undefined(d->where, "integer overflow: -(" + value_text(*d->type, a) + ") does not fit " + d->type->name))
HANDLER(divrem_overflow, (Overflow * d, uintptr_t a, uintptr_t b),
        undefined(d->where, "integer division " + value_text(*d->type, a) + " / " + value_text(*d->type, b)))
HANDLER(shift_out_of_bounds, (OutOfBounds * d, uintptr_t a, uintptr_t b),
        undefined(d->where, "a shift of " + value_text(*d->array, a) + " by " + value_text(*d->index, b)))
HANDLER(out_of_bounds, (OutOfBounds * d, uintptr_t index),
        undefined(d->where, "index " + value_text(*d->index, index) + " is out of bounds of " + d->array->name))
HANDLER(type_mismatch_v1, (TypeMismatch * d, uintptr_t address),
        undefined(d->where, address == 0 ? std::string("an access to ") + d->type->name + " through a null pointer"
                                         : std::string("an access to ") + d->type->name +
                                               " at an address that is not a multiple of " +
                                               std::to_string(1u << d->log_alignment)))
HANDLER(pointer_overflow, (Overflow * d, uintptr_t, uintptr_t), undefined(d->where, "a pointer beyond all memory"))
HANDLER(load_invalid_value, (Overflow * d, uintptr_t a),
        undefined(d->where, "the value " + value_text(*d->type, a) + " is none of " + d->type->name))
HANDLER(float_cast_overflow, (Overflow * d, uintptr_t),
        undefined(d->where, "a floating value that no integer of the type holds"))
HOOK void __ubsan_handle_builtin_unreachable(SourceLocation* where) {
  undefined(*where, "a place that cannot be reached");
}
HOOK void __ubsan_handle_missing_return(SourceLocation* where) {
  undefined(*where, "a function that returns no value");
}
