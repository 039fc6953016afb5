#include "abi/handles.h"

namespace moe::runtime::abi {

namespace {

moe_export_error* of(Error error) { return new moe_export_error{std::move(error)}; }

// Where there is no memory for an error: one that is never freed.
moe_export_error* out_of_memory() {
  static moe_export_error only{Error(Kind::memory, "there is not enough memory")};
  return &only;
}

bool is_shared(const moe_export_error* error) { return error == out_of_memory(); }

}  // namespace

moe_export_error* caught() noexcept {
  try {
    try {
      throw;
    } catch (const Error& error) {
      return of(error);
    } catch (const OrtFailure& failure) {
      return of(Error(failure.out_of_memory() ? Kind::memory : Kind::internal,
                      "ONNX Runtime fails: " + failure.message));
    } catch (const std::bad_alloc&) {
      return out_of_memory();
    } catch (const std::exception& error) {
      return of(Error(Kind::internal, std::string("a bug in moe_export: ") + error.what()));
    } catch (...) {
      return of(Error(Kind::internal, "a bug in moe_export"));
    }
  } catch (...) {
    return out_of_memory();
  }
}

void require(const void* given, const char* what) {
  if (given == nullptr) throw Error(Kind::usage, std::string(what) + " is NULL");
}

void release(moe_export_error* error) {
  if (!is_shared(error)) delete error;
}

}  // namespace moe::runtime::abi

using moe::runtime::abi::release;

moe_export_kind moe_export_error_kind(const moe_export_error* error) {
  return static_cast<moe_export_kind>(error->error.kind);
}
const char* moe_export_error_message(const moe_export_error* error) { return error->error.what(); }
const char* moe_export_error_where(const moe_export_error* error) {
  return error->error.where.c_str();
}
const char* moe_export_error_hint(const moe_export_error* error) {
  return error->error.hint.c_str();
}
void moe_export_error_free(moe_export_error* error) { release(error); }
